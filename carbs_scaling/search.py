"""The loop: propose -> train -> record -> re-fit, until the budget is spent."""

import dataclasses
import logging
import re
import time
from pathlib import Path

from carbs_scaling.compute.energy import MeteredJob
from carbs_scaling.config import SearchConfig
from carbs_scaling.errors import CarbsScalingError, ConfigError
from carbs_scaling.executors import EXECUTORS
from carbs_scaling.executors.executor import Executor
from carbs_scaling.executors.memory import gpus_a_trial, require_device, trial_memory_bytes, trials_a_gpu
from carbs_scaling.frontier import pareto_front
from carbs_scaling.ledger.curves import curve_path, last_point, read_curve, seen_curves
from carbs_scaling.ledger.database import LedgerGone, storage_errors
from carbs_scaling.ledger.kept import KeptOutcomes
from carbs_scaling.ledger.lease import NOW, sole_coordinator
from carbs_scaling.ledger.other_studies import runs_of_studies
from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.ledger.study import Study, shortened, spent_flops
from carbs_scaling.loggers.logger import Loggers, logged_run
from carbs_scaling.numbers import scientific
from carbs_scaling.report.live import SearchDisplay
from carbs_scaling.samplers import sampler as samplers
from carbs_scaling.search_limits import SearchLimits
from carbs_scaling.search_log import Stopwatch, Timings, logged_to
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.first_points import FIRST, first_points, not_yet_run
from carbs_scaling.space.projection import LegalSpace
from carbs_scaling.stop_rule import StopRule
from carbs_scaling.task import Job, Limits, Point, Task, TrialContext
from carbs_scaling.trial import MachineFailure, ParentLost, Status, TrialOutcome

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
# A database that is away is asked again so often, and for so long: longer than a server takes to be mended.
RETRY_SECONDS, LONGEST_OUTAGE_SECONDS = 1.0, 3600.0
# So many trials in a row lost to the machine mean that the machine, not a trial, needs help.
MACHINE_FAILURES_IN_A_ROW = 3
# One shape that does not fit is a lesson; so many in a row are a device that something else fills.
OUT_OF_MEMORY_IN_A_ROW = 10
# So many that fail with the same words before any has completed are a program that cannot run at all.
FAILED_ALIKE_IN_A_ROW = 6


def trial_limits(config: SearchConfig) -> Limits:
    """What one trial may cost and need."""
    return Limits(
        config.budget.flops * config.budget.max_trial_fraction,
        trial_memory_bytes(config.executor),
        config.executor.device,
        config.trials,
    )


def build_sampler(config: SearchConfig, task: Task) -> samplers.Sampler:
    """The sampler that `sampler` of the configuration names, on the task's own space.

    It never proposes what the task does not allow, nor what costs more than `budget.max_trial_fraction` or
    less than `budget.min_trial_fraction`.

    Raises:
        ConfigError: an unknown sampler or option, or no point that may be run.
    """
    options = dict(config.sampler)
    name = options.pop("name", None)
    most = trial_limits(config).max_trial_flops
    least = config.budget.flops * config.budget.min_trial_fraction

    def allowed(point: Point) -> bool:
        return least <= task.flops(point) <= most and task.allowed(point)

    try:
        legal = LegalSpace(
            Encoding(task.space), task.flops, task.roles, task.project, allowed, task.rates,
            price=task.price if task.continues else None,
        )  # fmt: skip
    except ValueError as error:
        limits = (
            "budget.flops x budget.min_trial_fraction or x budget.max_trial_fraction, "
            "or the task's limit on memory,"
        )
        raise ConfigError(f"sampler: {str(error).replace('allowed()', limits)}") from error
    budget = config.budget
    return samplers.build_sampler(
        name, legal, budget.flops, config.study.seed, options, budget.trial_overhead_flops, budget.trials
    )


def build_stopper(config: SearchConfig, task: Task, sampler: samplers.Sampler) -> samplers.Sampler | None:
    """Says when a trial is hopeless: the sampler, or ours beside one that has no model; None where none does.

    Raises:
        ConfigError: see `build_sampler`; the task's trials do not stop, or the search is not for the front.
    """
    if config.trials.stopping == "none":
        return None
    if not task.stops:
        raise ConfigError(
            f"trials.stopping=law ends runs of our own training, and trials of task={task.name} are not: "
            "leave it out"
        )
    if config.sampler.get("target") is not None:
        raise ConfigError(
            "trials.stopping=law ends runs that miss the front, and sampler.target buys runs for what they "
            "teach: leave one of them out"
        )
    if not all(sampler.space.has_role[:2]):
        return None  # without N and D there is no law to stop by
    if type(sampler).stop_rule is not samplers.Sampler.stop_rule:
        return sampler
    return build_sampler(dataclasses.replace(config, sampler={"name": "carbs"}), task)


class Search:
    """One run of a study: from what the ledger holds until the budget is spent.

    Args:
        config: study, budget, sampler and executor.
        task: what a trial is.
        display: what the person sees.
        sampler: proposes points; None for the one that the configuration names.

    Raises:
        CarbsScalingError, OSError: one line each; the ledger keeps all that was done.
    """

    def __init__(
        self,
        config: SearchConfig,
        task: Task,
        display: SearchDisplay,
        sampler: samplers.Sampler | None = None,
    ) -> None:
        self._config = config
        self._task = task
        self._display = display
        self._sampler = sampler
        self._proposing, self._recording, self._showing = Stopwatch(), Stopwatch(), Stopwatch()
        self._begun = False  # whether a trial was: from then on nothing is taken back
        self._last_status: Status | None = None
        self._in_a_row = 0
        # Words of the last failure and how often they came; None once there is a loss.
        self._alike: tuple[str, int] | None = ("", 0)
        self._why_it_ends = ""
        self._left_open: list[TrialRecord] = []
        self._running: dict[int, TrialRecord] = {}
        self._may_ask = True  # what can be paid changes only when a trial ends
        self._gone_since: float | None = None  # clock of when the ledger could not be reached

    def run(self) -> Study:
        """Searches; gives the study with all its trials."""
        begun = time.perf_counter()
        # Whatever can be refused is refused before anything is written; what is refused later is taken back.
        require_device(self._config.executor)
        self._limits = SearchLimits(self._config)
        sampler = build_sampler(self._config, self._task) if self._sampler is None else self._sampler
        self._stopper = build_stopper(self._config, self._task, sampler)
        self._loggers = Loggers(self._config.logger, self._config.study.name, self._config.study.folder)
        study, folder = self._config.study, self._config.study.folder
        executor: Executor = EXECUTORS.load(self._config.executor.name).from_config(
            self._config.executor, folder / "executor"
        )
        known = runs_of_studies(study, self._config.warm_start, self._task)
        self._first = first_points(sampler.space, self._config.first, self._config.budget.flops)
        with (
            sole_coordinator(study, self._kept_at) as self._lease,
            logged_to(folder / "search.log"),
        ):
            self._study = Study.begin(study, self._task, self._config.budget.flops, sampler, self._lease)
            self._limits.begin(self._study)
            if known:
                added = self._study.add_runs(self._task, known)
                logger.info("%d runs of %s were imported", added, ", ".join(self._config.warm_start))
            self._curves = folder / "curves"
            self._curves.mkdir(exist_ok=True)
            logger.info("%s; proposals by sampler %s", self._task.description, self._config.sampler["name"])
            try:
                with self._display:
                    self._loop(sampler, executor)
            finally:
                executor.close()
            self.timings = Timings(
                time.perf_counter() - begun,
                self._proposing.seconds,
                self._recording.seconds,
                self._showing.seconds,
            )
            logger.info("timings: %s", self.timings)
        return self._study

    def _kept_at(self, error: Exception) -> bool:
        """Whether an error leaves the study: not where nothing, or a refused trial alone, was begun."""
        refused = isinstance(error, ConfigError) and self._last_status is None
        return self._begun and not refused

    def _loop(self, sampler: samplers.Sampler, executor: Executor) -> None:
        with self._showing:
            left_out = [f"{line}: it is left out" for line in shortened(self._study.faults())]
            for line in (self._task.description, *left_out):
                if line:
                    self._display.note(line)
            self._display.start([record for record in self._study.records() if not record.running])
        energy = self._config.energy
        goal = self._config.sampler.get("goal") or "front"
        # As `compare` groups studies: with another goal, or with stopping, it is another search.
        words = ["" if goal == "front" else f"goal={goal}", "" if self._stopper is None else "stopping=law"]
        self._provenance = {
            "sampler": " ".join([self._config.sampler["name"], *filter(None, words)]),
            "co2_intensity": f"{energy.intensity:g} g a kWh ({energy.intensity_source})",
        }
        self._retire()  # what was not told when the last run of this study ended
        with self._proposing:
            left_open = self._study.unfinished(self._task, self._provenance)
        said = [record.provenance for record in self._study.records()]
        self._first_left = not_yet_run(self._first, said)
        self._kept = KeptOutcomes(self._config.study.folder)
        self._kept.find(left_open)
        self._record_ended()
        recorded = {record.number for record in self._study.records() if not record.running}
        self._left_open = self._affordable([r for r in left_open if r.number not in recorded])
        if any(record.completed and not record.imported for record in self._study.records()):
            self._alike = None
        while True:
            try:
                ended = self._turn(sampler, executor)
            except LedgerGone as error:
                self._outlast(error, executor)
                continue
            if self._gone_since is not None:
                self._note("the ledger is there again")
                self._gone_since = None
            if ended:
                break
        self._kept.close()
        self._note(f"the search ends: {self._why_it_ends}")

    def _turn(self, sampler: samplers.Sampler, executor: Executor) -> bool:
        """Records what has ended and begins what there is room for; whether nothing runs any more.

        Raises:
            LedgerGone: the ledger cannot be reached; the same turn can be taken again.
        """
        self._record_ended()
        asked = self._lease.stop_request()
        if asked == NOW:
            raise KeyboardInterrupt
        if asked is not None:
            self._left_open, self._may_ask = [], False
            self._why_it_ends = "it was asked to (carbs-scaling stop)"
        while executor.free:
            if self._left_open:
                record = self._left_open.pop(0)
                doing = f"going on with trial {record.number}, which was left open"
            else:
                with self._proposing:
                    self._may_ask = self._may_ask and self._may_propose(sampler)
                    if not self._may_ask:
                        break
                    record, doing = self._next(sampler)
            self._begun = True
            try:
                rule = self._stop_rule(record)
            except LedgerGone:
                self._left_open.insert(0, record)
                raise
            executor.submit(record.number, self._job(record, rule))
            self._running[record.number] = record
            with self._showing:
                self._display.trial_started(record, doing)
        if not self._running:
            return True
        self._collect(executor)
        self._record_ended()
        with self._showing:
            self._show_progress()
        return False

    def _collect(self, executor: Executor) -> None:
        """Keeps on disk what ends; it is recorded later."""
        for number, outcome in executor.wait(POLL_SECONDS):
            if isinstance(outcome, MachineFailure):
                outcome = self._progress_by_curve(number, outcome)
            trouble = self._kept.add(self._running.pop(number), outcome)
            if trouble:
                self._note(f"trial {number} is only recorded, and not kept until it is: {trouble}")

    def _record_ended(self) -> None:
        last = None
        while self._kept.waiting:
            record, outcome = self._kept.waiting[0]
            if isinstance(outcome, ParentLost):
                self._left_open += self._begun_anew(record.number, outcome)
            else:
                self._tell(record.number, outcome)
                last = outcome
            self._kept.done()
            self._may_ask = True
        if last is not None:
            self._stop_if_hopeless(last)

    def _outlast(self, error: LedgerGone, executor: Executor) -> None:
        """Waits a moment for a ledger that cannot be reached, while trials go on.

        Raises:
            LedgerGone: it has been away for too long.
        """
        begun = time.monotonic()
        if self._gone_since is None:
            self._gone_since = begun
            said = str(error).partition(": run the same command")[0]
            self._note(f"{said}: waiting for it; trials go on, and are recorded when it is back")
        elif begun - self._gone_since > LONGEST_OUTAGE_SECONDS:
            raise error
        if self._running:
            self._collect(executor)
        time.sleep(max(RETRY_SECONDS - (time.monotonic() - begun), 0.0))

    def _note(self, line: str) -> None:
        logger.info("%s", line)
        with self._showing:
            self._display.note(line)

    def _next(self, sampler: samplers.Sampler) -> tuple[TrialRecord, str]:
        """The next trial, of the person's own points before any proposal, and what it is for."""
        if self._first_left:
            said, point = self._first_left[0]
            record = self._study.ask(self._task, {**self._provenance, FIRST: said}, point)
            del self._first_left[0]
            return record, f"your point {len(self._first) - len(self._first_left)} of {len(self._first)}"
        sampler.doing = ""
        record = self._study.ask(self._task, self._provenance)
        same = [
            other.number
            for other in self._study.records()
            if other.number != record.number and (other.point, other.flops) == (record.point, record.flops)
        ]
        if same:
            return record, f"repeat of trial {same[0]}"
        return record, sampler.doing if record.parent is None else f"continuing trial {record.parent}"

    def _affordable(self, left_open: list[TrialRecord]) -> list[TrialRecord]:
        """Those that the budget still pays for: it may have been lowered since. The others are closed."""
        remaining = self._config.budget.flops - spent_flops(self._study.records())
        affordable = []
        for record in left_open:
            if record.price_flops <= remaining:
                remaining -= record.price_flops
                affordable.append(record)
            else:
                lowered = MachineFailure(message="the lowered budget no longer pays for it")
                self._study.tell(record.number, lowered)
        return affordable

    def _begun_anew(self, number: int, outcome: ParentLost) -> list[TrialRecord]:
        """The trial at its full price, since its parent's state is gone; none if that is too much."""
        record = self._study.begin_anew(number)
        logger.warning("trial %d begins anew: %s", number, outcome.message)
        records = self._study.records()
        committed = sum(other.price_flops for other in records if other.running and other.number != number)
        if record.price_flops <= self._config.budget.flops - spent_flops(records) - committed:
            return [record]
        lost = f"{outcome.message}, and the budget does not pay for the whole run"
        self._study.tell(number, MachineFailure(message=lost))
        return []

    def _may_propose(self, sampler: samplers.Sampler) -> bool:
        records = self._study.records()
        sampler.next_trial_flops = self._limits.next_trial_flops(records)
        reached = self._limits.reached(records, sampler.space.lowest_flops)
        if not reached and not self._flops_remain(sampler):
            reached = f"budget.flops={scientific(self._config.budget.flops)} pays for no further run"
        self._why_it_ends = reached
        return not reached

    def _flops_remain(self, sampler: samplers.Sampler) -> bool:
        leftover = self._config.budget.stop_below_fraction * self._config.budget.flops
        with storage_errors(self._study.name):
            remaining = sampler.remaining_flops(self._study.optuna_study)
            return remaining >= leftover and sampler.affordable(self._study.optuna_study)

    def _tell(self, number: int, outcome: TrialOutcome) -> None:
        with self._recording:
            record = self._study.tell(number, outcome)
            self._study.set_wall_seconds(self._limits.wall_seconds)
            self._retire()
            failed = self._loggers.log(logged_run(self._config.study.name, record, self._curves))
        with self._showing:
            self._display.trial_ended(record)
            for line in failed:
                self._display.note(line)
        self._in_a_row = self._in_a_row + 1 if outcome.status is self._last_status else 1
        self._last_status = outcome.status
        if outcome.status is Status.COMPLETED:
            self._alike = None
        elif self._alike is not None and outcome.status not in (Status.OUT_OF_MEMORY, Status.MACHINE):
            said, count = self._alike
            words = re.sub(r"\d[\d.,e+-]*", "#", outcome.message)  # numbers differ from point to point
            self._alike = (words, count + 1 if words == said else 1)

    def _stop_if_hopeless(self, outcome: TrialOutcome) -> None:
        """Ends the search where trial after trial fails alike; what has ended is told before.

        Raises:
            CarbsScalingError: the last ones were lost to the machine or ran out of memory, or none ran yet.
        """
        if outcome.status is Status.MACHINE and self._in_a_row >= MACHINE_FAILURES_IN_A_ROW:
            raise CarbsScalingError(
                f"{self._in_a_row} trials in a row were lost to the machine ({outcome.message}): "
                "mend it, or use fewer executor.workers, and run the same command again; nothing is lost"
            )
        if outcome.status is Status.OUT_OF_MEMORY and self._in_a_row >= OUT_OF_MEMORY_IN_A_ROW:
            raise CarbsScalingError(
                f"{self._in_a_row} trials in a row ran out of memory ({outcome.message}): free the device, "
                "or set executor.memory_bytes, so that what needs more is not proposed; nothing is lost"
            )
        if self._alike is not None and outcome.message and self._alike[1] >= FAILED_ALIKE_IN_A_ROW:
            raise CarbsScalingError(
                f"the first {self._alike[1]} trials all failed alike ({outcome.message}): mend what is "
                "run, or the space, and take another study.name"
            )

    def _retire(self) -> None:
        """Tells the task which trials are in the ledger, and which of them are not on the front."""
        records = self._study.records()
        ended = [record for record in records if not record.running]
        completed = [record for record in ended if record.completed]
        front = pareto_front([r.flops for r in completed], [r.loss for r in completed])
        on_front = {completed[i].number for i in front}
        off_front = {record.number for record in ended} - on_front
        folder = str(self._config.study.folder)
        self._task.recorded({record.number for record in ended}, folder)
        running = [record for record in records if record.running]
        parents = {record.parent for record in running}
        self._task.retire(off_front - parents, folder)
        if self._task.continues:
            usable = [r.number for r in ended if r.completed or r.status is Status.STOPPED]
            # Parents of running trials, then the front, then the newest: what is proposed next is near those.
            useful = sorted(usable, key=lambda n: (n in parents, n in on_front, n), reverse=True)
            self._task.keep_trunks(useful, [record.number for record in running], folder)

    def _progress_by_curve(self, number: int, outcome: TrialOutcome) -> TrialOutcome:
        """A worker that died said nothing: how far it came is read off the loss curve that it left."""
        points = read_curve(curve_path(self._curves, number))
        if not points:
            return outcome
        progress = max(point.get("progress", 0.0) for point in points)
        return dataclasses.replace(
            outcome, progress=progress, seconds=max(point.get("seconds", 0.0) for point in points)
        )

    def _show_progress(self) -> None:
        for number in self._running:
            point = last_point(curve_path(self._curves, number))
            if point and "progress" in point:
                self._display.trial_progress(number, point["progress"], point.get("train_loss"))
        self._display.refresh()

    def _stop_rule(self, record: TrialRecord) -> StopRule | None:
        if self._stopper is None:
            return None
        with self._proposing:
            curves = seen_curves(self._study.records(), self._curves)
            study, below = self._study.optuna_study, self._config.trials.stop_below
            return self._stopper.stop_rule(study, record.number, record.point, curves, below)

    def _job(self, record: TrialRecord, rule: StopRule | None) -> MeteredJob:
        curve: Path = curve_path(self._curves, record.number)
        folder = str(self._config.study.folder)
        executor = self._config.executor
        context = TrialContext(
            record.number, record.seed, executor.device, str(curve), folder, record.parent, rule
        )
        return MeteredJob(
            Job(self._task, record.point, context),
            self._config.energy,
            executor.device,
            gpus=gpus_a_trial(executor),
            sharing=trials_a_gpu(executor),
        )
