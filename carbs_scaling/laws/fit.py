"""`fit_law`: from a table of runs to an optimisation-aware scaling law that says how sure it is.

law = fit_law(runs)
recipe = law.recommend(params=7e9, tokens=1.4e12)
recipe.learning_rate, recipe.interval("learning_rate", level=0.9)
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from carbs_scaling.laws import surface
from carbs_scaling.laws.mixed import BENDS, SurfaceFit, bend_basis, fit_surface, reach_of
from carbs_scaling.laws.runs import MIN_RUNS, LawError, RunTable, read_runs

FORMAT = 1
CONVENTION = (
    "N: non-embedding parameters; D: training tokens; lr: peak learning rate; B: tokens a step; C = 6 N D"
)
DRAWS = 4000
STARTS = ({"ln_gamma": -0.1}, {"ln_gamma": -1.2, "ln_E": -1.5, "ln_alpha": -2.0, "ln_beta": -2.0})
NOT_IDENTIFIED = 0.75  # posterior over prior standard deviation above which the runs have said little
EXPONENTS = {
    "ln_alpha": "of the loss in N",
    "ln_beta": "of the loss in D",
    "a_N": "of the learning rate in N",
    "a_D": "of the learning rate in D",
    "b_N": "of the batch in N",
    "b_D": "of the batch in D",
}
EDGE_SHARE = 1 / 3  # of cells whose best run lies on the edge of their sweep, above which it is said


@dataclass(frozen=True)
class Support:
    """The runs that a law rests on.

    Args:
        source: where they come from.
        runs: how many.
        diverged: how many more were left out.
        low: least N, D, learning rate, batch tokens.
        high: greatest of the same.
        largest_run_flops: 6 N D of the dearest run.
        total_flops: 6 N D summed.
        shape: ln(width / depth) of each size's best run against ln N, as (intercept, slope, residual sd);
            None where the table has no depth and width.
    """

    source: str
    runs: int
    diverged: int
    low: tuple[float, float, float, float]
    high: tuple[float, float, float, float]
    largest_run_flops: float
    total_flops: float
    shape: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class HeldOut:
    """How a law fitted without the largest sizes predicts them.

    Args:
        sizes: the held-out N.
        runs: how many held-out runs.
        loss_error: median absolute error of their losses, at their own learning rate and batch.
        bias: median error over runs of the better half of each cell, predicted less real.
        coverage: share of the best runs of each cell inside its 90% interval of the best loss.
        regret: mean loss that the recommended learning rate and batch cost over the best run, as far as the
            runs of each cell tell; None where no cell was swept.
        drift: what the biases show beyond the law's own uncertainty, in loss for each neper of N (root mean
            square).
    """

    sizes: tuple[float, ...]
    runs: int
    loss_error: float
    bias: float
    coverage: float
    regret: float | None
    drift: float = 0.0


@dataclass(frozen=True)
class Recommendation:
    """What to train a model of N parameters and D tokens with.

    Args:
        params: N.
        tokens: D.
        learning_rate: peak learning rate.
        batch_tokens: tokens a step.
        loss: expected final loss.
        draws: of (ln learning rate, ln batch tokens, loss), shape (m, 3).
        extrapolation: how far N and D lie beyond the runs, as factors; 1 inside.
        optimizer: that the law is for.
        notes: what to keep in mind, one line each.
    """

    params: float
    tokens: float
    learning_rate: float
    batch_tokens: float
    loss: float
    draws: np.ndarray
    extrapolation: tuple[float, float]
    optimizer: str = ""
    notes: tuple[str, ...] = ()

    @property
    def flops(self) -> float:
        """6 N D."""
        return 6.0 * self.params * self.tokens

    def interval(self, name: str, level: float = 0.9) -> tuple[float, float]:
        """Bounds of `learning_rate`, `batch_tokens` or `loss` that hold it with probability `level`.

        They cover what the runs leave open about the law and how single (N, D) scatter around it; for the
        loss also the noise of one run.

        Raises:
            LawError: another name, or a level outside (0, 1).
        """
        names = ("learning_rate", "batch_tokens", "loss")
        if name not in names:
            raise LawError(f"there is no interval of {name!r}: choose from {', '.join(names)}")
        if not 0 < level < 1:
            raise LawError(f"level={level} must lie in (0, 1)")
        low, high = np.quantile(self.draws[:, names.index(name)], [(1 - level) / 2, (1 + level) / 2])
        return (float(low), float(high)) if name == "loss" else (float(np.exp(low)), float(np.exp(high)))


@dataclass(frozen=True)
class ScalingLaw:
    """A fitted law of loss, best learning rate and best batch in N and D.

    Args:
        theta: values of `surface.NAMES`, relative to `centre`.
        bend: second-order terms of the best rate and the best batch, 2 x 3; beyond `reach` their tangents.
        covariance: of theta and bend, 25 x 25.
        centre: (ln N0, ln D0, ln e0, ln B0).
        reach: ((lowest, highest) centred ln N, the same of ln D) of the runs.
        spread: standard deviation of what one cell, and one size, adds: (loss, rate, batch), in nepers or
            loss.
        seed_sd: noise of a run at the floor, in units of the loss.
        height_sd: noise of a run as a share of its height above the floor.
        support: the runs.
        optimizer: that it is for.
        drift: standard deviation of the loss for each neper of N beyond the runs, beside what the parameters
            leave
            open: what the law missed on held-out sizes.
        held_out: goodness of fit without the largest sizes; None where there are too few.
        warnings: one line each.
    """

    theta: tuple[float, ...]
    bend: tuple[tuple[float, ...], ...]
    covariance: tuple[tuple[float, ...], ...]
    centre: tuple[float, float, float, float]
    reach: tuple[tuple[float, float], tuple[float, float]]
    spread: tuple[float, float, float]
    seed_sd: float
    height_sd: float
    support: Support
    optimizer: str = ""
    drift: float = 0.0
    held_out: HeldOut | None = None
    warnings: tuple[str, ...] = ()

    def parameter(self, name: str) -> float:
        """One of `surface.NAMES`, relative to the centre."""
        return self.theta[surface.INDEX[name]]

    def standard_error(self, name: str) -> float:
        """Its standard error."""
        i = surface.INDEX[name]
        return float(np.sqrt(max(self.covariance[i][i], 0.0)))

    def loss(self, params, tokens) -> np.ndarray:
        """Expected loss at the best learning rate and batch, in the broadcast shape of N and D."""
        return surface.floor(np.array(self.theta), *self._centred(params, tokens))

    def run_loss(self, params, tokens, learning_rate, batch_tokens) -> np.ndarray:
        """Expected loss of runs, each argument of shape (n,)."""
        logs = np.log(
            np.stack(np.broadcast_arrays(params, tokens, learning_rate, batch_tokens), axis=-1).astype(float)
        )
        features = logs.reshape(-1, 4) - np.array(self.centre)
        return surface.value_and_slopes(
            np.array(self.theta), features, self._shifts(features[:, 0], features[:, 1])
        )[0]

    def learning_rate(self, params, tokens) -> np.ndarray:
        """Best peak learning rate at the best batch."""
        n, d = self._centred(params, tokens)
        return np.exp(
            self.centre[2] + surface.best_rate(np.array(self.theta), n, d) + self._shifts(n, d)["rate"]
        )

    def batch_tokens(self, params, tokens) -> np.ndarray:
        """Best batch in tokens."""
        n, d = self._centred(params, tokens)
        return np.exp(
            self.centre[3] + surface.best_batch(np.array(self.theta), n, d) + self._shifts(n, d)["batch"]
        )

    def exponents(self, params: float, tokens: float) -> dict[str, float]:
        """Local exponents of the learning rate and the batch at (N, D)."""
        h, found = 1e-3, {}
        for name, curve in (("learning_rate", self.learning_rate), ("batch_tokens", self.batch_tokens)):
            for role, (up, down) in {
                "N": ((params * np.exp(h), tokens), (params * np.exp(-h), tokens)),
                "D": ((params, tokens * np.exp(h)), (params, tokens * np.exp(-h))),
            }.items():
                found[f"{name}_{role}"] = float((np.log(curve(*up)) - np.log(curve(*down))) / (2 * h))
        return found

    def draws(self, params: float, tokens: float, count: int = DRAWS, noise: bool = True) -> np.ndarray:
        """Draws of (ln learning rate, ln batch tokens, loss) at one (N, D), shape (count, 3).

        Args:
            params: N.
            tokens: D.
            count: how many; always the same ones.
            noise: whether the scatter of cells and the noise of a run are in them.
        """
        theta, bend = self._draw_parameters(count)
        n, d = self._centred(params, tokens)
        shifts = np.einsum("ckm,m->ck", bend, bend_basis(n, d, self.reach).reshape(-1))
        out = np.stack(
            [
                self.centre[2] + surface.best_rate(theta, n, d) + shifts[:, 0],
                self.centre[3] + surface.best_batch(theta, n, d) + shifts[:, 1],
                np.full(count, self.loss(params, tokens)),
            ],
            axis=-1,
        )
        # To first order: the loss is nearly linear in what the runs leave open, E against the exponents is
        # not.
        slope = self._loss_slope(n, d)
        own = slope @ np.array(self.covariance)[: len(slope), : len(slope)] @ slope
        beyond = max(float(n) - self.reach[0][1], 0.0)
        sd = np.array([0.0, 0.0, np.sqrt(max(own, 0.0) + (self.drift * beyond) ** 2)])
        if noise:
            scatter = np.array([self.spread[1], self.spread[2], np.hypot(self.spread[0], self.seed_sd)])
            sd = np.hypot(sd, scatter)
        return out + sd * np.random.default_rng(1).normal(size=out.shape)

    def _loss_slope(self, n, d) -> np.ndarray:
        floor_at = np.array([[float(n), float(d), 0.0, 0.0]])
        slopes = surface.value_and_slopes(np.array(self.theta), floor_at)[2][0]
        return np.where(np.isin(surface.NAMES, surface.FLOOR), slopes, 0.0)

    def parameter_draws(self, count: int) -> np.ndarray:
        """Draws of the law's parameters, shape (count, 19); always the same ones."""
        return self._draw_parameters(count)[0]

    def floor_of(self, theta: np.ndarray, params, tokens) -> np.ndarray:
        """As `loss`, for other parameters (..., 19) around the same centre."""
        return surface.floor(theta, *self._centred(params, tokens))

    def _draw_parameters(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = np.linalg.eigh(np.array(self.covariance))
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        z = np.concatenate([self.theta, np.reshape(self.bend, -1)])
        z = z + np.random.default_rng(0).normal(size=(count, len(z))) @ root.T
        return z[:, : len(self.theta)], z[:, len(self.theta) :].reshape(count, len(BENDS), -1)

    def recommend(self, params: float, tokens: float) -> Recommendation:
        """Learning rate, batch and expected loss for a model of N non-embedding parameters and D tokens.

        Raises:
            LawError: N or D is not a positive number.
        """
        for name, value in (("params", params), ("tokens", tokens)):
            if not (np.isfinite(value) and value > 0):
                raise LawError(f"{name}={value} must be a positive number")
        low, high = self.support.low, self.support.high
        beyond = tuple(
            float(max(x / h, lo / x, 1.0))
            for x, lo, h in ((params, low[0], high[0]), (tokens, low[1], high[1]))
        )
        draws = self.draws(params, tokens)
        rate, batch = float(self.learning_rate(params, tokens)), float(self.batch_tokens(params, tokens))
        notes = list(self.warnings)
        if beyond[0] > 30 or beyond[1] > 30:
            notes.append(
                f"N is {beyond[0]:.0f} and D {beyond[1]:.0f} times beyond the runs: far past what was checked"
            )
        if batch > tokens:
            notes.append("the law's batch is larger than all tokens: this target is out of its reach")
        return Recommendation(
            params=float(params),
            tokens=float(tokens),
            learning_rate=rate,
            batch_tokens=batch,
            loss=float(self.loss(params, tokens)),
            draws=draws,
            extrapolation=beyond,
            optimizer=self.optimizer,
            notes=tuple(notes),
        )

    def formula(self) -> str:
        """Loss, learning rate and batch on one line, with units and the parameter-count convention."""
        return f"{'; '.join(self.formulas())} ({CONVENTION})"

    def formulas(self) -> tuple[str, str, str]:
        """Loss, learning rate and batch.

        Where it bends, the exponents are those at the upper edge of the runs, with which it goes on.
        """
        n0, d0 = self.support.high[0], self.support.high[1]
        local = self.exponents(n0 * 1.01, d0 * 1.01)
        rate, batch = float(self.learning_rate(n0, d0)), float(self.batch_tokens(n0, d0))
        gamma, alpha, beta = (np.exp(self.parameter(f"ln_{name}")) for name in ("gamma", "alpha", "beta"))
        share = 1 / (1 + np.exp(-self.parameter("logit_share")))
        scale = np.exp(self.parameter("ln_R"))
        by_n = scale * share**gamma * np.exp(alpha * self.centre[0])
        by_d = scale * (1 - share) ** gamma * np.exp(beta * self.centre[1])

        def powers(name: str) -> str:
            return f"(N/{n0:.3g})^{local[f'{name}_N']:.3f} (D/{d0:.3g})^{local[f'{name}_D']:.3f}"

        return (
            f"L = {np.exp(self.parameter('ln_E')):.3f} + [({by_n:.4g} N^-{alpha:.3f})^{1 / gamma:.2f} + "
            f"({by_d:.4g} D^-{beta:.3f})^{1 / gamma:.2f}]^{gamma:.2f}",
            f"lr = {rate:.3g} {powers('learning_rate')}",
            f"B = {batch:.4g} {powers('batch_tokens')}",
        )

    def to_dict(self) -> dict:
        """As plain JSON types."""
        return {
            "format": FORMAT,
            "kind": "carbs_scaling.ScalingLaw",
            "formula": self.formula(),
            **asdict(self),
        }

    @staticmethod
    def from_dict(values: dict) -> "ScalingLaw":
        """The inverse of `to_dict`.

        Raises:
            LawError: it is not a law of this program's format.
        """
        if values.get("kind") != "carbs_scaling.ScalingLaw" or values.get("format") != FORMAT:
            raise LawError(f"this is no scaling law of format {FORMAT}")
        values = {k: v for k, v in values.items() if k not in ("format", "kind", "formula")}
        support, held_out = _tuples(values.pop("support")), values.pop("held_out")
        return ScalingLaw(
            **_tuples(values),
            support=Support(**support),
            held_out=None if held_out is None else HeldOut(**_tuples(held_out)),
        )

    def save(self, path: str | Path) -> Path:
        """Writes it as JSON."""
        from carbs_scaling.report.files import write_atomically

        return write_atomically(path, (json.dumps(self.to_dict(), indent=1) + "\n").encode())

    @staticmethod
    def load(path: str | Path) -> "ScalingLaw":
        """The inverse of `save`.

        Raises:
            LawError: the file holds no law.
        """
        try:
            values = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise LawError(f"{path} holds no law: {str(error).splitlines()[0]}") from error
        if not isinstance(values, dict):
            raise LawError(f"{path} holds no law")
        return ScalingLaw.from_dict(values)

    def _centred(self, params, tokens) -> tuple[np.ndarray, np.ndarray]:
        n, d = np.log(np.asarray(params, dtype=float)), np.log(np.asarray(tokens, dtype=float))
        return n - self.centre[0], d - self.centre[1]

    def _shifts(self, n, d) -> dict[str, np.ndarray]:
        basis = bend_basis(n, d, self.reach)
        return {kind: basis @ np.array(row) for kind, row in zip(BENDS, self.bend, strict=True)}


class LawsByOptimizer(Mapping[str, ScalingLaw]):
    """One law for each optimizer of a table: they are fitted apart."""

    def __init__(self, laws: dict[str, ScalingLaw]) -> None:
        self._laws = laws

    def __getitem__(self, optimizer: str) -> ScalingLaw:
        return self._laws[optimizer]

    def __iter__(self):
        return iter(self._laws)

    def __len__(self) -> int:
        return len(self._laws)

    def recommend(self, params: float, tokens: float, optimizer: str | None = None) -> Recommendation:
        """As `ScalingLaw.recommend`, by the law of `optimizer`.

        Raises:
            LawError: no optimizer is named, or one without runs.
        """
        if optimizer not in self._laws:
            raise LawError(f"these runs are of {', '.join(self._laws)}: say which with optimizer=NAME")
        return self._laws[optimizer].recommend(params, tokens)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {k: _tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


def fit_law(
    runs: Any, optimizer: str | None = None, check: bool = True, prior_width: float = 1.0
) -> "ScalingLaw | LawsByOptimizer":
    """The scaling law of a table of runs.

    Args:
        runs: a DataFrame, a mapping of columns, a CSV, JSONL or Parquet file, a `Study` or its records; with
            the columns params (non-embedding), tokens, learning_rate, batch_tokens and loss; diverged,
            optimizer, depth, width and seed are used where they are there.
        optimizer: fit the runs of this one alone.
        check: whether to leave the largest sizes out once and say how they are predicted.
        prior_width: scales the priors' standard deviations: 1 is weak, 10 is hardly any.

    Returns:
        A `ScalingLaw`; `LawsByOptimizer` where the table has several optimizers and none was chosen.

    Raises:
        LawError: the runs give no law.
    """
    tables = read_runs(runs)
    if optimizer is not None:
        if optimizer not in tables:
            named = ", ".join(filter(None, tables)) or "no names"
            raise LawError(f"there are no runs of {optimizer!r}: there are {named}")
        tables = {optimizer: tables[optimizer]}
    laws = {name: _fit_table(table, check, prior_width) for name, table in tables.items()}
    return next(iter(laws.values())) if len(laws) == 1 else LawsByOptimizer(laws)


def _fit_table(table: RunTable, check: bool, prior_width: float) -> ScalingLaw:
    logs = table.logs
    centre = logs.mean(axis=0)
    features = logs - centre
    mean, sd = surface.weak_prior(float(table.loss.min()), centre)
    sd = sd * prior_width
    starts = []
    for moves in STARTS:
        start = mean.copy()
        for name, value in moves.items():
            start[surface.INDEX[name]] = value if name != "ln_E" else mean[surface.INDEX[name]] + value
        starts.append(start)
    fit = fit_surface(features, table.loss, mean, sd, tuple(starts))
    law = _law_of(fit, table, centre, features)
    law = replace(law, warnings=tuple(_warnings(law, table, fit, sd)))
    held_out = hold_out(table, prior_width) if check else None
    return law if held_out is None else replace(law, held_out=held_out, drift=held_out.drift)


def _law_of(fit: SurfaceFit, table: RunTable, centre: np.ndarray, features: np.ndarray) -> ScalingLaw:
    columns = (table.params, table.tokens, table.learning_rate, table.batch_tokens)
    spread = tuple(
        float(np.hypot(fit.spread.get(("cell", kind), 0.0), fit.spread.get(("size", kind), 0.0)))
        for kind in ("loss", "rate", "batch")
    )
    support = Support(
        source=table.source,
        runs=len(table),
        diverged=table.diverged,
        low=tuple(float(c.min()) for c in columns),
        high=tuple(float(c.max()) for c in columns),
        largest_run_flops=float(table.flops.max()),
        total_flops=float(table.flops.sum()),
        shape=_shape_law(table),
    )
    return ScalingLaw(
        theta=tuple(fit.theta.tolist()),
        bend=tuple(map(tuple, fit.bend.tolist())),
        covariance=tuple(map(tuple, fit.covariance.tolist())),
        centre=tuple(centre.tolist()),
        reach=reach_of(features),
        spread=spread,
        seed_sd=fit.seed_sd,
        height_sd=fit.height_sd,
        support=support,
        optimizer=table.optimizer,
    )


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


def _warnings(law: ScalingLaw, table: RunTable, fit: SurfaceFit, prior_sd: np.ndarray) -> list[str]:
    said = []
    span = law.support.high[0] / law.support.low[0]
    if span < 10:
        said.append(f"N spans a factor of {span:.1f}, under a decade: exponents in N rest on little")
    if not fit.converged:
        said.append("the fit did not come to rest: take it with care")
    for name, what in EXPONENTS.items():
        if law.standard_error(name) > NOT_IDENTIFIED * prior_sd[surface.INDEX[name]]:
            said.append(f"the exponent {what} is not identified by these runs: it is the prior's")
    if np.exp(law.parameter("ln_E")) < 0.05 * table.loss.min():
        said.append(
            "the irreducible loss is not told apart from 0: if it is not 0, losses far beyond the runs "
            "come out too low"
        )
    for name, role in (("learning_rate", 2), ("batch_tokens", 3)):
        low, high = _edge_share(table, role)
        if max(low, high) > EDGE_SHARE:
            side = "lower" if low >= high else "upper"
            said.append(
                f"the best {name} lies on the {side} edge of the sweep in {max(low, high):.0%} of the swept "
                "cells: widen it"
            )
    return said


def cells_of(table: RunTable) -> list[np.ndarray]:
    """Indices of the runs of each (N, D), logs rounded to 0.01."""
    label = np.unique(np.round(table.logs[:, :2], 2), axis=0, return_inverse=True)[1].reshape(-1)
    return [np.flatnonzero(label == i) for i in range(label.max() + 1)]


def _edge_share(table: RunTable, role: int) -> tuple[float, float]:
    low = high = swept = 0
    for cell in cells_of(table):
        values = table.logs[cell, role]
        if len(np.unique(np.round(values, 3))) < 3:
            continue
        best = values[np.argmin(table.loss[cell])]
        swept += 1
        low += bool(best <= values.min() + 1e-6)
        high += bool(best >= values.max() - 1e-6)
    return (low / swept, high / swept) if swept >= 3 else (0.0, 0.0)


def hold_out(table: RunTable, prior_width: float = 1.0) -> HeldOut | None:
    """Fits without the largest sizes - a quarter of them, at least one - and predicts them."""
    sizes = np.round(np.log(table.params), 2)
    distinct = np.unique(sizes)
    if len(distinct) < 3:
        return None
    cut = distinct[-max(1, len(distinct) // 4)]
    large = sizes >= cut
    if large.sum() < 2 or (~large).sum() < MIN_RUNS:
        return None
    small, held = table.take(~large), table.take(large)
    if any(np.ptp(small.logs[:, role]) < 0.05 for role in range(4)):
        return None
    law = _fit_table(small, False, prior_width)
    predicted = law.run_loss(held.params, held.tokens, held.learning_rate, held.batch_tokens)
    error = predicted - held.loss
    inside, better, regrets, drifts = [], [], [], []
    for cell in cells_of(held):
        best = cell[np.argmin(held.loss[cell])]
        half = cell[held.loss[cell] <= np.median(held.loss[cell])]
        better += half.tolist()
        recipe = law.recommend(held.params[best], held.tokens[best])
        low, high = recipe.interval("loss")
        inside.append(low <= held.loss[best] <= high)
        expected = (recipe.draws[:, 2] - recipe.loss).std()
        beyond = np.log(held.params[best] / law.support.high[0])
        drifts.append((np.median(error[half]) ** 2 - expected**2) / beyond**2)
        regret = _regret(held.take(cell), recipe)
        if regret is not None:
            regrets.append(regret)
    return HeldOut(
        sizes=tuple(np.unique(held.params).tolist()),
        runs=len(held),
        loss_error=float(np.median(np.abs(error))),
        bias=float(np.median(error[better])),
        coverage=float(np.mean(inside)),
        regret=float(np.mean(regrets)) if regrets else None,
        drift=float(np.sqrt(max(np.mean(drifts), 0.0))),
    )


def _regret(cell: RunTable, recipe: Recommendation) -> float | None:
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

    points = cell.logs[:, 2:]
    if len(cell) < 8 or any(len(np.unique(np.round(points[:, i], 3))) < 3 for i in range(2)):
        return None
    return swept_loss(points, cell.loss, recipe, LinearNDInterpolator, NearestNDInterpolator) - float(
        cell.loss.min()
    )


def swept_loss(points: np.ndarray, loss: np.ndarray, recipe: Recommendation, linear, nearest) -> float:
    """Loss of a recommendation in a swept cell: linear in ln rate and ln batch, clamped to the sweep."""
    at = np.clip(np.log([recipe.learning_rate, recipe.batch_tokens]), points.min(axis=0), points.max(axis=0))
    value = float(linear(points, loss, rescale=True)(*at))
    return value if np.isfinite(value) else float(nearest(points, loss, rescale=True)(*at))
