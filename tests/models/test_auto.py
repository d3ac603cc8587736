"""A configuration of transformers as a family: where it is read from, how it grows, what is refused."""

import json

import pytest

from carbs_scaling.errors import ConfigError
from carbs_scaling.models.family import ModelShape
from carbs_scaling.tasks.pretraining_config import ModelConfig

NEOX = {
    "model_type": "gpt_neox", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
    "intermediate_size": 256, "hidden_dropout": 0.1, "auto_map": {"AutoConfig": "theirs.py--Config"},
}  # fmt: skip


def config_of(shape):
    return shape.family.config(shape)


def test_heads_and_inner_widths_grow_with_the_width_and_layers_with_the_depth():
    config = config_of(ModelShape("auto", 96, 5, 16, 300, 64, {"config": NEOX}))
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (96, 6, 384)
    assert (config.num_hidden_layers, config.vocab_size, config.hidden_dropout) == (5, 300, 0.0)


def test_names_of_a_kind_are_the_shared_ones_and_a_single_key_stays_single():
    gpt2 = {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 1, "n_positions": 8}
    config = config_of(ModelShape("auto", 32, 3, 16, 256, 64, {"config": gpt2}))
    assert (config.n_embd, config.n_head, config.n_layer) == (32, 2, 3)
    assert config.n_positions >= 64
    one = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 1}
    assert config_of(ModelShape("auto", 32, 1, 16, 256, 64, {"config": one})).num_key_value_heads == 1


def test_grouped_heads_make_the_widths_multiples_of_a_group():
    grouped = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    assert ModelConfig("auto", 16, 32, "6N", {"config": grouped}).width_step == 32


def test_a_file_a_folder_text_and_values_are_the_same(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(NEOX))
    given = [NEOX, json.dumps(NEOX), str(tmp_path), str(tmp_path / "config.json")]
    models = [ModelConfig("auto", 16, 32, "6N", {"config": each}) for each in given]
    assert all(model == models[0] for model in models)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "needs a configuration"),
        ("absent.json", "No such file"),
        ("{", "model.config={: its configuration is not JSON"),
        ({"hidden_size": 64}, "model_type"),
        ({"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.py--Config"}}, "never run"),
        ({"model_type": "llama", "hidden_size": "wide"}, "model_type=llama"),
    ],
)
def test_what_is_no_configuration_is_refused_in_one_line(given, said):
    with pytest.raises(ConfigError, match=said) as error:
        ModelConfig("auto", 16, 32, "6N", {"config": given})
    assert "\n" not in str(error.value)
