"""What may be changed about the search."""

from dataclasses import dataclass
from math import inf
from numbers import Integral, Real

ACQUISITIONS = ("front_gain_per_flop", "front_gain", "ei_front", "ei_per_cost", "gittins", "carbs_local")


@dataclass(frozen=True)
class SamplerOptions:
    """What may be changed about the search.

    Args:
        startup_trials: runs of the cheap design before the surrogate takes over; None for one or two a
            dimension, at most 8.
        startup_fraction: share of the budget that one run of the design may cost.
        noise_sds: an improvement counts beyond this many standard deviations of seed noise.
        candidates: random points scored a proposal; twice as many more follow around the best.
        members: laws in the surrogate's ensemble; 1 leaves the doubt about the law out.
        learning: share in which a run is also worth what it teaches about the valley for later runs.
        law_mean: whether the prior mean is the loss law; else it is a constant.
        repeats: whether a point of the front may be run again, to tell it from its near ties.
        acquisition: one of `ACQUISITIONS`.
        anytime: whether runs dear beside what is spent are put off, for a front that is good at every moment.
        max_trial_flops: dearest run that may be proposed, or None.
        overhead_flops: what a trial costs beside its FLOPs (start, evaluation, a proposal): counted when
            gains are compared, never charged; None for a 20,000th of the budget, a thousandth with a target.

    Raises:
        ValueError: a value that cannot be.
    """

    startup_trials: int | None = None
    startup_fraction: float = 0.0005
    noise_sds: float = 0.5
    candidates: int = 256
    members: int = 48
    anytime: bool = False
    learning: float = 1.0
    law_mean: bool = True
    repeats: bool = True
    acquisition: str = "front_gain_per_flop"
    max_trial_flops: float | None = None
    overhead_flops: float | None = None

    def __post_init__(self) -> None:
        if self.acquisition not in ACQUISITIONS:
            raise ValueError(f"acquisition={self.acquisition} is not one of {', '.join(ACQUISITIONS)}")
        for name, least in (("startup_trials", 0), ("candidates", 8), ("members", 1)):
            value = getattr(self, name)
            whole = isinstance(value, Integral) and not isinstance(value, bool) and value >= least
            if not (whole or (value is None and name == "startup_trials")):
                raise ValueError(f"{name}={value} must be a whole number, at least {least}")
        for name in ("startup_fraction", "noise_sds", "learning", "max_trial_flops", "overhead_flops"):
            value, positive = getattr(self, name), name in ("startup_fraction", "max_trial_flops")
            if value is None and name in ("max_trial_flops", "overhead_flops"):
                continue
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not (0 < value < inf or (value == 0 and not positive)):
                least = "above" if positive else "at least"
                raise ValueError(f"{name}={value} must be a finite number, {least} 0")
        for name in ("anytime", "law_mean", "repeats"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)} must be true or false")
