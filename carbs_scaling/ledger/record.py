"""One trial as the ledger knows it, in the program's own words."""

from dataclasses import dataclass
from typing import Any

from carbs_scaling.trial import Recipe, Status, TrialOutcome


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a study.

    Args:
        number: counted from 0 in the order of proposal.
        recipe: what was, or is being, trained.
        flops: training FLOPs in the study's convention: charged where it has ended, else expected.
        loss: held-out loss in the study's metric; None unless it completed.
        outcome: how it ended; None while it runs.
        flops_by_convention: the same run's FLOPs in every convention.
        provenance: what else its record names: sha256 of the text, device, versions, seed, proposal's origin.
    """

    number: int
    recipe: Recipe
    flops: float
    loss: float | None
    outcome: TrialOutcome | None
    flops_by_convention: dict[str, float]
    provenance: dict[str, Any]

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.outcome is None

    @property
    def completed(self) -> bool:
        """Whether it ended with a loss."""
        return self.outcome is not None and self.outcome.status is Status.COMPLETED
