"""How a trial ended: one type for each ending, plain enough for JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from math import isfinite
from typing import Any, ClassVar


class Status(StrEnum):
    """How a trial ended. Only `MACHINE` says nothing about the point: it is retried, not learnt from."""

    COMPLETED = "completed"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    STOPPED = "stopped"
    MACHINE = "machine"


@dataclass(frozen=True)
class Energy:
    """What a trial drew from the wall, as far as it is known.

    Args:
        joules: of the whole trial, evaluation included.
        co2_grams: of so much electricity.
        source: begins with `measured` or `estimated`, and says by what.
    """

    joules: float
    co2_grams: float
    source: str

    @property
    def measured(self) -> bool:
        """Whether counters of the machine gave it."""
        return self.source.startswith("measured")


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """What a trial gives back; the base of one type for each `Status`.

    Args:
        progress: share of the run that was done, in [0, 1], with what was inherited from a parent; the trial
            is charged for it, less what was inherited.
        seconds: wall time of the run itself, without preparation and evaluation.
        device: where it ran, such as `cpu` or `NVIDIA H100`.
        peak_memory_bytes: most device memory held; None where it was not measured.
        metrics: what else was measured, by name.
        message: one line on why there is no loss; empty where there is one.
        energy: what it took; None where nothing is known.
        precision: in which it was trained, such as `bfloat16 autocast`; empty where that is not known.
        recomputation: what of the forward pass was computed twice to save memory, or `none`; empty likewise.

    Raises:
        ValueError: `progress` is no share.
    """

    status: ClassVar[Status]

    progress: float
    seconds: float = 0.0
    device: str = "unknown"
    peak_memory_bytes: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    message: str = ""
    energy: Energy | None = None
    precision: str = ""
    recomputation: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.progress <= 1:
            raise ValueError(f"progress={self.progress} must lie in [0, 1]")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {"status": str(self.status), **asdict(self)}

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> "TrialOutcome":
        """The inverse of `to_dict`."""
        values = dict(fields)
        if values.get("energy") is not None:
            values["energy"] = Energy(**values["energy"])
        return _TYPES[Status(values.pop("status"))](**values)


@dataclass(frozen=True, kw_only=True)
class Completed(TrialOutcome):
    """A trial with a result.

    Args:
        loss: the finite number that the study minimises.
        loss_of_laws: that laws are fitted to, where a study minimises something else; None for `loss`.

    Raises:
        ValueError: the loss is not finite.
    """

    status: ClassVar[Status] = Status.COMPLETED

    loss: float
    progress: float = 1.0
    loss_of_laws: float | None = None

    @property
    def law_loss(self) -> float:
        """The loss that laws are fitted to."""
        return self.loss if self.loss_of_laws is None else self.loss_of_laws

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isfinite(self.loss):
            raise ValueError(f"a completed trial with loss {self.loss}: it must be finite")


@dataclass(frozen=True, kw_only=True)
class Diverged(TrialOutcome):
    """A trial whose point made it fail: the loss became NaN, or the training unstable."""

    status: ClassVar[Status] = Status.DIVERGED


@dataclass(frozen=True, kw_only=True)
class OutOfMemory(TrialOutcome):
    """A trial that did not fit into memory."""

    status: ClassVar[Status] = Status.OUT_OF_MEMORY


@dataclass(frozen=True, kw_only=True)
class Stopped(TrialOutcome):
    """A trial that was ended early on purpose.

    Args:
        at_least: loss that it would not have come below, as far as is known; None where nothing is.
    """

    status: ClassVar[Status] = Status.STOPPED

    at_least: float | None = None


@dataclass(frozen=True, kw_only=True)
class MachineFailure(TrialOutcome):
    """A trial that the machine lost."""

    status: ClassVar[Status] = Status.MACHINE

    progress: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ParentLost(TrialOutcome):
    """A trial whose parent's state is gone: nothing was trained, and it has to begin anew at the full price.

    It says so to the search alone, and is in no ledger.
    """

    status: ClassVar[Status] = Status.MACHINE

    progress: float = 0.0


_TYPES: dict[Status, type[TrialOutcome]] = {
    kind.status: kind for kind in (Completed, Diverged, OutOfMemory, Stopped, MachineFailure)
}


def flops_so_far(whole_run_flops: float, outcome: TrialOutcome) -> float:
    """FLOPs of what was done of a run, with what it inherited from a parent."""
    return whole_run_flops * outcome.progress
