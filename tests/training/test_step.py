"""A step as a CUDA graph, as far as a machine without a GPU can tell: what happens when the capture fails."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from carbs_scaling.models.build import build_model
from carbs_scaling.training import step
from carbs_scaling.training.step import GraphedStep, TrainingStep, is_out_of_memory


@pytest.fixture
def no_gpu(monkeypatch):
    """Streams that do nothing, and captures that are counted and cannot be closed."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    seen = SimpleNamespace(captures=0)

    class Graph:
        def __init__(self, *_, **__):
            seen.captures += 1

        def __enter__(self):
            pass

        def __exit__(self, *_):
            # As PyTorch's own: closing the capture fails too when it is no longer valid.
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(step, "_side_stream", lambda device: stream)
    for name, value in {
        "current_device": lambda: 0,
        "current_stream": lambda: stream,
        "stream": lambda s: nullcontext(),
        "empty_cache": lambda: None,
        "CUDAGraph": type("CUDAGraph", (), {}),
        "graph": Graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(GraphedStep, "works", True)
    return seen


def losses(kind, job, steps):
    """Losses of some steps on the same windows by SGD."""
    model = build_model(job.recipe.shape, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batch = torch.arange(4 * 33).reshape(4, 33) % 256
    one = kind(model, optimizer, 2, 1.0)
    return [one(batch).item() for _ in range(steps)]


@pytest.mark.parametrize("error", [RuntimeError("not permitted"), torch.OutOfMemoryError("no memory")])
def test_where_the_capture_fails_training_goes_on(job, no_gpu, caplog, error, monkeypatch):
    expected = losses(TrainingStep, job, 8)
    real = step.accumulate_gradients

    def fails_in_the_capture(*arguments):
        if no_gpu.captures == 1 and not caplog.messages:
            raise error
        return real(*arguments)

    monkeypatch.setattr(step, "accumulate_gradients", fails_in_the_capture)
    assert losses(GraphedStep, job, 8) == pytest.approx(expected, rel=1e-5)
    assert no_gpu.captures == 1
    assert str(error) in caplog.text
    assert GraphedStep.works == is_out_of_memory(error)


def test_after_a_failure_no_other_run_of_the_process_tries(job, no_gpu, monkeypatch):
    monkeypatch.setattr(GraphedStep, "works", False)
    assert losses(GraphedStep, job, 6) == pytest.approx(losses(TrainingStep, job, 6), rel=1e-5)
    assert no_gpu.captures == 0
