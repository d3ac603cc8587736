"""The prior of the scaling law's parameters, before any run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp, hypot, log, sqrt

import numpy as np

from carbs_scaling.laws.form.law import FLOOR, INDEX, NAMES
from carbs_scaling.laws.form.valley import Array
from carbs_scaling.laws.prior.published import BY_NAME
from carbs_scaling.laws.prior.rates import ADAMW, RatePrior

# Log of a curvature that is none, and log odds of a share that is everything.
NO_VALLEY, ALL = -30.0, 40.0
RATE_PARAMETERS = ("a0", "a_N", "a_D", "a_B", "ln_k_e", "r_e")
BATCH_PARAMETERS = ("a_B", "b0", "b_N", "b_D", "ln_k_B", "r_B")
# The level of rate and batch is the geometric mean of two laws that were fitted about these N and D, and
# whose exponents are known to about a tenth along the way on which both grow.
LEVEL_LAWS = ("Step Law", "DeepSeek")
FITTED_ON = (2e8, 1e10)
_EXPONENT_SD = 0.1
# Deviation of the level of the batch, in logs.
_LEVEL_SD = 2.0
# The floor lies between these two laws, one standard deviation to either side.
FLOOR_LAWS = ("Besiroglu", "Kaplan")
# Kaplan's law has no irreducible loss. In logs a tenth of the loss stands for none: runs cannot tell them
# apart.
_LEAST_E = 0.1
# The second component of parameters with `tails`: how much wider, and how probable before any run.
WIDE, WIDE_CHANCE = 3.0, 0.1


@dataclass(frozen=True)
class LawPrior:
    """A normal prior of `law.NAMES`: mean + levers @ (sd * z + y @ shared), z and y standard normal.

    Parameters in `tails` have a second, wide component about the same mean (`WIDE`, `WIDE_CHANCE`): what is
    known leads few runs, and runs that contradict it are followed. A fit asks for the normal prior that acts
    where it stands (`at_hand`).

    Args:
        mean: shape (19,).
        sd: of what each parameter varies by alone, shape (19,); 0 pins one.
        shared: what parameters vary by together, shape (m, 19); 0 for pinned ones.
        tails: names that go wide together, a tuple for each group.
        known_at: centred (ln N, ln D) where the level of the rate is known, and that of the batch: sd and
            shared of a0 and b0 are for there. At the centre exponents off their means move the levels.
    """

    mean: Array
    sd: Array
    shared: Array
    tails: tuple[tuple[str, ...], ...] = ()
    known_at: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))

    @cached_property
    def free(self) -> np.ndarray:
        """Indices of the parameters that are not pinned, shape (k,)."""
        return np.flatnonzero(self.sd > 0)

    @cached_property
    def scale(self) -> Array:
        """Standard deviation of each parameter, shape (19,)."""
        return np.asarray(np.sqrt((self.root**2).sum(axis=1)))

    @cached_property
    def levers(self) -> Array:
        """What exponents off their means make of levels at the centre, beside themselves; shape (19, 19)."""
        levers = np.eye(len(self.mean))
        for of, place in zip("ab", self.known_at, strict=True):
            for axis, there in zip("ND", place, strict=True):
                levers[INDEX[f"{of}0"], INDEX[f"{of}_{axis}"]] = -there
        return levers

    @cached_property
    def root(self) -> Array:
        """R with R R' the prior's covariance, shape (19, k + m)."""
        own = np.concatenate([np.diag(self.sd)[:, self.free], self.shared.T], axis=1)
        moved = self.levers @ own
        moved[self.sd == 0] = 0.0  # pinned
        return np.asarray(moved)

    @cached_property
    def precision(self) -> Array:
        """Inverse of the covariance of the free parameters, shape (k, k)."""
        return np.asarray(np.linalg.inv(self.root[self.free] @ self.root[self.free].T))

    def half_squares(self, thetas: Array) -> Array:
        """Half the squared distance of laws (m, 19) from the mean, in prior deviations; shape (m,)."""
        off = (thetas - self.mean)[:, self.free]
        return 0.5 * np.einsum("mi,ij,mj->m", off, self.precision, off)

    def at_hand(self, theta: Array) -> tuple["LawPrior", float]:
        """The normal prior with the slope of this one at a law (19,); what it lacks of the negative log.

        A scale mixture of normals has the slope of a normal whose precision is the mean of both, weighted by
        how probable each component is at theta.
        """
        sd, shared, lacks = self.sd.copy(), self.shared.copy(), 0.0
        root = np.concatenate([np.diag(sd)[:, self.free], shared.T], axis=1)
        varied = np.linalg.solve(self.levers, theta - self.mean)
        for names in self.tails:
            at = np.array([INDEX[name] for name in names if self.sd[INDEX[name]] > 0], dtype=int)
            if not len(at):
                continue
            block, off = root[at] @ root[at].T, varied[at]
            half = 0.5 * float(off @ np.linalg.solve(block, off))
            narrow = log(1 - WIDE_CHANCE) - half
            wide = log(WIDE_CHANCE) - half / WIDE**2 - len(at) * log(WIDE)
            total = float(np.logaddexp(narrow, wide))
            share = exp(wide - total)
            precision = 1 - share + share / WIDE**2
            sd[at] /= sqrt(precision)
            shared[:, at] /= sqrt(precision)
            lacks += -total - half * precision
        return LawPrior(self.mean, sd, shared, known_at=self.known_at), lacks

    def pinned(self, values: Mapping[str, float]) -> "LawPrior":
        """The same with parameters held at values."""
        mean, sd, shared = self.mean.copy(), self.sd.copy(), self.shared.copy()
        at = [INDEX[name] for name in values]
        mean[at], sd[at], shared[:, at] = list(values.values()), 0.0, 0.0
        return replace(self, mean=mean, sd=sd, shared=shared)

    def widened(self, factor: float) -> "LawPrior":
        """The same with all deviations times a factor."""
        return replace(self, sd=factor * self.sd, shared=factor * self.shared)

    def without_roles(self, has_role: Sequence[bool]) -> "LawPrior":
        """For runs without some of `law.ROLES`: what those move is pinned, so that it adds nothing."""
        has_n, has_d, has_rate, has_batch = has_role
        pins: dict[str, float] = {}
        if not has_n:
            pins |= {"logit_share": -ALL, "ln_alpha": self.at("ln_alpha"), "ln_gamma": 0.0}
            pins |= dict.fromkeys(("a_N", "b_N", "kappa_N"), 0.0)
        if not has_d:
            pins |= {"logit_share": ALL, "ln_beta": self.at("ln_beta"), "ln_gamma": 0.0}
            pins |= dict.fromkeys(("a_D", "b_D", "kappa_D"), 0.0)
        if not has_n and not has_d:
            pins |= {"ln_R": NO_VALLEY}
        if not has_rate:
            pins |= {name: NO_VALLEY if name == "ln_k_e" else 0.0 for name in RATE_PARAMETERS}
        if not has_batch:
            pins |= {name: NO_VALLEY if name == "ln_k_B" else 0.0 for name in BATCH_PARAMETERS}
        if not has_rate and not has_batch:
            pins |= {"kappa_N": 0.0, "kappa_D": 0.0}
        return self.pinned(pins)

    def at_one_batch(self) -> "LawPrior":
        """For runs of one batch, that of the centre: the best rate there, and nothing hangs on the batch.

        The best rate of Adam goes as (1 + B_crit / B)^-1/2 (arXiv 1812.06162, with the exponent of Adam): far
        above the critical batch, here the best one, it grows no more, and does not follow it with N and D.
        """
        mean, sd, shared = self.mean.copy(), self.sd.copy(), self.shared.copy()
        above = -self.at("b0")
        grown = (log(2) - float(np.logaddexp(0.0, -above))) / 2
        slope = 0.5 / (1 + exp(min(above, 50.0)))
        for rate, batch in (("a0", "b0"), ("a_N", "b_N"), ("a_D", "b_D")):
            i, j = INDEX[rate], INDEX[batch]
            if sd[i] > 0:
                mean[i] += grown if rate == "a0" else -slope * mean[j]
                sd[i] = hypot(sd[i], slope * sd[j])
                shared[:, i] -= slope * shared[:, j]
        none = {name: NO_VALLEY if name == "ln_k_B" else 0.0 for name in BATCH_PARAMETERS}
        return replace(self, mean=mean, sd=sd, shared=shared).pinned(none)

    def at(self, name: str) -> float:
        """Mean of one parameter."""
        return float(self.mean[INDEX[name]])


def law_prior(
    loss_level: float,
    centre: Sequence[float],
    has_role: Sequence[bool] = (True, True, True, True),
    rate_range: tuple[float, float] | None = None,
    batch_range: tuple[float, float] | None = None,
    rates: RatePrior = ADAMW,
) -> LawPrior:
    """The prior for losses of about `loss_level`: wide enough for every published law to lie inside.

    Amplitudes are shares of the loss, so nothing depends on its unit. Of the floor, Besiroglu's law and
    Kaplan's lie one deviation to either side, in a direction that E, the exponents and gamma share: small
    exponents go with no irreducible loss. AdamW's best rate against N between -1/8 (DeepSeek) and -0.7 (Step
    Law), against D between -1/8 and 0.3; batch against D between 0.33 and 0.57: about a deviation to either
    side. Its rate against batch 1/2 (the Adam square-root rule, arXiv 2205.10287), less beyond the critical
    batch. Other optimizers' rates by `rates`.
    Valleys flatten no faster than the reducible loss falls (exponents of at most .37).

    Args:
        loss_level: a low loss of the runs, positive.
        centre: (ln N0, ln D0, ln e0, ln B0).
        has_role: which of `law.ROLES` the runs have.
        rate_range: (ln lowest, ln highest) learning rate that may be proposed: the prior's level lies inside.
        batch_range: the same for batch tokens.
        rates: what is known of the optimizer's best learning rate.
    """
    level_n, level_d = (centre[0], centre[1]) if has_role[0] and has_role[1] else map(log, FITTED_ON)
    rate, batch = expected_level(exp(level_n), exp(level_d), rates)
    rate, batch = _inside(rate, rate_range), _inside(batch, batch_range)
    mean_sd = {
        "a0": (rate - centre[2], rates.level[1]),
        "a_N": rates.in_params,
        "a_D": rates.in_tokens,
        "a_B": rates.in_batch,
        "ln_k_e": (log(0.015 * loss_level), 1.5),
        "r_e": (0.5, 0.5),
        "b0": (batch - centre[3], _LEVEL_SD),
        "b_N": (0.1, 0.15),
        "b_D": (0.45, 0.15),
        "ln_k_B": (log(0.01 * loss_level), 1.5),
        "r_B": (0.5, 0.5),
        "kappa_N": (0.15, 0.15),
        "kappa_D": (0.15, 0.15),
    }
    own = {
        "ln_E": 0.75,
        "ln_R": 0.6,
        "logit_share": 1.5,
        "ln_alpha": 0.75,
        "ln_beta": 0.75,
        "ln_gamma": 0.6,
    }
    first, second = (_floor_of(name, (level_n, level_d)) for name in FLOOR_LAWS)
    shared = np.zeros((1, len(NAMES)))
    for name in FLOOR:
        mean_sd[name] = ((first[name] + second[name]) / 2, own[name])
        shared[0, INDEX[name]] = (first[name] - second[name]) / 2
    mean, sd = np.array([mean_sd[name] for name in NAMES]).T
    mean[[INDEX["ln_E"], INDEX["ln_R"]]] += log(loss_level)
    return LawPrior(mean, sd, shared).without_roles(has_role)


def expected_level(params: float, tokens: float, rates: RatePrior = ADAMW) -> tuple[float, float]:
    """(ln learning rate, ln batch tokens) before any run: as published, the rate as `rates` say."""
    rate, batch = published_level(params, tokens)
    if rates.rate is not None:
        rate = log(rates.rate)
    elif rates.base_params is not None:
        rate, _ = published_level(rates.base_params, tokens)
    return rate + rates.level[0], batch


def expected_level_sd(params: float, tokens: float, rates: RatePrior = ADAMW) -> tuple[float, float]:
    """Standard deviations of `expected_level`, in logs."""
    rate, batch = published_level_sd(params, tokens)
    if rates.rate is not None:
        return rates.level[1], batch
    return hypot(rate, sqrt(max(rates.level[1] ** 2 - ADAMW.level[1] ** 2, 0.0))), batch


def published_level(params: float, tokens: float) -> tuple[float, float]:
    """(ln learning rate, ln batch tokens): geometric means of `LEVEL_LAWS`."""
    rates, batches = _published_levels(params, tokens)
    return sum(rates) / 2, sum(batches) / 2


def published_level_sd(params: float, tokens: float) -> tuple[float, float]:
    """Standard deviations of `published_level`, in logs.

    How far its two laws lie from their mean, and what an exponent that is known to a tenth makes of the way
    from the sizes that they were fitted on.
    """
    way = hypot(log(params / FITTED_ON[0]), log(tokens / FITTED_ON[1])) / sqrt(2)
    rate, batch = (
        hypot(laws[0] - laws[1], 2 * _EXPONENT_SD * way) / 2 for laws in _published_levels(params, tokens)
    )
    return rate, batch


def _published_levels(params: float, tokens: float) -> tuple[list[float], list[float]]:
    recipes = [BY_NAME[name].recipe(params, tokens) for name in LEVEL_LAWS]
    return (
        [log(recipe.learning_rate or 1.0) for recipe in recipes],
        [log(recipe.batch_tokens or 1.0) for recipe in recipes],
    )


def _floor_of(name: str, centre: Iterable[float]) -> dict[str, float]:
    """Parameters `FLOOR` of a published law, for a loss of 1 at the centre (ln N0, ln D0)."""
    law = BY_NAME[name].floor
    assert law is not None
    ln_n, ln_d = centre
    # No law was fitted outside of these; and N and D may be counted in another unit.
    ln_n, ln_d = min(max(ln_n, log(1e3)), log(1e12)), min(max(ln_d, log(1e5)), log(1e14))
    whole = law.loss(exp(ln_n), exp(ln_d))
    by_params = (log(law.A) - law.alpha * ln_n - log(whole)) / law.gamma
    by_tokens = (log(law.B) - law.beta * ln_d - log(whole)) / law.gamma
    return {
        "ln_E": log(max(law.E / whole, _LEAST_E)),
        "ln_R": law.gamma * float(np.logaddexp(by_params, by_tokens)),
        "logit_share": by_params - by_tokens,
        "ln_alpha": log(law.alpha),
        "ln_beta": log(law.beta),
        "ln_gamma": log(law.gamma),
    }


def _inside(value: float, bounds: tuple[float, float] | None) -> float:
    if bounds is None:
        return value
    low, high = bounds
    margin = 0.15 * (high - low)
    return min(max(value, low + margin), high - margin)
