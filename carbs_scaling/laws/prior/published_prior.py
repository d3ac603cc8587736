"""Published laws as priors: what the field has measured, as wide as its papers disagree.

A paper's own standard errors say how well its exponent is known in its own setting. Another tokenizer,
schedule or parametrisation moves it by more, so an exponent from one paper is taken with `TRANSFER_SD`, and
exponents from several with their spread on top. Levels are taken loosely: they hang on the optimizer.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from carbs_scaling.laws.form.law import INDEX
from carbs_scaling.laws.form.valley import Array
from carbs_scaling.laws.prior.prior import LawPrior, law_prior
from carbs_scaling.laws.prior.published import BY_NAME, LAWS, PublishedLaw
from carbs_scaling.laws.prior.rates import ADAMW, LIKE_ADAMW, RatePrior
from carbs_scaling.laws.runs.table import LawArgumentError

TRANSFER_SD = 0.1  # of an exponent between settings; of the loss exponents' logs, twice that
LEVEL_SD = 1.0  # of ln learning rate and ln batch at the centre
LOSS_EXPONENTS = ("ln_alpha", "ln_beta", "ln_gamma")
_STEP = 1e-3  # in logs: the step by which exponents are read off


def published_laws(names: str | Sequence[str] | None) -> tuple[PublishedLaw, ...]:
    """Published laws by name, in any case; `published` stands for all of them.

    Raises:
        LawError: there is no law of such a name.
    """
    if not names:
        return ()
    names = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise LawArgumentError(
            f"prior={wrong[0]!r} is no name of a published law: choose from {', '.join(BY_NAME)}"
        )
    if any(name.lower() == "published" for name in names):
        return LAWS
    lower = {name.lower(): law for name, law in BY_NAME.items()}
    for name in names:
        if name.lower() not in lower:
            raise LawArgumentError(
                f"there is no published law {name!r}: choose from {', '.join(BY_NAME)}, or published"
            )
    return tuple(lower[name.lower()] for name in names)


def prior_of(
    laws: Sequence[PublishedLaw], loss_level: float, centre: Array, rates: RatePrior = ADAMW
) -> LawPrior:
    """The prior of `law.NAMES`: `law_prior` where no law speaks.

    Args:
        laws: published laws; with none it is the weak prior.
        loss_level: a low loss of the runs.
        centre: (ln N0, ln D0, ln e0, ln B0).
        rates: what is known of the optimizer's best learning rate.
    """
    weak = law_prior(loss_level, centre.tolist(), rates=rates)
    mean, sd, shared = weak.mean.copy(), weak.sd.copy(), weak.shared.copy()

    def set_from(name: str, values: Iterable[float], own_sd: float) -> None:
        values = list(values)
        if values:
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            i = INDEX[name]
            # The disagreement of two papers is itself hardly known: no claim wider than the weak prior.
            mean[i], sd[i] = float(np.mean(values)), min(float(np.hypot(own_sd, spread)), weak.scale[i])
            shared[i] = 0.0

    a_b = mean[INDEX["a_B"]]
    # Published rates are Adam's, and of the standard parametrization.
    heard = laws if rates.name in LIKE_ADAMW else ()
    by_law = [(law, *_local(law.learning_rate, centre)) for law in heard if law.learning_rate]
    batches = [_local(law.batch_tokens, centre) for law in laws if law.batch_tokens]
    set_from("b0", [level - centre[3] for level, _, _ in batches], LEVEL_SD)
    set_from("b_N", [in_n for _, in_n, _ in batches], TRANSFER_SD)
    set_from("b_D", [in_d for _, _, in_d in batches], TRANSFER_SD)
    # At a fixed batch the best batch moves away with N and D, and the rate gives back a_B of that.
    b_n, b_d = mean[INDEX["b_N"]], mean[INDEX["b_D"]]
    set_from("a0", [level - centre[2] for _, level, _, _ in by_law], LEVEL_SD)
    set_from("a_N", [in_n + law.fixed_batch * a_b * b_n for law, _, in_n, _ in by_law], TRANSFER_SD)
    set_from("a_D", [in_d + law.fixed_batch * a_b * b_d for law, _, _, in_d in by_law], TRANSFER_SD)
    for name in LOSS_EXPONENTS:
        values = [np.log(getattr(law.floor, name.removeprefix("ln_"))) for law in laws if law.floor]
        set_from(name, values, 2 * TRANSFER_SD)
    if any(law.floor for law in laws):
        # What goes with such exponents, from Besiroglu's end of the shared direction to Kaplan's.
        along = [(mean[i] - weak.mean[i]) / weak.shared[i] for i in (INDEX[name] for name in LOSS_EXPONENTS)]
        mean += np.clip(np.mean(along), -1.0, 1.0) * shared
        shared[:] = 0.0
    return LawPrior(mean, sd, shared)


def _local(law: Callable[[float, float], float], centre: Array) -> tuple[float, float, float]:
    """ln of a published quantity at the centre, and its exponents in N and D there."""
    at = np.exp(centre[:2])
    up = np.exp(_STEP)
    level = float(np.log(law(at[0], at[1])))
    in_n = float(np.log(law(at[0] * up, at[1]) / law(at[0] / up, at[1]))) / (2 * _STEP)
    in_d = float(np.log(law(at[0], at[1] * up) / law(at[0], at[1] / up))) / (2 * _STEP)
    return level, in_n, in_d
