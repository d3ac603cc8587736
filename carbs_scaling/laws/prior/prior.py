"""What is believed of the surface of `carbs_scaling.laws.form.law` before any run."""

from dataclasses import dataclass
from math import exp, log

import numpy as np

from carbs_scaling.laws.form.law import FLOOR, INDEX, NAMES
from carbs_scaling.laws.loss_prior import published_learning_rate, published_losses
from carbs_scaling.laws.runs.rules import Rules

# Kaplan's law has no irreducible loss. In logs a tenth of the loss stands for none: runs cannot tell them
# apart.
LEAST_E = 0.1
OF_THE_RATE = ("a0", "a_N", "a_D", "a_B", "ln_k_e", "r_e")
OF_THE_BATCH = ("a_B", "b0", "b_N", "b_D", "ln_k_B", "r_B")
NO_VALLEY = -30.0  # log of a curvature that is none
# What each parameter of the floor varies by alone: exponents half as much again as in
# `carbs_scaling.laws.loss_prior`, since a table has many runs.
_OWN = {"ln_E": 0.75, "ln_R": 0.6, "logit_share": 1.5, "ln_alpha": 0.75, "ln_beta": 0.75, "ln_gamma": 0.6}


@dataclass(frozen=True)
class SurfacePrior:
    """A normal prior of `surface.NAMES`: mean + sd * z + shared * z0, with standard normal z and z0.

    Args:
        mean: shape (19,).
        sd: of what each parameter varies by alone, shape (19,); 0 pins one.
        shared: what parameters vary by together, shape (19,).
    """

    mean: np.ndarray
    sd: np.ndarray
    shared: np.ndarray

    @property
    def scale(self) -> np.ndarray:
        """Standard deviation of each parameter, shape (19,)."""
        return np.hypot(np.maximum(self.sd, 1e-9), self.shared)

    @property
    def precision(self) -> np.ndarray:
        """Inverse of the covariance, shape (19, 19)."""
        alone = 1 / np.maximum(self.sd, 1e-9) ** 2
        pull = alone * self.shared
        return np.diag(alone) - np.outer(pull, pull) / (1 + self.shared @ pull)

    def at_one_batch(self) -> "SurfacePrior":
        """For runs of one batch, the centre's: taken for the best, and nothing hangs on it."""
        return self._pinned({name: NO_VALLEY if name == "ln_k_B" else 0.0 for name in OF_THE_BATCH})

    def at_rules(self, rules: Rules) -> "SurfacePrior":
        """For runs whose rate or batch follows a rule: taken for the best, and no run is off it."""
        pinned = {}
        batch = np.zeros(3)
        if rules.batch is not None:
            batch = rules.batch
            pinned |= dict(zip(("b0", "b_N", "b_D"), batch, strict=True)) | {"ln_k_B": NO_VALLEY, "r_B": 0.0}
        if rules.rate is not None:
            at_best_batch = rules.rate[:3] + rules.rate[3] * batch
            pinned |= dict(zip(("a0", "a_N", "a_D"), at_best_batch, strict=True))
            pinned |= {"a_B": rules.rate[3], "ln_k_e": NO_VALLEY, "r_e": 0.0}
        return self._pinned(pinned)

    def _pinned(self, values: dict[str, float]) -> "SurfacePrior":
        mean, sd, shared = self.mean.copy(), self.sd.copy(), self.shared.copy()
        at = [INDEX[name] for name in values]
        mean[at], sd[at], shared[at] = list(values.values()), 0.0, 0.0
        return SurfacePrior(mean, sd, shared)

    def widened(self, factor: float) -> "SurfacePrior":
        """The same with all deviations times a factor."""
        return SurfacePrior(self.mean, factor * self.sd, factor * self.shared)


def weak_prior(loss_level: float, centre: np.ndarray) -> SurfacePrior:
    """Wide enough for every published law to lie inside.

    Of the floor, Besiroglu's law and Kaplan's lie one deviation to either side, in a direction that E, the
    exponents and gamma share: small exponents go with no irreducible loss. Amplitudes are shares of the loss,
    so nothing depends on its unit. Best rate against N between -1/8 (DeepSeek) and -0.7 (Step Law), against D
    between -1/8 and 0.3; batch against D between 0.33 and 0.57: about a deviation to either side, as the
    search's own prior has them (`loss_prior.law_prior`; its a1 + a3 b2 is a_N here). Valleys flatten no
    faster than the reducible loss falls (exponents of at most .37).

    Args:
        loss_level: a low loss of the runs.
        centre: (ln N0, ln D0, ln e0, ln B0).
    """
    rate, batch = published_learning_rate(float(np.exp(centre[0])), float(np.exp(centre[1])))
    mean_sd = {
        "a0": (rate - centre[2], 2.0),
        "a_N": (-0.45, 0.26),
        "a_D": (0.1, 0.21),
        "a_B": (0.4, 0.2),
        "ln_k_e": (log(0.015 * loss_level), 1.5),
        "r_e": (0.5, 0.5),
        "b0": (batch - centre[3], 2.0),
        "b_N": (0.1, 0.15),
        "b_D": (0.45, 0.15),
        "ln_k_B": (log(0.01 * loss_level), 1.5),
        "r_B": (0.5, 0.5),
        "kappa_N": (0.15, 0.15),
        "kappa_D": (0.15, 0.15),
    }
    first, second = _published_floors(centre)
    shared = np.zeros(len(NAMES))
    for name in FLOOR:
        mean_sd[name] = ((first[name] + second[name]) / 2, _OWN[name])
        shared[INDEX[name]] = (first[name] - second[name]) / 2
    mean, sd = np.array([mean_sd[name] for name in NAMES]).T
    mean[[INDEX["ln_E"], INDEX["ln_R"]]] += log(loss_level)
    return SurfacePrior(mean, sd, shared)


def _published_floors(centre: np.ndarray) -> list[dict[str, float]]:
    """`FLOOR` of Besiroglu's law and of Kaplan's, for a loss of 1 at the centre."""
    found = []
    for law in published_losses(tuple(centre), (True, True, True, True)):
        gamma = exp(law["ln_gamma"])
        by_params, by_tokens = law["ln_A"] / gamma, law["ln_C"] / gamma
        found.append(
            {
                "ln_E": log(max(law["E"], LEAST_E)),
                "ln_R": gamma * float(np.logaddexp(by_params, by_tokens)),
                "logit_share": by_params - by_tokens,
                **{name: law[name] for name in ("ln_alpha", "ln_beta", "ln_gamma")},
            }
        )
    return found
