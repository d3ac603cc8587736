"""Points to look at: the cheap design that a search begins with, and the candidates of a proposal."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from math import ceil, inf, log2

import numpy as np
from scipy.stats import qmc

from carbs_scaling.frontier import pareto_front
from carbs_scaling.laws.form.law import best_batch, best_rate
from carbs_scaling.laws.form.valley import Array
from carbs_scaling.laws.prior.prior import expected_level_sd
from carbs_scaling.ledger.history import History
from carbs_scaling.space.encoding import Point
from carbs_scaling.space.projection import Candidates, Key, LegalSpace, point_key
from carbs_scaling.surrogate.model import LawEnsembleModel

# Around the published learning rate and batch the design looks this far, in logs, beside their own standard
# deviation.
_DESIGN_SPREAD = 0.3
# How far below the lowest learning rate that broke the design goes on, while nothing has ended.
_DESIGN_STEP = 1.0
# As `_DESIGN_SPREAD`, around the optimum of a law drawn from the posterior.
_FLOOR_SPREAD = 0.1
# Farthest from a law's floor that a run for a target is looked for.
_TARGET_REACH = 1.0
# Runs whose continuations are looked at, and lengths of each: evenly spread in the log, up to the longest.
_CONTINUED, _LENGTHS = 48, 12


@dataclass(frozen=True)
class Limit:
    """What the next run may cost.

    Args:
        space: of the runs.
        price: most FLOPs that may be paid.
        flops: most FLOPs of the whole run, with what is not paid again.
        completed: points of trials that a run may go on from, by number.
    """

    space: LegalSpace
    price: float
    flops: float = inf
    completed: Mapping[int, Point] = field(default_factory=dict)

    def prices(self, pool: Candidates) -> Array:
        """FLOPs that each candidate would really cost, shape (m,)."""
        return pool.flops if self.space.price is None else self.space.prices(pool.points, self.completed)

    def pays(self, pool: Candidates) -> np.ndarray:
        """Which candidates keep to it, shape (m,)."""
        return (self.prices(pool) <= self.price) & (pool.flops <= self.flops)


def design_point(space: LegalSpace, history: History, rng: np.random.Generator, cap: float) -> Point | None:
    """A point of the cheap design: far from the others, at a cost of at most `cap`; None if none is new."""
    knobs = _sobol(space, rng, 64)
    # Away from the edges of what has no price, where runs are most often wasted; towards the cheapest
    # point in what has one, until it can be paid.
    knobs = np.where(space.moves_cost, knobs, 0.2 + 0.6 * knobs)
    _around_published_optimum(space, knobs, rng, _lower_rate(space, history))
    cheapest = space.encoding.position(space.cheapest)
    found: list[Point] = []
    for row in knobs:
        for share in (1.0, 0.6, 0.35, 0.2, 0.1, 0.0):
            near = np.where(space.moves_cost, cheapest + share * (row - cheapest), row)
            point = space.legal(space.encoding.point(near))
            if space.cost(point) <= cap and space.permits(point):
                found.append(point)
                break
    taken = tried(history)
    new = space.describe([point for point in found if point_key(point) not in taken])
    if not len(new):
        return None
    others = history.points + history.pending + history.failed
    if not others:
        return new.points[0]
    rows = space.encoding.rows(others)
    gaps = np.linalg.norm(new.cube[:, None, :] - rows[None], axis=-1).min(axis=1)
    return new.points[int(np.argmax(gaps))]


def _level_sd(space: LegalSpace) -> tuple[float, float]:
    """Standard deviations of the expected rate and batch at the middle of the space, in logs."""
    if not all(space.has_role[:2]):
        return 1.0, 1.0
    # What is less known than AdamW's rates is looked for farther.
    params, tokens = np.exp(space.centre[:2])
    return expected_level_sd(float(params), float(tokens), space.rates)


def _best_batch(theta: Array, features: Array) -> Array:
    """ln best batch by one law (19,) or one each (n, 19), centred, shape (n,)."""
    return best_batch(theta, features[:, 0], features[:, 1])


def _best_rate(theta: Array, features: Array) -> Array:
    """ln best rate at the features' own batch; otherwise as `_best_batch`."""
    n, d, _, b = features.T
    return best_rate(theta, n, d, b)


def _lower_rate(space: LegalSpace, history: History) -> float:
    """How far below published laws the design takes learning rates, in logs, since runs broke.

    Nothing as long as most runs end. Then a factor of e below the lowest rate that broke, against the
    published one for its N, D and batch, or half the way to the highest that ended.
    """
    if not space.has_role[2] or len(history.failed) <= len(history.points):
        return 0.0
    theta = space.law_prior(1.0).mean

    def above(points: list[Point]) -> Array:
        features = space.describe(points).features
        return features[:, 2] - _best_rate(theta, features)

    broke = float(above(history.failed).min())
    ended = above(history.points)
    ended = ended[ended < broke]
    return max(-(float(ended.max()) + broke) / 2 if len(ended) else _DESIGN_STEP - broke, 0.0)


def _around_published_optimum(
    space: LegalSpace, knobs: Array, rng: np.random.Generator, lower: float
) -> None:
    """Sets learning rate and batch of rows of `knobs` to about what published laws say for their N, D.

    Learning rates are lower by `lower`, in logs.
    """
    rate_sd, batch_sd = _level_sd(space)
    spread = _DESIGN_SPREAD if lower else np.hypot(_DESIGN_SPREAD, rate_sd)
    off_batch = rng.normal(0, np.hypot(_DESIGN_SPREAD, batch_sd), len(knobs))
    _onto_valley_floor(
        space, knobs, space.law_prior(1.0).mean, off_batch, rng.normal(0, spread, len(knobs)) - lower
    )


def _onto_valley_floor(
    space: LegalSpace, knobs: Array, theta: Array, off_batch: Array, off_rate: Array
) -> None:
    """Sets learning rate and batch of rows of `knobs` to what a law finds best for their N, D.

    Args:
        knobs: changed in place, shape (m, k).
        theta: one law (19,), or one each (m, 19).
        off_batch: what is added to the best batch, in logs, shape (m,).
        off_rate: the same for the best rate at that batch.
    """
    features = _features(space, knobs)
    batch = _best_batch(theta, features) + off_batch
    if space.has_role[3]:
        features[:, 3] = batch
        space.set_role(knobs, "batch_tokens", batch + space.centre[3])
    if space.has_role[2]:
        rate = _best_rate(theta, features) + off_rate
        space.set_role(knobs, "learning_rate", rate + space.centre[2])


def candidates(
    space: LegalSpace,
    history: History,
    model: LawEnsembleModel,
    rng: np.random.Generator,
    limit: Limit,
    count: int,
) -> Candidates:
    """Somewhat over `count` points that keep to the limit, and continuations of runs where those are cheaper.

    They are spread over the space, on the valley floor of drawn laws, and around the front.
    """
    spread_out = _sobol(space, rng, count)
    guided = _sobol(space, rng, count)[: count * 3 // 4]
    if any(model.best_law.has_role[2:]):
        thetas = model.members.thetas[rng.integers(len(model.members.thetas), size=len(guided))]
        off_batch, off_rate = _FLOOR_SPREAD * rng.normal(size=(2, len(guided)))
        _onto_valley_floor(space, guided, thetas, off_batch, off_rate)
    front = pareto_front(history.flops, history.loss)
    centres = [space.encoding.position(history.points[i]) for i in front]
    near = around(centres or [space.encoding.position(space.cheapest)], 0.1, count // 2, rng)
    knobs = np.concatenate([spread_out[: count // 2], guided, near])
    pool = affordable_pool(space, knobs, tried(history), limit)
    return pool if space.price is None else joined(pool, continuations(space, history, pool, limit))


def continuations(space: LegalSpace, history: History, but: Candidates, limit: Limit) -> Candidates:
    """Longer runs of what ended, where they cost less than anew: of the front, then of the newest."""
    front = {point_key(history.points[i]) for i in pareto_front(history.flops, history.loss)}
    numbers = sorted(
        history.continuable, key=lambda n: (point_key(history.continuable[n]) in front, n), reverse=True
    )
    found: dict[Key, Point] = {}
    for number in numbers[:_CONTINUED]:
        point = history.continuable[number]
        position = space.encoding.position(point)
        for name in space.length_names:
            knob = list(space.encoding.distributions).index(name)
            if position[knob] >= 1:
                continue
            for share in np.linspace(0, 1, _LENGTHS + 1)[1:]:
                longer = position.copy()
                longer[knob] += share * (1 - position[knob])
                legal = space.legal({**point, name: space.encoding.point(longer)[name]})
                found.setdefault(point_key(legal), legal)
    taken = tried(history) | {point_key(point) for point in but.points}
    new = space.describe([p for key, p in found.items() if key not in taken and space.permits(p)])
    cheaper = limit.prices(new) < new.flops * (1 - 1e-9)
    return new.take(np.flatnonzero(cheaper & limit.pays(new)))


def target_candidates(
    space: LegalSpace,
    history: History,
    theta: Array,
    rng: np.random.Generator,
    limit: Limit,
    count: int,
) -> Candidates:
    """Points of any size within a factor of e or so of one law's valley floor, for what they teach about it.

    Farther up the walls a law says least of what it was fitted for. What neither the law nor the cost knows
    stays near the front's own values, so that it adds no noise.
    """
    knobs = _sobol(space, rng, count)
    front = [space.encoding.position(history.points[i]) for i in pareto_front(history.flops, history.loss)]
    others = ~space.moves_cost
    others[[knob for knob in space.role_knobs.values() if knob is not None]] = False
    if front and others.any():
        near = np.asarray(front)[rng.integers(len(front), size=count)] + 0.05 * rng.normal(size=knobs.shape)
        knobs[:, others] = np.clip(near, 0.0, 1.0)[:, others]
    off_batch, off_rate = rng.uniform(-_TARGET_REACH, _TARGET_REACH, (2, count))
    _onto_valley_floor(space, knobs, theta, off_batch, off_rate)
    return affordable_pool(space, knobs, tried(history), limit)


def affordable_pool(space: LegalSpace, knobs: Array, taken: Set[Key], limit: Limit) -> Candidates:
    """Legal points nearest to rows of `knobs` (m, k) that keep to the limit and are not `taken`."""
    batch = space.candidates(knobs, but=taken)
    return batch.take(np.flatnonzero(limit.pays(batch)))


def tried(history: History) -> set[Key]:
    """Keys of the points of all other trials."""
    stopped = [point for point, _ in history.bounded]
    others = history.points + history.pending + history.failed + stopped
    return {point_key(point) for point in others} | history.left_out


def _features(space: LegalSpace, knobs: Array) -> Array:
    return space.features([space.legal(point) for point in space.encoding.points(knobs)])


def _sobol(space: LegalSpace, rng: np.random.Generator, count: int) -> Array:
    return qmc.Sobol(space.encoding.knobs, rng=rng).random_base2(ceil(log2(count)))[:count]


def around(centres: list[Array], spread: float, count: int, rng: np.random.Generator) -> Array:
    """`count` points normal around randomly chosen centres, every second one in a single dimension only."""
    chosen = np.asarray(centres)[rng.integers(len(centres), size=count)]
    steps = rng.normal(0.0, spread, size=chosen.shape)
    single = rng.integers(chosen.shape[1], size=count)
    only = np.arange(chosen.shape[1])[None] == single[:, None]
    keep = only | (np.arange(count)[:, None] % 2 == 0)
    return np.clip(chosen + steps * keep, 0.0, 1.0)


def joined(first: Candidates, second: Candidates) -> Candidates:
    """Both, one after the other."""
    return Candidates(
        first.points + second.points,
        np.concatenate([first.flops, second.flops]),
        np.concatenate([first.cube, second.cube]),
        np.concatenate([first.features, second.features]),
    )
