"""What pretraining says of its text before anything is run."""

from dataclasses import replace

import pytest

from carbs_scaling.errors import ConfigError
from carbs_scaling.task import Limits
from carbs_scaling.tasks.pretraining import Pretraining

SMALL = ("space.width={low: 16, high: 32}", "space.depth=1", "space.batch_size=1", "model.sequence_length=32")


def test_tokens_beyond_the_text_are_warned_of(pretraining):
    # 20,000 tokens of text; N is 12 x 32 x 32 at most.
    assert "see it" not in pretraining(*SMALL, "space.tokens_per_parameter=1.6").description
    said = pretraining(*SMALL, "space.tokens_per_parameter={low: 1, high: 16, log: true}").description
    assert "runs may have 197k tokens, and it has 20.0k to train on: they see it up to 9.8 times" in said


def test_bits_a_byte_need_a_known_tokenizer(pretraining):
    task = pretraining(*SMALL, "objective=bits_per_byte")
    with pytest.raises(ConfigError, match=r"name their data\.tokenizer"):
        Pretraining(task.config, replace(task.text, bytes_per_token=None), Limits(1e12, None, "cpu"))
