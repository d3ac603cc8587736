"""Fit of the loss surface to all runs at once, and how runs, cells and sizes scatter around it.

A run's noise has two parts: seed noise, and a share of its height above the floor, since the shape of a
valley is known only roughly far from it. That is why runs far off the optimum do not bend the law. Beyond two
standard deviations a run counts linearly (Huber). The variances are estimated with the law.

Runs of one cell (N, D) also share what the law gets wrong there, and so do runs of one model size: a loss
that is off as a whole, a best learning rate that is off. The variances of these shifts are estimated
from the residuals and enter the covariance of the law (a sandwich), without which a cell swept a hundred
times would count as a hundred witnesses. They do not weight the fit itself: on held-out sizes that predicted
worse. They do decide how far a bend of the power laws is believed (`carbs_scaling.laws.form.bends`).

A run that diverged has no loss, but its learning rate was too high: the best one at its N, D and batch lies
below, up to a factor of e^`BOUND_WIDTH`. It enters as a one-sided term of the likelihood, with a small chance
that it diverged for another reason.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import ndtr

from carbs_scaling.laws.fit.groups import Grouping, bends, groupings
from carbs_scaling.laws.fit.least_squares import HUBER, huber, levenberg_marquardt
from carbs_scaling.laws.form.bends import BENDS, FIRST_BEND, believed, bend_basis, reach_of
from carbs_scaling.laws.form.law import INDEX, NAMES, SHIFTS, best_batch, value_and_slopes
from carbs_scaling.laws.prior.prior import SurfacePrior

OUTLIER = 3.0  # standard deviations beyond which a residual says no more about its cell and size
CLIPPED_SQUARE = 0.9205  # mean of min(z^2, HUBER^2) for a normal z: what clipping leaves of a variance of 1
# A first guess of each spread, worth `PRIOR_GROUPS` groups: neutral, so that few groups do not give zero.
PRIOR_GROUPS = 1.0
FIRST_SPREAD = {"loss": 0.003, "rate": 0.15, "batch": 0.2, "steepness": 0.2}  # loss: as a share of the loss
MIN_SEED_NOISE = 2e-4  # share of the loss
# Published runs repeat to .1 to .5% of their loss. Worth so many runs: a dozen fit a law of as many
# parameters all too well, and would seem to have no noise. Where there is more it says nothing.
SEED_NOISE, SEED_NOISE_RUNS = 0.003, 8.0
SCATTER_ROUNDS = 25
# In deviations of the prior, over a turn of law and noise: what no answer shows, and where to stop.
AT_REST, STANDING_STILL = 0.05, 0.002
UNDAMPED_ROUNDS = 3  # then the noise goes half the way: law and noise may else take turns for ever
BOUND_WIDTH = 0.1  # nepers over which a diverged run's rate turns from above the best one to below it
OTHER_CAUSE = 0.05  # chance that a run diverged for another reason than its rate


@dataclass(frozen=True)
class SurfaceFit:
    """The most probable law and the scatter around it.

    Args:
        theta: shape (19,).
        bend: second-order terms of the best rate and the best batch, shape (2, 3).
        covariance: of theta and bend together, shape (25, 25).
        spread: by (level, kind), the standard deviation of the shift of a cell or size not yet seen.
        seed_sd: noise of a run at the floor, in units of the loss.
        height_sd: noise of a run as a share of its height above the floor.
        objective: negative log posterior, up to a constant.
        converged: whether it came to rest.
    """

    theta: np.ndarray
    bend: np.ndarray
    covariance: np.ndarray
    spread: dict[tuple[str, str], float]
    seed_sd: float
    height_sd: float
    objective: float
    converged: bool


def fit_surface(
    features: np.ndarray,
    loss: np.ndarray,
    prior: SurfacePrior,
    starts: tuple[np.ndarray, ...] = (),
    rounds: int = 14,
    diverged: np.ndarray | None = None,
) -> SurfaceFit:
    """The best fit from several starts.

    Args:
        features: centred logs of N, D, learning rate, batch; shape (n, 4).
        loss: shape (n,).
        prior: of theta; its mean is always one of the starts.
        starts: further starts, each (19,).
        rounds: updates of the variances.
        diverged: centred logs as in `features` of runs that diverged, shape (m, 4).
    """
    problem = _Problem(features, loss, prior, bends(features), diverged)
    # A pinned parameter begins where it must stay.
    starts = [prior.mean, *(np.where(prior.sd > 0, start, prior.mean) for start in starts)]
    states = [problem.begin(start) for start in starts]
    if len(states) > 1:
        states = [problem.descend(state, rounds=3) for state in states]
    state = problem.descend(min(states, key=lambda s: s.objective), rounds)
    spread, seed_sd, height_sd, covariance = problem.scatter(state, groupings(features))
    z, covariance = believed(state.z, covariance, problem.size)
    return SurfaceFit(
        theta=z[: problem.size],
        bend=z[problem.size :].reshape(len(BENDS), -1),
        covariance=covariance,
        spread=spread,
        seed_sd=seed_sd,
        height_sd=height_sd,
        objective=state.objective,
        converged=state.converged,
    )


@dataclass
class _State:
    z: np.ndarray  # theta, then all shifts
    spread2: np.ndarray  # variance of each grouping's shifts, (g,)
    seed2: float
    height2: float
    objective: float = np.inf
    converged: bool = False


class _Problem:
    def __init__(self, features, loss, prior: SurfacePrior, groups, diverged=None) -> None:
        self.features, self.loss = features, loss
        self.diverged = np.empty((0, 4)) if diverged is None else _lowest_rates(diverged)
        self.reach = reach_of(features)
        self.level = float(np.min(loss))
        self.mean, self.scale, self.groups = prior.mean, prior.scale, groups
        self.theta_precision = prior.precision
        self.size = len(NAMES)
        self.offsets = np.cumsum([self.size, *[g.groups for g in groups]])
        self.first2 = np.array([self._first(g) ** 2 for g in groups])

    def _first(self, group: Grouping) -> float:
        if group.level == "bend":
            return FIRST_BEND
        return FIRST_SPREAD[group.kind] * (self.level if group.kind == "loss" else 1.0)

    def begin(self, start: np.ndarray) -> _State:
        z = np.zeros(self.offsets[-1])
        z[: self.size] = start
        return _State(z, self.first2.copy(), (0.02 * self.level) ** 2, 0.3**2)

    def shifts(self, z: np.ndarray) -> dict[str, np.ndarray]:
        total: dict[str, np.ndarray] = {}
        for group, start, stop in zip(self.groups, self.offsets[:-1], self.offsets[1:], strict=True):
            total[group.kind] = total.get(group.kind, 0.0) + group.basis @ z[start:stop]
        return total

    def design(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        value, height, slopes = value_and_slopes(z[: self.size], self.features, self.shifts(z))
        full = np.zeros((len(value), len(z)))
        full[:, : self.size] = slopes
        for group, start, stop in zip(self.groups, self.offsets[:-1], self.offsets[1:], strict=True):
            column = np.ones(len(value))
            if SHIFTS[group.kind]:
                column = slopes[:, [NAMES.index(name) for name in SHIFTS[group.kind]]].sum(axis=1)
            full[:, start:stop] = column[:, None] * group.basis
        return value, height, full

    def prior_precision(self, state: _State) -> np.ndarray:
        of_shifts = [np.full(g.groups, 1 / s2) for g, s2 in zip(self.groups, state.spread2, strict=True)]
        full = np.diag(np.concatenate([np.zeros(self.size), *of_shifts]))
        full[: self.size, : self.size] = self.theta_precision
        return full

    def penalty(self, z: np.ndarray, precision: np.ndarray) -> float:
        centred = z.copy()
        centred[: self.size] -= self.mean
        return 0.5 * float(centred @ precision @ centred)

    def too_high(self, z: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """What the diverged runs add to the negative log likelihood, its gradient and its curvature in z."""
        if not len(self.diverged):
            return 0.0, np.zeros(len(z)), np.zeros((len(z), len(z)))
        theta = z[: self.size]
        n, d, e, b = self.diverged.T
        basis = bend_basis(n, d, self.reach)
        shift = {kind: basis @ part for kind, part in zip(BENDS, z[self.size :].reshape(2, -1), strict=True)}
        off_batch = b - best_batch(theta, n, d) - shift["batch"]
        a0, a_n, a_d, a_b = theta[[INDEX[name] for name in ("a0", "a_N", "a_D", "a_B")]]
        best = a0 + a_n * n + a_d * d + a_b * off_batch + shift["rate"]
        by_z = np.zeros((len(n), len(z)))
        for name, slope in (("a0", 1.0), ("a_N", n), ("a_D", d), ("a_B", off_batch)):
            by_z[:, INDEX[name]] = slope
        for name, slope in (("b0", 1.0), ("b_N", n), ("b_D", d)):
            by_z[:, INDEX[name]] = -a_b * np.broadcast_to(slope, n.shape)
        by_z[:, self.size :] = np.concatenate([basis, -a_b * basis], axis=1)
        below = (e - best) / BOUND_WIDTH
        likely = OTHER_CAUSE + (1 - OTHER_CAUSE) * ndtr(below)
        density = (1 - OTHER_CAUSE) * np.exp(-(below**2) / 2) / np.sqrt(2 * np.pi)
        slope = density / likely / BOUND_WIDTH
        curvature = slope * (slope + np.maximum(below, 0.0) / BOUND_WIDTH)
        return -float(np.log(likely).sum()), by_z.T @ slope, by_z.T @ (curvature[:, None] * by_z)

    def descend(self, state: _State, rounds: int) -> _State:
        """Law and noise by turns; the most probable state that they passed, by `_State.objective`.

        The noise's update is no descent of the objective: with few runs the first turns are better than where
        they come to rest, and at times law and noise go round in circles.
        """
        best, moved = None, np.inf
        for turn in range(rounds):
            before, noise = state.z[: self.size].copy(), np.array([state.seed2, state.height2])
            state = self._update_noise(self._minimise(state))
            if best is None or state.objective < best.objective:
                best = replace(state, z=state.z.copy(), spread2=state.spread2.copy())
            moved = np.abs((state.z[: self.size] - before) / self.scale).max()
            if moved < STANDING_STILL:
                break
            if turn >= UNDAMPED_ROUNDS:
                state.seed2, state.height2 = np.sqrt(noise * [state.seed2, state.height2])
        best.converged = bool(moved < AT_REST)
        return best

    def _minimise(self, state: _State) -> _State:
        """The law and the bends, all variances held."""
        precision = self.prior_precision(state)
        _, height, _ = self.design(state.z)
        variance = state.seed2 + state.height2 * height**2

        def cost(z: np.ndarray) -> float:
            value = value_and_slopes(z[: self.size], self.features, self.shifts(z))[0]
            return huber(self.loss - value, variance)[0] + self.penalty(z, precision) + self.too_high(z)[0]

        def slopes(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, _, design = self.design(z)
            residual = self.loss - value
            weight = huber(residual, variance)[1]
            _, bound_slope, bound_curvature = self.too_high(z)
            centred = z.copy()
            centred[: self.size] -= self.mean
            downhill = design.T @ (weight * residual) - precision @ centred - bound_slope
            return downhill, design.T @ (weight[:, None] * design) + bound_curvature + precision

        state.z = levenberg_marquardt(cost, slopes, state.z, self.scale)
        return state

    def posterior(self, state: _State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Covariance of z, residuals and heights at the state."""
        value, height, design = self.design(state.z)
        residual = self.loss - value
        variance = state.seed2 + state.height2 * height**2
        weight = huber(residual, variance)[1]
        hessian = design.T @ (weight[:, None] * design) + self.too_high(state.z)[2]
        return np.linalg.inv(hessian + self.prior_precision(state)), residual, height

    def _update_noise(self, state: _State) -> _State:
        covariance, residual, height = self.posterior(state)
        variances = np.diag(covariance)
        for index, (group, start, stop) in enumerate(
            zip(self.groups, self.offsets[:-1], self.offsets[1:], strict=True)
        ):
            total = float((state.z[start:stop] ** 2 + variances[start:stop]).sum())
            state.spread2[index] = (total + PRIOR_GROUPS * self.first2[index]) / (group.groups + PRIOR_GROUPS)
        # What the fit has absorbed of the noise: its effective number of parameters.
        used = len(state.z) - float(np.sum(self.prior_precision(state) * covariance))
        inflation = len(residual) / max(len(residual) - used, 0.15 * len(residual))
        state.seed2, state.height2 = _noise(residual, height, state, inflation, self.level)
        variance = state.seed2 + state.height2 * height**2
        data = huber(residual, variance)[0] + 0.5 * np.log(variance).sum()
        spreads = sum(g.groups * 0.5 * np.log(s2) for g, s2 in zip(self.groups, state.spread2, strict=True))
        state.objective = float(data + spreads) + self.penalty(state.z, self.prior_precision(state))
        state.objective += self.too_high(state.z)[0]
        sign, log_volume = np.linalg.slogdet(covariance)
        state.objective -= 0.5 * log_volume if sign > 0 else -np.inf
        if not np.isfinite(state.objective):
            state.objective = np.inf
        return state

    def scatter(
        self, state: _State, groups: list[Grouping]
    ) -> tuple[dict[tuple[str, str], float], float, float, np.ndarray]:
        """Spreads of cells and sizes, the noise that they leave to a run, and the covariance of z.

        Variances of the linear mixed model residual = U u + noise, by maximum likelihood. The covariance is
        that of weighted least squares whose errors are correlated as U T U' says: H^-1 (H + J'W U T U'W J)
        H^-1.
        """
        covariance, residual, height = self.posterior(state)
        _, _, design = self.design(state.z)
        variance = state.seed2 + state.height2 * height**2
        weight = huber(residual, variance)[1]
        # That is not robust: one run three times too high would be taken for a size that is off as a whole.
        residual = np.clip(residual, -OUTLIER * np.sqrt(variance), OUTLIER * np.sqrt(variance))
        if not groups:
            return {}, float(np.sqrt(state.seed2)), float(np.sqrt(state.height2)), covariance
        columns, first2, owner = [], [], []
        for index, group in enumerate(groups):
            moved = [NAMES.index(name) for name in SHIFTS[group.kind]]
            slope = design[:, moved].sum(axis=1) if moved else np.ones(len(residual))
            columns.append(slope[:, None] * group.basis)
            first2.append(self._first(group) ** 2)
            owner += [index] * group.groups
        effects, owner, first2 = np.concatenate(columns, axis=1), np.array(owner), np.array(first2)
        spread2, witnesses = first2.copy(), np.array([group.witnesses / group.groups for group in groups])
        inner = _State(state.z, spread2, state.seed2, state.height2)
        for _ in range(SCATTER_ROUNDS):
            inner_variance = inner.seed2 + inner.height2 * height**2
            precision = effects.T @ (effects / inner_variance[:, None])
            precision[np.diag_indices_from(precision)] += 1 / spread2[owner]
            inverse = np.linalg.inv(precision)
            shifts = inverse @ (effects.T @ (residual / inner_variance))
            # A shift counts as far as runs tell it (MacKay's fixed point, which is that of EM); one that they
            # do not tell leaves the variance at its first guess.
            told = np.maximum(1 - np.diag(inverse) / spread2[owner], 0.0)
            squares, counts = np.bincount(owner, shifts**2), np.bincount(owner, told) * witnesses
            spread2 = (squares + PRIOR_GROUPS * first2) / (counts + PRIOR_GROUPS)
            used = float(told.sum()) + len(state.z)
            inflation = len(residual) / max(len(residual) - used, 0.15 * len(residual))
            own = residual - effects @ shifts
            inner.seed2, inner.height2 = _noise(own, height, inner, inflation, self.level)
        shared = design.T @ (weight[:, None] * effects)
        correlated = covariance @ ((shared * spread2[owner]) @ shared.T) @ covariance
        # What the runs' own noise leaves uncertain, now that the shared part of it is counted apart.
        own_share = design.T @ ((weight**2 * (inner.seed2 + inner.height2 * height**2))[:, None] * design)
        own_share += self.too_high(state.z)[2] + self.prior_precision(state)
        covariance = covariance @ own_share @ covariance + correlated
        named = {(g.level, g.kind): float(np.sqrt(s2)) for g, s2 in zip(groups, spread2, strict=True)}
        return (
            named,
            float(np.sqrt(inner.seed2)),
            float(np.sqrt(inner.height2)),
            (covariance + covariance.T) / 2,
        )


def _lowest_rates(diverged: np.ndarray) -> np.ndarray:
    """Of diverged runs (m, 4) the one of least rate at each N, D and batch: it implies the others."""
    order = diverged[np.argsort(diverged[:, 2])]
    return order[np.unique(np.round(order[:, [0, 1, 3]], 2), axis=0, return_index=True)[1]]


def _noise(residual, height, state: _State, inflation: float, level: float) -> tuple[float, float]:
    """Variances of the two parts of a run's noise: most probable, residuals clipped as by Huber.

    Args:
        residual: shape (n,).
        height: of the runs above the floor, shape (n,).
        state: where the noise is now.
        inflation: of squared residuals, for what the fit has absorbed of the noise.
        level: a low loss.
    """
    least_sd, usual2 = MIN_SEED_NOISE * level, (SEED_NOISE * level) ** 2
    bounds = [(2 * np.log(least_sd), 2 * np.log(max(np.ptp(residual), 2 * least_sd))), (np.log(1e-4), 0.0)]
    logs = np.log([state.seed2, state.height2])
    for _ in range(6):
        clip = HUBER**2 * (np.exp(logs[0]) + np.exp(logs[1]) * height**2)
        moment = np.minimum(residual**2, clip) * inflation / CLIPPED_SQUARE

        def misfit(logs: np.ndarray, moment: np.ndarray = moment) -> tuple[float, np.ndarray]:
            seed, rest = np.exp(logs[0]), np.exp(logs[1]) * height**2
            variance = seed + rest
            by_variance = (1 - moment / variance) / variance
            gradient = np.array([(by_variance * seed).sum(), (by_variance * rest).sum()])
            # A share of height of about 0.2, worth two runs: decides where no run lies off the floor.
            off = logs[1] - np.log(0.04)
            gradient[1] += 2 * off
            # More noise than usual is nothing to wonder at: tiny models repeat to a few percent.
            least = min(seed, usual2)
            gradient[0] += SEED_NOISE_RUNS * (1 - usual2 / least)
            believed = off**2 + SEED_NOISE_RUNS * (np.log(least) + usual2 / least)
            return float((np.log(variance) + moment / variance).sum() + believed), gradient

        before, logs = logs, minimize(misfit, logs, jac=True, bounds=bounds, method="L-BFGS-B").x
        if np.abs(logs - before).max() < 1e-2:
            break
    return float(np.exp(logs[0])), float(np.exp(logs[1]))
