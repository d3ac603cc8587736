"""A fitted law of loss, best learning rate and best batch: what it answers, its formula, its JSON."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from carbs_scaling.laws.form import law as form
from carbs_scaling.laws.form.bends import ALL_BENDS, bend_basis, loss_wandering, steepness, wander_beyond
from carbs_scaling.laws.form.valley import Array, Values
from carbs_scaling.laws.formula import formula_lines
from carbs_scaling.laws.hyperparameters.law import OtherLaw, log_values, places_of
from carbs_scaling.laws.recipe import Recommendation
from carbs_scaling.laws.runs.table import LawArgumentError, RunTable, whole_count
from carbs_scaling.laws.support import HeldOut, Support, hull_factor, way_beyond
from carbs_scaling.laws.target_notes import target_notes

FORMAT = 5
CONVENTION = (
    "N: non-embedding parameters; D: training tokens; lr: peak learning rate; B: tokens a step; C = 6 N D"
)
DRAWS = 4000
NARROWEST = 0.1  # range of ln N: sizes nearer than that tell no slope
UNTRIED = 0.5  # share of the way of a best rate beyond all that were tried, as its standard deviation


@dataclass(frozen=True)
class ScalingLaw:
    """A fitted law of loss, best learning rate and best batch in N and D.

    Args:
        theta: values of `form.NAMES`, relative to `centre`.
        bend: second-order terms of the logs of best rate, best batch and reducible loss, 3 x 3
            (`carbs_scaling.laws.form.bends`).
        covariance: of theta and bend, 28 x 28.
        centre: (ln N0, ln D0, ln e0, ln B0).
        reach: ((lowest, highest) centred ln N, the same of ln D) of the runs.
        spread: standard deviation of what one cell, and one size, adds: (loss, rate, batch), in logs or
            loss.
        seed_sd: noise of a run at the floor, in units of the loss.
        height_sd: noise of a run as a share of its height above the floor.
        support: the runs.
        optimizer: that it is for.
        drift: standard deviation of the loss a unit of ln N beyond the runs, beside what the parameters leave
            open: what the law missed on held-out sizes.
        held_out: goodness of fit without the largest sizes; None where there are too few.
        warnings: one line each.
        prior: names of the published laws whose exponents it leans on; empty for the weak prior.
        rates: name of the prior of the best learning rate (`laws.prior.rates`).
        others: laws of further hyperparameters that the runs varied.
        has_role: which of `law.ROLES` the runs have.
        not_identified: by `N` and `D`, what has an exponent in it that the runs leave to the prior.
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
    prior: tuple[str, ...] = ()
    rates: str = ""
    others: tuple[OtherLaw, ...] = ()
    has_role: tuple[bool, bool, bool, bool] = (True, True, True, True)
    not_identified: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def parameter(self, name: str) -> float:
        """One of `form.NAMES`, relative to the centre."""
        return self.theta[form.INDEX[name]]

    def standard_error(self, name: str) -> float:
        """Its standard error."""
        i = form.INDEX[name]
        return float(np.sqrt(max(self.covariance[i][i], 0.0)))

    def loss(self, params: npt.ArrayLike, tokens: npt.ArrayLike) -> Array:
        """Expected loss at the best learning rate and batch, in the broadcast shape of N and D."""
        n, d = self._centred(params, tokens)
        return form.floor(np.array(self.theta), n, d, self._shifts(n, d)["floor"])

    def run_loss(
        self,
        params: npt.ArrayLike,
        tokens: npt.ArrayLike,
        learning_rate: npt.ArrayLike,
        batch_tokens: npt.ArrayLike,
    ) -> Array:
        """Expected loss of runs, each argument of shape (n,)."""
        logs = np.log(
            np.stack(np.broadcast_arrays(params, tokens, learning_rate, batch_tokens), axis=-1).astype(float)
        )
        features = logs.reshape(-1, 4) - np.array(self.centre)
        return form.value_and_slopes(
            np.array(self.theta), features, self._shifts(features[:, 0], features[:, 1])
        )[0]

    def learning_rate(self, params: npt.ArrayLike, tokens: npt.ArrayLike) -> Array:
        """Best peak learning rate at the best batch."""
        n, d = self._centred(params, tokens)
        return np.exp(
            self.centre[2] + form.best_rate(np.array(self.theta), n, d) + self._shifts(n, d)["rate"]
        )

    def batch_tokens(self, params: npt.ArrayLike, tokens: npt.ArrayLike) -> Array:
        """Best batch in tokens."""
        n, d = self._centred(params, tokens)
        return np.exp(
            self.centre[3] + form.best_batch(np.array(self.theta), n, d) + self._shifts(n, d)["batch"]
        )

    def draws(self, params: float, tokens: float, count: int = DRAWS, noise: bool = True) -> Array:
        """Draws of (ln learning rate, ln batch tokens, loss) at one (N, D), shape (count, 3).

        Args:
            params: N.
            tokens: D.
            count: how many; always the same ones.
            noise: whether `scatter` is in them.
        """
        theta, bend = self._draw_parameters(count)
        n, d = self._centred(params, tokens)
        shifts = np.einsum("ckm,m->ck", bend, bend_basis(n, d, self.reach).reshape(-1))
        out = np.stack(
            [
                self.centre[2] + form.best_rate(theta, n, d) + shifts[:, 0],
                self.centre[3] + form.best_batch(theta, n, d) + shifts[:, 1],
                np.full(count, self.loss(params, tokens)),
            ],
            axis=-1,
        )
        # To first order: the loss is nearly linear in what the runs leave open, E against the exponents is
        # not.
        slope = self._loss_slope(n, d)
        own = slope @ np.array(self.covariance) @ slope
        (way_n, _), (_, below_d) = self._way(float(n), float(d))
        drifted = self.drift * np.hypot(way_n, below_d)
        sd = np.array([0.0, 0.0, np.sqrt(max(own, 0.0) + drifted**2)])
        if noise:
            sd = np.hypot(sd, self.scatter(params, tokens))
        out = out + sd * np.random.default_rng(1).normal(size=out.shape)
        out[:, 2] = np.maximum(out[:, 2], 0.0)
        return out

    def scatter(self, params: float, tokens: float) -> Array:
        """Deviations of ln learning rate, ln batch and loss that more runs like those made would leave, (3,).

        How a cell and a size lie off the law, what exponents do beyond the runs, and the noise of a run.
        """
        way = self._way_beyond(params, tokens)
        wander = wander_beyond(way)
        of_batch = 0.0 if self.support.one_batch else np.hypot(self.spread[2], wander)
        slope = steepness(self.loss, params, tokens)
        of_loss = slope * wander_beyond(way, loss_wandering(self.support.high[0]))
        n, d = self._centred(params, tokens)
        (way_n, range_n), _ = self._way(float(n), float(d))
        # A slope through sizes that each are off: what a narrow range of N leaves open far from it.
        tilted = self.spread[0] * way_n / max(range_n, NARROWEST)
        untried = self._beyond_rates(params, tokens)
        off_rate = float(form.curvatures(np.array(self.theta), n, d)[0]) * untried**2
        of_loss = np.sqrt(self.spread[0] ** 2 + self.seed_sd**2 + of_loss**2 + tilted**2 + off_rate**2)
        return np.array([np.sqrt(self.spread[1] ** 2 + wander**2 + untried**2), of_batch, of_loss])

    def _way(self, n: float, d: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """(Distance of n from the runs, their range), (how far d lies above them, and below), in logs."""
        (n_low, n_high), (d_low, d_high) = self.reach
        way_n = max(n - n_high, n_low - n, 0.0)
        return (way_n, n_high - n_low), (max(d - d_high, 0.0), max(d_low - d, 0.0))

    def _beyond_rates(self, params: float, tokens: float) -> float:
        """Standard deviation of ln learning rate where the best lies beyond all that were tried."""
        if not self.has_role[2] or "learning_rate" in self.support.by_rule:
            return 0.0
        rate = float(self.learning_rate(params, tokens))
        low, high = self.support.low[2], self.support.high[2]
        return UNTRIED * max(float(np.log(max(low / rate, rate / high))), 0.0)

    def _way_beyond(self, params: float, tokens: float) -> float:
        """Distance from the runs in (ln N, ln D): from their hull, for a box has corners without any run."""
        if self.support.hull:
            return way_beyond(self.support.hull, np.log([float(params), float(tokens)]))
        n, d = self._centred(params, tokens)
        (n_low, n_high), (d_low, d_high) = self.reach
        return float(np.hypot(n - np.clip(n, n_low, n_high), d - np.clip(d, d_low, d_high)))

    def _loss_slope(self, n: Values, d: Values) -> Array:
        """Of the loss at the best rate and batch, by theta and bend."""
        shifts = self._shifts(n, d)
        floor_at = np.array([[float(n), float(d), 0.0, 0.0]])
        slopes = form.value_and_slopes(np.array(self.theta), floor_at, {"floor": shifts["floor"]})[2][0]
        basis = bend_basis(n, d, self.reach).reshape(-1)
        by_bend = [(kind == "floor") * slopes[form.INDEX["ln_R"]] * basis for kind in ALL_BENDS]
        return np.concatenate([np.where(np.isin(form.NAMES, form.FLOOR), slopes, 0.0), *by_bend])

    def excess_of_others(self, table: RunTable, but: str = "") -> Array:
        """What runs lose because hyperparameters with laws in `others` are not at their best, shape (n,).

        Args:
            table: the runs.
            but: a hyperparameter to leave out.
        """
        places, total = self.places(table), np.zeros(len(table))
        for law in self.others:
            x = log_values(table, law.name)
            if law.name != but and x is not None:
                total += np.where(np.isfinite(x), law.excess(np.nan_to_num(x), places), 0.0)
        return total

    def places(self, table: RunTable) -> Array:
        """Where runs lie in the terms of `carbs_scaling.laws.hyperparameters.law`, shape (n, 5)."""
        off_rate = np.log(table.learning_rate / self.learning_rate(table.params, table.tokens))
        off_batch = np.log(table.batch_tokens / self.batch_tokens(table.params, table.tokens))
        return places_of(*self._centred(table.params, table.tokens), off_rate, off_batch)

    def loss_draws(self, params: npt.ArrayLike, tokens: npt.ArrayLike, count: int) -> Array:
        """Draws of `loss` at N and D, each of shape (k,), by what the runs leave open; shape (count, k)."""
        theta, bend = self._draw_parameters(count)
        n, d = self._centred(params, tokens)
        shift = bend[:, ALL_BENDS.index("floor")] @ bend_basis(n, d, self.reach).T
        return form.floor(theta[:, None, :], n, d, shift)

    def _draw_parameters(self, count: int) -> tuple[Array, Array]:
        values, vectors = np.linalg.eigh(np.array(self.covariance))
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        z = np.concatenate([self.theta, np.reshape(self.bend, -1)])
        z = z + np.random.default_rng(0).normal(size=(count, len(z))) @ root.T
        return z[:, : len(self.theta)], z[:, len(self.theta) :].reshape(count, len(self.bend), -1)

    def recommend(self, params: float, tokens: float) -> Recommendation:
        """Learning rate, batch and expected loss for a model of N non-embedding parameters and D tokens.

        Raises:
            LawError: N or D is not a positive number.
        """
        params, tokens = whole_count(params, "params"), whole_count(tokens, "tokens")
        low, high = self.support.low, self.support.high
        beyond = (
            float(max(params / high[0], low[0] / params, 1.0)),
            float(max(tokens / high[1], low[1] / tokens, 1.0)),
        )
        from_hull = hull_factor(self.support.hull, params, tokens)
        draws = self.draws(params, tokens)
        rate, batch = (
            float(curve(params, tokens)) if there else float("nan")
            for curve, there in zip((self.learning_rate, self.batch_tokens), self.has_role[2:], strict=True)
        )
        return Recommendation(
            params=float(params),
            tokens=float(tokens),
            learning_rate=rate,
            batch_tokens=batch,
            loss=float(self.loss(params, tokens)),
            draws=draws,
            batch_exponent=self.parameter("a_B"),
            extrapolation=beyond,
            from_hull=from_hull,
            optimizer=self.optimizer,
            notes=(*self.warnings, *target_notes(self, params, tokens, beyond, from_hull)),
            other={law.name: float(law.value(params, tokens)) for law in self.others},
            other_draws={law.name: law.draws(params, tokens, len(draws)) for law in self.others},
        )

    def formula(self) -> str:
        """Loss, learning rate, batch and further hyperparameters, with units and conventions, on one line."""
        others = (law.formula() for law in self.others)
        return f"{'; '.join((*self.formulas(), *others))} ({CONVENTION})"

    def formulas(self) -> tuple[str, ...]:
        """Loss, learning rate and batch, a line each, exact (`carbs_scaling.laws.formula`)."""
        return formula_lines(self)

    def __str__(self) -> str:
        head = f"scaling law of {self.support.runs} runs ({self.support.source})"
        others = (law.formula() for law in self.others)
        read = f"read: {'; '.join(self.support.read_as)}"
        return "\n".join(
            (
                head,
                *([read] if self.support.read_as else []),
                *self.formulas(),
                *others,
                *(f"warning: {text}" for text in self.warnings),
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "format": FORMAT,
            "kind": "carbs_scaling.ScalingLaw",
            "formula": self.formula(),
            **asdict(self),
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "ScalingLaw":
        """The inverse of `to_dict`.

        Raises:
            LawError: it is not a law of this program's format.
        """
        if values.get("kind") != "carbs_scaling.ScalingLaw" or values.get("format") != FORMAT:
            raise LawArgumentError(f"this is no scaling law of format {FORMAT}")
        try:
            law = ScalingLaw._from_fields(values)
        except (KeyError, TypeError, ValueError) as error:
            raise LawArgumentError(f"this law is damaged: {type(error).__name__} {error}") from error
        size = len(law.theta) + np.size(law.bend)
        if len(law.theta) != len(form.NAMES) or np.shape(law.covariance) != (size, size):
            raise LawArgumentError(
                "this law is damaged: its parameters and their covariance do not belong together"
            )
        return law

    @staticmethod
    def _from_fields(values: dict[str, Any]) -> "ScalingLaw":
        values = {k: v for k, v in values.items() if k not in ("format", "kind", "formula")}
        support, held_out = _tuples(values.pop("support")), values.pop("held_out")
        others = tuple(OtherLaw(**_tuples(law)) for law in values.pop("others", ()))
        return ScalingLaw(
            **_tuples(values),
            support=Support(**support),
            others=others,
            held_out=None if held_out is None else HeldOut(**_tuples(held_out)),
        )

    def save(self, path: str | Path) -> Path:
        """Writes it as JSON."""
        from carbs_scaling.files import write_atomically

        return write_atomically(path, (json.dumps(self.to_dict(), indent=1) + "\n").encode())

    @staticmethod
    def load(path: str | Path) -> "ScalingLaw":
        """The inverse of `save`.

        Raises:
            LawError: the file holds no law.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise LawArgumentError(f"{path} holds no law: {str(error).splitlines()[0]}") from error
        if not isinstance(values, dict):
            raise LawArgumentError(f"{path} holds no law")
        return ScalingLaw.from_dict(values)

    def _centred(self, params: npt.ArrayLike, tokens: npt.ArrayLike) -> tuple[Array, Array]:
        n, d = np.log(np.asarray(params, dtype=float)), np.log(np.asarray(tokens, dtype=float))
        return n - self.centre[0], d - self.centre[1]

    def _shifts(self, n: Values, d: Values) -> dict[str, Array]:
        basis = bend_basis(n, d, self.reach)
        return {kind: basis @ np.array(row) for kind, row in zip(ALL_BENDS, self.bend, strict=True)}


class LawsByOptimizer(Mapping[str, ScalingLaw]):
    """One law for each optimizer of a table: they are fitted apart."""

    def __init__(self, laws: dict[str, ScalingLaw]) -> None:
        self._laws = laws

    def __getitem__(self, optimizer: str) -> ScalingLaw:
        return self._laws[optimizer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._laws)

    def __len__(self) -> int:
        return len(self._laws)

    def recommend(self, params: float, tokens: float, optimizer: str | None = None) -> Recommendation:
        """As `ScalingLaw.recommend`, by the law of `optimizer`.

        Raises:
            LawError: no optimizer is named, or one without runs.
        """
        if optimizer not in self._laws:
            raise LawArgumentError(
                f"these runs are of {', '.join(self._laws)}: say which with optimizer=NAME"
            )
        return self._laws[optimizer].recommend(params, tokens)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {k: _tuples(v) for k, v in value.items()} if isinstance(value, dict) else value
