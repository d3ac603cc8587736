"""What may be changed about our search."""

from dataclasses import dataclass
from math import inf
from numbers import Real
from typing import Any

import numpy as np

GOALS = ("front", "best")


@dataclass(frozen=True)
class SamplerOptions:
    """What may be changed about the search.

    Args:
        target: (params, tokens) of a larger model to learn for; None for the front itself.
        startup_trials: runs of the cheap design before the surrogate takes over; None for one or two a
            dimension, at most 8.
        startup_fraction: share of the budget that one run of the design may cost; not read with goal=best.
        candidates: random points scored a proposal; twice as many more follow around the best.
        members: laws in the surrogate's ensemble; 1 leaves the uncertainty of the law out.
        learning: share in which a run is also worth what it teaches about the valley for later runs.
        law_mean: whether the prior mean is the loss law; else it is a constant.
        max_trial_flops: dearest run that may be proposed, or None.
        overhead_flops: what a trial costs beside its FLOPs (start, evaluation, a proposal): counted when
            gains are compared, never charged; None for a 20,000th of the budget, a thousandth with a target.
        n_trials: trials that there may be in all; None for no limit. With a budget both are used up together:
            a trial then also costs a few equal shares of what remains when gains are compared.
        goal: `front` for the lowest loss at every cost, `best` for the lowest of all.

    Raises:
        ValueError: a value that cannot be.
    """

    target: Any = None
    startup_trials: int | None = None
    startup_fraction: float = 0.0005
    candidates: int = 256
    members: int = 48
    learning: float = 1.0
    law_mean: bool = True
    max_trial_flops: float | None = None
    overhead_flops: float | None = None
    n_trials: int | None = None
    goal: str = "front"

    def __post_init__(self) -> None:
        if self.target is not None:
            object.__setattr__(self, "target", checked_target(self.target))
        if self.goal not in GOALS:
            raise ValueError(f"goal={self.goal} is not one of {', '.join(GOALS)}")
        if self.goal != "front" and self.target is not None:
            raise ValueError(f"goal={self.goal} does not go with a target: leave one of them out")
        for name, least in (("startup_trials", 0), ("candidates", 8), ("members", 1), ("n_trials", 1)):
            value = getattr(self, name)
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= least
            if not (whole or (value is None and name in ("startup_trials", "n_trials"))):
                raise ValueError(f"{name}={value} must be a whole number, at least {least}")
        for name in ("startup_fraction", "learning", "max_trial_flops", "overhead_flops"):
            value, positive = getattr(self, name), name in ("startup_fraction", "max_trial_flops")
            if value is None and name in ("max_trial_flops", "overhead_flops"):
                continue
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not (0 < value < inf or (value == 0 and not positive)):
                bound = "above" if positive else "at least"
                raise ValueError(f"{name}={value} must be a finite number, {bound} 0")
        if not isinstance(self.law_mean, bool):
            raise ValueError(f"law_mean={self.law_mean} must be true or false")


def checked_target(target: Any) -> tuple[float, float]:
    """(params, tokens), both positive and finite.

    Raises:
        ValueError: it is something else.
    """
    pair = target if isinstance(target, list | tuple) else [target]
    try:
        # YAML reads 1e8 (without a dot) as text.
        numbers = [float("nan") if isinstance(part, bool) else float(part) for part in pair]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 2 or not all(0 < number < inf for number in numbers):
        raise ValueError(
            f"target={target} must be two positive numbers, parameters and tokens of the model to learn for, "
            "such as [1e8,2e9]"
        )
    return numbers[0], numbers[1]
