"""Laws that predict a loss curve from its schedule: Tissue et al., Multi-Power, functional, Opt-Laws-style.

All of them write the loss after step t as what the area under the schedule has brought,
L0 + A S1(t)^-alpha, less (or plus) what the annealing so far has done to the noise. They differ in that last
term. A law holds for one model, text and batch; the schedule is what varies.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
from scipy.signal import lfilter


@dataclass(frozen=True)
class Schedule:
    """The learning rates of a run, step by step, and what the laws need of them.

    Args:
        learning_rates: after warmup, one a step, shape (T,); all positive.
        warmup_area: sum of the learning rates of the warmup steps.
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
        """How far each step's learning rate is below the one before, shape (T,); the first is 0."""
        return -np.diff(self.learning_rates, prepend=self.learning_rates[0])


@dataclass(frozen=True)
class TissueLaw:
    """L = L0 + A S1^-alpha - C S2 (Tissue et al. 2024, arXiv 2408.11029, equation 1).

    S2, the annealing area, sums over all steps a momentum of past drops that forgets at rate 1 - lambda a
    step.

    Args:
        floor: L0.
        amplitude: A.
        exponent: alpha.
        annealing: C.
        forgetting: 1 - lambda.
    """

    floor: float
    amplitude: float
    exponent: float
    annealing: float
    forgetting: float

    name: ClassVar[str] = "Tissue et al."
    # Where fits begin, and the bounds that they keep, in logs; `learning rate` and `steps` set the scales.
    BOUNDS: ClassVar[dict[str, tuple[float, float]]] = {
        "floor": (1e-3, 1e3),
        "amplitude": (1e-6, 1e3),
        "exponent": (0.05, 3.0),
        "annealing": (1e-6, 1e3),
        "forgetting": (1e-5, 0.1),
    }

    def loss(self, schedule: Schedule, steps: np.ndarray) -> np.ndarray:
        """Losses after the given steps (counted from 1 after warmup, shape (m,)): shape (m,)."""
        momentum = lfilter([1.0], [1.0, -(1.0 - self.forgetting)], schedule.drops)
        index = np.asarray(steps) - 1
        area = schedule.area[index]
        return (
            self.floor + self.amplitude * area**-self.exponent - self.annealing * np.cumsum(momentum)[index]
        )


@dataclass(frozen=True)
class MultiPowerLaw:
    """L = L0 + A S1^-alpha - LD(t) (Luo et al. 2025, arXiv 2503.12811, equation 3).

    LD(t) = B sum_k (lr_{k-1} - lr_k) G(lr_k^-gamma S_k(t)), G(x) = 1 - (C x + 1)^-beta, with S_k(t) the
    area from step k to t: each drop of the learning rate takes some loss away, as a power law of the area
    since then.

    Args:
        floor: L0.
        amplitude: A.
        exponent: alpha.
        drop_gain: B.
        drop_rate: C.
        drop_exponent: beta.
        rate_exponent: gamma.
    """

    floor: float
    amplitude: float
    exponent: float
    drop_gain: float
    drop_rate: float
    drop_exponent: float
    rate_exponent: float

    name: ClassVar[str] = "Multi-Power Law"
    BOUNDS: ClassVar[dict[str, tuple[float, float]]] = {
        "floor": (1e-3, 1e3),
        "amplitude": (1e-6, 1e3),
        "exponent": (0.05, 3.0),
        "drop_gain": (1.0, 1e6),
        "drop_rate": (1e-4, 1e3),
        "drop_exponent": (0.02, 3.0),
        "rate_exponent": (0.05, 2.0),
    }

    def loss(self, schedule: Schedule, steps: np.ndarray) -> np.ndarray:
        """Losses after the given steps (counted from 1 after warmup, shape (m,)): shape (m,)."""
        index = np.asarray(steps) - 1
        area = schedule.area
        at, drops, rates = merged_drops(schedule)
        since = np.maximum(area[index][:, None] - (area[at] - schedule.learning_rates[at])[None, :], 0.0)
        happened = at[None, :] <= index[:, None]
        # Where a drop has not happened yet `since` is 0, and G(0) = 0.
        reach = self.drop_rate * rates**-self.rate_exponent * np.where(happened, since, 0.0)
        gone = self.drop_gain * ((1.0 - (reach + 1.0) ** -self.drop_exponent) @ drops)
        return self.floor + self.amplitude * area[index] ** -self.exponent - gone


@dataclass(frozen=True)
class FunctionalLaw:
    """L = L0 + A S1^-s - LD(t): the functional scaling law (Li et al. 2025, arXiv 2509.19189) for curves.

    The noise that the SDE leaves (`carbs_scaling.laws.schedules.sde`) is a sum over past learning rates of
    what is not yet forgotten of them. Summed by parts it is what a constant rate would leave, which is
    part of L0, less
    LD(t) = B sum_k (lr_{k-1} - lr_k) (1 - (C S_k(t) + 1)^-q): the Multi-Power Law with gamma = 0. By the
    theory q = 1 - 1 / beta is below 1; here it is free.

    Args:
        floor: L0.
        amplitude: A.
        exponent: s.
        drop_gain: B.
        forgetting_rate: C.
        forgetting_exponent: q.
    """

    floor: float
    amplitude: float
    exponent: float
    drop_gain: float
    forgetting_rate: float
    forgetting_exponent: float

    name: ClassVar[str] = "functional law"
    BOUNDS: ClassVar[dict[str, tuple[float, float]]] = {
        "floor": (1e-3, 1e3),
        "amplitude": (1e-6, 1e3),
        "exponent": (0.05, 3.0),
        "drop_gain": (1.0, 1e6),
        "forgetting_rate": (1e-2, 1e6),
        "forgetting_exponent": (0.02, 3.0),
    }

    def loss(self, schedule: Schedule, steps: np.ndarray) -> np.ndarray:
        """Losses after the given steps (counted from 1 after warmup, shape (m,)): shape (m,)."""
        multi_power = MultiPowerLaw(
            self.floor,
            self.amplitude,
            self.exponent,
            self.drop_gain,
            self.forgetting_rate,
            drop_exponent=self.forgetting_exponent,
            rate_exponent=0.0,
        )
        return multi_power.loss(schedule, steps)


@dataclass(frozen=True)
class NoiseLaw:
    """L = L0 + A S1^-alpha + C V(t): an Opt-Laws-style law of convergence and escape.

    Opt-Laws (arXiv 2409.04777) predict a run from what an SDE of the optimizer says of its schedule; their
    coefficients and code are not public, so this is a law in their style and not theirs. In a valley of
    curvature h, gradient noise makes an Ornstein-Uhlenbeck process of the weights, whose variance after
    step t is
    V(t) = sum_k lr_k^2 exp(-2 h S_k(t)): what keeps the loss above the valley's floor until annealing lets
    it sink.

    Args:
        floor: L0.
        amplitude: A.
        exponent: alpha.
        noise: C.
        curvature: h, per unit of area.
    """

    floor: float
    amplitude: float
    exponent: float
    noise: float
    curvature: float

    name: ClassVar[str] = "Opt-Laws-style"
    BOUNDS: ClassVar[dict[str, tuple[float, float]]] = {
        "floor": (1e-3, 1e3),
        "amplitude": (1e-6, 1e3),
        "exponent": (0.05, 3.0),
        "noise": (1e-3, 1e9),
        "curvature": (1e-3, 1e4),
    }

    def loss(self, schedule: Schedule, steps: np.ndarray) -> np.ndarray:
        """Losses after the given steps (counted from 1 after warmup, shape (m,)): shape (m,)."""
        index = np.asarray(steps) - 1
        area = schedule.area
        bins = np.unique(np.concatenate([np.arange(0, len(area), max(1, len(area) // 1500)), [len(area)]]))
        squares = np.add.reduceat(schedule.learning_rates**2, bins[:-1])
        middle = np.add.reduceat(area, bins[:-1]) / np.diff(bins)
        ago = area[index][:, None] - middle[None, :]
        started = bins[:-1][None, :] <= index[:, None]
        variance = np.where(started, np.exp(-2 * self.curvature * np.maximum(ago, 0.0)), 0.0) @ squares
        # Before the schedule the warmup's end had the first learning rate: its stationary variance fades too.
        before = schedule.learning_rates[0] / (2 * self.curvature)
        variance += before * np.exp(-2 * self.curvature * (area[index] - schedule.warmup_area))
        return self.floor + self.amplitude * area[index] ** -self.exponent + self.noise * variance


ScheduleLaw = TissueLaw | MultiPowerLaw | FunctionalLaw | NoiseLaw
SCHEDULE_LAWS: tuple[type, ...] = (TissueLaw, MultiPowerLaw, FunctionalLaw, NoiseLaw)


def merged_drops(schedule: Schedule, most: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The drops of a schedule, neighbours merged where there are many.

    Returns:
        (step index, drop, learning rate), each of shape (k,).

    A drop of 24,000 small steps acts like one of 400: the area between them is what counts.
    """
    drops = schedule.drops
    moved = np.flatnonzero(np.abs(drops) > 1e-12 * schedule.learning_rates.max())
    if not len(moved):
        return np.zeros(1, dtype=int), np.zeros(1), schedule.learning_rates[:1]
    groups = np.array_split(moved, min(most, len(moved)))
    at = np.array([group[len(group) // 2] for group in groups])
    return at, np.array([drops[group].sum() for group in groups]), schedule.learning_rates[at]


def law_to_dict(law: ScheduleLaw) -> dict:
    """As plain JSON types, with the law's name."""
    return {"law": law.name, **asdict(law)}


def law_from_dict(fields: dict) -> ScheduleLaw:
    """The inverse of `law_to_dict`.

    Raises:
        ValueError: there is no law of that name.
    """
    fields = dict(fields)
    name = fields.pop("law", None)
    for kind in SCHEDULE_LAWS:
        if kind.name == name:
            return kind(**fields)
    raise ValueError(f"no schedule law {name!r}; there are {', '.join(kind.name for kind in SCHEDULE_LAWS)}")
