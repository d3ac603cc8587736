"""The power law of loss against compute along a front: L = E + A C^-alpha.

The form of Hoffmann et al. 2022 (arXiv 2203.15556) and Henighan et al. 2020 (arXiv 2010.14701), with C the
training FLOPs of the front's runs. It summarises the front; the law in N and D is fitted elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carbs_scaling.numbers import scientific

MIN_POINTS = 4  # three unknowns, and one point to contradict them
MAX_EXPONENT = 2.0  # published exponents of compute lie between 0.05 and 0.5
OUTLIER_SCALE = 0.01  # relative misfit of loss beyond which a point counts less; seed noise is about .002


@dataclass(frozen=True)
class PowerLaw:
    """L = irreducible + coefficient * C^-exponent, in the unit of the losses that it was fitted to.

    Args:
        irreducible: E, the loss that no compute takes away.
        coefficient: A.
        exponent: alpha.
        lowest_flops: the cheapest fitted point; the law says nothing below it.
        highest_flops: the dearest fitted point; beyond it the law extrapolates.
    """

    irreducible: float
    coefficient: float
    exponent: float
    lowest_flops: float
    highest_flops: float

    def loss(self, flops: float | np.ndarray) -> float | np.ndarray:
        """The law's loss at `flops`, of the same shape."""
        return self.irreducible + self.coefficient * np.asarray(flops, dtype=float) ** -self.exponent

    def formula(self, markup: str = "plain") -> str:
        """The law in one line, as `plain` text, as `mathtext` for matplotlib, or as `html`."""
        coefficient = self.coefficient
        factor = f"{coefficient:.3g}" if 0.01 <= coefficient < 1e4 else scientific(coefficient)
        exponent = f"{self.exponent:.3f}"
        offset = "" if self.irreducible < 5e-4 else f"{self.irreducible:.3f} + "
        if markup == "mathtext":
            mantissa, _, power = factor.partition("e")
            factor = rf"{mantissa}{{\times}}10^{{{power}}}" if power else mantissa
            return rf"$L = {offset}{factor}\,C^{{-{exponent}}}$"
        if markup == "html":
            return f"L = {offset}{factor} C<sup>-{exponent}</sup>"
        return f"L = {offset}{factor} C^-{exponent}"


def fit_power_law(flops: Sequence[float], loss: Sequence[float]) -> PowerLaw | None:
    """Fit the law to the points of a front, robustly (soft L1 on log residuals) and from several starts.

    Args:
        flops: `n` training FLOPs, each positive.
        loss: `n` losses, each positive.

    Returns:
        The law, or None where fewer than `MIN_POINTS` different FLOPs leave it undetermined.
    """
    from scipy.optimize import least_squares

    flops, loss = np.asarray(flops, dtype=float), np.asarray(loss, dtype=float)
    if len(np.unique(flops)) < MIN_POINTS:
        return None
    log_flops, log_loss = np.log(flops), np.log(loss)
    # Around the middle of the data the coefficient hardly depends on the exponent, which the solver likes.
    centre = log_flops.mean()
    floor = loss.min()

    def residuals(point: np.ndarray) -> np.ndarray:
        share, log_scale, exponent = point  # share: E as a fraction of the lowest loss
        return np.log(share * floor + np.exp(log_scale - exponent * (log_flops - centre))) - log_loss

    lower, upper = (0.0, np.log(floor) - 12.0, 0.0), (1.0, log_loss.max() + 12.0, MAX_EXPONENT)
    best = None
    for share in (0.1, 0.5, 0.9):
        for exponent in (0.05, 0.2, 0.6):
            scale = np.log(max(np.exp(log_loss.mean()) - share * floor, 1e-3 * floor))
            solution = least_squares(
                residuals, (share, scale, exponent), bounds=(lower, upper), loss="soft_l1",
                f_scale=OUTLIER_SCALE, x_scale=(0.1, 0.3, 0.1),
            )  # fmt: skip
            if best is None or solution.cost < best.cost:
                best = solution
    share, log_scale, exponent = best.x
    return PowerLaw(
        irreducible=float(share * floor),
        coefficient=float(np.exp(log_scale + exponent * centre)),
        exponent=float(exponent),
        lowest_flops=float(flops.min()),
        highest_flops=float(flops.max()),
    )
