"""The power law of loss against compute along a front: L = E + A C^-alpha.

The form of Hoffmann et al. 2022 (arXiv 2203.15556) and Henighan et al. 2020 (arXiv 2010.14701), with C the
training FLOPs of the front's runs. It summarises the front; `laws/fit` fits the law in N and D.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from carbs_scaling.numbers import scientific

MIN_POINTS = 4  # three parameters, and one more point to check them
LEVEL = 0.9  # of the band
_Z = 1.645  # half of that band, in standard deviations
_SHARE_DEVIATION = 0.29  # of E over the lowest loss, before any point: that of even odds between 0 and 1
MAX_EXPONENT = 2.0  # published exponents of compute lie between 0.05 and 0.5
AT_BOUND = 0.99  # share of it from which an exponent is the bound's, not the points'
OUTLIER_SCALE = 0.01  # relative misfit of loss beyond which a point counts less; seed noise is about .002


@dataclass(frozen=True)
class PowerLaw:
    """L = irreducible + coefficient * C^-exponent, in the unit of the fitted losses.

    Args:
        irreducible: E, the loss in the limit of infinite compute.
        coefficient: A.
        exponent: alpha.
        lowest_flops: FLOPs of the cheapest fitted point.
        highest_flops: FLOPs of the most expensive fitted point; beyond it the law extrapolates.
        covariance: of E, ln A at `centre` and alpha, shape (3, 3); None where it is not known.
        centre: mean ln FLOPs of the fitted points.
    """

    irreducible: float
    coefficient: float
    exponent: float
    lowest_flops: float
    highest_flops: float
    covariance: np.ndarray | None = field(default=None, compare=False, repr=False)
    centre: float = 0.0

    def band(self, flops: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Low and high ends of the law's 90% band at `flops`, by its linearised fit; None without one."""
        if self.covariance is None:
            return None
        loss = self.loss(flops)
        reducible = loss - self.irreducible
        gradient = np.stack(
            [np.ones_like(loss), reducible, -reducible * (np.log(flops) - self.centre)], axis=-1
        )
        deviation = np.sqrt(np.einsum("ni,ij,nj->n", gradient, self.covariance, gradient)) / loss
        return loss * np.exp(-_Z * deviation), loss * np.exp(_Z * deviation)

    def loss(self, flops: float | np.ndarray) -> np.ndarray:
        """Predict the loss at `flops`, in the same shape."""
        return np.asarray(
            self.irreducible + self.coefficient * np.asarray(flops, dtype=float) ** -self.exponent
        )

    def formula(self, markup: str = "plain") -> str:
        """Write the law on one line: as `plain` text, as `mathtext` for matplotlib, or as `html`."""
        coefficient = self.coefficient
        factor = f"{coefficient:.3g}" if 0.01 <= coefficient < 1e4 else scientific(coefficient)
        exponent = f"{self.exponent:.3f}"
        offset = "" if self.irreducible < 5e-4 else f"{self.irreducible:.3f} + "
        if markup == "mathtext":
            mantissa, _, power = factor.partition("e")
            factor = rf"{mantissa}{{\times}}10^{{{power}}}" if power else mantissa
            return rf"$L = {offset}{factor}\,C^{{-{exponent}}}$"
        if markup == "html":
            return f"<i>L</i> = {offset}{factor} <i>C</i><sup>-{exponent}</sup>"
        return f"L = {offset}{factor} C^-{exponent}"


def fit_power_law(flops: Sequence[float], loss: Sequence[float]) -> PowerLaw | None:
    """Fit the law to the points of a front, robustly (soft L1 on log residuals) and from several starts.

    Args:
        flops: `n` training FLOPs, each positive.
        loss: `n` losses, each positive.

    Returns:
        The law, or None where fewer than `MIN_POINTS` different FLOPs leave it undetermined, or where the
        points drive its exponent to the end of what is sought.
    """
    from scipy.optimize import least_squares

    flops_array, loss_array = np.asarray(flops, dtype=float), np.asarray(loss, dtype=float)
    if len(np.unique(flops_array)) < MIN_POINTS:
        return None
    log_flops, log_loss = np.log(flops_array), np.log(loss_array)
    # Centred on the data, coefficient and exponent are nearly uncorrelated, which helps the solver.
    centre = log_flops.mean()
    lowest = loss_array.min()

    def residuals(point: np.ndarray) -> np.ndarray:
        share, log_scale, exponent = point  # share: E as a fraction of the lowest loss
        predicted = share * lowest + np.exp(log_scale - exponent * (log_flops - centre))
        return np.asarray(np.log(predicted) - log_loss)

    lower, upper = (0.0, np.log(lowest) - 12.0, 0.0), (1.0, log_loss.max() + 12.0, MAX_EXPONENT)
    solutions = []
    for share in (0.1, 0.5, 0.9):
        for exponent in (0.05, 0.2, 0.6):
            scale = np.log(max(np.exp(log_loss.mean()) - share * lowest, 1e-3 * lowest))
            solution = least_squares(
                residuals, (share, scale, exponent), bounds=(lower, upper), loss="soft_l1",
                f_scale=OUTLIER_SCALE, x_scale=(0.1, 0.3, 0.1),
            )  # fmt: skip
            solutions.append(solution)
    best = min(solutions, key=lambda solution: float(solution.cost))
    share, log_scale, exponent = best.x
    if exponent > AT_BOUND * MAX_EXPONENT:
        return None
    # Linear in the parameters about the solution: Gaussian residuals, with a weak prior of E.
    noise = max(1.4826 * float(np.median(np.abs(residuals(best.x)))), 1e-6)
    jacobian = np.asarray(best.jac) / noise
    covariance = np.linalg.pinv(jacobian.T @ jacobian + np.diag([_SHARE_DEVIATION**-2, 1e-6, 1e-6]))
    unit = np.diag([lowest, 1.0, 1.0])  # E instead of its share
    return PowerLaw(
        irreducible=float(share * lowest),
        coefficient=float(np.exp(log_scale + exponent * centre)),
        exponent=float(exponent),
        lowest_flops=float(flops_array.min()),
        highest_flops=float(flops_array.max()),
        covariance=unit @ covariance @ unit,
        centre=float(centre),
    )
