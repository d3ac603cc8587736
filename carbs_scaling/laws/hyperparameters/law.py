"""Laws of further hyperparameters: weight decay, betas, epsilon, warmup, Muon's ratio, the shape.

Each has a valley of its own in a coordinate x, fitted to the residuals of the law of learning rate and batch:

    L = L(N, D, lr, B) + o + o_N ln N + o_D ln D + k v(x - x*; r)
    x* = c + c_N ln N + c_D ln D + c_e (ln lr - ln lr*) + c_B (ln B - ln B*)

with x = ln wd, ln(1 - beta2), ln(1 - momentum), ln epsilon, ln warmup, ln ratio or ln(width / depth), v the
LINEX valley, lr* and B* the best ones at N and D. c_e and c_B move x* with a learning rate or batch that is
not the best. Their priors come from theory. For weight decay AdamW's timescale B / (lr wd D) counts (arXiv
2505.13738), so c_e = -1 and c_B = 1. For beta2 and momentum averages keep their length in tokens when
1 - beta grows with the batch (arXiv 2205.10287), so c_B = 1; by the same rule epsilon falls by the root of
the batch, c_B = -1/2.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from carbs_scaling.laws.form.valley import valley
from carbs_scaling.laws.runs.table import MAY_BE_0, RunTable

MIN_VARIATION = 0.3  # least range of x in the runs
MIN_RUNS = 12


@dataclass(frozen=True)
class Coordinate:
    """The coordinate x in which a hyperparameter is fitted.

    Args:
        label: the quantity of which x is the logarithm.
        to_log: from values to x.
        from_log: from x to values.
        exponents: prior of c_N, c_D, c_e, c_B: ((mean, standard deviation), ...).
    """

    label: str
    to_log: Callable[[np.ndarray], np.ndarray]
    from_log: Callable[[np.ndarray], np.ndarray]
    exponents: tuple[tuple[float, float], ...]


def _ln_complement(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.log1p(-values))


def _complement(x: np.ndarray) -> np.ndarray:
    return np.asarray(-np.expm1(x))


def _share(x: np.ndarray) -> np.ndarray:
    return np.minimum(np.exp(x), 0.9)  # some of the steps are left to the rest of the schedule


_AVERAGE = ((0.0, 0.3), (0.0, 0.3), (0.0, 0.3), (1.0, 0.5))
COORDINATES = {
    "weight_decay": Coordinate(
        "weight_decay", np.log, np.exp, ((0.0, 0.5), (0.0, 0.5), (-1.0, 0.5), (1.0, 0.5))
    ),
    "beta2": Coordinate("1 - beta2", _ln_complement, _complement, _AVERAGE),
    "momentum": Coordinate("1 - momentum", _ln_complement, _complement, _AVERAGE),
    "epsilon": Coordinate("epsilon", np.log, np.exp, ((0.0, 0.5), (0.0, 0.5), (0.0, 0.5), (-0.5, 0.5))),
    "warmup_fraction": Coordinate("warmup_fraction", np.log, _share, ((0.0, 0.3),) * 4),
    "adamw_rate_ratio": Coordinate("adamw_rate_ratio", np.log, np.exp, ((0.0, 0.3),) * 4),
    "width_to_depth": Coordinate(
        "width / depth", np.log, np.exp, ((0.15, 0.3), (0.0, 0.1), (0.0, 0.1), (0.0, 0.1))
    ),
}


@dataclass(frozen=True)
class OtherLaw:
    """The best value of one hyperparameter against N and D.

    Args:
        name: of `COORDINATES`.
        theta: c, c_N, c_D, c_e, c_B.
        covariance: of theta, 5 x 5.
        centre: (ln N0, ln D0), to which theta is relative.
        curvature: k, in loss per squared unit of x.
        skew: r; above 0, too large an x hurts more than too small a one.
        low: lowest value in the runs.
        high: greatest value in the runs.
    """

    name: str
    theta: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    centre: tuple[float, float]
    curvature: float
    skew: float
    low: float
    high: float

    @property
    def coordinate(self) -> Coordinate:
        """The coordinate of the fit."""
        return COORDINATES[self.name]

    def value(self, params: float | np.ndarray, tokens: float | np.ndarray) -> np.ndarray:
        """Best value at N and D with the best learning rate and batch, in their broadcast shape."""
        n, d = np.log(params) - self.centre[0], np.log(tokens) - self.centre[1]
        return self.coordinate.from_log(self.theta[0] + self.theta[1] * n + self.theta[2] * d)

    def draws(self, params: float, tokens: float, count: int) -> np.ndarray:
        """Draw that value from the posterior, shape (count,), with a fixed seed."""
        at = np.array([1.0, np.log(params) - self.centre[0], np.log(tokens) - self.centre[1], 0.0, 0.0])
        sd = np.sqrt(max(at @ np.array(self.covariance) @ at, 0.0))
        x = at @ np.array(self.theta) + sd * np.random.default_rng(2).normal(size=count)
        # 1 - beta above 1 would be a negative beta.
        return self.coordinate.from_log(np.minimum(x, 0.0) if self.name in ("beta2", "momentum") else x)

    def excess(self, x: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Loss by the distance of x (n,) from its best value at `places` (`places_of`, (n, 5)): (n,)."""
        return np.asarray(self.curvature * valley(x - places @ np.array(self.theta), self.skew)[0])

    def formula(self) -> str:
        """Write the law on one line."""
        n0, d0 = np.exp(self.centre)
        return (
            f"{self.coordinate.label} = {np.exp(self.theta[0]):.3g} "
            f"(N/{n0:.3g})^{self.theta[1]:.3f} (D/{d0:.3g})^{self.theta[2]:.3f}"
        )


def values_of(table: RunTable, name: str) -> np.ndarray | None:
    """Values of a hyperparameter in the runs, shape (n,); None where the table has no such column."""
    if name == "width_to_depth":
        return None if table.depth is None or table.width is None else table.width / table.depth
    values: np.ndarray | None = getattr(table, name)
    return values


def log_values(table: RunTable, name: str) -> np.ndarray | None:
    """x of the runs, shape (n,), NaN for a decay or warmup of 0; None where there is no such column."""
    values = values_of(table, name)
    if values is None:
        return None
    there = values > 0 if name in MAY_BE_0 else np.ones(len(values), dtype=bool)
    x = np.full(len(values), np.nan)
    x[there] = COORDINATES[name].to_log(values[there])
    return x


def varied(table: RunTable) -> dict[str, np.ndarray]:
    """x of the hyperparameters that the runs vary, each of shape (n,).

    The shape counts as varied where runs of one size differ in it, since it always changes with size.
    """
    found = {}
    for name in COORDINATES:
        x = log_values(table, name)
        if x is None:
            continue
        spread = x[np.isfinite(x)]
        if name == "width_to_depth":
            size = np.unique(np.round(np.log(table.params), 1), return_inverse=True)[1].reshape(-1)
            spread = x - (np.bincount(size, x) / np.bincount(size))[size]
        if len(spread) >= MIN_RUNS and np.ptp(spread) >= MIN_VARIATION:
            found[name] = x
    return found


def places_of(n: np.ndarray, d: np.ndarray, off_rate: np.ndarray, off_batch: np.ndarray) -> np.ndarray:
    """Factors of theta: 1, centred ln N and ln D, ln lr - ln lr*, ln B - ln B*; shape (n, 5)."""
    return np.stack([np.ones_like(n), n, d, off_rate, off_batch], axis=-1)
