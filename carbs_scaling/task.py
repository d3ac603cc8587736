"""The door to what a trial is: search, ledger, executors and reports know tasks only by it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from optuna.distributions import BaseDistribution

from carbs_scaling.config import FRESH, TrialsConfig
from carbs_scaling.laws.prior.rates import ADAMW, RatePrior
from carbs_scaling.stop_rule import StopRule
from carbs_scaling.trial import TrialOutcome

Point = dict[str, Any]

# The FLOPs convention of a task whose runs all cost 1, since nothing says what they cost.
TRIALS = "trials"


@dataclass(frozen=True)
class TrialContext:
    """Where and as what a trial runs; picklable.

    Args:
        number: of the trial in its study.
        seed: of everything random in it.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        curve_path: file for its progress (`ledger.curves`); None for none.
        study_folder: where a task may keep files of its own beside the ledger; None for nowhere.
        parent: number of the trial that this one goes on from; None where it begins anew.
        stop_rule: when it ends early, since it cannot reach the front; None: never.
    """

    number: int
    seed: int
    device: str = "cpu"
    curve_path: str | None = None
    study_folder: str | None = None
    parent: int | None = None
    stop_rule: StopRule | None = None


class Task(Protocol):
    """What a trial is. A subclass inherits the methods and attributes that have a default here.

    A point is a dict of the searched dimensions' values. A task is pickled: worker processes run trials on
    copies of it.

    Attributes:
        name: of the kind of task.
        space: the searched dimensions, by name.
        metric: unit of the loss, for headings, such as `nats/token`.
        description: one line for the log and the display.
        flops_convention: how FLOPs are counted; studies that count differently are not compared.
        comparable_by: keys of `identity`, such as `data.sha256`, that must agree between studies for their
            losses to mean the same.
        continues: whether trials may go on from others; `parent` and `price` say from which, at what cost.
        stops: whether trials heed `TrialContext.stop_rule`, so that `trials.stopping=law` may be asked for.
        rates: what is known of the best learning rate before any run. A task whose rates are not AdamW's
            also names it in `identity`, as `rates`: the arguments of `laws.prior.rates.rate_prior`.
    """

    name: str
    space: dict[str, BaseDistribution]
    metric: str = "loss"
    description: str = ""
    flops_convention: str = "own"
    comparable_by: tuple[str, ...] = ()
    rates: RatePrior = ADAMW
    continues: bool = False
    stops: bool = False

    def flops(self, point: Point) -> float:
        """FLOPs of the whole run at a point, known before it is run: finite and positive."""
        ...

    def run(self, point: Point, context: TrialContext) -> TrialOutcome:
        """Runs one trial at a legal point. Failures that the point causes are outcomes, not exceptions.

        Raises:
            RuntimeError: the machine failed; the trial is run again.
            CarbsScalingError, OSError: nothing can be run; the search stops.
        """
        ...

    def parent(self, point: Point, completed: Mapping[int, Point]) -> int | None:
        """The trial that a run at a legal point would go on from now; None where it begins anew.

        Args:
            point: legal.
            completed: points of trials that completed or were stopped, by number. What they left may be gone.
                The number -1 stands for a run that is not there yet, whose continuations are weighed.
        """
        return None

    def price(self, point: Point, completed: Mapping[int, Point]) -> float:
        """FLOPs that running a legal point would really cost now; see `parent`."""
        return self.flops(point)

    def keep_trunks(self, useful: Sequence[int], running: Collection[int], study_folder: str) -> None:
        """Told before the first trial and after each whose state is to be kept for others to go on from.

        Args:
            useful: trials whose state may be dropped where it does not fit, the most useful first.
            running: trials that are running: what they left is not touched.
            study_folder: where a task may keep files of its own.
        """
        return None

    def identity(self) -> dict[str, Any]:
        """What must not change while a study lives, as plain JSON values."""
        ...

    def project(self, point: Point) -> Point:
        """The nearest legal point; projecting twice changes nothing."""
        return point

    def roles(self, point: Point) -> dict[str, float]:
        """Those of `params`, `tokens`, `learning_rate`, `batch_tokens` that a point has, for scaling laws."""
        return {}

    def details(self, point: Point) -> dict[str, Any]:
        """Fixed and derived values of a point, as plain JSON values, for records, tables and files."""
        return {}

    def loss_of(self, value: float) -> float:
        """The loss that a value of the metric stands for, such as its negative where it is maximised."""
        return value

    def allowed(self, point: Point) -> bool:
        """Whether a legal point may be run, such as one that fits into memory."""
        return True

    def recorded(self, numbers: Collection[int], study_folder: str) -> None:
        """Told after each trial which ones have ended in the ledger: they are not run again."""
        return None

    def retire(self, numbers: Collection[int], study_folder: str) -> None:
        """Told after each trial which of the ended ones are not on the front: their files may be dropped."""
        return None

    def provenance(self) -> Mapping[str, Any]:
        """What every record names beside versions and seed, such as a hash of the data."""
        return {}


@dataclass(frozen=True)
class Job:
    """One trial as an executor gets it: a picklable callable."""

    task: Task
    point: Point
    context: TrialContext

    def __call__(self) -> TrialOutcome:
        return self.task.run(self.point, self.context)


@dataclass(frozen=True)
class Limits:
    """What one trial of a search may cost and need.

    Args:
        max_trial_flops: FLOPs of the dearest run.
        memory_bytes: of a device; None for no limit.
        device: where trials run: `auto`, `cpu` or `cuda`.
        trials: whether they may go on from others.
    """

    max_trial_flops: float
    memory_bytes: int | None = None
    device: str = "auto"
    trials: TrialsConfig = FRESH


class TaskEntry(Protocol):
    """`TASK` of a module in `carbs_scaling.tasks`: how the task is made from its configuration.

    Attributes:
        config_type: a dataclass whose fields are the task's sections of the configuration.
    """

    config_type: type

    def from_config(self, config: Any, limits: Limits) -> Task:
        """The task of a checked configuration.

        Raises:
            CarbsScalingError: it cannot be run; one line says why.
        """
        ...
