"""Which runs are compiled by themselves."""

from dataclasses import replace

import pytest
import torch

from carbs_scaling.models.build import build_model, logits
from carbs_scaling.models.family import ModelShape
from carbs_scaling.training.distributed import Ranks
from carbs_scaling.training.step_building import is_compiled


@pytest.mark.parametrize(
    ("device", "width", "steps", "asked", "compiled"),
    [
        ("cuda", 1024, 40_000, None, True),
        ("cuda", 1024, 100, None, False),  # over before compiling would have paid
        ("cuda", 64, 100_000_000, None, False),  # its steps are captured instead
        ("cpu", 1024, 40_000, None, False),
        ("cuda", 1024, 40_000, False, False),
        ("cpu", 64, 10, True, True),
    ],
)
def test_long_runs_of_large_models_on_a_gpu_are_compiled(job, device, width, steps, asked, compiled):
    shape = ModelShape("gpt2", width, 8, 64, 256, 128)
    recipe = replace(job.recipe, shape=shape, steps=steps, batch_size=128)
    run = replace(job, recipe=recipe, compile=asked)
    ranks = Ranks(device=torch.device("cpu"))
    assert is_compiled(run, torch.device(device), ranks) == compiled


def test_experts_compute_in_the_precision_of_autocast():
    model = build_model(ModelShape("qwen3_moe", 32, 1, 16, 64, 16), seed=0)
    seen = []
    experts = model.model.layers[0].mlp.experts
    experts.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    tokens = torch.randint(64, (2, 16))
    plain = logits(model, tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = logits(model, tokens)
    assert seen == [torch.float32, torch.bfloat16]
    assert (half.float() - plain).abs().mean() < 0.1 * plain.std()
