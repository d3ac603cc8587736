"""Records made by hand, for tests that draw and write them."""

from collections.abc import Callable

import numpy as np
import pytest

from carbs_scaling.compute.flops import flops_by_convention
from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.models.family import ModelShape
from carbs_scaling.trial import Recipe, Status, TrialOutcome

CONVENTION = "6N+head+attention"


def _make_record(
    number: int,
    loss: float | None = None,
    flops: float | None = None,
    status: Status | None = Status.COMPLETED,
    width: int = 32,
    depth: int = 2,
    steps: int = 100,
    message: str = "",
) -> TrialRecord:
    """One record; `status` None for a running one, `flops` None for those of its shape."""
    shape = ModelShape("gpt2", width, depth, 16, 256, 128)
    recipe = Recipe(shape, 1.3e-2, 8, steps, 0.1, 0.95, 0.1, seed=number)
    by_convention = flops_by_convention(shape, recipe.tokens)
    outcome = None
    if status is not None:
        loss = loss if status is Status.COMPLETED else None
        bits = None if loss is None else loss / np.log(2)
        peak_memory_bytes = 2**20 if number % 2 else None  # as where some trials ran on a CPU
        outcome = TrialOutcome(
            status, steps, recipe.tokens, 1.5, "cpu", loss, bits, peak_memory_bytes, message
        )  # fmt: skip
    provenance = {"text_sha256": "ab" * 32, "versions": {"torch": "2.9"}, "origin": "design"}
    charged = by_convention[CONVENTION] if flops is None else flops
    return TrialRecord(number, recipe, charged, loss, outcome, by_convention, provenance)


def _random_records(count: int, seed: int = 0) -> list[TrialRecord]:
    """Runs over three decades of FLOPs that scatter above a power law; one in ten has no loss."""
    generator = np.random.default_rng(seed)
    records = []
    for number in range(count):
        flops = 10 ** generator.uniform(9, 12)
        loss = 1.2 + 300 * flops**-0.25 + generator.exponential(0.3)
        failed = (Status.DIVERGED, Status.OUT_OF_MEMORY)[number % 2]
        status = Status.COMPLETED if generator.random() < 0.9 else failed
        width = 16 * int(generator.integers(1, 8))
        records.append(_make_record(number, float(loss), float(flops), status, width, message="a reason"))
    return records


@pytest.fixture
def make_record() -> Callable[..., TrialRecord]:
    """Makes one record: number, loss, flops, status (None: running), width, depth, steps, message."""
    return _make_record


@pytest.fixture
def random_records() -> Callable[..., list[TrialRecord]]:
    """Makes many: count, seed."""
    return _random_records
