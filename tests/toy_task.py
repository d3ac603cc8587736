"""A task without a language model in it, and a program that searches it in a process of its own."""

import io
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from carbs_scaling.config import BudgetConfig, EnergyConfig, SearchConfig, StudyConfig
from carbs_scaling.executors import EXECUTORS
from carbs_scaling.task import Point, Task, TrialContext
from carbs_scaling.trial import Completed, Diverged, TrialOutcome

if TYPE_CHECKING:
    from carbs_scaling.ledger.study import Study

BUDGET_FLOPS = 1e6
LIMITS = ("hours", "gpu_hours", "trials")


@dataclass
class ToyTask(Task):
    """Fits a parabola: more samples cost more, a step that is too large diverges."""

    seconds: float = 0.0
    name: str = "toy"
    metric: str = "metres"
    description: str = "a parabola"
    space: dict[str, BaseDistribution] = field(
        default_factory=lambda: {
            "samples": IntDistribution(500, 10_000, log=True),
            "step_length": FloatDistribution(1e-3, 1.0, log=True),
        }
    )

    def flops(self, point: Point) -> float:
        return 20.0 * point["samples"]

    def roles(self, point: Point) -> dict[str, float]:
        return {"tokens": point["samples"], "learning_rate": point["step_length"]}

    def details(self, point: Point) -> dict[str, object]:
        return {"reach": point["samples"] * point["step_length"], "shape": "parabola"}

    def run(self, point: Point, context: TrialContext) -> TrialOutcome:
        time.sleep(self.seconds)
        if point["step_length"] > 0.6:
            return Diverged(progress=0.5, message="the step is too long")
        noise = 0.01 * np.random.default_rng(context.seed).standard_normal()
        valley = 0.1 * np.log(point["step_length"] / 0.03) ** 2
        return Completed(loss=1 + 3 * point["samples"] ** -0.3 + valley + noise, metrics={"height": 2.0})

    def identity(self) -> dict[str, object]:
        return {"parabola": {"width": 2}}


@dataclass
class DyingTask(ToyTask):
    """The toy, whose process is killed in a run while there is a file that says so."""

    dies_at: str = ""

    def run(self, point: Point, context: TrialContext) -> TrialOutcome:
        if self.dies_at and Path(self.dies_at).exists():
            Path(self.dies_at).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(point, context)


def toy_config(directory, name, executor, sampler="carbs", **options) -> SearchConfig:
    """A search of some tens of trials."""
    own = {"retries": 0}
    own |= (
        {"trials_per_worker": None, "gpus_per_trial": 1, "trial_minutes": None}
        if executor == "processes"
        else {}
    )
    workers, warm_start = options.pop("workers", 1), options.pop("warm_start", [])
    logger, first = options.pop("logger", []), options.pop("first", [])
    config_type = EXECUTORS.load(executor).config_type
    return SearchConfig(
        study=StudyConfig(name, str(directory), None, options.pop("seed", 0)),
        budget=BudgetConfig(
            options.pop("flops", BUDGET_FLOPS), 0.15, 0.0, 0.01, 2e4, *(options.pop(k, None) for k in LIMITS)
        ),
        task={"name": "toy"},
        sampler={"name": sampler, **options},
        warm_start=warm_start,
        first=first,
        logger=logger,
        executor=config_type(name=executor, workers=workers, device="cpu", memory_bytes=None, **own),
        energy=EnergyConfig(measure=False, watts=None, country="world", grams_per_kwh=None),
    )


def search(config: SearchConfig, task: Task | None = None) -> "Study":
    """Runs or goes on with a search, and shows nothing."""
    # Here, so that a worker process does not import them to run the toy.
    from rich.console import Console

    from carbs_scaling.report.live import SearchDisplay
    from carbs_scaling.search import Search

    task = ToyTask() if task is None else task
    console = Console(file=io.StringIO())
    display = SearchDisplay(config.study.name, config.budget.flops, task.metric, console=console)
    return Search(config, task, display).run()


def ledger(study: "Study") -> list[tuple[object, ...]]:
    """All that must be the same after a break."""
    return [(r.number, r.point, r.flops, r.seed, r.status, r.roles, r.details) for r in study.records()] + [
        r.loss for r in study.records() if r.completed
    ]


if __name__ == "__main__":
    search(toy_config(*sys.argv[1:4]), ToyTask(seconds=float(sys.argv[4])))
