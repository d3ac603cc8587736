"""Laws of the other hyperparameters that runs varied: weight decay, Adam's beta2, momentum, the shape.

Each has a valley of its own in a coordinate x, on what the law of learning rate and batch leaves of the
losses:

    L = L(N, D, lr, B) + o + o_N ln N + o_D ln D + k v(x - x*; r)
    x* = c + c_N ln N + c_D ln D + c_e (ln lr - ln lr*) + c_B (ln B - ln B*)

with x = ln wd, ln(1 - beta2), ln(1 - momentum) or ln(width / depth), v the LINEX valley, lr* and B* the best
ones at N and D. c_e and c_B say how x follows a learning rate or batch that is not the best. Their priors are
what theory has: AdamW's timescale B / (lr wd D) is what counts (arXiv 2505.13738), so c_e = -1 and c_B = 1
for weight decay; averages keep their length in tokens when 1 - beta grows with the batch (arXiv 2205.10287),
so c_B = 1 for beta2 and momentum.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from carbs_scaling.laws.form.valley import valley
from carbs_scaling.laws.runs.table import RunTable

MIN_VARIATION = 0.3  # nepers between the largest and the least value
MIN_VALUES = 3  # two say which is better, not where the best one lies
MIN_RUNS = 12
MIN_EVIDENCE = 5.0  # gain in log likelihood over a flat valley
NOT_IDENTIFIED = 0.75  # posterior over prior standard deviation of the best value
MIN_SIDE = 0.05  # share of the runs that must lie on either side of their best value
HUBER = 2.0
CURVATURE_SD, SKEW_SD = 1.5, 0.5  # priors of ln k around a hundredth of the loss, and of r around 0


@dataclass(frozen=True)
class Coordinate:
    """How a hyperparameter is fitted.

    Args:
        label: what x is the logarithm of.
        to_log: x of its values.
        from_log: its values of x.
        exponents: prior of c_N, c_D, c_e, c_B: ((mean, standard deviation), ...).
    """

    label: str
    to_log: Callable[[np.ndarray], np.ndarray]
    from_log: Callable[[np.ndarray], np.ndarray]
    exponents: tuple[tuple[float, float], ...]


def _ln_complement(values: np.ndarray) -> np.ndarray:
    return np.log1p(-values)


def _complement(x: np.ndarray) -> np.ndarray:
    return -np.expm1(x)


_AVERAGE = ((0.0, 0.3), (0.0, 0.3), (0.0, 0.3), (1.0, 0.5))
COORDINATES = {
    "weight_decay": Coordinate(
        "weight_decay", np.log, np.exp, ((0.0, 0.5), (0.0, 0.5), (-1.0, 0.5), (1.0, 0.5))
    ),
    "beta2": Coordinate("1 - beta2", _ln_complement, _complement, _AVERAGE),
    "momentum": Coordinate("1 - momentum", _ln_complement, _complement, _AVERAGE),
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
        curvature: k, in loss per squared neper.
        skew: r; above 0, too large an x hurts more than too small a one.
        low: least value in the runs.
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
        """How it was fitted."""
        return COORDINATES[self.name]

    def value(self, params, tokens) -> np.ndarray:
        """Best value at N and D, at the best learning rate and batch there."""
        n, d = np.log(params) - self.centre[0], np.log(tokens) - self.centre[1]
        return self.coordinate.from_log(self.theta[0] + self.theta[1] * n + self.theta[2] * d)

    def draws(self, params: float, tokens: float, count: int) -> np.ndarray:
        """Draws of that value, shape (count,); always the same ones."""
        at = np.array([1.0, np.log(params) - self.centre[0], np.log(tokens) - self.centre[1], 0.0, 0.0])
        sd = np.sqrt(max(at @ np.array(self.covariance) @ at, 0.0))
        x = at @ np.array(self.theta) + sd * np.random.default_rng(2).normal(size=count)
        # A share of 1 - beta above 1 would be a negative beta.
        return self.coordinate.from_log(np.minimum(x, 0.0) if self.name in ("beta2", "momentum") else x)

    def excess(self, x: np.ndarray, places: np.ndarray) -> np.ndarray:
        """What runs lose by their x, shape (n,); places: rows of `places_of`."""
        return self.curvature * valley(x - places @ np.array(self.theta), self.skew)[0]

    def formula(self) -> str:
        """The law on one line."""
        n0, d0 = np.exp(self.centre)
        return (
            f"{self.coordinate.label} = {np.exp(self.theta[0]):.3g} "
            f"(N/{n0:.3g})^{self.theta[1]:.3f} (D/{d0:.3g})^{self.theta[2]:.3f}"
        )


def values_of(table: RunTable, name: str) -> np.ndarray | None:
    """The runs' values, shape (n,); None where the table has none."""
    if name == "width_to_depth":
        return None if table.depth is None or table.width is None else table.width / table.depth
    return getattr(table, name)


def log_values(table: RunTable, name: str) -> np.ndarray | None:
    """x of the runs, shape (n,), NaN for a weight decay of 0; None where the table has no such column."""
    values = values_of(table, name)
    if values is None:
        return None
    there = values > 0 if name == "weight_decay" else np.ones(len(values), dtype=bool)
    x = np.full(len(values), np.nan)
    x[there] = COORDINATES[name].to_log(values[there])
    return x


def varied(table: RunTable) -> dict[str, np.ndarray]:
    """x of the hyperparameters that the runs vary, each (n,).

    The shape counts where runs of one size differ in it: from size to size it changes anyway.
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


def places_of(n, d, off_rate, off_batch) -> np.ndarray:
    """What theta multiplies: 1, centred ln N and ln D, ln lr - ln lr*, ln B - ln B*; shape (n, 5)."""
    return np.stack([np.ones_like(n), n, d, off_rate, off_batch], axis=-1)


def fit_other(
    name: str,
    x: np.ndarray,
    places: np.ndarray,
    residual: np.ndarray,
    noise_sd: np.ndarray,
    loss_level: float,
    centre: tuple[float, float],
) -> OtherLaw | str:
    """The law of one hyperparameter, or one line that says why there is none.

    Args:
        name: of `COORDINATES`.
        x: of each run, shape (n,); runs where it is NaN are left out.
        places: `places_of` the runs, shape (n, 5).
        residual: losses less those of the law of learning rate and batch, shape (n,).
        noise_sd: of each run, up to a common factor, shape (n,).
        loss_level: a low loss of the runs.
        centre: (ln N0, ln D0) of `places`.
    """
    from scipy.optimize import least_squares

    label = COORDINATES[name].label
    there = np.isfinite(x)
    x, places, residual, noise_sd = x[there], places[there], residual[there], noise_sd[there]
    if len(np.unique(np.round(x, 3))) < MIN_VALUES:
        above = " above 0" if name == "weight_decay" else ""
        return f"{name} has fewer than {MIN_VALUES} values{above}: no best one can be told"
    width = float(np.ptp(x))
    exponents = np.array(COORDINATES[name].exponents)
    # o, o_N, o_D, ln k, r, then theta.
    mean = np.concatenate([[0.0, 0.0, 0.0, np.log(0.01 * loss_level), 0.0, x.mean()], exponents[:, 0]])
    sd = np.concatenate([[0.05 * loss_level] * 3, [CURVATURE_SD, SKEW_SD, width], exponents[:, 1]])

    def model(z: np.ndarray, steep: float = 1.0) -> np.ndarray:
        off = x - places @ z[5:]
        return places[:, :3] @ z[:3] + steep * np.exp(z[3]) * valley(off, z[4])[0]

    def misfit(z: np.ndarray, scale: float, steep: float = 1.0) -> np.ndarray:
        return np.concatenate([(residual - model(z, steep)) / (scale * noise_sd), (z - mean) / sd])

    def slopes(z: np.ndarray, scale: float, steep: float = 1.0) -> np.ndarray:
        depth, by_offset, by_skew = valley(x - places @ z[5:], z[4])
        k = steep * np.exp(z[3])
        by_z = np.column_stack([places[:, :3], k * depth, k * by_skew, -(k * by_offset)[:, None] * places])
        return np.concatenate([-by_z / (scale * noise_sd)[:, None], np.diag(1 / sd)])

    def descend(start: np.ndarray, scale: float, steep: float = 1.0):
        return least_squares(misfit, start, slopes, loss="huber", f_scale=HUBER, args=(scale, steep))

    def start_at(quantile: float) -> np.ndarray:
        return np.concatenate([mean[:5], [np.quantile(x, quantile)], mean[6:]])

    fit = min((descend(start_at(q), 1.0) for q in (0.15, 0.5, 0.85)), key=lambda found: found.cost)
    scale = 1.0  # of noise_sd
    for _ in range(3):
        z = np.minimum(np.abs((residual - model(fit.x)) / noise_sd), 3 * scale)
        scale = float(np.sqrt((z**2).sum() / max(len(x) - len(mean), 0.3 * len(x))))
        fit = descend(fit.x, scale)
    flat = descend(mean, scale, steep=0.0)
    covariance = np.linalg.inv(fit.jac.T @ fit.jac)[5:, 5:]
    error = float(np.sqrt(covariance[0, 0]))
    if flat.cost - fit.cost < MIN_EVIDENCE or error > NOT_IDENTIFIED * width:
        return f"{label} is not identified by these runs: the loss does not change with it beyond their noise"
    above = float(np.mean(x > places @ fit.x[5:]))
    if not MIN_SIDE < above < 1 - MIN_SIDE:
        side = "lower" if above > 0.5 else "upper"
        return f"the best {label} lies beyond the {side} edge of what was tried: widen it"
    values = COORDINATES[name].from_log(np.array([x.min(), x.max()]))
    return OtherLaw(
        name=name,
        theta=tuple(fit.x[5:].tolist()),
        covariance=tuple(map(tuple, covariance.tolist())),
        centre=centre,
        curvature=float(np.exp(fit.x[3])),
        skew=float(fit.x[4]),
        low=float(values.min()),
        high=float(values.max()),
    )
