"""Laws that predict a loss curve from its schedule: Tissue et al., Multi-Power, functional, Opt-Laws-style.

Each law writes the loss after step t as

    L(t) = L0 + A S1(t)^-alpha + annealing(t),

where S1 is the area under the schedule. The laws differ in the last term: what annealing has done to the
gradient noise so far. A law holds for one model, text and batch; only the schedule varies.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

# A drop of 24,000 small steps acts like one of 400: only the area between drops counts.
MAX_DROPS = 400


@dataclass(frozen=True)
class Schedule:
    """The learning rates of a run, step by step.

    Args:
        learning_rates: after warmup, one a step, shape (T,); all positive.
        warmup_area: sum of the learning rates of the warmup steps.

    Raises:
        ValueError: fewer than 2 steps, or a learning rate that is not a positive number.
    """

    learning_rates: np.ndarray
    warmup_area: float = 0.0

    def __post_init__(self) -> None:
        rates = np.asarray(self.learning_rates, dtype=float)
        if rates.ndim != 1 or len(rates) < 2 or not (np.isfinite(rates).all() and (rates > 0).all()):
            raise ValueError("a schedule needs at least 2 steps, with finite learning rates above 0")
        object.__setattr__(self, "learning_rates", rates)

    @property
    def area(self) -> np.ndarray:
        """S1: area under the schedule after each step, warmup included, shape (T,)."""
        return self.warmup_area + np.cumsum(self.learning_rates)

    @property
    def drops(self) -> np.ndarray:
        """Learning rate of the step before less that of each step, shape (T,); the first is 0."""
        return -np.diff(self.learning_rates, prepend=self.learning_rates[0])


@dataclass(frozen=True)
class ScheduleLaw(ABC):
    """L0 + A S1^-alpha, and the annealing term of a subclass.

    Args:
        floor: L0.
        amplitude: A.
        exponent: alpha.
    """

    floor: float
    amplitude: float
    exponent: float

    name: ClassVar[str]
    # Bounds of each parameter in a fit. The fit sets those of the floor from the losses.
    BOUNDS: ClassVar[dict[str, tuple[float, float]]]

    def loss(self, schedule: Schedule, steps: np.ndarray) -> np.ndarray:
        """Predict the losses after the given steps.

        Args:
            schedule: of length T.
            steps: counted from 1 after warmup, shape (m,).

        Returns:
            Losses, shape (m,).
        """
        index = np.asarray(steps) - 1
        power = self.amplitude * schedule.area[index] ** -self.exponent
        return np.asarray(self.floor + power + self._annealing(schedule, index))

    @abstractmethod
    def _annealing(self, schedule: Schedule, index: np.ndarray) -> np.ndarray:
        """Change of the loss by annealing after the steps of these indices, (m,) -> (m,)."""


_POWER_BOUNDS = {"floor": (1e-3, 1e3), "amplitude": (1e-6, 1e3), "exponent": (0.05, 3.0)}


@dataclass(frozen=True)
class TissueLaw(ScheduleLaw):
    """L = L0 + A S1^-alpha - C S2 (Tissue et al. 2024, arXiv 2408.11029, equation 1).

    S2, the annealing area, sums over all steps a momentum of past drops. The momentum forgets at the rate
    1 - lambda a step.

    Args:
        annealing: C.
        forgetting: 1 - lambda.
    """

    annealing: float
    forgetting: float

    name: ClassVar[str] = "Tissue et al."
    BOUNDS: ClassVar[dict[str, tuple[float, float]]] = {
        **_POWER_BOUNDS,
        "annealing": (1e-6, 1e3),
        "forgetting": (1e-5, 0.1),
    }

    def _annealing(self, schedule: Schedule, index: np.ndarray) -> np.ndarray:
        from scipy.signal import lfilter

        momentum = lfilter([1.0], [1.0, -(1.0 - self.forgetting)], schedule.drops)
        return np.asarray(-self.annealing * np.cumsum(momentum)[index])


@dataclass(frozen=True)
class MultiPowerLaw(ScheduleLaw):
    """L = L0 + A S1^-alpha - LD(t) (Luo et al. 2025, arXiv 2503.12811, equation 3).

    LD(t) = B sum_k (lr_{k-1} - lr_k) G(lr_k^-gamma S_k(t)), G(x) = 1 - (C x + 1)^-beta, with S_k(t) the
    area from step k to t: each drop of the learning rate lowers the loss, as a power law of the area since
    then.

    Args:
        drop_gain: B.
        drop_rate: C.
        drop_exponent: beta.
        rate_exponent: gamma.
    """

    drop_gain: float
    drop_rate: float
    drop_exponent: float
    rate_exponent: float

    name: ClassVar[str] = "Multi-Power Law"
    BOUNDS: ClassVar[dict[str, tuple[float, float]]] = {
        **_POWER_BOUNDS,
        "drop_gain": (1.0, 1e6),
        "drop_rate": (1e-4, 1e3),
        "drop_exponent": (0.02, 3.0),
        "rate_exponent": (0.05, 2.0),
    }

    def _annealing(self, schedule: Schedule, index: np.ndarray) -> np.ndarray:
        return -self.drop_gain * _fall(
            schedule, index, self.drop_rate, self.drop_exponent, self.rate_exponent
        )


@dataclass(frozen=True)
class FunctionalLaw(ScheduleLaw):
    """L = L0 + A S1^-s - LD(t): the functional scaling law (Li et al. 2025, arXiv 2509.19189) for curves.

    The noise term of the SDE (`carbs_scaling.laws.schedules.sde`) is a sum over past learning rates, each
    weighed by what is not yet forgotten of it. Summed by parts it is the noise of a constant rate, which is
    part of L0, less
    LD(t) = B sum_k (lr_{k-1} - lr_k) (1 - (C S_k(t) + 1)^-q): the Multi-Power Law with gamma = 0. In the
    theory q = 1 - 1 / beta is below 1; here it is free.

    Args:
        drop_gain: B.
        forgetting_rate: C.
        forgetting_exponent: q.
    """

    drop_gain: float
    forgetting_rate: float
    forgetting_exponent: float

    name: ClassVar[str] = "functional law"
    BOUNDS: ClassVar[dict[str, tuple[float, float]]] = {
        **_POWER_BOUNDS,
        "drop_gain": (1.0, 1e6),
        "forgetting_rate": (1e-2, 1e6),
        "forgetting_exponent": (0.02, 3.0),
    }

    def _annealing(self, schedule: Schedule, index: np.ndarray) -> np.ndarray:
        return -self.drop_gain * _fall(schedule, index, self.forgetting_rate, self.forgetting_exponent, 0.0)


def _fall(
    schedule: Schedule, index: np.ndarray, rate: float, exponent: float, rate_exponent: float
) -> np.ndarray:
    """LD(t) / B of the Multi-Power Law; C = rate, beta = exponent, gamma = rate_exponent; (m,) -> (m,)."""
    area = schedule.area
    at, drops, rates = merged_drops(schedule)
    since = np.maximum(area[index][:, None] - (area[at] - schedule.learning_rates[at])[None, :], 0.0)
    happened = at[None, :] <= index[:, None]
    # Where a drop has not happened yet `since` is 0, and G(0) = 0.
    reach = rate * rates**-rate_exponent * np.where(happened, since, 0.0)
    return np.asarray((1.0 - (reach + 1.0) ** -exponent) @ drops)


@dataclass(frozen=True)
class NoiseLaw(ScheduleLaw):
    """L = L0 + A S1^-alpha + C V(t): an Opt-Laws-style law of convergence and escape.

    Opt-Laws (arXiv 2409.04777) predict a run from what an SDE of the optimizer says of its schedule. Their
    coefficients and code are not public, so this is a law in their style and not theirs. In a valley of
    curvature h, gradient noise makes an Ornstein-Uhlenbeck process of the weights, whose variance after
    step t is V(t) = sum_k lr_k^2 exp(-2 h S_k(t)). It keeps the loss above the valley's floor until the
    learning rate is annealed.

    Args:
        noise: C.
        curvature: h, per unit of area.
    """

    noise: float
    curvature: float

    name: ClassVar[str] = "Opt-Laws-style"
    BOUNDS: ClassVar[dict[str, tuple[float, float]]] = {
        **_POWER_BOUNDS,
        "noise": (1e-3, 1e9),
        "curvature": (1e-3, 1e4),
    }

    def _annealing(self, schedule: Schedule, index: np.ndarray) -> np.ndarray:
        area = schedule.area
        bins = np.unique(np.concatenate([np.arange(0, len(area), max(1, len(area) // 1500)), [len(area)]]))
        squares = np.add.reduceat(schedule.learning_rates**2, bins[:-1])
        middle = np.add.reduceat(area, bins[:-1]) / np.diff(bins)
        ago = area[index][:, None] - middle[None, :]
        started = bins[:-1][None, :] <= index[:, None]
        variance = np.where(started, np.exp(-2 * self.curvature * np.maximum(ago, 0.0)), 0.0) @ squares
        # Warmup ends at the first learning rate: the stationary variance of that rate fades too.
        before = schedule.learning_rates[0] / (2 * self.curvature)
        variance += before * np.exp(-2 * self.curvature * (area[index] - schedule.warmup_area))
        return np.asarray(self.noise * variance)


SCHEDULE_LAWS: tuple[type[ScheduleLaw], ...] = (TissueLaw, MultiPowerLaw, FunctionalLaw, NoiseLaw)


def merged_drops(schedule: Schedule, most: int = MAX_DROPS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the drops of a schedule, with neighbours merged where there are more than `most`.

    Returns:
        (step index, drop, learning rate), each of shape (k,).
    """
    drops = schedule.drops
    moved = np.flatnonzero(np.abs(drops) > 1e-12 * schedule.learning_rates.max())
    if not len(moved):
        return np.zeros(1, dtype=int), np.zeros(1), schedule.learning_rates[:1]
    groups = np.array_split(moved, min(most, len(moved)))
    at = np.array([group[len(group) // 2] for group in groups])
    return at, np.array([drops[group].sum() for group in groups]), schedule.learning_rates[at]
