"""What to keep in mind about one recommendation of a law."""

from typing import TYPE_CHECKING

import numpy as np

from carbs_scaling.laws.form.bends import TINY_PARAMS

if TYPE_CHECKING:
    from carbs_scaling.laws.scaling_law import ScalingLaw

FAR = 30.0  # times from the hull of the runs
EMPTY_CORNER = 1.5  # the same, inside the ranges of N and of D
# Times beyond the runs from which an exponent changes the answer by more than the runs' scatter.
BY_PRIOR = 3.0
SAME = 1.01  # factor within which rates are the same number
NO_FLOOR = 0.05  # share of the lowest loss below which an irreducible loss is not told from 0


def target_notes(
    law: "ScalingLaw", params: float, tokens: float, beyond: tuple[float, float], from_hull: float
) -> list[str]:
    """What may change a decision about this target, one line each, each with what to do; gravest first.

    Args:
        law: that is asked.
        params: N.
        tokens: D.
        beyond: as `Recommendation.extrapolation`.
        from_hull: as `Recommendation.from_hull`.
    """
    low, high, notes = law.support.low, law.support.high, []
    rate = float(law.learning_rate(params, tokens)) if law.has_role[2] else float("nan")
    batch = float(law.batch_tokens(params, tokens)) if law.has_role[3] else float("nan")
    if batch > tokens:
        notes.append("the law's batch is larger than all tokens: choose a batch of your own")
    if from_hull > FAR:
        notes.append(
            f"the target is {from_hull:.0f} times from the nearest of the runs in N and D: far past what "
            "was checked; train sizes between them first"
        )
    elif max(beyond) <= 1 and from_hull > EMPTY_CORNER:
        notes.append(
            f"N and D each lie in the range of the runs, but no run is near both ({from_hull:.2g} times "
            "from their hull): add a run there"
        )
    if rate < low[2] / SAME or rate > high[2] * SAME:
        end, tried = ("low", low[2]) if rate < low[2] else ("high", high[2])
        notes.append(
            f"the law's best learning rate, {rate:.3g}, lies outside all that were tried "
            f"({low[2]:.3g} to {high[2]:.3g}): try it at a small size first; a search tries more with "
            f"space.learning_rate.{end} beyond {tried:.3g}"
        )
    if batch < low[3] / 2 or batch > 2 * high[3]:
        notes.append(
            f"the law's best batch, {batch:.3g} tokens, lies outside all that were tried "
            f"({low[3]:.3g} to {high[3]:.3g}), and the learning rate is for it: for another batch "
            "ask learning_rate_at(batch_tokens)"
        )
    # Exponents of the prior decide nothing at the sizes of the runs.
    unknown = [
        f"{what} in {axis}"
        for axis, factor in zip("ND", beyond, strict=True)
        for what in law.not_identified.get(axis, ())
        if factor > BY_PRIOR
    ]
    if unknown:
        notes.append(
            "the target lies beyond the runs, and there these exponents are the prior's: "
            f"{', '.join(unknown)}; runs at sizes ten times apart would tell"
        )
    if beyond[0] > max(high[0] / low[0], BY_PRIOR):
        notes.append(
            f"N lies {beyond[0]:.2g} times beyond runs that span a factor of {high[0] / low[0]:.2g}: add "
            "a size in between before you trust the loss"
        )
    if high[0] < TINY_PARAMS and params > 2 * high[0]:
        notes.append(
            f"all runs are of models below {TINY_PARAMS:.0e} parameters, whose losses extrapolate badly: "
            "trust the recipe sooner than the loss"
        )
    lowest = law.support.lowest_loss
    if lowest and max(beyond) > BY_PRIOR and np.exp(law.parameter("ln_E")) < NO_FLOOR * lowest:
        notes.append(
            "these runs do not tell the irreducible loss from 0, and if it is not 0 the loss comes out "
            "too low: take its interval, or add longer runs"
        )
    return notes
