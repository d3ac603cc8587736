"""One trial as the ledger knows it."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from carbs_scaling.trial import Completed, Status, TrialOutcome

IMPORTED_FROM = "imported_from"  # in the provenance of a finished run from elsewhere


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a study.

    Args:
        number: counted from 0 in the order of proposal.
        point: values of the searched dimensions.
        roles: those of `params`, `tokens`, `learning_rate`, `batch_tokens` that the point has.
        details: fixed and derived values of the point, plain JSON.
        flops: of the whole run, with what it inherited: of what was done where it has ended, else expected.
        seed: of the trial.
        outcome: how it ended; None while it runs.
        provenance: what else its record names: versions, the sampler, a hash of the data.
        wall_seconds: from its proposal to its end; None while it runs, or where that was not stored.
        parent: number of the trial that it goes on from; None where it began anew.
        inherited_flops: of `flops`, those of its parent, which it does not pay for again.
    """

    number: int
    point: dict[str, Any]
    roles: dict[str, float]
    details: dict[str, Any]
    flops: float
    seed: int
    outcome: TrialOutcome | None
    provenance: dict[str, Any]
    wall_seconds: float | None = field(default=None, compare=False)
    parent: int | None = None
    inherited_flops: float = 0.0

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.outcome is None

    @property
    def price_flops(self) -> float:
        """What the trial pays for: charged where it has ended, else expected."""
        return max(0.0, self.flops - self.inherited_flops)

    @property
    def imported(self) -> bool:
        """Whether it is a finished run from elsewhere, which no budget pays for."""
        return IMPORTED_FROM in self.provenance

    @property
    def completed(self) -> bool:
        """Whether it ended with a loss."""
        return isinstance(self.outcome, Completed)

    @property
    def loss(self) -> float:
        """The loss of a completed trial.

        Raises:
            ValueError: it did not complete.
        """
        if not isinstance(self.outcome, Completed):
            raise ValueError(f"trial {self.number} has no loss: it is {self.status or 'running'}")
        return self.outcome.loss

    @property
    def law_loss(self) -> float:
        """The loss that laws are fitted to, which need not be what the study minimises.

        Raises:
            ValueError: it did not complete.
        """
        return self.outcome.law_loss if isinstance(self.outcome, Completed) else self.loss

    @cached_property  # a front of ten thousand trials asks for it ten times over
    def point_key(self) -> tuple[tuple[tuple[str, str], ...], float]:
        """Equal for trials that differ by their seed alone."""
        return tuple(sorted((name, str(value)) for name, value in self.point.items())), self.flops

    @property
    def status(self) -> Status | None:
        """How it ended; None while it runs."""
        return None if self.outcome is None else self.outcome.status

    @property
    def values(self) -> dict[str, Any]:
        """Details, roles and point in one."""
        return {**self.details, **self.roles, **self.point}


def ended(record: TrialRecord) -> TrialOutcome:
    """The outcome of a trial that is known to have ended.

    Raises:
        ValueError: it has not.
    """
    if record.outcome is None:
        raise ValueError(f"trial {record.number} is running")
    return record.outcome
