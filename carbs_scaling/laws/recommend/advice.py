"""Advice for a target: recipe with intervals, compute-optimal N and D, shape, and FLOPs to know more."""

from dataclasses import dataclass
from numbers import Real

import numpy as np

from carbs_scaling.laws.prior.published import LAWS, PublishedLaw, PublishedRecipe
from carbs_scaling.laws.recipe import FITTED, Recommendation
from carbs_scaling.laws.recommend.reach import Reach, target_reach
from carbs_scaling.laws.runs.table import LawArgumentError, positive_number, whole_count
from carbs_scaling.laws.scaling_law import ScalingLaw

GRID = 400  # sizes among which the compute-optimal one is chosen
SEARCH_FACTORS = (1e-3, 1e3)  # range of those sizes around sqrt(C / 120), where D = 20 N


@dataclass(frozen=True)
class ComputeOptimal:
    """N and D of least loss for a budget under C = 6 N D.

    Args:
        flops: C.
        params: N.
        tokens: D.
        params_interval: 90% bounds of N.
        tokens_interval: 90% bounds of D.
        at_bound: whether the least loss lies at an end of the sizes tried, so that the law has no optimum.
    """

    flops: float
    params: float
    tokens: float
    params_interval: tuple[float, float]
    tokens_interval: tuple[float, float]
    at_bound: bool


@dataclass(frozen=True)
class Advice:
    """A recipe for one target, and what goes with it.

    Args:
        recipe: learning rate, batch, expected loss, and what else was varied.
        level: probability of the intervals.
        intervals: by name, (low, high).
        optimal: how N and D were chosen; None where they were given, or N is that of all runs.
        depth: blocks; None where the runs do not identify a shape. So too `width`.
        width: residual width.
        published: the recipe of each published law at this target.
        halving_flops: see the function of that name.
        reach: whether the runs can answer for this target.
    """

    recipe: Recommendation
    level: float
    intervals: dict[str, tuple[float, float]]
    optimal: ComputeOptimal | None
    depth: int | None
    width: int | None
    published: tuple[tuple[PublishedLaw, PublishedRecipe], ...]
    halving_flops: float | None
    reach: Reach

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may change a decision, one line each, gravest first."""
        unbound = "the law has no compute-optimal N within three decades: choose N and D yourself"
        at_bound = self.optimal is not None and self.optimal.at_bound
        return (*([unbound] if at_bound else []), *self.recipe.notes)

    @property
    def lacks(self) -> tuple[str, ...]:
        """Which of learning_rate and batch_tokens the runs have not, so that none is recommended."""
        values = {name: getattr(self.recipe, name) for name in ("learning_rate", "batch_tokens")}
        return tuple(name for name, value in values.items() if not np.isfinite(value))

    def sequences(self, sequence_length: int) -> int:
        """Sequences a step, at least one; only where the runs have a batch."""
        return max(1, round(self.recipe.batch_tokens / sequence_length))

    def steps(self, batch_tokens: int) -> int:
        """Optimizer steps for the target's tokens, at least one."""
        return max(1, round(self.recipe.tokens / batch_tokens))


def compute_optimal(law: ScalingLaw, flops: float, level: float = 0.9, draws: int = 400) -> ComputeOptimal:
    """Find the N and D of least loss for C = 6 N D.

    With gamma the law has no closed form, so the loss is minimised over a fine grid of ln N. (For gamma = 1
    a test compares with the formula of Hoffmann et al.) The interval repeats this for draws of the law.

    Raises:
        LawError: `flops` is not positive.
    """
    flops = positive_number(flops, "flops")
    middle = np.sqrt(flops / 120)
    params = middle * np.geomspace(*SEARCH_FACTORS, GRID)
    best = int(np.argmin(law.loss(params, flops / (6 * params))))
    losses = law.loss_draws(params, flops / (6 * params), draws)
    drawn = params[np.argmin(losses, axis=1)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return ComputeOptimal(
        flops=float(flops),
        params=float(params[best]),
        tokens=float(flops / (6 * params[best])),
        params_interval=(float(low), float(high)),
        tokens_interval=(float(flops / (6 * high)), float(flops / (6 * low))),
        at_bound=best in (0, GRID - 1),
    )


def shape_for(law: ScalingLaw, params: float, head_size: int = 64) -> tuple[int, int] | None:
    """Choose (depth, width) with N = about 12 depth width^2; None where the runs do not identify a shape.

    The ratio width / depth is the one of least loss where sizes were trained in several shapes, else that of
    the good runs.
    """
    fitted = [other for other in law.others if other.name == "width_to_depth"]
    if fitted:
        aspect = float(fitted[0].value(params, np.exp(law.centre[1])))
    elif law.support.shape is not None:
        intercept, slope, _ = law.support.shape
        aspect = float(np.exp(intercept + slope * np.log(params)))  # width / depth
    else:
        return None
    depth = (params / (12 * aspect**2)) ** (1 / 3)
    width = max(head_size, head_size * round(aspect * depth / head_size))
    return max(1, round(params / (12 * width**2))), int(width)


def advise(
    law: ScalingLaw,
    params: float | None = None,
    tokens: float | None = None,
    flops: float | None = None,
    level: float = 0.9,
    head_size: int = 64,
) -> Advice:
    """Recommend a recipe for a target given as N and D, as C, or as C and one of them.

    Where all runs had one N, that is the target's unless it says another.

    Raises:
        LawError: the target is not given, or given twice; a number out of its range.
    """
    if not (isinstance(level, Real) and 0 < level < 1):
        raise LawArgumentError(f"level={level!r} must lie in (0, 1)")
    optimal = None
    if params is None and law.support.one_size and not (flops is not None and tokens is not None):
        params = law.support.low[0]
    if flops is not None and params is None and tokens is None:
        optimal = compute_optimal(law, positive_number(flops, "target.flops"), level)
        params, tokens = optimal.params, optimal.tokens
    else:
        params, tokens = _target(params, tokens, flops)
    recipe = law.recommend(params, tokens)
    depth, width = shape_for(law, params, head_size) or (None, None)
    return Advice(
        recipe=recipe,
        level=level,
        intervals={name: recipe.interval(name, level) for name in (*FITTED, *recipe.other)},
        optimal=optimal,
        depth=depth,
        width=width,
        published=tuple((published, published.recipe(params, tokens)) for published in LAWS),
        halving_flops=halving_flops(law, params, tokens),
        reach=target_reach(law, recipe, (depth, width)),
    )


def _target(params: float | None, tokens: float | None, flops: float | None) -> tuple[float, float]:
    """Complete N and D from two of N, D and C = 6 N D; checks all three."""
    params, tokens = (
        None if value is None else whole_count(value, f"target.{name}")
        for name, value in (("params", params), ("tokens", tokens))
    )
    flops = None if flops is None else positive_number(flops, "target.flops")
    if flops is not None and params is not None and tokens is not None:
        raise LawArgumentError("set target.params and target.tokens, or target.flops, not all three")
    if params is not None and tokens is not None:
        return params, tokens
    if flops is not None and params is not None:
        return params, flops / (6 * params)
    if flops is not None and tokens is not None:
        return flops / (6 * tokens), tokens
    raise LawArgumentError("set target.params and target.tokens, or target.flops to have N and D chosen")


def halving_flops(law: ScalingLaw, params: float, tokens: float) -> float | None:
    """FLOPs of further runs like those made that would halve the learning rate's interval.

    The variance of ln lr at the target is p / n + s: p / n is the uncertainty after n runs, s the scatter of
    single (N, D), which no run reduces (`ScalingLaw.scatter`). Half the width is a quarter of the variance.
    Runs nearer the target would need less. None where s alone is more than that quarter, and where the
    rates follow a rule, so that further runs would not search them.
    """
    if "learning_rate" in law.support.by_rule or not law.has_role[2]:
        return None
    parameters = float(law.draws(params, tokens, noise=False)[:, 0].var())
    scatter = float(law.scatter(params, tokens)[0]) ** 2
    left = (parameters + scatter) / 4 - scatter
    if left <= 0:
        return None
    return law.support.total_flops * (parameters / left - 1)
