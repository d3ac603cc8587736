"""Best learning rate and batch of models of several sizes, by sweeps of real runs, and lines through them.

A sweep walks over a lattice of powers of 2 of rate and batch: it runs a point and its four neighbours, goes
to the best, and ends where all six neighbours (those two along the ridge rate ~ batch among them) are
worse. All runs of a sweep cost the same FLOPs. Runs are kept in a JSON file and not repeated.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from carbs_scaling.files import write_atomically

LatticePoint = tuple[int, int]  # powers of 2 of the rate over `FIRST_RATE`, and of the sequences a step
FIRST_RATE = 0.01
STAR = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
RIDGE = ((1, 1), (-1, -1))
MOST_LOSS = 1e9
EDGE = 0.35  # half a step of the lattice
FAR = 1.08  # runs whose loss is more than this many times the best one's tell nothing of the valley's bottom


@dataclass(frozen=True)
class Model:
    """A model of one size whose rate and batch are swept.

    Args:
        family: of the models that share a law; names the runs with the shape.
        width, depth: of the shape.
        tokens: D of each run.
        overrides: of `search` beside shape and length.
    """

    family: str
    width: int
    depth: int
    tokens: int
    overrides: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name that all runs of this cell share: family, shape and tokens."""
        return f"{self.family} {self.width}x{self.depth} {self.tokens}"


COMPOSING = threading.Lock()


@lru_cache(maxsize=2)
def task_of(model: Model) -> Any:
    """The task whose points have a rate and a batch, as the command line makes it."""
    from hydra import compose, initialize_config_dir

    from carbs_scaling.cli import configuration_folder
    from carbs_scaling.commands.search import build_task, load_search

    fixed = (f"space.width={model.width}", f"space.depth={model.depth}", "study.name=sweep")
    ranges = "space.learning_rate={low: 1e-9, high: 90}", "space.batch_size={low: 1, high: 4096}"
    # Hydra composes in one thread of a process at a time.
    with COMPOSING, initialize_config_dir(str(configuration_folder()), version_base="1.3"):
        composed = compose("search", [*model.overrides, *fixed, *ranges, "budget.flops=1e18"])
        config, task_config = load_search(composed)
    return build_task(config, task_config)


def fixed_length(model: Model) -> Model:
    """The model with runs of `tokens` tokens: its override of tokens a parameter, or of epochs."""
    from dataclasses import replace

    name = "epochs" if "+experiment=vit_digits" in model.overrides else "tokens_per_parameter"
    one = replace(model, overrides=(*model.overrides, f"space.{name}=1"))
    point = {"learning_rate": FIRST_RATE, "batch_size": 1}
    task = task_of(one)
    share = model.tokens / task.legal.roles(point)["tokens"]
    return replace(model, overrides=(*model.overrides, f"space.{name}={share!r}"))


def run_model(model: Model, rate: float, sequences: int, seed: int = 1) -> dict[str, Any]:
    """Trains one model; loss None where it diverged."""
    import torch

    from carbs_scaling.task import TrialContext
    from carbs_scaling.trial import Completed

    torch.set_num_threads(1)
    began = time.process_time()
    point = {"learning_rate": rate, "batch_size": sequences}
    task = task_of(model)
    outcome = task.run(point, TrialContext(0, seed, "cpu"))
    return {
        **task.roles(point),
        "flops": task.flops(point),
        "loss": outcome.loss if isinstance(outcome, Completed) else None,
        "cpu_seconds": time.process_time() - began,
    }


class Runs:
    """Runs by name, from a file or made now.

    Args:
        file: JSON; written after every run.
        processes: runs at once; with 1 they are made in this process.
        train: makes a run of a model, as `run_model`.
    """

    def __init__(
        self, file: Path, processes: int = 1, train: Callable[..., dict[str, Any]] = run_model
    ) -> None:
        self.file, self.processes, self.train = file, processes, train
        self.known: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
        self.pool = ProcessPoolExecutor(processes, get_context("spawn")) if processes > 1 else None
        self._lock = threading.Lock()

    def get(self, key: str, train: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        """The run of a name, made by `train` where it is not there."""
        if key not in self.known:
            pool = self.pool
            made = train(*arguments) if pool is None else pool.submit(train, *arguments).result()
            with self._lock:
                self.known[key] = made
                write_atomically(self.file, (json.dumps(self.known, indent=1) + "\n").encode())
            print(f"{key}: {made['loss']}", flush=True)
        return self.known[key]

    def run(self, model: Model, name: str, rate: float, sequences: int, seed: int = 1) -> dict[str, Any]:
        """A run of a model under a name."""
        key = f"{model.key} {name}"
        if key in self.known:
            return self.known[key]
        whole = fixed_length(model) if self.train is run_model else model
        return self.get(key, self.train, whole, rate, sequences, seed)

    def at(self, model: Model, point: LatticePoint) -> float:
        """Loss at a point of the lattice; infinite where the run diverged."""
        loss = self.run(model, f"{point[0]} {point[1]}", FIRST_RATE * 2.0 ** point[0], 2 ** point[1])["loss"]
        return math.inf if loss is None else float(loss)

    def together(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """Results of independent jobs, as many at once as there are processes."""
        with ThreadPoolExecutor(self.processes) as threads:
            return [future.result() for future in [threads.submit(job) for job in jobs]]

    def cpu_minutes(self, families: Sequence[str]) -> float:
        """CPU minutes that all runs of some families took."""
        names = tuple(f"{family} " for family in families)
        return sum(run["cpu_seconds"] for key, run in self.known.items() if key.startswith(names)) / 60


def walk(
    loss_at: Callable[[LatticePoint], float], start: LatticePoint, most: int = 16
) -> dict[LatticePoint, float]:
    """Losses of the points that a sweep runs, in the order in which it does; batches are at least 1."""
    seen: dict[LatticePoint, float] = {}
    centre = start
    while True:
        for move in (*STAR, *RIDGE):
            point = (centre[0] + move[0], centre[1] + move[1])
            if point[1] < 0 or point in seen:
                continue
            if len(seen) >= most:
                return seen
            seen[point] = loss_at(point)
            # The first star is run whole: it is what a few runs of a new family are.
            if move in RIDGE and seen[point] < seen[centre]:
                break
            if len(seen) > len(STAR) and seen[point] < seen[centre]:
                break
        best = min(seen, key=lambda point: seen[point])
        if best == centre:
            return seen
        centre = best


@dataclass(frozen=True)
class Valley:
    """Losses of some models around their best rate and batch: one paraboloid of a common shape for each.

    Args:
        bottoms: (ln rate, ln batch) of least loss by model, shape (s, 2).
        losses: there, shape (s,).
        hessian: of the loss, shape (2, 2); positive definite where the runs identify a bottom.
        at_edge: whether a bottom would lie beyond the batches that were run, and stands at their end, (s,).
    """

    bottoms: np.ndarray
    losses: np.ndarray
    hessian: np.ndarray
    at_edge: np.ndarray

    @property
    def identified(self) -> bool:
        """Whether the common shape has a bottom."""
        return bool(np.linalg.eigvalsh(self.hessian)[0] > 0)


def fit_valley(
    places: Sequence[np.ndarray],
    losses: Sequence[np.ndarray],
    hessian: np.ndarray | None = None,
    limited: bool = True,
) -> Valley:
    """Least squares of `loss = c + g z + z' H z / 2` with c and g of each model's own, and one H.

    Runs far above a model's best (`FAR`) are left out.

    Args:
        places: (ln rate, ln batch) of each model's runs, shape (n, 2) each.
        losses: shape (n,) each; infinite ones are left out.
        hessian: H where it is known, shape (2, 2); then all runs that did not diverge count.
        limited: whether a best batch beyond those that were run is taken to be at their end.

    Raises:
        ValueError: a model has fewer than three runs near its best.
    """
    rows, values, count = [], [], len(places)
    origins, reaches = [], []
    for number, (z, loss) in enumerate(zip(places, losses, strict=True)):
        near = np.asarray(loss) <= (FAR * np.min(loss) if hessian is None else MOST_LOSS)
        if near.sum() < 3:
            raise ValueError(f"model {number} has {near.sum()} runs near its best: three are needed")
        origins.append(np.asarray(z)[near].mean(axis=0))
        batches = np.asarray(z)[near, 1] - origins[-1][1]
        reaches.append((batches.min() - EDGE, batches.max() + EDGE))
        for place, value in zip(np.asarray(z)[near] - origins[-1], np.asarray(loss)[near], strict=True):
            own = np.zeros(3 * count)
            own[3 * number : 3 * number + 3] = (1, *place)
            bend = (place[0] ** 2 / 2, place[0] * place[1], place[1] ** 2 / 2)
            if hessian is None:
                rows.append(np.append(own, bend))
                values.append(value)
            else:
                rows.append(own)
                values.append(value - place @ hessian @ place / 2)
    solution = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    if hessian is None:
        a, b, c = solution[-3:]
        hessian = np.array([[a, b], [b, c]])
    own = solution[: 3 * count].reshape(count, 3)
    moves = -np.linalg.solve(hessian, own[:, 1:].T).T
    at_edge = np.zeros(count, dtype=bool)
    if limited:
        low, high = np.array(reaches).T
        if np.linalg.eigvalsh(hessian)[0] <= 0:  # no bottom: the best batch is an end
            moves[:, 1] = np.where(own[:, 2] > 0, low, high)
        held = np.clip(moves[:, 1], low, high)
        at_edge = held != moves[:, 1]
        moves[:, 1] = held
        moves[:, 0] = -(own[:, 1] + hessian[0, 1] * held) / hessian[0, 0]
    bends = np.einsum("ni,ij,nj->n", moves, hessian, moves) / 2
    least = own[:, 0] + (own[:, 1:] * moves).sum(axis=1) + bends
    return Valley(np.array(origins) + moves, least, hessian, at_edge)


@dataclass(frozen=True)
class Line:
    """y = intercept + slope x with the interval of its slope."""

    intercept: float
    slope: float
    low: float
    high: float

    def at(self, x: float) -> float:
        """y."""
        return self.intercept + self.slope * x


def fit_line(x: np.ndarray, y: np.ndarray, level: float = 0.9) -> Line:
    """Least squares; the interval is Student's, of the points' scatter around the line.

    Raises:
        ValueError: fewer than three points.
    """
    if len(x) < 3:
        raise ValueError("a line with an interval needs three points")
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    left = y - y.mean() - slope * centred
    error = math.sqrt(float(left @ left) / (len(x) - 2) / float(centred @ centred))
    reach = float(student.ppf((1 + level) / 2, len(x) - 2)) * error
    return Line(float(y.mean() - slope * x.mean()), slope, slope - reach, slope + reach)
