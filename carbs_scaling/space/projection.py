"""The legal points of a search with what is known of them before a run: cost, roles, coordinates."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import CategoricalDistribution

from carbs_scaling.laws.form.law import ROLES
from carbs_scaling.laws.prior.prior import LawPrior, law_prior
from carbs_scaling.laws.prior.rates import ADAMW, RatePrior
from carbs_scaling.space.conditions import Conditions
from carbs_scaling.space.encoding import Encoding, Point
from carbs_scaling.space.floor_field import FloorField

if TYPE_CHECKING:
    import torch

Key = tuple[Any, ...]
# Number under which a price is asked for after a run that is not there yet.
NOT_RUN_YET = -1

# Points looked at once to learn the ranges of cost and roles.
_PROBES = 256
_PROBE_SEED = 20250
_KNOWN_ROLES = frozenset(ROLES)


@dataclass(frozen=True)
class Candidates:
    """Legal points, side by side with what is known of them.

    Args:
        points: m points.
        flops: shape (m,).
        cube: unit-cube rows, shape (m, d).
        features: centred log features, shape (m, 4).
    """

    points: list[Point]
    flops: np.ndarray
    cube: np.ndarray
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    @property
    def rows(self) -> "torch.Tensor":
        """The surrogate's inputs, unit-cube columns and features, shape `m x (d + 4)`."""
        import torch

        return torch.from_numpy(np.column_stack([self.cube, self.features]))

    def take(self, indices: Sequence[int] | np.ndarray) -> "Candidates":
        """Those at `indices`."""
        indices = np.asarray(indices, dtype=int)
        return Candidates(
            [self.points[i] for i in indices], self.flops[indices], self.cube[indices], self.features[indices]
        )


@dataclass
class LegalSpace:
    """The caller's space: distributions, cost, roles and projection, and what a look at it tells.

    Args:
        encoding: of the distributions.
        flops: training FLOPs of a point.
        roles: those of `ROLES` that a point has.
        project: the nearest legal point, or None where every point is.
        allowed: whether a legal point may be run at all, or None where every one may.
        rates: what is known of the best learning rate before any run.
        conditions: when dimensions do not matter.
        price: FLOPs that a point would really cost now, given the points of trials that it may go on from, by
            number; None: all that `flops` says. A run of the number `NOT_RUN_YET` is taken to be there.
    """

    encoding: Encoding
    flops: Callable[[Point], float]
    roles: Callable[[Point], Mapping[str, float | None] | None]
    project: Callable[[Point], Point] | None = None
    allowed: Callable[[Point], bool] | None = None
    rates: RatePrior = ADAMW
    conditions: Conditions = field(default_factory=Conditions)
    price: Callable[[Point, Mapping[int, Point]], float] | None = None

    def __post_init__(self) -> None:
        from scipy.stats import qmc

        knobs = qmc.Sobol(self.encoding.knobs, rng=_PROBE_SEED).random(_PROBES)
        points = [self.legal(point) for point in self.encoding.points(knobs)]
        logs = self._log_roles(points)
        params, tokens, rate, batch = (bool(np.isfinite(column).any()) for column in logs.T)
        self.has_role = (params, tokens, rate, batch)
        # A point without a role - of a branch that has none, say - tells nothing of the role's range.
        known = np.isfinite(logs)
        self._low = np.where(self.has_role, np.where(known, logs, np.inf).min(axis=0), 0.0)
        self._high = np.where(self.has_role, np.where(known, logs, -np.inf).max(axis=0), 0.0)
        n, d, e, b = ((self._low + self._high) / 2).tolist()
        self.centre: tuple[float, float, float, float] = (n, d, e, b)
        self._find_extremes(points)
        self.floor_field = self._floor_field(points)
        self.length_names = [] if self.price is None else self._length_knobs()
        self._role_knobs = {name: self._role_knob(name) for name in ("learning_rate", "batch_tokens")}

    def legal(self, point: Point) -> Point:
        """The nearest legal point, inside the distributions.

        Raises:
            ValueError: `project` gave no point.
        """
        if self.project is None:
            return self.conditions.canonical(self.encoding.clip(point))
        projected = self.project(dict(point))
        if not isinstance(projected, Mapping):
            raise ValueError(f"project({point}) gave {projected!r}, which is no point: a dict of its values")
        return self.conditions.canonical(self.encoding.clip({**point, **projected}))

    def point_of(self, params: Mapping[str, Any]) -> Point | None:
        """Parameters of a trial as a point; None where they are of another space, or one is lacking."""
        return self.conditions.completed(params, self.encoding)

    def permits(self, point: Point) -> bool:
        """Whether the caller lets a legal point be run."""
        return self.allowed is None or bool(self.allowed(dict(point)))

    def role_range(self, role: str) -> tuple[float, float] | None:
        """(ln lowest, ln highest) of a role over the space, or None where there is no such role."""
        i = ROLES.index(role)
        return (float(self._low[i]), float(self._high[i])) if self.has_role[i] else None

    def law_prior(self, loss_level: float) -> LawPrior:
        """The prior of the law's parameters for losses of about `loss_level` in this space."""
        ranges = self.role_range("learning_rate"), self.role_range("batch_tokens")
        return law_prior(loss_level, self.centre, self.has_role, *ranges, self.rates)

    def cost(self, point: Point) -> float:
        """Training FLOPs of a point: finite and positive.

        Raises:
            ValueError: `flops` gave something else.
        """
        told = self.flops(point)
        try:
            flops = float(told)
        except (TypeError, ValueError):
            flops = float("nan")
        if not (isfinite(flops) and flops > 0):
            raise ValueError(f"flops({point}) gave {told!r}, which is no positive number")
        return flops

    def prices(self, points: list[Point], completed: Mapping[int, Point]) -> np.ndarray:
        """FLOPs that each of m points would really cost now, at most those of its whole run, shape (m,)."""
        whole = np.array([self.cost(point) for point in points])
        if self.price is None or not len(points):
            return whole
        told = np.array([float(self.price(dict(point), completed)) for point in points])
        if not (np.isfinite(told).all() and (told >= 0).all()):
            raise ValueError(f"price() gave {told[~(told >= 0)][:1]}, which is no number of FLOPs")
        return np.minimum(told, whole)

    def _length_knobs(self) -> list[str]:
        """Dimensions that change a run's tokens and nothing else that laws read; else all that cost."""
        names = [n for n, moves in zip(self.encoding.distributions, self.moves_cost, strict=True) if moves]
        if not self.has_role[1]:
            return names
        found = []
        for name in names:
            knobs = np.full((3, self.encoding.knobs), 0.5)
            knobs[:, list(self.encoding.distributions).index(name)] = (0.3, 0.5, 0.7)
            logs = self._log_roles([self.legal(point) for point in self.encoding.points(knobs)])
            others = np.nan_to_num(logs[:, [0, 2, 3]])
            if np.ptp(logs[:, 1]) > 1e-9 and (np.ptp(others, axis=0) < 1e-9).all():
                found.append(name)
        return found

    def candidates(self, knobs: np.ndarray, but: Set[Key] = frozenset()) -> Candidates:
        """Legal, allowed points nearest to rows of `knobs` (m, k), without repeats.

        Args:
            knobs: shape (m, k).
            but: keys of points that are left out.
        """
        found: dict[Key, Point] = {}
        for point in self.encoding.points(knobs):
            legal = self.legal(point)
            found.setdefault(point_key(legal), legal)
        return self.describe([p for key, p in found.items() if key not in but and self.permits(p)])

    def describe(self, points: list[Point]) -> Candidates:
        """Points that are legal already."""
        if not points:
            width = self.encoding.rows([self.cheapest]).shape[1]
            return Candidates([], np.zeros(0), np.zeros((0, width)), np.zeros((0, 4)))
        flops = np.array([self.cost(point) for point in points])
        return Candidates(points, flops, self.encoding.rows(points), self.features(points))

    def features(self, points: list[Point]) -> np.ndarray:
        """Centred log features, shape (m, 4); 0 for a role that a point does not have."""
        logs = self._log_roles(points)
        return np.where(np.isfinite(logs), logs - np.asarray(self.centre), 0.0)

    def _log_roles(self, points: list[Point]) -> np.ndarray:
        """Logs of the roles, shape (m, 4); nan for a role that a point does not have."""
        return np.log(np.array([self._role_values(point) for point in points]))

    def _role_values(self, point: Point) -> list[float]:
        roles = self.roles(point) or {}
        if not isinstance(roles, Mapping):
            raise ValueError(f"roles({point}) gave {roles!r}, which is no dict of {', '.join(ROLES)}")
        if not roles.keys() <= _KNOWN_ROLES:
            unknown = ", ".join(sorted(str(name) for name in roles.keys() - _KNOWN_ROLES))
            raise ValueError(f"roles() named {unknown}: known are {', '.join(ROLES)}")
        return [self._role_value(point, name, roles.get(name)) for name in ROLES]

    def _role_value(self, point: Point, name: str, value: Any) -> float:
        """The value; nan for a role that the point does not have: None, or no positive number."""
        try:
            return float(value) if value is not None and value > 0 else float("nan")
        except (TypeError, ValueError):
            raise ValueError(f"roles({point}) gave {name}={value!r}, which is no number") from None

    def _find_extremes(self, points: list[Point]) -> None:
        """Cheapest and dearest allowed points: the best probe, improved one dimension at a time."""
        # The corner of lowest values too: a tight limit may leave little else.
        corner = self.legal(self.encoding.point(np.zeros(self.encoding.knobs)))
        points = [point for point in [*points, corner] if self.permits(point)]
        if not points:
            raise ValueError(f"allowed() refuses all of {_PROBES} points of the space: nothing can be run")
        costs = [self.cost(point) for point in points]
        self.cheapest, self.lowest_flops = self._descend(points[int(np.argmin(costs))], 1.0)
        self.dearest, self.highest_flops = self._descend(points[int(np.argmax(costs))], -1.0)
        # A cheap point too: where most of the space is cut down to a limit, nothing seems to cost anything.
        order = np.argsort(costs)
        at = [self.encoding.position(points[order[len(order) // part]]) for part in (10, 2)]
        self.moves_cost = np.array(
            [any(self._matters(knobs, i) for knobs in at) for i in range(self.encoding.knobs)]
        )

    def _floor_field(self, points: list[Point]) -> FloorField:
        cube = self.encoding.rows(points)
        columns = np.flatnonzero(self.encoding.spread_to_columns(self.moves_cost))
        return FloorField.of(cube, self.features(points), columns)

    def _role_knob(self, role: str) -> tuple[int, np.ndarray, np.ndarray] | None:
        """The one dimension that sets a role, its levels, and the role's logs there; None if several do."""
        i = ROLES.index(role)
        if not self.has_role[i]:
            return None
        levels = np.linspace(0.0, 1.0, 33)
        found = None
        for knob, distribution in enumerate(self.encoding.distributions.values()):
            if isinstance(distribution, CategoricalDistribution):
                continue
            knobs = np.full((len(levels), self.encoding.knobs), 0.5)
            knobs[:, knob] = levels
            logs = self._log_roles([self.legal(point) for point in self.encoding.points(knobs)])[:, i]
            if np.ptp(logs) > 1e-9:
                if found is not None or not (np.diff(logs) >= 0).all():
                    return None
                found = knob, levels, logs
        return found

    def set_role(self, knobs: np.ndarray, role: str, logs: np.ndarray) -> None:
        """Moves rows of `knobs` (m, k) in place to where a role has the wanted logs, if one knob sets it."""
        found = self._role_knobs[role]
        if found is not None:
            knob, levels, known = found
            knobs[:, knob] = np.interp(logs, known, levels)

    @property
    def role_knobs(self) -> dict[str, int | None]:
        """The one dimension that sets the learning rate, or the batch; None where none or several do."""
        return {role: None if found is None else found[0] for role, found in self._role_knobs.items()}

    def _levels(self, i: int) -> np.ndarray:
        distribution = list(self.encoding.distributions.values())[i]
        if isinstance(distribution, CategoricalDistribution):
            count = len(distribution.choices)
            return (np.arange(count) + 0.5) / count
        return np.array([0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0])

    def _descend(self, point: Point, sign: float) -> tuple[Point, float]:
        best, cost = point, self.cost(point)
        for _ in range(3):
            before = cost
            for i in range(self.encoding.knobs):
                for level in self._levels(i):
                    knobs = self.encoding.position(best)
                    knobs[i] = level
                    trial = self.legal(self.encoding.point(knobs))
                    there = self.cost(trial)
                    if sign * there < sign * cost and self.permits(trial):
                        best, cost = trial, there
            if cost == before:
                break
        return best, cost

    def _matters(self, knobs: np.ndarray, i: int) -> bool:
        costs = []
        for level in self._levels(i):
            moved = knobs.copy()
            moved[i] = level
            costs.append(self.cost(self.legal(self.encoding.point(moved))))  # `flops` knows legal points only
        return max(costs) > min(costs) * 1.05


def point_key(point: Point) -> Key:
    """A hashable identity of a point, blind to differences in the ninth digit."""
    return tuple(
        f"{v:.9g}" if isinstance(v, float) else (type(v).__name__, v) for _, v in sorted(point.items())
    )
