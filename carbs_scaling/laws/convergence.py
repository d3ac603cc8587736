"""How convergence changes with model size: tokens, steps and FLOPs to a loss, and the critical batch.

The data are loss curves of runs that differ in N, batch and learning rate. A run of size N at batch B and
rate r reaches the loss L after D tokens,

    ln D = ln D_min(L, N) + ln(1 + B / B_crit(L, N)) + curvature / 2 (ln r - ln r_best)^2,

    D_min = D_L N^-b_L at each level L,  B_crit ~ L^c N^g,  r_best ~ N^. B^. L^.

The second term is the exchange of steps for tokens of McCandlish et al. 2018 (arXiv 1812.06162); in steps it
reads S = S_min (1 + B_crit / B) with S_min = D_min / B_crit. All runs and levels are fitted jointly. A run
that never reaches a level says that its D lies beyond what it saw, one that is below it where its readable
part begins that its D lies before: both are censored observations, and are not left out.

Three things about curves limit what they can say:

- Loss on the way is not the loss of a shorter run: a falling learning rate lowers it further. Only the part
  of a curve where the rate is at least a share of its peak is read. So levels are those of training at a high
  rate; schedules that stay at their peak (constant, wsd) give long usable parts, a cosine about half.
- A training loss is noisy. It is smoothed by local lines in ln D before a level's crossing is looked up.
- Over one epoch the training loss is of text not yet seen; over several it is too low.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from carbs_scaling.laws.runs import LawError

RATE_SHARE = 0.5  # of the peak: below it, a curve is no longer read
SMOOTHING = 0.15  # nepers of tokens: standard deviation of the weights of a local line
MIN_POINTS = 5  # of the usable part of a curve
MIN_REACHED = 8  # runs that reach a level
MIN_SIZES = 2  # sizes that reach a level, ...
FIRM_SIZES = 3  # ... and so many, or an exponent of N is a line through two points
LEVELS = 4  # chosen where none are given
MIN_INFORMED = 2 / 3  # of the runs must start above the highest level that is chosen, ...
MIN_SHARE = 1 / 4  # ... and so many reach the lowest
DRAWS = 200  # bootstrap resamples
VALLEY_NOISE = 0.25  # noise of a run beside the best rate, as a share of what the rate costs it in ln D
WIDE = 30.0  # a 90% interval of this ratio says that a quantity is not identified

# Shared parameters: name -> (prior mean, prior standard deviation), in natural logs and exponents. None: set
# from the runs. They are wide, and centres are drawn afresh for each bootstrap resample, so that what only a
# prior knows has that prior's width.
SHARED = {
    "ln_critical": (None, 2.0),  # ln B_crit at the middle N and L
    "critical_loss": (-3.0, 3.0),  # Kaplan: -1 / 0.21
    "critical_params": (0.0, 0.25),  # Kaplan and McCandlish: 0 at fixed loss
    "ln_rate": (None, 1.5),  # ln of the best rate at the middle N, B and L
    "rate_params": (-0.3, 0.3),
    "rate_batch": (0.4, 0.3),  # Adam's square-root rule: 0.5
    "rate_loss": (0.0, 1.0),
    "ln_curvature": (-0.5, 0.7),
    "ln_noise": (-1.9, 0.7),  # of ln D between runs
}
SIZE_EXPONENT = (-0.2, 0.5)  # of D_min in N at one level


@dataclass(frozen=True)
class RunCurve:
    """The loss curve of one run.

    Args:
        params: non-embedding parameters N.
        batch_tokens: tokens a step B.
        learning_rate: peak.
        flops_per_token: training FLOPs a token, in the study's convention.
        tokens: seen before the loss of each point, shape (k,), increasing.
        loss: training losses in nats a token, shape (k,).
        rate: learning rates, shape (k,).
        gradient_square: |G|^2 where it was measured, else NaN; shape (k,), or None.
        gradient_variance: tr(Sigma) a token, likewise.
    """

    params: float
    batch_tokens: float
    learning_rate: float
    flops_per_token: float
    tokens: np.ndarray
    loss: np.ndarray
    rate: np.ndarray
    gradient_square: np.ndarray | None = None
    gradient_variance: np.ndarray | None = None

    def usable(self, rate_share: float = RATE_SHARE) -> np.ndarray:
        """Which points are read, bool (k,): those at `rate_share` of the peak or more, after some tokens."""
        return (self.tokens > 0) & np.isfinite(self.loss) & (self.rate >= rate_share * self.learning_rate)


@dataclass(frozen=True)
class Steady:
    """The usable part of a curve, smoothed: ln tokens and losses, shape (m,)."""

    ln_tokens: np.ndarray
    loss: np.ndarray


def steady_part(curve: RunCurve, rate_share: float = RATE_SHARE) -> Steady | None:
    """The part at a high rate, smoothed; None where it has too few points."""
    usable = curve.usable(rate_share)
    if usable.sum() < MIN_POINTS:
        return None
    ln_tokens = np.log(curve.tokens[usable])
    return Steady(ln_tokens, smooth(ln_tokens, curve.loss[usable]))


def smooth(x: np.ndarray, y: np.ndarray, width: float = SMOOTHING) -> np.ndarray:
    """Local lines with normal weights at every point: both (k,) -> (k,). Exact for a line, ends included."""
    offset = x[None, :] - x[:, None]
    weight = np.exp(-0.5 * (offset / width) ** 2)
    total, first, second = weight.sum(1), (weight * offset).sum(1), (weight * offset**2).sum(1)
    mean, slope = weight @ y, (weight * offset) @ y
    determinant = total * second - first**2
    alone = determinant <= 1e-9 * total**2 * width**2  # no neighbour within reach: the point itself
    return np.where(alone, mean / total, (second * mean - first * slope) / np.where(alone, 1, determinant))


@dataclass(frozen=True)
class Crossing:
    """When a curve reaches a level.

    Args:
        ln_tokens: then; where it is not seen, those of the end or the beginning of the usable part.
        reached: whether it is seen to reach it.
        early: whether it is below the level from the beginning.
    """

    ln_tokens: float
    reached: bool
    early: bool = False


def crossing(curve: Steady, level: float) -> Crossing:
    """The first time at or below `level`."""
    below = np.flatnonzero(curve.loss <= level)
    if not len(below):
        return Crossing(float(curve.ln_tokens[-1]), False)
    i = below[0]
    if i == 0:
        return Crossing(float(curve.ln_tokens[0]), False, early=True)
    share = (curve.loss[i - 1] - level) / (curve.loss[i - 1] - curve.loss[i])
    gap = curve.ln_tokens[i] - curve.ln_tokens[i - 1]
    return Crossing(float(curve.ln_tokens[i - 1] + share * gap), True)


@dataclass(frozen=True)
class Observations:
    """Every run at every level; arrays of shape (n,).

    Args:
        run: index of the run.
        level: index of the level.
        ln_tokens: to the level; where it is not seen, a bound on them.
        reached: whether it is seen to be reached.
        early: whether the bound is from above.
        params, batch_tokens, learning_rate: of the run.
    """

    run: np.ndarray
    level: np.ndarray
    ln_tokens: np.ndarray
    reached: np.ndarray
    early: np.ndarray
    params: np.ndarray
    batch_tokens: np.ndarray
    learning_rate: np.ndarray

    def __len__(self) -> int:
        return len(self.run)


def observe(curves: Sequence[RunCurve], parts: Sequence[Steady], levels: Sequence[float]) -> Observations:
    """Crossings of all runs (with their steady parts, in the same order) and levels."""
    rows = []
    for run, (curve, part) in enumerate(zip(curves, parts, strict=True)):
        recipe = (curve.params, curve.batch_tokens, curve.learning_rate)
        for index, level in enumerate(levels):
            found = crossing(part, level)
            rows.append((run, index, found.ln_tokens, found.reached, found.early, *recipe))
    return Observations(*(np.array(column) for column in zip(*rows, strict=True)))


def choose_levels(params: np.ndarray, parts: Sequence[Steady], count: int = LEVELS) -> list[float]:
    """Losses, falling, even in their logs, that enough runs and sizes reach and that most start above.

    Raises:
        LawError: there is no such loss.
    """
    params = np.asarray(params)
    starts = np.array([part.loss[0] for part in parts])
    ends = np.array([part.loss.min() for part in parts])
    grid = [
        level
        for level in np.geomspace(starts.max(), ends.min(), 400)
        if (starts > level).mean() >= MIN_INFORMED and (ends <= level).mean() >= MIN_SHARE
    ]
    for sizes in (FIRM_SIZES, MIN_SIZES):
        fine = [level for level in grid if _enough(params[(starts > level) & (ends <= level)], sizes)]
        if fine:
            break
    else:
        raise LawError(
            f"no loss is reached by {MIN_REACHED} runs of {MIN_SIZES} sizes within the usable parts of their "
            f"curves ({len(parts)} runs, {len(np.unique(params))} sizes): run more or longer trials"
        )
    # The upper half is the first few steps, where all models learn the same frequencies of tokens.
    highest = np.sqrt(fine[0] * fine[-1])
    return np.geomspace(highest, fine[-1], count).tolist() if fine[0] > fine[-1] else [float(fine[0])]


def _enough(params: np.ndarray, sizes: int = MIN_SIZES) -> bool:
    return len(params) >= MIN_REACHED and len(np.unique(params)) >= sizes


@dataclass(frozen=True)
class LevelSupport:
    """What one level rests on: runs that are seen to reach it, that do not, or that begin below it."""

    reached: int
    not_reached: int
    early: int
    sizes: int
    noise_scale_tokens: float | None


@dataclass(frozen=True)
class SizeHeldOut:
    """The largest size predicted from the others: mean and root-mean-square error of its ln tokens."""

    params: float
    observations: int
    bias: float
    error: float


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its 90% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Convergence:
    """The joint fit. N: non-embedding parameters; tokens and batches in tokens.

    Args:
        levels: losses in nats a token, falling, shape (k,).
        point: fitted parameters, shape (p,): k intercepts, k exponents of N, then `SHARED` in order.
        draws: bootstrap over runs, shape (b, p).
        centre: natural logs of the middle N, batch and loss, from which the powers are counted.
        head_flops: h of 6 N + h sqrt(N) FLOPs a token: at one depth, head and attention go with the width.
        observations: what was fitted.
        supports: of each level.
        params_range, batch_range: smallest and largest of the runs.
        runs: with a usable curve.
        usable_share: median share of a run's tokens that was read.
        held_out: the largest size predicted from the others; None where there are too few.
        warnings: each one line.
    """

    levels: np.ndarray
    point: np.ndarray
    draws: np.ndarray
    centre: tuple[float, float, float]
    head_flops: float
    observations: Observations
    supports: tuple[LevelSupport, ...]
    params_range: tuple[float, float]
    batch_range: tuple[float, float]
    runs: int
    usable_share: float
    held_out: SizeHeldOut | None
    warnings: tuple[str, ...]

    @cached_property
    def _both(self) -> np.ndarray:
        return np.concatenate([self.point[None], self.draws])

    def _interval(self, logs: np.ndarray) -> Interval:
        low, high = np.exp(np.quantile(logs[1:], (0.05, 0.95)))
        return Interval(float(np.exp(logs[0])), float(low), float(high))

    def size_exponent(self, level: int) -> Interval:
        """d ln D_min / d ln N at a level: below 0 where larger models need fewer tokens."""
        values = self._both[:, len(self.levels) + level]
        return Interval(float(values[0]), *np.quantile(values[1:], (0.05, 0.95)).tolist())

    def step_exponent(self, level: int) -> Interval:
        """d ln S_min / d ln N at a level: that of the tokens less that of the critical batch."""
        values = self._both[:, len(self.levels) + level] - self._shared("critical_params")
        return Interval(float(values[0]), *np.quantile(values[1:], (0.05, 0.95)).tolist())

    def min_tokens(self, level: int, params: float) -> Interval:
        """D_min: tokens at a batch far below the critical one and the best rate."""
        return self._interval(self._ln_tokens(level, params))

    def tokens(self, level: int, params: float, batch_tokens: float) -> Interval:
        """D at a batch and its best rate."""
        batch = np.logaddexp(0.0, np.log(batch_tokens) - self._ln_critical(level, params))
        return self._interval(self._ln_tokens(level, params) + batch)

    def critical_batch(self, level: int, params: float) -> Interval:
        """B_crit in tokens."""
        return self._interval(self._ln_critical(level, params))

    def min_steps(self, level: int, params: float) -> Interval:
        """S_min: steps at a batch far above the critical one."""
        return self._interval(self._ln_tokens(level, params) - self._ln_critical(level, params))

    def min_flops(self, level: int, params: float) -> Interval:
        """FLOPs of D_min tokens, at `flops_per_token`."""
        return self._interval(self._ln_tokens(level, params) + np.log(self.flops_per_token(params)))

    def flops_per_token(self, params: float) -> float:
        """6 N + h sqrt(N): the study's convention at the shapes of its models, 6 N for much larger ones."""
        return 6 * params + self.head_flops * params**0.5

    def adjusted_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Each run's tokens without what its rate cost, and without the batch's part as well; both (n,)."""
        predicted = _predict(self.point, self._design)
        ln_tokens = self.observations.ln_tokens
        without_rate = ln_tokens - predicted.rate
        return np.exp(without_rate), np.exp(without_rate - predicted.batch)

    @cached_property
    def _design(self) -> "_Design":
        return _Design.of(self.observations, self.levels, self.centre)

    def _shared(self, name: str) -> np.ndarray:
        return self._both[:, 2 * len(self.levels) + list(SHARED).index(name)]

    def _ln_tokens(self, level: int, params: float) -> np.ndarray:
        size = np.log(params) - self.centre[0]
        return self._both[:, level] + self._both[:, len(self.levels) + level] * size

    def _ln_critical(self, level: int, params: float) -> np.ndarray:
        return (
            self._shared("ln_critical")
            + self._shared("critical_loss") * (np.log(self.levels[level]) - self.centre[2])
            + self._shared("critical_params") * (np.log(params) - self.centre[0])
        )


def fit_convergence(
    curves: Sequence[RunCurve],
    levels: Sequence[float] | None = None,
    rate_share: float = RATE_SHARE,
    draws: int = DRAWS,
    seed: int = 0,
) -> Convergence:
    """Fits tokens to a set of losses, and the critical batch, to all curves jointly.

    Args:
        curves: of runs that ended well or badly; those with too short a usable part are left out.
        levels: losses; None chooses them.
        rate_share: share of its peak down to which the learning rate may fall, in (0, 1].
        draws: bootstrap resamples of the runs.
        seed: of the resampling.

    Raises:
        LawError: no or too few usable curves, one size, or levels that too few runs reach.
    """
    curves, parts = _usable(curves, rate_share)
    params = np.array([curve.params for curve in curves])
    if levels is None:
        levels = choose_levels(params, parts)
    kept, notes = _reached(curves, parts, sorted(levels, reverse=True))
    observations = observe(curves, parts, kept)
    centre = (
        float(np.mean(np.log(np.unique(params)))),
        float(np.median([np.log(curve.batch_tokens) for curve in curves])),
        float(np.mean(np.log(kept))),
    )
    design = _Design.of(observations, np.array(kept), centre)
    prior = _Prior.of(design)
    weights = np.ones(len(curves))
    point = _fit(design, weights, prior, prior.mean)
    rng = np.random.default_rng(seed)
    resampled = [
        _fit(
            design,
            np.bincount(rng.integers(0, len(curves), len(curves)), minlength=len(curves)).astype(float),
            prior.recentred(rng),
            point,
        )
        for _ in range(draws)
    ]
    extra = [curve.flops_per_token - 6 * curve.params for curve in curves]
    result = Convergence(
        levels=np.array(kept),
        point=point,
        draws=np.array(resampled),
        centre=centre,
        head_flops=float(np.median(extra / np.sqrt(params))),
        observations=observations,
        supports=tuple(_support(curves, parts, observations, kept)),
        params_range=(float(params.min()), float(params.max())),
        batch_range=_range([curve.batch_tokens for curve in curves]),
        runs=len(curves),
        usable_share=float(np.median([_usable_share(curve, rate_share) for curve in curves])),
        held_out=_hold_out(design, weights, prior, point, params),
        warnings=(),
    )
    rates = _range([curve.learning_rate for curve in curves])
    return _with_warnings(result, [*notes, *_warnings(result, rates)])


def _usable(curves: Sequence[RunCurve], rate_share: float) -> tuple[list[RunCurve], list[Steady]]:
    if not 0 < rate_share <= 1:
        raise LawError(f"rate_share={rate_share} must lie in (0, 1]")
    if not curves:
        raise LawError("there are no loss curves: let a search finish some trials first")
    pairs = [(curve, steady_part(curve, rate_share)) for curve in curves]
    pairs = [(curve, part) for curve, part in pairs if part is not None]
    sizes = {curve.params for curve, _ in pairs}
    if len(pairs) < MIN_REACHED or len(sizes) < MIN_SIZES:
        raise LawError(
            f"{len(pairs)} runs of {len(sizes)} sizes have a usable loss curve (at least {MIN_POINTS} points "
            f"at {rate_share:g} of the peak rate or more): at least {MIN_REACHED} runs of {MIN_SIZES} sizes "
            "are needed"
        )
    return [curve for curve, _ in pairs], [part for _, part in pairs]


def _reached(
    curves: Sequence[RunCurve], parts: Sequence[Steady], levels: Sequence[float]
) -> tuple[list[float], list[str]]:
    """The levels that enough runs and sizes reach, and a line on each of the others."""
    kept, notes = [], []
    for level in levels:
        found = [crossing(part, level) for part in parts]
        sizes = np.array([c.params for c, f in zip(curves, found, strict=True) if f.reached])
        if _enough(sizes):
            kept.append(float(level))
        else:
            notes.append(
                f"loss {level:g} is left out: {len(sizes)} runs of {len(np.unique(sizes))} sizes are seen to "
                f"reach it, {MIN_REACHED} of {MIN_SIZES} are needed"
            )
    if not kept:
        raise LawError("; ".join(notes))
    return kept, notes


@dataclass(frozen=True)
class _Design:
    """The observations in logs, centred; arrays of shape (n,)."""

    run: np.ndarray
    level: np.ndarray
    levels: int
    ln_tokens: np.ndarray
    reached: np.ndarray
    early: np.ndarray
    size: np.ndarray
    batch: np.ndarray
    rate: np.ndarray
    loss: np.ndarray
    middle_batch: float

    @property
    def off_middle_batch(self) -> np.ndarray:
        """ln of the batch over the middle one."""
        return self.batch - self.middle_batch

    @staticmethod
    def of(seen: Observations, levels: np.ndarray, centre: tuple[float, float, float]) -> "_Design":
        return _Design(
            run=seen.run,
            level=seen.level,
            levels=len(levels),
            ln_tokens=seen.ln_tokens,
            reached=seen.reached,
            early=seen.early,
            size=np.log(seen.params) - centre[0],
            batch=np.log(seen.batch_tokens),
            rate=np.log(seen.learning_rate),
            loss=np.log(levels)[seen.level] - centre[2],
            middle_batch=centre[1],
        )

    def without(self, out: np.ndarray) -> "_Design":
        """The observations that are not `out`."""
        arrays = ("run", "level", "ln_tokens", "reached", "early", "size", "batch", "rate", "loss")
        kept = {name: getattr(self, name)[~out] for name in arrays}
        return _Design(**kept, levels=self.levels, middle_batch=self.middle_batch)


@dataclass(frozen=True)
class _Prediction:
    """ln tokens and what they are made of, each of shape (n,), at one set of parameters.

    `batch` and `rate` are the parts of the batch and of the learning rate in `mean`; `saturation` is
    B / (B + B_crit), and `rate_slope` the slope of `rate` in the logarithm of the best rate.
    """

    mean: np.ndarray
    batch: np.ndarray
    rate: np.ndarray
    saturation: np.ndarray
    rate_slope: np.ndarray
    noise: float


def _predict(point: np.ndarray, design: _Design) -> _Prediction:
    """The law of the module's first lines at parameters (p,)."""
    k = design.levels
    shared = dict(zip(SHARED, point[2 * k :], strict=True))
    critical = (
        shared["ln_critical"]
        + shared["critical_loss"] * design.loss
        + shared["critical_params"] * design.size
    )
    best_rate = (
        shared["ln_rate"]
        + shared["rate_params"] * design.size
        + shared["rate_batch"] * design.off_middle_batch
        + shared["rate_loss"] * design.loss
    )
    curvature = np.exp(shared["ln_curvature"])
    batch = np.logaddexp(0.0, design.batch - critical)
    rate = curvature / 2 * (design.rate - best_rate) ** 2
    return _Prediction(
        mean=point[design.level] + point[k + design.level] * design.size + batch + rate,
        batch=batch,
        rate=rate,
        saturation=-np.expm1(-batch),
        rate_slope=-curvature * (design.rate - best_rate),
        noise=float(np.exp(shared["ln_noise"])),
    )


@dataclass(frozen=True)
class _Prior:
    """Independent normals; the intercepts of the levels are as good as free."""

    mean: np.ndarray
    sd: np.ndarray

    @staticmethod
    def of(design: _Design) -> "_Prior":
        k = design.levels
        intercepts = [float(np.median(design.ln_tokens[design.level == i])) for i in range(k)]
        from_runs = {"ln_critical": design.middle_batch, "ln_rate": float(np.median(design.rate))}
        shared = [from_runs.get(name, mean) for name, (mean, _) in SHARED.items()]
        return _Prior(
            np.array([*intercepts, *[SIZE_EXPONENT[0]] * k, *shared]),
            np.array([*[5.0] * k, *[SIZE_EXPONENT[1]] * k, *(sd for _, sd in SHARED.values())]),
        )

    def recentred(self, rng: np.random.Generator) -> "_Prior":
        """The prior as one draw of itself would see it."""
        return _Prior(self.mean + self.sd * rng.standard_normal(len(self.sd)), self.sd)


def _fit(design: _Design, weights: np.ndarray, prior: _Prior, start: np.ndarray) -> np.ndarray:
    """Most probable parameters, shape (p,), with runs weighted: a censored normal likelihood of ln tokens.

    One run's levels are far from independent: each counts as one over the run's number of levels, so that the
    priors meet as many observations as there are runs.
    """
    from scipy.optimize import minimize

    counts = np.bincount(design.run, minlength=len(weights))
    weight = (weights / np.maximum(counts, 1))[design.run]

    def cost(point: np.ndarray) -> tuple[float, np.ndarray]:
        predicted = _predict(point, design)
        each, by_mean, by_rate, by_noise = _surprise(predicted, design)
        off = (point - prior.mean) / prior.sd
        by_level = [design.level == i for i in range(design.levels)]
        by_mean, by_rate, by_noise = by_mean * weight, by_rate * weight, by_noise * weight
        by_critical, by_best = -by_mean * predicted.saturation, by_rate * predicted.rate_slope
        gradient = [by_mean[rows].sum() for rows in by_level]
        gradient += [by_mean[rows] @ design.size[rows] for rows in by_level]
        gradient += [by_critical.sum(), by_critical @ design.loss, by_critical @ design.size]
        gradient += [by_best.sum(), by_best @ design.size, by_best @ design.off_middle_batch]
        gradient += [by_best @ design.loss, by_rate @ predicted.rate, by_noise.sum()]
        return float(each @ weight + off @ off / 2), np.array(gradient) + off / prior.sd

    return minimize(cost, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x


def _surprise(predicted: _Prediction, design: _Design) -> tuple[np.ndarray, ...]:
    """-ln likelihood of each observation, and its slopes in the mean, the rate's part and ln noise; all (n,).

    Beyond the valley's floor its shape is a guess: such runs are noisier by a share of what they lost.
    """
    from scipy.special import log_ndtr

    sd = np.sqrt(predicted.noise**2 + (VALLEY_NOISE * predicted.rate) ** 2)
    z = (design.ln_tokens - predicted.mean) / sd
    side = np.where(design.early, 1.0, -1.0)  # ln D lies before, or beyond, what is given
    log_there = log_ndtr(side * z)
    hazard = side * np.exp(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) - log_there)
    each = np.where(design.reached, 0.5 * z**2 + np.log(sd), -log_there)
    by_mean = np.where(design.reached, -z, hazard) / sd
    by_sd = np.where(design.reached, 1 - z**2, hazard * z) / sd
    by_rate = by_mean + by_sd * VALLEY_NOISE**2 * predicted.rate / sd
    return each, by_mean, by_rate, by_sd * predicted.noise**2 / sd


def _hold_out(
    design: _Design, weights: np.ndarray, prior: _Prior, point: np.ndarray, params: np.ndarray
) -> SizeHeldOut | None:
    """Fits without the largest size; None unless enough sizes remain and the largest reached something."""
    largest = params[design.run] == params.max()
    told = np.zeros(len(largest), dtype=bool)  # at levels that the other sizes reach often enough
    for level in range(design.levels):
        here = design.level == level
        told |= here & _enough(params[design.run[here & design.reached & ~largest]])
    judged = largest & design.reached & told
    if not judged.any():
        return None
    without = _fit(design.without(largest), weights, prior, point)
    off = (_predict(without, design).mean - design.ln_tokens)[judged]
    return SizeHeldOut(
        float(params.max()), int(judged.sum()), float(off.mean()), float(np.sqrt((off**2).mean()))
    )


def _support(
    curves: Sequence[RunCurve], parts: Sequence[Steady], seen: Observations, levels: Sequence[float]
) -> list[LevelSupport]:
    supports = []
    for index, level in enumerate(levels):
        here = seen.level == index
        reached = here & seen.reached
        supports.append(
            LevelSupport(
                int(reached.sum()),
                int((here & ~seen.reached & ~seen.early).sum()),
                int((here & seen.early).sum()),
                len(np.unique(seen.params[reached])),
                noise_scale_near(curves, parts, level),
            )
        )
    return supports


def noise_scale_near(
    curves: Sequence[RunCurve], parts: Sequence[Steady], level: float, within: float = 0.05
) -> float | None:
    """The gradient-noise scale of all measurements at a smoothed loss within 5% of `level`, in tokens.

    Runs are averaged as the ratio of summed variances to summed squares; None where nothing was measured
    there, or where noise left the sum of squares negative.
    """
    square = variance = 0.0
    for curve, part in zip(curves, parts, strict=True):
        if curve.gradient_square is None or curve.gradient_variance is None:
            continue
        measured = np.isfinite(curve.gradient_square) & (curve.tokens > 0)
        loss = np.interp(np.log(curve.tokens[measured]), part.ln_tokens, part.loss, left=np.nan, right=np.nan)
        near = np.abs(np.log(loss / level)) < within
        square += curve.gradient_square[measured][near].sum()
        variance += curve.gradient_variance[measured][near].sum()
    return float(variance / square) if square > 0 and variance > 0 else None


def _usable_share(curve: RunCurve, rate_share: float) -> float:
    return float(curve.tokens[curve.usable(rate_share)].max() / curve.tokens.max())


def _range(values: Sequence[float]) -> tuple[float, float]:
    return float(min(values)), float(max(values))


def _with_warnings(fit: Convergence, warnings: Sequence[str]) -> Convergence:
    from dataclasses import replace

    return replace(fit, warnings=tuple(warnings))


def _warnings(fit: Convergence, rates: tuple[float, float]) -> list[str]:
    said = []
    low, high = fit.params_range
    if high < 10 * low:
        said.append(
            f"N spans a factor of {high / low:.3g}, under a decade: exponents in N rest on little, and a "
            "larger N on less"
        )
    if fit.batch_range[1] < 4 * fit.batch_range[0]:
        said.append(
            f"batches span a factor of {fit.batch_range[1] / fit.batch_range[0]:.3g}: the critical batch is "
            "a guess"
        )
    if fit.usable_share < 0.6:
        said.append(
            f"only {fit.usable_share:.0%} of a run's tokens lie before its learning rate has fallen too far: "
            "schedule=constant or schedule=wsd leaves more"
        )
    said += _level_warnings(fit)
    best = float(np.exp(fit._shared("ln_rate")[0]))
    if not 1.2 * rates[0] < best < rates[1] / 1.2:
        said.append(f"the best learning rate, {best:.2g}, lies on the edge of those that were run")
    return said


def _level_warnings(fit: Convergence) -> list[str]:
    """One line for each thing that is wrong, with the levels that it is wrong at."""
    middle = float(np.exp(fit.centre[0]))
    smallest, largest = fit.batch_range
    wrong: dict[str, list[str]] = {}
    for index, (level, support) in enumerate(zip(fit.levels, fit.supports, strict=True)):
        batch = fit.critical_batch(index, middle)
        unknown = batch.high > WIDE * batch.low
        found = {
            f"fewer than {FIRM_SIZES} sizes reach it, too few for an exponent": support.sizes < FIRM_SIZES,
            "more runs miss it than reach it": support.not_reached > support.reached,
            "the critical batch is not identified: vary the batch more": unknown,
            "the critical batch lies below all batches of the runs": not unknown and batch.value < smallest,
            "the critical batch lies above all batches of the runs": not unknown and batch.value > largest,
        }
        for what, is_so in found.items():
            if is_so:
                wrong.setdefault(what, []).append(f"{level:.3g}")
    return [f"at loss {', '.join(levels)} {what}" for what, levels in wrong.items()]
