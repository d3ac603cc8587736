"""A tiny search of each family by its preset ends with a front, and its ledger says N, active and whole."""

import pytest

from tests.small_models import NAMES, trained_folder
from tests.test_search import run, tiny  # noqa: F401

FEW_STEPS = (
    "sampler=random", "budget.flops=1e10", "budget.trials=3",
    "space.tokens_per_parameter={low: 0.5, high: 2}", "space.batch_size={low: 4, high: 8}",
)  # fmt: skip
WIDER = "space.width=32"  # two heads, which share one of keys
PRESETS = {
    "llama": ("+experiment=llama", WIDER),
    "qwen3": ("+experiment=qwen3", WIDER),
    "moe": ("+experiment=moe", WIDER),
    "auto": (
        "model=auto",
        "model.config={model_type: gpt_neox, hidden_size: 32, num_attention_heads: 2, num_hidden_layers: 1,"
        " intermediate_size: 64}",
        WIDER,
    ),
    "pretrained": ("model=pretrained", "model.path=FOLDER"),
}


def test_every_family_has_a_search():
    assert set(NAMES) - {"gpt2"} == {"qwen3_moe" if name == "moe" else name for name in PRESETS}


@pytest.mark.parametrize("name", PRESETS)
def test_a_search_by_the_preset(tiny, name, tmp_path):  # noqa: F811
    overrides = [
        text.replace("FOLDER", trained_folder(tmp_path, (16, 1, 16, 256, 32))) for text in PRESETS[name]
    ]
    study = run(tiny(name, *FEW_STEPS, *overrides))
    completed = [record for record in study.records() if record.completed]
    assert len(completed) >= 2
    for record in completed:
        details = record.details
        assert details["params"] == record.roles["params"] < details["total_params"]
        assert ("block_params" in details) == (name == "moe")
        assert details["params"] <= details.get("block_params", details["params"]) < details["total_params"]
