"""`fit_law`: from a table of runs to an optimisation-aware scaling law that says how sure it is.

law = fit_law(runs)
recipe = law.recommend(params=7e9, tokens=1.4e12)
recipe.learning_rate, recipe.interval("learning_rate", level=0.9)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

from carbs_scaling.laws.fit.cliff import FEW_ENOUGH, MOST, far_above, is_cliff, walls_unlike
from carbs_scaling.laws.fit.diagnostics import not_identified, warnings_of
from carbs_scaling.laws.fit.hold_out import hold_out
from carbs_scaling.laws.fit.hyperparameters import refit_others, with_joint_errors
from carbs_scaling.laws.fit.law_fit import LawFit, fit_bent_law
from carbs_scaling.laws.form.bends import BENDS, reach_of
from carbs_scaling.laws.form.law import INDEX
from carbs_scaling.laws.form.valley import Array
from carbs_scaling.laws.hyperparameters.law import varied
from carbs_scaling.laws.prior.prior import BATCH_PARAMETERS, NO_VALLEY, RATE_PARAMETERS, LawPrior
from carbs_scaling.laws.prior.published import PublishedLaw
from carbs_scaling.laws.prior.published_prior import laws_that_speak, prior_of, published_laws
from carbs_scaling.laws.prior.rates import RatePrior, rate_prior
from carbs_scaling.laws.runs.reading import read_runs
from carbs_scaling.laws.runs.rules import Rules, rules_of
from carbs_scaling.laws.runs.table import LawArgumentError, RunTable, cells_of
from carbs_scaling.laws.scaling_law import LawsByOptimizer, ScalingLaw
from carbs_scaling.laws.support import Support, convex_hull

STARTS = ({"ln_gamma": -0.1}, {"ln_gamma": -1.2, "ln_E": -1.5, "ln_alpha": -2.0, "ln_beta": -2.0})

OTHER_ROUNDS = 3  # turns of the law and the other hyperparameters' laws


def fit_law(
    runs: Any,
    optimizer: str | None = None,
    check: bool = True,
    prior_width: float = 1.0,
    prior: str | Sequence[str] | None = None,
    rates: RatePrior | None = None,
    columns: Mapping[str, Any] | None = None,
) -> "ScalingLaw | LawsByOptimizer":
    """The scaling law of a table of runs.

    Args:
        runs: a DataFrame, a mapping of columns, a CSV, TSV, JSON, JSONL or Parquet file, a `Study` or its
            records; with the columns params (non-embedding), tokens, learning_rate, batch_tokens and loss;
            diverged, optimizer, depth, width, weight_decay, beta2, momentum (or beta1) are used where they
            are there. Runs that diverged bound the best learning rate from above; so do those that collapsed
            (`carbs_scaling.laws.runs.collapse`). Where all had one batch, the law is for that.
        optimizer: fit the runs of this one alone.
        check: whether to leave the largest sizes out once and say how they are predicted.
        prior_width: scales the priors' standard deviations: 10 is hardly any prior.
        prior: published laws by name (`"Step Law"`, `["Step Law", "DeepSeek"]`, `"published"` for all), on
            whose rates and batches the fit leans where the runs say little; `"weak"` for none of them. None:
            those of `laws.prior.published_prior.FIELD`, where runs have all roles and an Adam.
        rates: what is known of the best learning rate; None for what the runs' optimizer and parametrization
            say (`laws.prior.rates`).
        columns: where a column stands that has a name of yours, such as `{"loss": "val_bpb"}`; or a formula,
            such as `{"batch_tokens": "batch_size * 2048"}`.

    Returns:
        A `ScalingLaw`; `LawsByOptimizer` where the table has several optimizers and none was chosen.

    Raises:
        LawError: the runs give no law.
    """
    if not (isinstance(prior_width, Real) and 0 < prior_width < np.inf):
        raise LawArgumentError(
            f"prior_width={prior_width!r} must be above 0: 1 as it is, 10 hardly any prior"
        )
    published_laws(prior)  # a wrong name is refused before a table is read
    tables = read_runs(runs, optimizer, columns)
    laws = {}
    for name, table in tables.items():
        own = rate_prior(**table.rate_arguments) if rates is None else rates
        laws[name] = _fit_table(table, check, prior_width, laws_that_speak(prior, table.has_role, own), own)
    return next(iter(laws.values())) if len(laws) == 1 else LawsByOptimizer(laws)


def _fit_table(
    table: RunTable,
    check: bool,
    prior_width: float,
    published: tuple[PublishedLaw, ...],
    rates: RatePrior,
) -> ScalingLaw:
    centre = table.logs.mean(axis=0)
    prior = prior_of(published, float(table.loss.min()), centre, rates).widened(prior_width)
    prior = prior.without_roles(table.has_role)
    starts = []
    for moves in STARTS:
        start = prior.mean.copy()
        for name, value in moves.items():
            start[INDEX[name]] = value if name != "ln_E" else prior.mean[INDEX[name]] + value
        starts.append(start)
    fit = partial(_fit_with_others, centre=centre, prior=prior, starts=starts)
    found = _without_cliff(fit(table), table, fit)
    law = replace(
        found.law,
        warnings=(*warnings_of(found.law, table, found.converged), *found.notes),
        not_identified=not_identified(found.law, prior.scale),
        rates=rates.name,
        prior=tuple(published_law.name for published_law in published),
    )
    if not check:
        return law
    refit = partial(_fit_table, check=False, prior_width=prior_width, published=published, rates=rates)
    held_out = hold_out(table, refit)
    return law if held_out is None else replace(law, held_out=held_out, drift=held_out.drift)


@dataclass(frozen=True)
class _Found:
    """A law, whether it came to rest, and what its warnings say of runs and hyperparameters left out."""

    law: ScalingLaw
    converged: bool
    notes: list[str]


def _without_cliff(found: _Found, table: RunTable, fit: Callable[[RunTable], _Found]) -> _Found:
    """The same without runs beyond a cliff, if there are any."""
    law = found.law
    beyond = far_above(law, table)
    if not beyond.any() or beyond.mean() >= MOST:
        return found
    if len(table) > FEW_ENOUGH and not walls_unlike(law, table):
        return found
    kept = table.take(~beyond)
    better = fit(kept)
    if not is_cliff(law, better.law, kept, table.take(beyond)):
        return found
    # Once more by the better law: the first, whose rates were too low, had seen too many as too high.
    again = far_above(better.law, table)
    if again.any() and again.mean() < MOST and not np.array_equal(again, beyond):
        beyond = again
        better = fit(table.take(~beyond))
    left_out = (
        "runs at high learning rates that lie above the rest as beyond a cliff, not as on a wall, are left "
        f"out: {beyond.sum()}"
    )
    return _Found(replace(better.law, support=law.support), better.converged, [*better.notes, left_out])


def _fit_with_others(table: RunTable, centre: Array, prior: LawPrior, starts: Sequence[Array]) -> _Found:
    """The law of a table, with notes on varied hyperparameters that have no law of their own.

    What those hyperparameters cost a run is taken off its loss, by turns with the law.
    """
    features, full, rules = table.logs - centre, prior, rules_of(table)
    if table.one_batch:
        prior = prior.at_one_batch()
    prior = _at_rules(prior, rules)
    diverged = None if table.diverged_logs is None else table.diverged_logs - centre
    fit = fit_bent_law(features, table.loss, prior, starts, diverged=diverged)
    fit = _settled(fit, table, full, rules)
    law = _law_of(fit, table, centre, features)
    notes: list[str] = []
    for _ in range(OTHER_ROUNDS if varied(table) else 0):
        law, notes = refit_others(law, table)
        if not law.others:
            break
        loss = table.loss - law.excess_of_others(table)
        fit = fit_bent_law(features, loss, prior, (fit.theta,), diverged=diverged)
        fit = _settled(fit, table, full, rules)
        law = replace(_law_of(fit, table, centre, features), others=law.others)
    if law.others:
        law, notes = refit_others(law, table)
        law = with_joint_errors(law, table, prior)
    return _Found(law, fit.converged, notes)


def _at_rules(prior: LawPrior, rules: Rules) -> LawPrior:
    """For runs whose rate or batch follows a rule: taken for the best, and no run is off it."""
    pinned: dict[str, float] = {}
    batch = np.zeros(3)
    if rules.batch is not None:
        batch = rules.batch
        pinned |= dict(zip(("b0", "b_N", "b_D"), batch, strict=True)) | {"ln_k_B": NO_VALLEY, "r_B": 0.0}
    if rules.rate is not None:
        at_best_batch = rules.rate[:3] + rules.rate[3] * batch
        pinned |= dict(zip(("a0", "a_N", "a_D"), at_best_batch, strict=True))
        pinned |= {"a_B": rules.rate[3], "ln_k_e": NO_VALLEY, "r_e": 0.0}
    return prior.pinned(pinned)


def _settled(fit: LawFit, table: RunTable, prior: LawPrior, rules: Rules) -> LawFit:
    """The fit with what its runs cannot tell put in: what other batches and rates would bring is the prior's.

    Where all runs had one batch, as certain; where a rate or batch follows a rule, with the
    prior's standard deviation.
    """
    theta, bend, covariance = fit.theta.copy(), fit.bend.copy(), fit.covariance.copy()
    rows = len(theta) + np.arange(bend.size).reshape(bend.shape)

    def forget(names: tuple[str, ...], kind: str, uncertain: tuple[str, ...]) -> None:
        at = [INDEX[name] for name in names]
        known = [*at, *rows[BENDS.index(kind)]]
        covariance[known, :] = covariance[:, known] = 0.0
        bend[BENDS.index(kind)] = 0.0
        for name in uncertain:
            covariance[INDEX[name], INDEX[name]] = prior.scale[INDEX[name]] ** 2
        for name in set(names) & {"a_B", "ln_k_e", "r_e", "ln_k_B", "r_B"}:
            theta[INDEX[name]] = prior.mean[INDEX[name]]

    spread = fit.spread
    if table.one_batch:
        forget(BATCH_PARAMETERS, "batch", ("a_B",))
        spread = {key: 0.0 if key[1] == "batch" else value for key, value in spread.items()}
    if rules.batch is not None:
        forget(("b0", "b_N", "b_D", "ln_k_B", "r_B"), "batch", ("b0", "b_N", "b_D"))
    if rules.rate is not None:
        forget(RATE_PARAMETERS, "rate", ("a0", "a_N", "a_D", "a_B"))
        of_batch = [INDEX[name] for name in ("b0", "b_N", "b_D")]
        by_batch = prior.mean[INDEX["a_B"]] if table.one_batch else rules.rate[3]
        theta[[INDEX[name] for name in ("a0", "a_N", "a_D")]] = rules.rate[:3] + by_batch * theta[of_batch]
        theta[INDEX["a_B"]] = by_batch
    return replace(fit, theta=theta, bend=bend, covariance=covariance, spread=spread)


def _law_of(fit: LawFit, table: RunTable, centre: Array, features: Array) -> ScalingLaw:

    def spread(kind: str) -> float:
        return float(np.hypot(fit.spread.get(("cell", kind), 0.0), fit.spread.get(("size", kind), 0.0)))

    def four(values: Array) -> tuple[float, float, float, float]:
        n, d, rate, batch = (float(v) for v in values)
        return n, d, rate, batch

    columns = np.stack([table.params, table.tokens, table.learning_rate, table.batch_tokens])
    support = Support(
        source=table.source,
        runs=len(table),
        diverged=table.diverged,
        low=four(columns.min(axis=1)),
        high=four(columns.max(axis=1)),
        largest_run_flops=float(table.flops.max()),
        total_flops=float(table.flops.sum()),
        shape=_shape_law(table),
        by_rule=rules_of(table).names,
        hull=convex_hull(table.logs[:, :2]),
        aspects=_aspects(table),
        lowest_loss=float(table.loss.min()),
        read_as=(*table.read_as, *table.left_out),
    )
    return ScalingLaw(
        theta=tuple(fit.theta.tolist()),
        bend=tuple(map(tuple, fit.bend.tolist())),
        covariance=tuple(map(tuple, fit.covariance.tolist())),
        centre=four(centre),
        reach=reach_of(features),
        spread=(spread("loss"), spread("rate"), spread("batch")),
        seed_sd=float(np.sqrt(fit.noise.seed2)),
        height_sd=float(np.sqrt(fit.noise.height2)),
        support=support,
        optimizer=table.optimizer,
        has_role=table.has_role,
    )


def _aspects(table: RunTable) -> tuple[float, float] | None:
    """Least and greatest width / depth."""
    if table.depth is None or table.width is None:
        return None
    aspect = table.width / table.depth
    return float(aspect.min()), float(aspect.max())


def _shape_law(table: RunTable) -> tuple[float, float, float] | None:
    """ln(width / depth) against ln N through the runs that came near the law of their size and tokens."""
    if table.depth is None or table.width is None:
        return None
    aspect, ln_n = np.log(table.width / table.depth), np.log(table.params)
    excess = np.zeros(len(table))
    for cell in cells_of(table):
        excess[cell] = table.loss[cell] - table.loss[cell].min()
    # A run a tenth of the losses' spread above the best of its cell counts e times less.
    weight = np.exp(-excess / max(0.1 * float(np.std(table.loss)), 1e-9))
    if len(np.unique(np.round(ln_n, 2))) < 3 or np.ptp(ln_n) < 0.5:
        return float(np.average(aspect, weights=weight)), 0.0, float(np.std(aspect))
    slope, intercept = np.polyfit(ln_n, aspect, 1, w=np.sqrt(weight))
    residual = aspect - intercept - slope * ln_n
    return float(intercept), float(slope), float(np.sqrt(np.average(residual**2, weights=weight)))
