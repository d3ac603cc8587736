"""The most probable law for some runs, its noise and its bends, with the covariance of all that.

Law and noise are estimated by turns. Beyond two standard deviations a run counts linearly (Huber). Then the
scatter of cells and sizes (`scatter`) says how far the bends of rate and batch are kept, and the floor is
fitted again with bends of its own, the valley held: what the best loss is need not move the best recipe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from carbs_scaling.laws.fit.least_squares import Errors, IndependentErrors, huber
from carbs_scaling.laws.fit.noise import Noise, estimate_noise, first_noise
from carbs_scaling.laws.fit.problem import Grouping, LawProblem
from carbs_scaling.laws.fit.scatter import PRIOR_GROUPS, Spread, groupings, scatter
from carbs_scaling.laws.form.bends import BENDS, FIRST_BEND, bend_basis, kept_bends, reach_of
from carbs_scaling.laws.form.law import FLOOR, NAMES, floor_and_height, value_and_slopes
from carbs_scaling.laws.form.valley import Array
from carbs_scaling.laws.prior.prior import NO_VALLEY, LawPrior

# In deviations of the prior, over a turn of law and noise: what no answer shows, and where to stop.
_AT_REST, _STANDING_STILL = 0.05, 0.002
_UNDAMPED_TURNS = 3  # then the noise goes half the way: law and noise may else take turns for ever
_TURNS, _FIRST_TURNS = 14, 3
# Where they do so all the same: the least part of a turn that is tried, and how many such turns at most.
_LEAST_PART, _PART_TURNS = 1 / 16, 20
# Runs by which the best start is found, and followed until it rests, before all of them count: a third of
# the time on 3,000 runs (benchmarks/laws_speed.py), the same law.
_THINNED = 500
FLOOR_BEND_SD = 0.004  # change of a loss exponent over a factor of e; .003 to .05 predict large sizes alike
_TERMS = 3  # of a bend
_FLOOR_STEPS, _FLOOR_GAIN = 100, 1e-4
_NEAR = 0.2  # in ln N and ln D: over that a floor is straight to 1e-4 of the loss
_FLOOR_ROUNDS, _FLOOR_AT_REST = 6, 1e-3  # turns of the floor and of Huber's weights


@dataclass(frozen=True)
class LawFit:
    """The most probable law and the scatter around it.

    Args:
        theta: values of `law.NAMES`, shape (19,).
        bend: second-order terms of best rate, best batch and floor, shape (3, 3).
        covariance: of theta and bend together, shape (28, 28); 0 for pinned parameters.
        spread: by (level, kind), the standard deviation of the shift of a cell or size not yet seen.
        noise: of a run.
        converged: whether law and noise came to rest.
    """

    theta: Array
    bend: Array
    covariance: Array
    spread: Spread
    noise: Noise
    converged: bool


@dataclass(frozen=True)
class Estimate:
    """Where the turns of law and noise stand.

    Args:
        z: of the problem, shape (p,).
        noise: of a run.
        spread2: variance of each grouping's shifts.
        objective: negative log posterior with the volume of z, up to a constant.
        converged: whether the last turn moved nothing that an answer shows.
    """

    z: Array
    noise: Noise
    spread2: tuple[float, ...]
    objective: float = np.inf
    converged: bool = False


@dataclass(frozen=True)
class PlainFit:
    """The most probable law without bends.

    Args:
        theta: values of `law.NAMES`, shape (19,).
        covariance: its Laplace posterior covariance, shape (19, 19); 0 for pinned parameters.
    """

    theta: Array
    covariance: Array


def fit_plain_law(features: Array, loss: Array, prior: LawPrior, turns: int = _FIRST_TURNS) -> PlainFit:
    """The law without bends, by law and noise by turns.

    Args:
        features: centred logs of N, D, learning rate, batch; shape (n, 4).
        loss: shape (n,), positive.
        prior: of theta, where the descent begins.
        turns: of law and noise, at most.
    """
    problem = LawProblem(features, loss, prior)
    at = most_probable(problem, [prior.mean], turns=turns)
    return _plain(problem, at.z, at.noise.errors(problem.floor_and_height(at.z)[1]))


def refit_under(errors: Errors, features: Array, loss: Array, prior: LawPrior, start: Array) -> PlainFit:
    """The law without bends under errors that are known, from the law `start` (19,) on; else as above."""
    problem = LawProblem(features, loss, prior)
    return _plain(problem, problem.minimise(problem.begin(start), errors), errors)


def _plain(problem: LawProblem, z: Array, errors: Errors) -> PlainFit:
    free = problem.prior.free
    covariance = np.zeros((len(NAMES), len(NAMES)))
    covariance[np.ix_(free, free)] = problem.covariance(z, errors)
    return PlainFit(problem.theta(z), covariance)


def fit_bent_law(
    features: Array,
    loss: Array,
    prior: LawPrior,
    starts: Sequence[Array] = (),
    diverged: Array | None = None,
) -> LawFit:
    """The law with bends, by the best of several starts.

    Args:
        features: centred logs of N, D, learning rate, batch; shape (n, 4).
        loss: shape (n,).
        prior: of theta; its mean is always one of the starts.
        starts: further starts, each (19,).
        diverged: centred logs as in `features` of runs that diverged, shape (m, 4).
    """
    basis = bend_basis(features[:, 0], features[:, 1], reach_of(features))
    # Scattered runs bend exponents to their noise: how far is told where cells show how runs go together.
    groups = groupings(features)
    swept = any(group.kind == "steepness" for group in groups)
    bends = [Grouping("bend", kind, basis, told=swept) for kind in BENDS]
    diverged = np.empty((0, 4)) if diverged is None else diverged
    problem = LawProblem(features, loss, prior, bends, diverged)
    at = most_probable(problem, [prior.mean, *starts], (FIRST_BEND**2,) * len(bends), _TURNS)
    problem = problem.near(at.z)[0]
    spread, noise, covariance = scatter(problem, at.z, at.noise, at.spread2, groups)
    z, covariance = kept_bends(at.z, covariance, problem.size)
    places = np.concatenate([prior.free, len(NAMES) + np.arange(2 * _TERMS)])
    full = np.zeros((len(NAMES) + 3 * _TERMS,) * 2)
    full[np.ix_(places, places)] = covariance
    bend = np.concatenate([z[problem.size :].reshape(2, _TERMS), np.zeros((1, _TERMS))])
    valley = LawFit(problem.theta(z), bend, full, spread, noise, at.converged)
    return _with_bent_floor(valley, features, loss, prior)


def most_probable(
    problem: LawProblem, starts: Sequence[Array], spread2: tuple[float, ...] = (), turns: int = _TURNS
) -> Estimate:
    """Law and noise by turns: a few from every start, and on from the best.

    Args:
        problem: runs and prior.
        starts: laws (19,); what the prior pins stays as it is.
        spread2: first variances of the shifts of the problem's groups.
        turns: at most, from the best start on.
    """
    first, rough = first_noise(problem.level), problem.thinned(_THINNED)
    begun = [Estimate(problem.begin(start), first, spread2) for start in starts]
    if len(begun) > 1:
        begun = [_by_turns(rough, at, spread2, _FIRST_TURNS) for at in begun]
    best = min(begun, key=lambda at: at.objective)
    if rough is not problem:
        best = replace(_by_turns(rough, best, spread2, turns), objective=np.inf)
    return _by_turns(problem, best, spread2, turns)


def _by_turns(problem: LawProblem, at: Estimate, first2: tuple[float, ...], turns: int) -> Estimate:
    """The most probable of the estimates passed: with few runs the first are better than where they rest.

    The noise's update is no descent of the objective, and at times law and noise go round in circles. Then
    parts of turns go on from the best until they rest.
    """
    under, best, moved = at, at, np.inf
    for turn in range(turns):
        there, moved = _turn(problem, at, first2)
        if turn == 0 or there.objective < best.objective:
            under, best = at, there
        if moved < _STANDING_STILL:
            break
        noise = there.noise if turn < _UNDAMPED_TURNS else at.noise.towards(there.noise, 0.5)
        at = Estimate(there.z, noise, there.spread2)
    if moved >= _AT_REST and turns > _FIRST_TURNS:
        return _by_parts(problem, under, best, first2)
    return replace(best, converged=bool(moved < _AT_REST))


def _by_parts(problem: LawProblem, under: Estimate, best: Estimate, first2: tuple[float, ...]) -> Estimate:
    """Downhill from an estimate found under another's noise, by such a part of each turn as improves it."""
    part = 0.5
    for _ in range(_PART_TURNS):
        before, after = np.log(under.spread2), np.log(best.spread2)
        spread2 = tuple(np.exp(before + part * (after - before)).tolist())
        at = Estimate(best.z, under.noise.towards(best.noise, part), spread2)
        there, moved = _turn(problem, at, first2)
        if there.objective < best.objective:
            under, best, part = at, there, min(1.0, 2 * part)
            if moved < _AT_REST:
                return replace(best, converged=True)
        elif part <= _LEAST_PART:
            return replace(best, converged=True)
        else:
            part /= 2
    return replace(best, converged=False)


def _turn(problem: LawProblem, at: Estimate, first2: tuple[float, ...]) -> tuple[Estimate, float]:
    """The law under an estimate's noise, with its own, and how far it moved, in the prior's deviations."""
    height = problem.floor_and_height(at.z)[1]
    z = problem.near(at.z)[0].minimise(at.z, at.noise.errors(height), at.spread2)
    way = (z - at.z)[: problem.size] / problem.prior.scale[problem.prior.free]
    return _with_noise(problem, z, at, first2), float(np.abs(way).max())


def _with_noise(problem: LawProblem, z: Array, before: Estimate, first2: tuple[float, ...]) -> Estimate:
    """The estimate at z with its noise, the variances of its shifts, and its objective."""
    problem, lacks = problem.near(z)
    base, height = problem.floor_and_height(z)
    residual = problem.loss - base - height
    covariance = problem.covariance(z, before.noise.errors(height), before.spread2)
    of_shifts = zip(
        problem.groups, problem.shifts_of(z), problem.shifts_of(np.diag(covariance)), first2, strict=True
    )
    spread2 = tuple(
        (float((shifts**2 + variances).sum()) + PRIOR_GROUPS * first) / (len(shifts) + PRIOR_GROUPS)
        if group.told
        else first
        for group, shifts, variances, first in of_shifts
    )
    # What the fit has absorbed of the noise: its effective number of parameters.
    used = len(z) - float(np.sum(problem.precision(spread2) * covariance))
    noise = estimate_noise(residual, height, before.noise, used, problem.level)
    errors = noise.errors(height)
    objective = lacks + problem.cost(z, errors, spread2) + 0.5 * float(np.log(errors.variance).sum())
    objective += sum(0.5 * g.groups * np.log(v) for g, v in zip(problem.groups, spread2, strict=True))
    sign, log_volume = np.linalg.slogdet(covariance)
    objective = objective - 0.5 * log_volume if sign > 0 else np.inf
    return Estimate(z, noise, spread2, float(objective) if np.isfinite(objective) else np.inf)


def _with_bent_floor(fit: LawFit, features: Array, loss: Array, prior: LawPrior) -> LawFit:
    """The fit with its floor fitted again: ln(reducible loss) += f . bend_basis(ln N, ln D).

    The valley is held, so runs of one (N, D) differ in nothing but their heights above the floor: once those
    are taken off, each (N, D) is one mean, a tenth of the time. Huber's weights are renewed until they rest.
    What the runs leave open of the valley moves the floor: to first order that is in the covariance.
    """
    reach, names = reach_of(features), np.isin(NAMES, FLOOR)
    basis = bend_basis(features[:, 0], features[:, 1], reach)
    held = {kind: basis @ row for kind, row in zip(BENDS, fit.bend, strict=False)}
    floor, height = floor_and_height(fit.theta, features, held)
    errors, off_floor = fit.noise.errors(height), loss - height
    sizes = groupings(features)
    label = np.unique(features[:, :2], axis=0, return_inverse=True)[1].reshape(-1)
    if label.max() >= _THINNED:  # scattered runs: near ones are one, at their mean
        near = np.round(features[:, :2] / _NEAR)
        label = np.unique(near, axis=0, return_inverse=True)[1].reshape(-1)

    def means_of(columns: Array) -> Array:
        sums = np.stack([np.bincount(label, column) for column in columns.T], axis=-1)
        return np.asarray(sums / np.bincount(label)[:, None])

    places = means_of(features[:, :2])
    at_floor = np.concatenate([places, np.zeros((len(places), 2))], axis=1)
    shared = [Grouping(g.level, g.kind, means_of(g.basis)) for g in sizes if g.kind == "loss"]
    groups = [Grouping("bend", "floor", bend_basis(places[:, 0], places[:, 1], reach)), *shared]
    spread2 = (FLOOR_BEND_SD**2, *(fit.spread[group.level, "loss"] ** 2 for group in shared))
    no_valley = {name: NO_VALLEY if name.startswith("ln_k") else 0.0 for name in np.array(NAMES)[~names]}
    pinned = prior.pinned(no_valley)

    def weighted(expected: Array) -> tuple[LawProblem, IndependentErrors]:
        weight = huber(off_floor - expected, errors.variance)[1]
        total = np.bincount(label, weight)
        mean = np.bincount(label, weight * off_floor) / total
        return LawProblem(at_floor, mean, pinned, groups), IndependentErrors(1 / total)

    # Two starts: where the valley's fit left the floor, and the prior.
    problem, means = weighted(floor)
    at = [problem.begin(theta) for theta in (fit.theta, prior.mean)]
    found = min(
        (problem.minimise(z, means, spread2, _FLOOR_STEPS, _FLOOR_GAIN) for z in at),
        key=lambda z: problem.cost(z, means, spread2),
    )
    for _ in range(_FLOOR_ROUNDS):
        expected, _ = problem.floor_and_height(found)
        problem, means = weighted(expected[label])
        before = found
        found = problem.minimise(found, means, spread2, _FLOOR_STEPS, _FLOOR_GAIN)
        if np.abs(found - before).max() < _FLOOR_AT_REST:
            break
    size = problem.size + _TERMS
    own = problem.covariance(found, means, spread2)
    expected, _, design = problem.evaluate(found)
    gain = own @ (design * huber(problem.loss - expected, means.variance)[1][:, None]).T
    weight = huber(off_floor - expected[label], errors.variance)[1][:, None]
    of_height = weight * _slopes_of_height(fit.theta, features, held, basis)
    follows = -(gain @ (means_of(of_height) / means_of(weight)))[:size]
    covariance = fit.covariance.copy()
    rows = [*problem.prior.free, *range(len(NAMES) + 2 * _TERMS, len(NAMES) + 3 * _TERMS)]
    covariance[rows, :] = covariance[:, rows] = 0.0
    with_valley = follows @ covariance
    covariance[rows, :], covariance[:, rows] = with_valley, with_valley.T
    covariance[np.ix_(rows, rows)] = own[:size, :size] + with_valley @ follows.T
    theta = np.where(names, problem.theta(found), fit.theta)
    bend = np.concatenate([fit.bend[:2], problem.shifts_of(found)[0][None]])
    return LawFit(theta, bend, covariance, fit.spread, fit.noise, fit.converged)


def _slopes_of_height(theta: Array, features: Array, held: Mapping[str, Array], basis: Array) -> Array:
    """Slopes of the runs' heights above the floor by theta and bend, shape (n, 28)."""
    slopes = value_and_slopes(theta, features, held)[2]
    slopes[:, np.isin(NAMES, FLOOR)] = 0.0
    by_bend = [Grouping("bend", kind, basis).design(slopes) for kind in BENDS]
    return np.concatenate([slopes, *by_bend, np.zeros((len(slopes), _TERMS))], axis=1)
