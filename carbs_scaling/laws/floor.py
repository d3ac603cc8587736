"""The law of loss in model size and tokens alone, and its compute-optimal split.

    L = E + [(A N^-alpha)^(1/gamma) + (B D^-beta)^(1/gamma)]^gamma

With gamma = 1 it is approach 3 of Hoffmann et al. 2022 (arXiv 2203.15556), fitted as Besiroglu et al. 2024
(arXiv 2404.10102) do: Huber's loss of the residuals of log L, summed over the points, by L-BFGS from a grid
of starts.
"""

from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from carbs_scaling.laws.form.valley import Array
from carbs_scaling.laws.runs.table import LawError

Numbers = TypeVar("Numbers", float, Array)

# Of log loss, as published; far below the residuals' spread, so close to least absolute deviations.
HUBER = 1e-3
# Hoffmann et al., appendix D.3, thinned: logs of A, B, E and the exponents.
STARTS = tuple(product((0.0, 10.0, 20.0), (0.0, 10.0, 20.0), (-0.5, 0.5), (0.2, 0.8), (0.2, 0.8)))
NAMES = ("E", "A", "alpha", "B", "beta")
MIN_POINTS = 8


@dataclass(frozen=True)
class FloorLaw:
    """L = E + [(A N^-alpha)^(1/gamma) + (B D^-beta)^(1/gamma)]^gamma.

    Args:
        E: irreducible loss.
        A: coefficient of the parameters, for N in parameters.
        alpha: exponent of the parameters.
        B: coefficient of the tokens, for D in tokens.
        beta: exponent of the tokens.
        gamma: how the two combine; 1 adds them.
        standard_errors: of the first five in this order; empty where they were not asked for.
    """

    E: float
    A: float
    alpha: float
    B: float
    beta: float
    gamma: float = 1.0
    standard_errors: tuple[float, ...] = ()

    def loss(self, params: Numbers, tokens: Numbers) -> Numbers:
        """Losses, in the broadcast shape of N and D."""
        by_params, by_tokens = self.A * params**-self.alpha, self.B * tokens**-self.beta
        return self.E + (by_params ** (1 / self.gamma) + by_tokens ** (1 / self.gamma)) ** self.gamma

    def compute_optimal(self, flops: Numbers) -> tuple[Numbers, Numbers]:
        """N and D of least loss under C = 6 N D, for gamma = 1 (Hoffmann et al., equation 4)."""
        total = self.alpha + self.beta
        balance = (self.alpha * self.A / (self.beta * self.B)) ** (1 / total)
        product_nd = flops / 6
        return balance * product_nd ** (self.beta / total), product_nd ** (self.alpha / total) / balance

    def formula(self) -> str:
        """The law on one line; for gamma = 1."""
        return f"L = {self.E:.4f} + {self.A:.2f} N^-{self.alpha:.4f} + {self.B:.2f} D^-{self.beta:.4f}"


def fit_floor(
    params: npt.ArrayLike,
    tokens: npt.ArrayLike,
    loss: npt.ArrayLike,
    huber: float = HUBER,
    bootstrap: int = 0,
    seed: int = 0,
) -> FloorLaw:
    """The law of runs that were each tuned well.

    Args:
        params: N, shape (n,).
        tokens: D, shape (n,).
        loss: final losses, shape (n,).
        huber: of log residuals, where Huber's loss turns linear.
        bootstrap: resamples of the points for standard errors; 0 for none.
        seed: of the resampling.

    Raises:
        LawError: too few points, a size or token count that does not vary, or numbers that are not positive.
    """
    columns = [np.asarray(values, dtype=float).reshape(-1) for values in (params, tokens, loss)]
    if len(columns[0]) < MIN_POINTS or len({len(c) for c in columns}) > 1:
        raise LawError(
            f"a law of loss in N and D needs at least {MIN_POINTS} points, each with N, D and a loss"
        )
    if any(not np.all(np.isfinite(c) & (c > 0)) for c in columns):
        raise LawError("params, tokens and loss must be positive and finite")
    logs = [np.log(c) for c in columns]
    for name, values in zip(("params", "tokens"), logs, strict=False):
        if np.ptp(values) < 0.05:
            raise LawError(f"{name} is the same in all points: its exponent cannot be fitted")
    scale = float(np.median(logs[2]))
    starts = [np.array([a, b, e + scale - 0.7, alpha, beta]) for a, b, e, alpha, beta in STARTS]
    coarse = sorted((_descend(start, logs, huber, 60) for start in starts), key=lambda found: found[1])
    point, _ = min((_descend(found[0], logs, huber, 5000) for found in coarse[:4]), key=lambda f: f[1])
    errors: tuple[float, ...] = ()
    if bootstrap:
        rng = np.random.default_rng(seed)
        resampled = []
        for _ in range(bootstrap):
            rows = rng.integers(0, len(logs[0]), len(logs[0]))
            resampled.append(_natural(_descend(point, [values[rows] for values in logs], huber, 3000)[0]))
        errors = tuple(np.std(resampled, axis=0, ddof=1).tolist())
    E, A, alpha, B, beta = _natural(point)
    return FloorLaw(E, A, alpha, B, beta, standard_errors=errors)


def _natural(point: Array) -> tuple[float, ...]:
    ln_a, ln_b, ln_e, alpha, beta = point.tolist()
    return float(np.exp(ln_e)), float(np.exp(ln_a)), alpha, float(np.exp(ln_b)), beta


def _descend(start: Array, logs: list[Array], huber: float, iterations: int) -> tuple[Array, float]:
    """L-BFGS on (ln A, ln B, ln E, alpha, beta) with the exact gradient; logs of N, D and loss."""
    from scipy.optimize import minimize

    ln_n, ln_d, ln_loss = logs

    def objective(point: Array) -> tuple[float, Array]:
        ln_a, ln_b, ln_e, alpha, beta = point
        terms = np.stack([ln_a - alpha * ln_n, ln_b - beta * ln_d, np.full_like(ln_n, ln_e)])
        predicted = np.logaddexp.reduce(terms)
        share = np.exp(terms - predicted)
        residual = predicted - ln_loss
        size = np.abs(residual)
        cost = np.where(size <= huber, residual**2 / 2, huber * (size - huber / 2)).sum()
        slope = np.clip(residual, -huber, huber) * share
        gradient = [slope[0].sum(), slope[1].sum(), slope[2].sum(), -(slope[0] @ ln_n), -(slope[1] @ ln_d)]
        # Of order one for the solver's tolerances: residuals are of the order of `huber`.
        return float(cost) / huber**2, np.array(gradient) / huber**2

    options = {"maxiter": iterations, "maxfun": 4 * iterations, "ftol": 1e-15, "gtol": 1e-7}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return found.x, float(found.fun) * huber**2
