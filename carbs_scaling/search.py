"""The loop: propose -> train -> record -> re-fit, until the budget is spent."""

import dataclasses
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carbs_scaling.config import SearchConfig, to_dict
from carbs_scaling.data.token_files import PreparedText, prepare_text
from carbs_scaling.data.windows import training_windows, validation_windows
from carbs_scaling.errors import CarbsScalingError, ConfigError
from carbs_scaling.executors import Executor
from carbs_scaling.executors.memory import memory_limit
from carbs_scaling.ledger.curves import last_point, read_curve
from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.ledger.study import Study, sole_coordinator, spent_flops
from carbs_scaling.report.live import SearchDisplay
from carbs_scaling.samplers import sampler as samplers
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.projection import LegalSpace
from carbs_scaling.tasks.language_model_space import Space
from carbs_scaling.training.loop import TrainingJob
from carbs_scaling.trial import Status, TrialOutcome

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
# So many trials in a row lost to the machine mean that the machine, not a trial, needs help.
MACHINE_FAILURES_IN_A_ROW = 3
# One shape that does not fit is a lesson; so many in a row are a device that something else fills.
OUT_OF_MEMORY_IN_A_ROW = 10


@dataclasses.dataclass(frozen=True)
class Timings:
    """Where the wall time of a search went, in seconds, for `benchmarks/search_overhead.py`."""

    wall: float
    proposing: float
    recording: float
    display: float


class Stopwatch:
    """Adds up the seconds spent inside its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._begun


def build_space(config: SearchConfig, vocabulary_size: int) -> Space:
    """The space of a search, its dearest recipe capped at `budget.max_trial_fraction` of the budget."""
    return Space(
        config.space,
        config.model,
        vocabulary_size,
        config.budget.convention,
        max_trial_flops=config.budget.flops * config.budget.max_trial_fraction,
        optimizer=config.optimizer.name,
    )


def build_sampler(config: SearchConfig, space: Space) -> samplers.Sampler:
    """The sampler that `sampler` of the configuration names, on the search's own space.

    It never proposes what needs more memory, by estimate, than a trial may have (`executors.memory`).

    Raises:
        ConfigError: an unknown sampler or option, or a limit on memory that no run keeps to.
    """
    options = dict(config.sampler)
    name = options.pop("name", None)
    limit = memory_limit(config, space)
    try:
        legal = LegalSpace(Encoding(space.distributions), space.flops, space.roles, space.project, limit)
    except ValueError as error:
        # Of this search's points only the limit on memory refuses any.
        reason = str(error).replace("allowed()", "executor.memory_bytes")
        raise ConfigError(f"sampler: {reason}") from error
    overhead = config.budget.trial_overhead_flops
    return samplers.build_sampler(name, legal, config.budget.flops, config.study.seed, options, overhead)


def build_executor(config: SearchConfig) -> Executor:
    """The executor that the configuration names."""
    from carbs_scaling.executors.in_process import InProcessExecutor
    from carbs_scaling.executors.processes import ProcessExecutor, worker_environments

    executor = config.executor
    if executor.name == "in_process":
        return InProcessExecutor()
    environments = worker_environments(executor.device, executor.workers)
    return ProcessExecutor(environments, executor.trials_per_worker, executor.retries)


def study_identity(config: SearchConfig, text: PreparedText) -> dict[str, Any]:
    """What must not change while a study lives. Where trials run, and how much may be spent, may."""
    everything = to_dict(config)
    identity = {name: everything[name] for name in ("space", "model", "optimizer", "schedule", "objective")}
    # What is not read or not measured changes nothing, and older ledgers do not have it.
    unread = set() if config.schedule.has_power_decay else {"decay_exponent"}
    unread |= set() if config.schedule.name == "wsd" else {"decay_shape"}
    if config.schedule.name == "wsd" and config.schedule.decay_shape == "linear":
        unread |= {"decay_shape"}
    identity["schedule"] = {k: v for k, v in everything["schedule"].items() if k not in unread}
    if not config.objective.gradient_noise_scale:
        identity["objective"] = {
            k: v for k, v in everything["objective"].items() if k != "gradient_noise_scale"
        }
    identity["budget"] = {"convention": config.budget.convention}
    identity["study"] = {"seed": config.study.seed}
    identity["data"] = {"sha256": text.sha256}
    return identity


class Search:
    """One run of a study: from what the ledger holds until the budget is spent.

    Args:
        config: all of `conf/search.yaml`.
        display: what the person sees.

    Raises:
        CarbsScalingError, OSError: one line each; the ledger keeps all that was done.
    """

    def __init__(self, config: SearchConfig, display: SearchDisplay) -> None:
        self._config = config
        self._display = display
        self._proposing, self._recording, self._showing = Stopwatch(), Stopwatch(), Stopwatch()
        self._last_status: Status | None = None
        self._in_a_row = 0

    def run(self) -> Study:
        """Searches; gives the study with all its trials."""
        begun = time.perf_counter()
        text = prepare_text(self._config.data)
        for windows in (training_windows, validation_windows):
            windows(text, self._config.model.sequence_length)  # too little text is said now, not by a worker
        self._text = text
        self._space = build_space(self._config, text.vocabulary_size)
        self._sampler = build_sampler(self._config, self._space)
        with sole_coordinator(self._config.study), logged_to(self._config.study.folder / "search.log"):
            self._curves = self._config.study.folder / "curves"
            self._curves.mkdir(exist_ok=True)
            self._study = Study.begin(
                self._config.study,
                study_identity(self._config, text),
                self._config.budget.flops,
                self._sampler,
            )
            logger.info("proposals by sampler %s", self._config.sampler["name"])
            self._executor = build_executor(self._config)
            try:
                with self._display:
                    self._loop()
            finally:
                self._executor.close()
            self.timings = Timings(
                time.perf_counter() - begun,
                self._proposing.seconds,
                self._recording.seconds,
                self._showing.seconds,
            )
            logger.info("timings: %s", self.timings)
        return self._study

    def _loop(self) -> None:
        records = self._study.records()
        running: dict[int, TrialRecord] = {}
        with self._showing:
            self._display.note(f"text: {self._text.description}")
            self._display.start([record for record in records if not record.running])
        seed, provenance = self._config.study.seed, self._provenance()
        with self._proposing:
            left_open = self._affordable(self._study.unfinished(self._space, seed, provenance))
        may_propose = True  # what can be paid changes only when a trial ends
        while True:
            while self._executor.free:
                if left_open:
                    record = left_open.pop(0)
                else:
                    with self._proposing:
                        may_propose = may_propose and self._may_propose()
                        if not may_propose:
                            break
                        record = self._study.ask(self._space, seed, provenance)
                self._executor.submit(record.number, self._job(record))
                running[record.number] = record
                with self._showing:
                    self._display.trial_started(record)
            if not running:
                return
            for number, outcome in self._executor.wait(POLL_SECONDS):
                del running[number]
                self._tell(number, outcome)
                may_propose = True
            with self._showing:
                self._show_progress(running)

    def _affordable(self, left_open: list[TrialRecord]) -> list[TrialRecord]:
        """Those that the budget still pays for: it may have been lowered since. The others are closed."""
        remaining = self._config.budget.flops - spent_flops(self._study.records())
        affordable = []
        for record in left_open:
            if record.flops <= remaining:
                remaining -= record.flops
                affordable.append(record)
            else:
                message = "the lowered budget no longer pays for it"
                self._study.tell(
                    record.number, TrialOutcome(Status.MACHINE, 0, 0, 0.0, "unknown", message=message)
                )
        return affordable

    def _may_propose(self) -> bool:
        remaining = self._sampler.remaining_flops(self._study.optuna_study)
        leftover = self._config.budget.stop_below_fraction * self._config.budget.flops
        # A budget just large enough for its first runs is spent on them, however small the rest looks.
        if remaining < max(leftover, self._space.cheapest_flops):
            return False
        return self._sampler.affordable(self._study.optuna_study)

    def _tell(self, number: int, outcome: TrialOutcome) -> None:
        if outcome.status is Status.MACHINE:
            outcome = self._charged_by_curve(number, outcome)
        with self._recording:
            record = self._study.tell(number, outcome)
        with self._showing:
            self._display.trial_ended(record)
        self._in_a_row = self._in_a_row + 1 if outcome.status is self._last_status else 1
        self._last_status = outcome.status
        if outcome.status is Status.MACHINE and self._in_a_row >= MACHINE_FAILURES_IN_A_ROW:
            raise CarbsScalingError(
                f"{self._in_a_row} trials in a row were lost to the machine ({outcome.message}): "
                "mend it, or use fewer executor.workers, and run the same command again; nothing is lost"
            )
        if outcome.status is Status.OUT_OF_MEMORY and self._in_a_row >= OUT_OF_MEMORY_IN_A_ROW:
            raise CarbsScalingError(
                f"{self._in_a_row} trials in a row ran out of memory: free the device, set "
                "executor.micro_batch_tokens, or lower space.width, depth or batch_size; nothing is lost"
            )

    def _charged_by_curve(self, number: int, outcome: TrialOutcome) -> TrialOutcome:
        """A worker that died said nothing: what it spent is read off the loss curve that it left."""
        points = read_curve(self._curve_path(number))
        if not points:
            return outcome
        seconds = max(point.get("seconds", 0.0) for point in points)
        return dataclasses.replace(
            outcome, steps=points[-1]["step"], tokens=points[-1]["tokens"], seconds=seconds
        )

    def _show_progress(self, running: dict[int, TrialRecord]) -> None:
        for number, record in running.items():
            point = last_point(self._curve_path(number))
            if point and "train_loss" in point:
                self._display.trial_progress(number, point["step"] / record.recipe.steps, point["train_loss"])
        self._display.refresh()

    def _curve_path(self, number: int) -> Path:
        return self._curves / f"{number:05d}.jsonl"

    def _provenance(self) -> dict[str, Any]:
        import torch

        return {
            "text_sha256": self._text.sha256,
            "text": self._text.description,
            "flops_convention": self._config.budget.convention,
            "torch": torch.__version__,
            "sampler": self._config.sampler["name"],
        }

    def _job(self, record: TrialRecord) -> TrainingJob:
        return TrainingJob(
            recipe=record.recipe,
            text=self._text,
            optimizer=self._config.optimizer,
            schedule=self._config.schedule,
            objective=self._config.objective,
            device=self._config.executor.device,
            compile=self._config.executor.compile,
            micro_batch_tokens=self._config.executor.micro_batch_tokens,
            curve_path=str(self._curve_path(record.number)),
            cuda_graph=self._config.executor.cuda_graph,
        )


@contextmanager
def logged_to(file: Path) -> Iterator[None]:
    """What the package logs meanwhile goes to `file`, and not into the display."""
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("carbs_scaling")
    before = package.level, package.propagate
    package.setLevel(logging.INFO)
    package.propagate = False
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(before[0])
        package.propagate = before[1]
        handler.close()
