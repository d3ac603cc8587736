"""What is believed of the loss law before any run, from published laws."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import exp, hypot, log, sqrt

import numpy as np

from carbs_scaling.laws.loss import INDEX, PARAMETERS


@dataclass(frozen=True)
class LawPrior:
    """A normal prior of `PARAMETERS`: mean + sd * z + shared * z0 with independent standard normal z, z0.

    Args:
        mean: shape (19,).
        sd: of what each parameter varies by alone, shape (19,); 0 pins a parameter.
        centre: (ln N0, ln D0, ln e0, ln B0).
        has_role: which of `ROLES` there are.
        shared: what parameters vary by together, shape (19,); 0 for pinned ones.
    """

    mean: np.ndarray
    sd: np.ndarray
    centre: tuple[float, float, float, float]
    has_role: tuple[bool, bool, bool, bool]
    shared: np.ndarray

    @cached_property
    def root(self) -> np.ndarray:
        """R with R R' the prior's covariance, shape (19, k)."""
        columns = [np.diag(self.sd)[:, self.sd > 0]]
        if self.shared.any():
            columns.append(self.shared[:, None])
        return np.concatenate(columns, axis=1)

    @cached_property
    def inverse_root(self) -> np.ndarray:
        """Of a departure from the mean the least z that gives it, shape (k, 19)."""
        # E is in the loss's unit, which may be any.
        unit = np.where(self.sd > 0, np.hypot(self.sd, self.shared), 1.0)
        return np.linalg.pinv(self.root / unit[:, None]) / unit

    def half_squares(self, thetas: np.ndarray) -> np.ndarray:
        """Half the squared distance of laws (m, 19) from the mean, in deviations of the prior; shape (m,)."""
        return 0.5 * np.square((thetas - self.mean) @ self.inverse_root.T).sum(axis=-1)


# Parameters and tokens about which published laws of rate and batch were fitted, and how well their exponents
# are known along the way on which both grow.
_FITTED_ON = (2e8, 1e10)
_EXPONENT_DOUBT = 0.1


def published_learning_rate(params: float, tokens: float) -> tuple[float, float]:
    """(ln learning rate, ln batch tokens): geometric means of two published laws.

    Step Law (arXiv 2503.04715) and DeepSeek (arXiv 2401.02954, with C = 6 N D).
    """
    rates, batches = _published_recipes(params, tokens)
    return sum(rates) / 2, sum(batches) / 2


def _published_recipes(params: float, tokens: float) -> tuple[tuple[float, float], tuple[float, float]]:
    compute = log(6.0) + log(params) + log(tokens)
    rates = (log(1.79) - 0.713 * log(params) + 0.307 * log(tokens), log(0.3118) - 0.125 * compute)
    batches = (log(0.58) + 0.571 * log(tokens), log(0.2920) + 0.3271 * compute)
    return rates, batches


def published_doubt(
    centre: tuple[float, float, float, float], has_role: tuple[bool, bool, bool, bool]
) -> tuple[float, float]:
    """Nepers by which `published_learning_rate` may be off: in rate, and in batch.

    What its two laws lie from their mean, and what an exponent that is known to a tenth makes of the way from
    the sizes that they were fitted on. Without both N and D, a neper.
    """
    if not (has_role[0] and has_role[1]):
        return 1.0, 1.0
    rates, batches = _published_recipes(exp(centre[0]), exp(centre[1]))
    way = hypot(centre[0] - log(_FITTED_ON[0]), centre[1] - log(_FITTED_ON[1])) / sqrt(2)
    return tuple(hypot(laws[0] - laws[1], 2 * _EXPONENT_DOUBT * way) / 2 for laws in (rates, batches))


# E, A, alpha, C, beta and gamma of two of `laws.published`, in this law's form: Besiroglu et al.
# (arXiv 2404.10102), with gamma = 1, and Kaplan et al. (arXiv 2001.08361, equation 1.5), with E = 0.
_PUBLISHED_LOSSES = (
    (1.8172, 482.01, 0.3478, 2085.43, 0.3658, 1.0),
    (0.0, 8.8e13**0.076, 0.076, 5.4e13**0.095, 0.095, 0.095),
)


def published_losses(
    centre: tuple[float, float, float, float], has_role: tuple[bool, bool, bool, bool]
) -> list[dict[str, float]]:
    """(E, ln_A, ln_alpha, ln_C, ln_beta, ln_gamma) of published laws for a loss of 1 at the centre.

    What N and D lack of the whole is not the same at 3,000 parameters as at 7e9. Without both N and D, the
    shares at 1e8 parameters and 1e10 tokens are said.
    """
    ln_n, ln_d = centre[:2] if has_role[0] and has_role[1] else (log(1e8), log(1e10))
    # No law was fitted outside of these; and N and D may be counted in another unit.
    ln_n, ln_d = min(max(ln_n, log(1e3)), log(1e12)), min(max(ln_d, log(1e5)), log(1e14))
    found = []
    for E, A, alpha, C, beta, gamma in _PUBLISHED_LOSSES:
        by_params, by_tokens = log(A) - alpha * ln_n, log(C) - beta * ln_d
        whole = E + (exp(by_params / gamma) + exp(by_tokens / gamma)) ** gamma
        found.append(
            {
                "E": E / whole,
                "ln_A": by_params - log(whole),
                "ln_alpha": log(alpha),
                "ln_C": by_tokens - log(whole),
                "ln_beta": log(beta),
                "ln_gamma": log(gamma),
            }
        )
    return found


def law_prior(
    loss_level: float,
    centre: tuple[float, float, float, float],
    has_role: tuple[bool, bool, bool, bool],
    rate_range: tuple[float, float] | None = None,
    batch_range: tuple[float, float] | None = None,
) -> LawPrior:
    """Priors of the law for losses of about `loss_level`, from published laws and general reasoning.

    Amplitudes are shares of the loss, so nothing depends on its unit. Of the floor, Besiroglu's law and
    Kaplan's (`published_losses`) lie one deviation to either side, in a direction that E, amplitudes,
    exponents and gamma share: small exponents go with no irreducible loss. Learning rate against N: -1/8
    (DeepSeek) to -0.7 (Step Law), -1/2 for muP's 1/width; against D at fixed batch: -0.32 (Bjorck, arXiv
    2409.19913) to 0; against B: 1/2 (the Adam square-root rule, arXiv 2205.10287), less beyond the critical
    batch. Batch against D: 0.33 to 0.57. A mistuned rate acts like fewer tokens, so the valley flattens like
    the D term.

    Args:
        loss_level: a loss near the low end of what is seen; positive.
        centre: logs of N, D, learning rate, batch tokens that the parameters are relative to.
        has_role: which of `ROLES` there are.
        rate_range: (ln lowest, ln highest) learning rate, to keep the prior inside what may be proposed.
        batch_range: the same for batch tokens.
    """
    ln_n, ln_d, ln_e, ln_b = centre
    rate, batch = ln_e, ln_b
    if has_role[0] and has_role[1]:
        rate, batch = published_learning_rate(exp(ln_n), exp(ln_d))
    batch = _inside(batch, batch_range)
    if has_role[3]:
        rate += 0.4 * (ln_b - batch)
    rate = _inside(rate, rate_range)
    doubt_rate, doubt_batch = published_doubt(centre, has_role)
    first, second = published_losses(centre, has_role)
    own = {"E": 0.2, "ln_A": 0.6, "ln_alpha": 0.5, "ln_C": 0.6, "ln_beta": 0.5, "ln_gamma": 0.4}
    mean_sd = {name: ((first[name] + second[name]) / 2, sd) for name, sd in own.items()}
    shared = np.zeros(len(PARAMETERS))
    for name in own:
        shared[INDEX[name]] = (first[name] - second[name]) / 2
    shared[INDEX["E"]] *= loss_level
    mean_sd["E"] = tuple(value * loss_level for value in mean_sd["E"])
    for name in ("ln_A", "ln_C"):
        mean_sd[name] = (mean_sd[name][0] + log(loss_level), mean_sd[name][1])
    mean_sd |= {
        "ln_k_e": (log(0.015 * loss_level), 1.2),
        "r_e": (0.5, 0.4),
        "a0": (rate - ln_e, hypot(0.6, doubt_rate)),
        "a1": (-0.5, 0.25),
        "a2": (-0.1, 0.2),
        "a3": (0.4, 0.2),
        "ln_k_B": (log(0.01 * loss_level), 1.2),
        "r_B": (0.7, 0.4),
        "b0": (batch - ln_b, hypot(0.6, doubt_batch)),
        "b1": (0.5, 0.15),
        "b2": (0.1, 0.15),
        "kappa_D": (0.3, 0.2),
        "kappa_N": (0.0, 0.2),
    }
    mean = np.array([mean_sd[name][0] for name in PARAMETERS])
    sd = np.array([mean_sd[name][1] for name in PARAMETERS])
    absent = [INDEX[name] for name in _absent(has_role)]
    sd[absent] = shared[absent] = 0.0
    return LawPrior(mean=mean, sd=sd, centre=centre, has_role=has_role, shared=shared)


def nearly_additive(prior: LawPrior) -> LawPrior:
    """The same with gamma near .7: between 1, where the two lacks add, and .5.

    Amplitudes stay as they are, so Kaplan's end of the shared direction then says higher losses at the
    centre; correcting them for it made no difference to what the search foresees.
    """
    mean, sd, shared = prior.mean.copy(), prior.sd.copy(), prior.shared.copy()
    gamma = INDEX["ln_gamma"]
    shared[gamma] = 0.0
    if sd[gamma] > 0:
        mean[gamma], sd[gamma] = -0.35, 0.25
    return replace(prior, mean=mean, sd=sd, shared=shared)


def _inside(value: float, bounds: tuple[float, float] | None) -> float:
    if bounds is None:
        return value
    low, high = bounds
    margin = 0.15 * (high - low)
    return min(max(value, low + margin), high - margin)


def _absent(has_role: tuple[bool, bool, bool, bool]) -> list[str]:
    names: list[str] = []
    has_n, has_d, has_e, has_b = has_role
    if not has_n:
        names += ["ln_A", "ln_alpha", "a1", "b2", "kappa_N"]
    if not has_d:
        names += ["ln_C", "ln_beta", "a2", "b1", "kappa_D"]
    if not has_e:
        names += ["ln_k_e", "r_e", "a0", "a1", "a2", "a3"]
    if not has_b:
        names += ["ln_k_B", "r_B", "b0", "b1", "b2", "a3"]
    if not has_e and not has_b:
        names += ["kappa_D", "kappa_N"]
    if not (has_n and has_d):
        names += ["ln_gamma"]
    return names
