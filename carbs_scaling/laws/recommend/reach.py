"""How far an answer goes beyond its runs: targets that runs cannot reach, fronts at the edge of their space.

The rules stand here once, each constant with its reason; docs/guide.md has them in words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from carbs_scaling.laws.form import law as form
from carbs_scaling.laws.prior.prior import law_prior
from carbs_scaling.laws.recipe import Recommendation
from carbs_scaling.laws.scaling_law import ScalingLaw

# Ten times the N and ten times the D of the dearest run, a hundred times its FLOPs, is what recipes were
# checked on (docs/benchmarks-laws.md); ten times as many more is far.
FAR_FLOPS = 1_000.0
# N and D both within this factor of some point of the runs' convex hull: about half a decade over that step.
FAR_SIZE = 30.0
# Width over depth may lie so far outside of what was trained: no run says what another shape would cost. Ten
# times the N at one depth moves it by 3.2.
FAR_ASPECT = 4.0
# A search reaches what is so many times its largest N and D.
STEP = 10.0
LEVEL = 0.9  # of the loss intervals that are compared
PRIOR_DRAWS = 4_000

EDGE_SHARE = 0.25  # of the front's points on one edge of the space, at least two, that are reported
EDGE_WIDTH = 0.02  # of a range, in its own scale, that counts as its edge: whole steps round the values
OPEN_FACTOR = 2.0  # by which the reported override moves the edge


@dataclass(frozen=True)
class Reach:
    """Whether runs can answer for a target.

    Args:
        reasons: why not, a clause each; empty where they can.
        search_flops: of a search that could; None where no reason is one of distance.
    """

    reasons: tuple[str, ...] = ()
    search_flops: float | None = None

    @property
    def line(self) -> str:
        """The statement that leads an answer, on one line; empty where nothing is wrong."""
        if not self.reasons:
            return ""
        more = "" if self.search_flops is None else (
            f"; a search of about {self.search_flops:.2g} FLOPs (6 N D), with runs up to a tenth of this N "
            "and D, would reach it"
        )  # fmt: skip
        return f"out of reach of these runs: {'; '.join(self.reasons)}{more}"


def target_reach(
    law: ScalingLaw, recipe: Recommendation, shape: tuple[int | None, int | None] = (None, None)
) -> Reach:
    """Hold a recommendation against the rules of this module.

    Args:
        law: that recommends.
        recipe: what it recommends.
        shape: (depth, width) that goes with it; None where the law has none.
    """
    support, reasons = law.support, []
    times = recipe.flops / support.largest_run_flops
    if times > FAR_FLOPS:
        reasons.append(f"6 N D is {times:.2g} times that of the dearest run (at most {FAR_FLOPS:,.0f})")
    size = recipe.from_hull
    if size > FAR_SIZE:
        reasons.append(
            f"N lies {recipe.extrapolation[0]:.2g} and D {recipe.extrapolation[1]:.2g} times beyond the "
            f"runs, {size:.2g} times from their convex hull in (ln N, ln D) (at most {FAR_SIZE:.0f})"
        )
    low, high = recipe.interval("loss", LEVEL)
    if recipe.loss <= 0 or low <= 0:
        reasons.append(f"the interval of the loss, {low:.2f} to {high:.2f}, reaches 0")
    elif support.lowest_loss is not None:
        alone = prior_loss_width(law, recipe.params, recipe.tokens)
        if high - low > alone:
            reasons.append(
                f"the interval of the loss is {high - low:.2f} wide, more than the {alone:.2f} of "
                "the prior alone"
            )
    depth, width = shape
    if depth is not None and width is not None and support.aspects is not None:
        aspect, (least, most) = width / depth, support.aspects
        if not least / FAR_ASPECT <= aspect <= FAR_ASPECT * most:
            reasons.append(
                f"width / depth of {aspect:.3g} was never tried (runs: {least:.3g} to {most:.3g}; at most "
                f"{FAR_ASPECT:.0f} times outside)"
            )
    far = times > FAR_FLOPS or size > FAR_SIZE
    needed = support.total_flops * times / STEP**2
    return Reach(tuple(reasons), max(needed, support.total_flops) if far else None)


def prior_loss_width(law: ScalingLaw, params: float, tokens: float) -> float:
    """Width of the interval of the loss at (N, D) that the weak prior gives, with no run but its level."""
    assert law.support.lowest_loss is not None
    prior = law_prior(law.support.lowest_loss, law.centre, law.has_role)
    rng = np.random.default_rng(0)
    theta = prior.mean + rng.normal(size=(PRIOR_DRAWS, prior.root.shape[1])) @ prior.root.T
    n, d = np.log(params) - law.centre[0], np.log(tokens) - law.centre[1]
    losses = form.floor(theta, np.full(PRIOR_DRAWS, n), np.full(PRIOR_DRAWS, d), np.zeros(PRIOR_DRAWS))
    low, high = np.quantile(losses, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(high - low)


class Range(NamedTuple):
    """A searched range: its ends, whether its scale is logarithmic, whether its values are whole.

    Also what whole values are multiples of, and whether all values are listed one by one.
    """

    low: float
    high: float
    log: bool
    whole: bool
    multiple: int = 1
    listed: bool = False


def edge_lines(points: Sequence[Mapping[str, object]], ranges: Mapping[str, Range]) -> list[str]:
    """Say which edges of a space a front presses on, a line each, with the override that opens it.

    Args:
        points: of the front.
        ranges: searched dimensions, by name.
    """
    lines = []
    for name, ends in ranges.items():
        if ends.low >= ends.high:
            continue
        scale = np.log if ends.log else np.asarray
        low, high = scale(ends.low), scale(ends.high)
        values = scale(np.array([point[name] for point in points if name in point], dtype=float))
        margin = EDGE_WIDTH * (high - low)
        for word, at_edge in (("smallest", values <= low + margin), ("largest", values >= high - margin)):
            count = int(at_edge.sum())
            if count >= max(2, EDGE_SHARE * len(values)):
                opened = _opened(name, ends, word)
                lines.append(f"{count} of {len(values)} front points have the {word} {name}: {opened}")
    return lines


def _opened(name: str, ends: Range, word: str) -> str:
    """What moves one edge."""
    if ends.listed:
        return f"add a {'larger' if word == 'largest' else 'smaller'} value to space.{name}"
    if word == "largest":
        value = ends.high * OPEN_FACTOR if ends.log else ends.high + (ends.high - ends.low)
        return f"open it by space.{name}.high={value:.6g}"
    if ends.whole and ends.low <= ends.multiple:
        return f"{ends.low:.6g}, and there is none smaller"
    value = ends.low / OPEN_FACTOR if ends.log else ends.low - (ends.high - ends.low)
    if ends.whole:
        value = max(ends.multiple, int(value) // ends.multiple * ends.multiple)
    return f"open it by space.{name}.low={value:.6g}"
