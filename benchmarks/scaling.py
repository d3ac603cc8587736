"""Many slots: the share of them that is busy, and what a search loses by proposing before others have ended.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py                                # both tables
    OMP_NUM_THREADS=1 python benchmarks/scaling.py --slots 32 --trials-a-slot 4 --seeds 0

Busy: trials that sleep for a log-normal time with a median of 30 s, in a real search with its ledger in
SQLite, after 300 runs that are known; the sampler really proposes. The slots take no processor, as those of
other machines do. Counted from when all are taken until no trial is begun any more. The clock is the
processor seconds of the search, and sleep is skipped: so the share is that of a machine with a core for the
search, also where others are at work; what the disk takes is left out. `--sleep` takes the real clock.

Regret: on published runs (`replay.py`), at equal FLOPs, when 1, 8 or 32 trials run at a time, each for a time
in proportion to its FLOPs. Counted twice: by what has ended, in that order, where the dearest runs of so many
at once are still on their way; and by what was bought, in the order of proposals, once all of it has ended.
"""

import argparse
import heapq
import io
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import optuna
import torch
from _problems import BANK
from _replay_table import ReplayTable
from _samplers import Spending, Task, build
from replay import MARKS, regret_at
from rich.console import Console

from carbs_scaling import search as search_module
from carbs_scaling import task as task_door
from carbs_scaling.config import BudgetConfig, EnergyConfig, ExecutorConfig, SearchConfig, StudyConfig
from carbs_scaling.errors import BudgetSpent
from carbs_scaling.ledger.imported import FinishedRun
from carbs_scaling.ledger.study import Study
from carbs_scaling.report.live import SearchDisplay
from carbs_scaling.samplers.sampler import new_study
from carbs_scaling.trial import Completed, Diverged, TrialOutcome

MEDIAN_SECONDS, LOG_SD = 30.0, 0.5
KNOWN = 300


@dataclass
class SleepingTask(task_door.Task):
    """A problem of the bank as a task."""

    name: str = "sleep"
    description: str = "trials that sleep"
    problem: object = field(default_factory=lambda: BANK[0])

    def __post_init__(self) -> None:
        self.space = self.problem.distributions
        self.project, self.flops, self.roles = self.problem.project, self.problem.flops, self.problem.roles

    def run(self, point: dict, context: task_door.TrialContext) -> TrialOutcome:
        """The loss at once; the executor lets it take its time."""
        loss = self.problem.loss(point, np.random.default_rng(context.seed))
        return Diverged(progress=1.0, message="diverged") if loss is None else Completed(loss=loss)

    def identity(self) -> dict:
        """Its name."""
        return {"problem": self.problem.name}


class SkippingClock:
    """Processor seconds of this process, and what was slept without sleeping."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def now(self) -> float:
        """Seconds."""
        return time.process_time() + self.skipped

    def sleep(self, seconds: float) -> None:
        """Skips them."""
        self.skipped += seconds


class RealClock:
    """That of the wall."""

    now, sleep = staticmethod(time.monotonic), staticmethod(time.sleep)


class SleepingExecutor:
    """Slots that sleep: on other machines, so that they take nothing of this one."""

    def __init__(self, slots: int, clock: SkippingClock | RealClock) -> None:
        self.slots, self.clock = slots, clock
        self.rng = np.random.default_rng(0)
        self.ends: list[tuple[float, int, TrialOutcome]] = []
        self.spans: list[tuple[float, float]] = []  # begin and end of each trial

    @property
    def free(self) -> int:
        """Slots without a trial."""
        return self.slots - len(self.ends)

    def submit(self, number: int, job) -> None:
        """Begins a sleep."""
        now, long = self.clock.now(), MEDIAN_SECONDS * np.exp(LOG_SD * self.rng.normal())
        self.spans.append((now, now + long))
        heapq.heappush(self.ends, (now + long, number, job()))

    def wait(self, timeout: float) -> list[tuple[int, TrialOutcome]]:
        """Trials whose time is over."""
        first = self.ends[0][0] if self.ends else np.inf
        self.clock.sleep(max(min(first - self.clock.now(), timeout), 0.0))
        ended = []
        while self.ends and self.ends[0][0] <= self.clock.now():
            ended.append(heapq.heappop(self.ends)[1:])
        return ended

    def close(self) -> None:
        """Nothing is left."""


def busy(slots: int, trials_a_slot: int, clock: SkippingClock | RealClock) -> dict:
    """A search of some trials a slot, at least 40, and the share of its slots that were busy."""
    task, executor = SleepingTask(), SleepingExecutor(slots, clock)
    problem, rng = task.problem, np.random.default_rng(1)
    count = max(trials_a_slot * slots, 40)
    with tempfile.TemporaryDirectory() as folder:
        config = SearchConfig(
            study=StudyConfig(f"slots{slots}", folder, None, 0),
            budget=BudgetConfig(50 * problem.budget, 0.15, 0.0, 0.0, 0.0, None, None, count),
            task={"name": "sleep"},
            sampler={"name": "carbs"},
            executor=ExecutorConfig("sleep", slots, "cpu", None, 0),
            energy=EnergyConfig(measure=False, watts=None, country="world", grams_per_kwh=None),
            warm_start=[],
            first=[],
            logger=[],
        )
        sampler = search_module.build_sampler(config, task)
        config.study.folder.mkdir()
        study = Study.begin(config.study, task, config.budget.flops, sampler)
        known = []
        for _ in range(KNOWN):
            point = problem.project(sampler.space.encoding.point(rng.random(len(task.space))))
            known.append(
                FinishedRun(
                    point, problem.loss(point, rng), task.flops(point), "random runs", task.roles(point)
                )
            )
        study.add_runs(task, known)
        entry = mock.Mock()
        entry.load.return_value.from_config.return_value = executor
        display = SearchDisplay(config.study.name, config.budget.flops, console=Console(file=io.StringIO()))
        search = search_module.Search(config, task, display)
        cpu = time.process_time()
        with mock.patch.object(search_module, "EXECUTORS", entry):
            search.run()
        cpu = time.process_time() - cpu
    begun = sorted(begin for begin, _ in executor.spans)
    first, last = begun[min(slots, len(begun)) - 1], begun[-1]
    inside = sum(max(min(end, last) - max(begin, first), 0.0) for begin, end in executor.spans)
    return {
        "slots": slots,
        "trials": len(begun),
        "seconds": last - first,
        "busy": inside / (slots * max(last - first, 1e-9)),
        "filled_after_seconds": first - begun[0],
        "proposing_seconds_a_trial": search.timings.proposing / len(begun),
        "processor_seconds_a_trial": cpu / len(begun),
        "clock": type(clock).__name__,
    }


def regrets(table: ReplayTable, budget: float, parallel: int, seed: int, until: float) -> dict[str, dict]:
    """Regret at shares of the budget when `parallel` run at a time, by what has `ended` and was `bought`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task = Task(table, budget, table.start, table.loss)
    sampler = build("ours", task, seed)
    study = new_study(sampler)
    study.enqueue_trial(table.project(table.start))
    clock, running, ended, bought = 0.0, [], [], []
    while True:
        paid = sum(table.flops(point) for point in ended)
        while len(running) < parallel and paid < until * budget and sampler.affordable(study):
            try:
                trial = study.ask(table.distributions)
            except BudgetSpent:
                break
            point = table.project(trial.params)
            bought.append(point)
            heapq.heappush(running, (clock + table.flops(point), trial.number, trial, point))
        if not running:
            break
        clock, _, trial, point = heapq.heappop(running)
        study.tell(trial, [table.loss(point), table.flops(point)])
        ended.append(point)
    found = {}
    for order, points in (("ended", ended), ("bought", bought)):
        flops = np.array([table.flops(point) for point in points])
        loss = np.array([table.loss(point) for point in points])
        spent = Spending(points, flops, loss, np.zeros(len(points)), {})
        found[order] = {
            f"{mark:.0%}": regret_at(table, spent, mark * budget) for mark in MARKS if mark <= until
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slots", default="1,2,8,32,128")
    parser.add_argument("--trials-a-slot", type=int, default=8)
    parser.add_argument("--sleep", action="store_true", help="really")
    parser.add_argument("--parallel", default="1,8,32")
    parser.add_argument("--seeds", type=int, default=5, help="of the regret; 0 leaves it out")
    parser.add_argument("--until", type=float, default=1.0, help="share of the budget at which to stop")
    parser.add_argument("--table", default="../shared/data/lm_lr_batch_runs.csv", help="CSV of the runs")
    parser.add_argument("--budget", type=float, default=3e21, help="training FLOPs of the regret")
    parser.add_argument("--out", default="benchmarks/results/scaling.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, list] = {"busy": [], "regret": []}
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    print("| slots | trials | busy | proposing, s a trial | processor, s a trial |\n|---|---|---|---|---|")
    for slots in filter(None, arguments.slots.split(",")):
        row = busy(int(slots), arguments.trials_a_slot, RealClock() if arguments.sleep else SkippingClock())
        results["busy"].append(row)
        out.write_text(json.dumps(results, indent=1))
        figures = f"{row['proposing_seconds_a_trial']:.3f} | {row['processor_seconds_a_trial']:.3f}"
        print(f"| {slots} | {row['trials']} | {row['busy']:.1%} | {figures} |", flush=True)
    if not arguments.seeds:
        return
    table = ReplayTable(arguments.table)
    for parallel in map(int, arguments.parallel.split(",")):
        for seed in range(arguments.seeds):
            found = regrets(table, arguments.budget, parallel, seed, arguments.until)
            results["regret"].append({"parallel": parallel, "seed": seed, **found})
            out.write_text(json.dumps(results, indent=1))
        rows = [row for row in results["regret"] if row["parallel"] == parallel]
        marks = list(rows[0]["ended"])
        if parallel == int(arguments.parallel.split(",")[0]):
            print("\n| at a time | by | " + " | ".join(marks) + " |\n|" + "---|" * (len(marks) + 2))
        for order in ("ended", "bought"):
            values = np.array([[row[order][mark] for mark in marks] for row in rows])
            error = values.std(axis=0, ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else 0 * values[0]
            means = [f"{mean:.4f} ±{own:.4f}" for mean, own in zip(values.mean(axis=0), error, strict=True)]
            print(f"| {parallel} | {order} | " + " | ".join(means) + " |", flush=True)


if __name__ == "__main__":
    main()
