"""Published laws as priors: what the field has measured, as wide as its settings differ.

A paper's own standard errors say how well its exponents and levels are known in its own setting. Another
tokenizer, schedule or shape moves them by more (`SETTINGS`), and some settings by far more: levels and
exponents have wide tails.
"""

from collections.abc import Callable, Iterable, Sequence
from math import log, sqrt

import numpy as np

from carbs_scaling.laws.form.bends import FIRST_BEND
from carbs_scaling.laws.form.law import INDEX
from carbs_scaling.laws.form.valley import Array
from carbs_scaling.laws.prior.prior import FITTED_ON, LawPrior, law_prior
from carbs_scaling.laws.prior.published import BY_NAME, LAWS, PublishedLaw
from carbs_scaling.laws.prior.rates import ADAMW, LIKE_ADAMW, RatePrior
from carbs_scaling.laws.runs.table import LawArgumentError

# How the best rate and batch of one setting (a lab's data, tokenizer, schedule, shapes) lie about the mean of
# all: standard deviations of what each varies by alone, and of what varies together.
# `benchmarks/laws_transfer.py` leaves each lab out once: the rest's prior is off by .8 to 1.2 of these.
SETTINGS = {
    "a0": (0.5, 0.0),
    "a_N": (0.12, -0.2),
    "a_D": (0.1, 0.15),
    "b0": (0.4, 0.0),
    "b_N": (0.15, -0.12),
    "b_D": (0.06, 0.1),
}
# Valleys, as (mean, standard deviation); curvatures over a low loss. Read off full fits of three tables
# by eye, two of them those that `benchmarks/laws_few_runs.py` judges on: it does not leave them out of these.
VALLEYS = {
    "a_B": (0.35, 0.12),
    "ln_k_e": (log(0.015), 0.7),
    "r_e": (0.4, 0.5),
    "ln_k_B": (log(0.009), 0.6),
    "r_B": (0.2, 0.5),
    "kappa_N": (0.1, 0.12),
    "kappa_D": (0.2, 0.12),
}
TAILS = (("a0",), ("b0",), ("a_N", "a_D", "b_N", "b_D"))
# The default prior is of these: each gives a rate and a batch at every N and D.
FIELD = ("Step Law", "DeepSeek", "OpenEuroLLM", "Lingle")
LOSS_TRANSFER_SD = 0.2  # of the logs of the loss's exponents
LOSS_EXPONENTS = ("ln_alpha", "ln_beta", "ln_gamma")
_STEP = 1e-3  # in logs: the step by which exponents are read off


def published_laws(names: str | Sequence[str] | None) -> tuple[PublishedLaw, ...] | None:
    """Published laws by name, in any case; `published` stands for all of them, `weak` for none.

    Returns:
        None where no name is given: the default, `FIELD`, where the runs are of a kind that it speaks of.

    Raises:
        LawError: there is no law of such a name.
    """
    if not names:
        return None
    names = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise LawArgumentError(
            f"prior={wrong[0]!r} is no name of a published law: choose from {', '.join(BY_NAME)}"
        )
    if any(name.lower() == "weak" for name in names):
        return ()
    if any(name.lower() == "published" for name in names):
        return LAWS
    lower = {name.lower(): law for name, law in BY_NAME.items()}
    for name in names:
        if name.lower() not in lower:
            raise LawArgumentError(
                f"there is no published law {name!r}: choose from {', '.join(BY_NAME)}, published or weak"
            )
    return tuple(lower[name.lower()] for name in names)


def laws_that_speak(
    names: str | Sequence[str] | None, has_role: Sequence[bool], rates: RatePrior
) -> tuple[PublishedLaw, ...]:
    """The laws that a fit leans on: those that are named; else `FIELD`, where runs are of its kind.

    Args:
        names: as `published_laws` takes them.
        has_role: which of `law.ROLES` the runs have.
        rates: the prior of the optimizer's rate. Published rates are Adam's, of the standard parametrization.
    """
    named = published_laws(names)
    if named is None:
        return tuple(BY_NAME[name] for name in FIELD) if all(has_role) and rates.name in LIKE_ADAMW else ()
    return named


def prior_of(
    laws: Sequence[PublishedLaw], loss_level: float, centre: Array, rates: RatePrior = ADAMW
) -> LawPrior:
    """The prior of `law.NAMES` that published laws give.

    Each law is one setting. A setting not yet seen lies about the mean of k of them by the scatter of
    settings, of which 1 / k is in the mean: the prior's covariance is 1 + 1 / k times that scatter. Where no
    law speaks it is `law_prior`.

    Args:
        laws: published laws; with none it is the weak prior.
        loss_level: a low loss of the runs.
        centre: (ln N0, ln D0, ln e0, ln B0).
        rates: what is known of the optimizer's best learning rate.
    """
    weak = law_prior(loss_level, centre.tolist(), rates=rates)
    if not laws:
        return weak
    mean, sd = weak.mean.copy(), weak.sd.copy()
    shared = np.concatenate([weak.shared, np.zeros_like(weak.shared)])

    way = np.log(FITTED_ON) - centre[:2]
    known_at = dict.fromkeys(("a0", "b0"), (0.0, 0.0))

    def set_from(names: tuple[str, str, str], values: list[Array]) -> None:
        if not values:
            return
        more = sqrt(1 + 1 / len(values))
        for name, value in zip(names, np.mean(values, axis=0), strict=True):
            mean[INDEX[name]] = value
            sd[INDEX[name]], shared[1, INDEX[name]] = more * np.array(SETTINGS[name])
        # Levels are of where laws were fitted: from there to the centre exponents move them, and may bend.
        level = INDEX[names[0]]
        bent = FIRST_BEND * np.sqrt(way[0] ** 4 / 4 + (way[0] * way[1]) ** 2 + way[1] ** 4 / 4)
        sd[level] = np.hypot(sd[level], min(float(bent), weak.sd[level]))
        known_at[names[0]] = (float(way[0]), float(way[1]))

    a_b = VALLEYS["a_B"][0]
    batches = [_local(law.batch_tokens, centre) for law in laws if law.batch_tokens]
    set_from(("b0", "b_N", "b_D"), [at - [centre[3], 0, 0] for at in batches])
    # At a fixed batch the best batch moves away with N and D, and the rate gives back a_B of that.
    moves = a_b * np.array([0.0, mean[INDEX["b_N"]], mean[INDEX["b_D"]]])
    by_law = [
        _local(law.learning_rate, centre) - [centre[2], 0, 0] + law.fixed_batch * moves
        for law in laws
        if law.learning_rate and rates.name in law.optimizers
    ]
    set_from(("a0", "a_N", "a_D"), by_law)
    if rates.name in LIKE_ADAMW:
        for name, (value, own_sd) in VALLEYS.items():
            of_level = np.log(loss_level) if name.startswith("ln_k") else 0.0
            mean[INDEX[name]], sd[INDEX[name]] = value + of_level, own_sd
    floors = [law.floor for law in laws if law.floor]
    for name in LOSS_EXPONENTS if floors else ():
        values = np.log([getattr(floor, name.removeprefix("ln_")) for floor in floors])
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        i = INDEX[name]
        mean[i], sd[i] = float(values.mean()), min(float(np.hypot(LOSS_TRANSFER_SD, spread)), weak.scale[i])
    if floors:
        # What goes with such exponents, from Besiroglu's end of the shared direction to Kaplan's.
        of_floor = [INDEX[name] for name in LOSS_EXPONENTS]
        along = np.clip(np.mean((mean - weak.mean)[of_floor] / weak.shared[0, of_floor]), -1.0, 1.0)
        others = np.setdiff1d(np.flatnonzero(weak.shared[0]), of_floor)
        mean[others] += along * weak.shared[0, others]
        shared[0] = 0.0
    return LawPrior(mean, sd, shared, TAILS, (known_at["a0"], known_at["b0"]))


def _local(law: Callable[[float, float], float], centre: Array) -> Array:
    """ln of a published quantity at the centre, and its exponents in N and D there."""
    at = np.exp(centre[:2])
    up = np.exp(_STEP)
    level = float(np.log(law(at[0], at[1])))
    in_n = float(np.log(law(at[0] * up, at[1]) / law(at[0] / up, at[1]))) / (2 * _STEP)
    in_d = float(np.log(law(at[0], at[1] * up) / law(at[0], at[1] / up))) / (2 * _STEP)
    return np.array([level, in_n, in_d])
