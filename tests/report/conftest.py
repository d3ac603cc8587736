"""Records made by hand, for tests that draw and write them."""

from collections.abc import Callable

import numpy as np
import pytest

from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.trial import Completed, Diverged, Energy, MachineFailure, OutOfMemory, Status, TrialOutcome

FAILURES = {
    Status.DIVERGED: Diverged,
    Status.OUT_OF_MEMORY: OutOfMemory,
    Status.MACHINE: MachineFailure,
}


def _make_record(
    number: int,
    loss: float = 2.5,
    flops: float = 1.5e10,
    status: Status | None = Status.COMPLETED,
    width: int = 32,
    depth: int = 2,
    steps: int = 100,
    message: str = "",
) -> TrialRecord:
    """One record of a language model; `status` None for a running one."""
    params, tokens = 12 * depth * width**2, steps * 1024
    roles = {"params": params, "tokens": tokens, "learning_rate": 1.3e-2, "batch_tokens": 1024}
    point = {"width": width, "depth": depth, "learning_rate": 1.3e-2, "batch_size": 8}
    details = {"steps": steps, "beta2": 0.95, "warmup_fraction": 0.1, "flops_6N": 6.0 * params * tokens}
    provenance = {"text_sha256": "ab" * 32, "versions": {"torch": "2.9"}, "origin": "design"}
    return TrialRecord(
        number, point, roles, details, flops, number, _outcome(status, loss, number, message), provenance
    )


def _outcome(status: Status | None, loss: float, number: int, message: str) -> TrialOutcome | None:
    peak_memory_bytes = 2**20 if number % 2 else None  # as where some trials ran on a CPU
    common = {"seconds": 1.5, "device": "cpu", "peak_memory_bytes": peak_memory_bytes}
    common |= {"precision": "float32", "recomputation": "none"}
    common["energy"] = Energy(25.0 * number, 0.01, "estimated: 6 W a busy core")
    if status is None:
        return None
    if status is Status.COMPLETED:
        metrics = {"nats_per_token": loss, "bits_per_byte": loss / float(np.log(2))}
        return Completed(loss=loss, metrics=metrics, **common)
    return FAILURES[status](progress=1.0, message=message, **common)


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
