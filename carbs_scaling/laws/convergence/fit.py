"""The fit of the convergence law to loss curves: a censored likelihood, a bootstrap over runs, warnings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from carbs_scaling.laws.convergence.law import (
    SHARED,
    SIZE_EXPONENT,
    Convergence,
    Design,
    LevelSupport,
    Prediction,
    SizeHeldOut,
    predict,
)
from carbs_scaling.laws.convergence.loss_curves import (
    FIRM_SIZES,
    MIN_POINTS,
    MIN_REACHED,
    MIN_SIZES,
    RATE_SHARE,
    Observations,
    RunCurve,
    Steady,
    choose_levels,
    crossing,
    enough,
    noise_scale_near,
    observe,
    steady_part,
)
from carbs_scaling.laws.runs.table import LawArgumentError, LawError

DRAWS = 200  # bootstrap resamples
# Noise of a run away from the best rate, as a share of the cost of that rate in ln D: far from its floor the
# valley's parabola is only a rough form.
VALLEY_NOISE = 0.25
WIDE = 30.0  # ratio of the bounds of a 90% interval from which a quantity counts as not identified


def fit_convergence(
    curves: Sequence[RunCurve],
    levels: Sequence[float] | None = None,
    rate_share: float = RATE_SHARE,
    draws: int = DRAWS,
    seed: int = 0,
) -> Convergence:
    """Fit tokens to a set of losses, and the critical batch, to all curves jointly.

    Args:
        curves: of completed and diverged runs; those with too short a usable part are left out.
        levels: losses in nats a token; None chooses them.
        rate_share: share of the peak rate below which a curve is not used, in (0, 1].
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
    design = Design.of(observations, np.array(kept), centre)
    prior = _Prior.of(design)
    weights = np.ones(len(curves))
    point = _fit(design, weights, prior, prior.mean)
    resampled = _bootstrap(design, prior, point, len(curves), draws, seed)
    extra = [curve.flops_per_token - 6 * curve.params for curve in curves]
    result = Convergence(
        levels=np.array(kept),
        point=point,
        draws=resampled,
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
    return replace(result, warnings=(*notes, *_warnings(result, rates)))


def _bootstrap(
    design: Design, prior: "_Prior", point: np.ndarray, runs: int, draws: int, seed: int
) -> np.ndarray:
    """Refit to resampled runs under resampled prior means, shape (draws, p)."""
    rng = np.random.default_rng(seed)
    resampled = []
    for _ in range(draws):
        weights = np.bincount(rng.integers(0, runs, runs), minlength=runs).astype(float)
        resampled.append(_fit(design, weights, prior.recentred(rng), point))
    return np.array(resampled)


def _usable(curves: Sequence[RunCurve], rate_share: float) -> tuple[list[RunCurve], list[Steady]]:
    if not 0 < rate_share <= 1:
        raise LawArgumentError(f"rate_share={rate_share} must lie in (0, 1]")
    if not curves:
        raise LawError("there are no loss curves: let a search finish some trials first")
    found = [(curve, steady_part(curve, rate_share)) for curve in curves]
    pairs = [(curve, part) for curve, part in found if part is not None]
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
    """Keep the levels that enough runs and sizes reach; returns them and a warning for each other level."""
    kept, notes = [], []
    for level in levels:
        found = [crossing(part, level) for part in parts]
        sizes = np.array([c.params for c, f in zip(curves, found, strict=True) if f.reached])
        if enough(sizes):
            kept.append(float(level))
        else:
            notes.append(
                f"loss {level:g} is left out: {len(sizes)} runs of {len(np.unique(sizes))} sizes reach it, "
                f"{MIN_REACHED} of {MIN_SIZES} are needed"
            )
    if not kept:
        raise LawError("; ".join(notes))
    return kept, notes


@dataclass(frozen=True)
class _Prior:
    """Independent normal priors, nearly flat for the intercepts of the levels; both (p,)."""

    mean: np.ndarray
    sd: np.ndarray

    @staticmethod
    def of(design: Design) -> "_Prior":
        k = design.levels
        intercepts = [float(np.median(design.ln_tokens[design.level == i])) for i in range(k)]
        from_runs = {"ln_critical": design.middle_batch, "ln_rate": float(np.median(design.rate))}
        shared = [from_runs[name] if mean is None else mean for name, (mean, _) in SHARED.items()]
        return _Prior(
            np.array([*intercepts, *[SIZE_EXPONENT[0]] * k, *shared]),
            np.array([*[5.0] * k, *[SIZE_EXPONENT[1]] * k, *(sd for _, sd in SHARED.values())]),
        )

    def recentred(self, rng: np.random.Generator) -> "_Prior":
        """Draw new means from the prior itself."""
        return _Prior(self.mean + self.sd * rng.standard_normal(len(self.sd)), self.sd)


def _fit(design: Design, weights: np.ndarray, prior: _Prior, start: np.ndarray) -> np.ndarray:
    """Find the most probable parameters, shape (p,): a censored normal likelihood of ln tokens.

    The levels of one run are far from independent. Each weighs one over the run's number of levels, so that
    a run counts as one observation against the priors.

    Args:
        design: the observations.
        weights: of the runs, shape (runs,).
        prior: of the parameters.
        start: of the descent, shape (p,).
    """
    from scipy.optimize import minimize

    counts = np.bincount(design.run, minlength=len(weights))
    weight = (weights / np.maximum(counts, 1))[design.run]

    def cost(point: np.ndarray) -> tuple[float, np.ndarray]:
        predicted = predict(point, design)
        each, by_mean, by_rate, by_noise = _negative_log_likelihood(predicted, design)
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

    return np.asarray(minimize(cost, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x)


def _negative_log_likelihood(predicted: Prediction, design: Design) -> tuple[np.ndarray, ...]:
    """-ln likelihood of each observation; slopes in the mean, the rate's part and ln noise; all (n,)."""
    from scipy.special import log_ndtr

    sd = np.sqrt(predicted.noise**2 + (VALLEY_NOISE * predicted.rate) ** 2)
    z = (design.ln_tokens - predicted.mean) / sd
    side = np.where(design.early, 1.0, -1.0)  # ln D lies below, or above, the bound
    log_there = log_ndtr(side * z)
    hazard = side * np.exp(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) - log_there)
    each = np.where(design.reached, 0.5 * z**2 + np.log(sd), -log_there)
    by_mean = np.where(design.reached, -z, hazard) / sd
    by_sd = np.where(design.reached, 1 - z**2, hazard * z) / sd
    by_rate = by_mean + by_sd * VALLEY_NOISE**2 * predicted.rate / sd
    return each, by_mean, by_rate, by_sd * predicted.noise**2 / sd


def _hold_out(
    design: Design, weights: np.ndarray, prior: _Prior, point: np.ndarray, params: np.ndarray
) -> SizeHeldOut | None:
    """Predict the largest size from the others; None where too few remain or it reached no level."""
    largest = params[design.run] == params.max()
    fitted = np.zeros(len(largest), dtype=bool)  # observations at levels that the other sizes reach
    for level in range(design.levels):
        here = design.level == level
        fitted |= here & enough(params[design.run[here & design.reached & ~largest]])
    judged = largest & design.reached & fitted
    if not judged.any():
        return None
    without = _fit(design.without(largest), weights, prior, point)
    off = (predict(without, design).mean - design.ln_tokens)[judged]
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


def _usable_share(curve: RunCurve, rate_share: float) -> float:
    return float(curve.tokens[curve.usable(rate_share)].max() / curve.tokens.max())


def _range(values: Sequence[float]) -> tuple[float, float]:
    return float(min(values)), float(max(values))


def _warnings(fit: Convergence, rates: tuple[float, float]) -> list[str]:
    found = []
    low, high = fit.params_range
    if high < 10 * low:
        found.append(
            f"N spans a factor of {high / low:.3g}, under a decade: exponents in N are uncertain, and "
            "extrapolation to a larger N more so"
        )
    if fit.batch_range[1] < 4 * fit.batch_range[0]:
        found.append(
            f"batches span a factor of {fit.batch_range[1] / fit.batch_range[0]:.3g}: the critical batch is "
            "a guess"
        )
    if fit.usable_share < 0.6:
        found.append(
            f"only {fit.usable_share:.0%} of a run's tokens are at a high enough learning rate: "
            "schedule=constant or schedule=wsd gives more"
        )
    found += _level_warnings(fit)
    best = float(np.exp(fit.shared("ln_rate")[0]))
    if not 1.2 * rates[0] < best < rates[1] / 1.2:
        found.append(f"the best learning rate, {best:.2g}, lies at the edge of those tried")
    return found


def _level_warnings(fit: Convergence) -> list[str]:
    """Write one warning a fault, with all levels that have it."""
    middle = float(np.exp(fit.centre[0]))
    smallest, largest = fit.batch_range
    wrong: dict[str, list[str]] = {}
    for index, (level, support) in enumerate(zip(fit.levels, fit.supports, strict=True)):
        batch = fit.critical_batch(index, middle)
        unknown = batch.high > WIDE * batch.low
        found = {
            f"fewer than {FIRM_SIZES} sizes reach it, too few for an exponent": support.sizes < FIRM_SIZES,
            "more runs do not reach it than reach it": support.not_reached > support.reached,
            "the critical batch is not identified: vary the batch more": unknown,
            "the critical batch lies below all batches of the runs": not unknown and batch.value < smallest,
            "the critical batch lies above all batches of the runs": not unknown and batch.value > largest,
        }
        for what, is_so in found.items():
            if is_so:
                wrong.setdefault(what, []).append(f"{level:.3g}")
    return [f"at loss {', '.join(levels)} {what}" for what, levels in wrong.items()]
