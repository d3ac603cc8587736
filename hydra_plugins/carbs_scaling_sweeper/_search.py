"""The sweep: overrides become a space, the app's configuration its costs, jobs of the launcher its trials."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.files import write_atomically
from carbs_scaling.formula import Formula
from carbs_scaling.frontier import pareto_front
from carbs_scaling.ledger.lease import sole_coordinator
from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.ledger.study import Study
from carbs_scaling.samplers.sampler import Sampler, build_sampler
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.projection import LegalSpace, point_key
from carbs_scaling.task import TRIALS, Point, Task
from carbs_scaling.trial import Completed, Diverged, TrialOutcome

if TYPE_CHECKING:
    from hydra_plugins.carbs_scaling_sweeper.carbs_scaling_sweeper import CarbsScalingSweeper

# A value with its type: 1 and true are two choices.
Choice = tuple[type, Any]
RESULTS = "optimization_results.yaml"
NO_LOSS = "the job returned no finite number"


def distribution_of(override: Override) -> tuple[BaseDistribution, dict[Choice, str]]:
    """The dimension that a sweep describes, and for each choice of one its text in an override.

    Raises:
        ConfigError: a sweep that has no such meaning, such as `glob`.
    """
    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        log = "log" in value.tags
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log), {}
        return FloatDistribution(float(value.start), float(value.end), log=log), {}
    if isinstance(value, RangeSweep):
        assert value.start is not None
        assert value.stop is not None
        if all(isinstance(v, int) for v in (value.start, value.stop, value.step)):
            values = range(int(value.start), int(value.stop), int(value.step))
            if "log" in value.tags:
                return IntDistribution(values[0], values[-1], log=True), {}
            return IntDistribution(values[0], values[-1], step=int(value.step)), {}
        count = math.ceil((value.stop - value.start) / value.step - 1e-9)
        last = value.start + (count - 1) * value.step
        return FloatDistribution(float(value.start), float(last), step=float(value.step)), {}
    if isinstance(value, ChoiceSweep):
        texts: dict[Choice, str] = {}
        for element in value.list:
            text = Override._get_value_element_as_str(element)
            label = element.text if isinstance(element, QuotedString) else element
            label = label if isinstance(label, bool | int | float | str) else text
            texts[type(label), label] = text
        return CategoricalDistribution([label for _, label in texts]), texts
    raise ConfigError(f"{override.input_line}: use choice, range, interval or a list with commas")


class AppTask(Task):
    """A Hydra app as a task: a trial is a job, which the launcher runs.

    Args:
        sweeper: with the app's configuration.
        overrides: parsed, of the command line and of `hydra.sweeper.params`.
    """

    name = "hydra"

    def __init__(self, sweeper: "CarbsScalingSweeper", overrides: Sequence[Override]) -> None:
        self._loader, self._config = sweeper.hydra_context.config_loader, sweeper.config
        self._texts: dict[str, dict[Choice, str]] = {}
        self._groups: set[str] = set()
        self.fixed: list[str] = []
        self._order: list[
            tuple[str | None, str]
        ] = []  # name of a dimension, or None; and its key or its text
        self.space = {}
        for override in overrides:
            if not override.is_sweep_override():
                self.fixed.append(str(override.input_line))
                self._order.append((None, self.fixed[-1]))
                continue
            key = override.get_key_element()
            name = key.lstrip("+")
            self._order.append((name, key))
            self.space[name], self._texts[name] = distribution_of(override)
            if self._loader.get_group_options(override.key_or_group, ObjectType.CONFIG):
                self._groups.add(name)
        if not self.space:
            raise ConfigError("nothing is swept: give an override such as x=interval(0,1) or x=choice(1,2)")
        # As they are written: an interpolation has its value at each point only.
        raw = OmegaConf.to_container(sweeper.config.hydra.sweeper, resolve=False)
        assert isinstance(raw, dict)
        self._flops = raw.get("flops")
        self._roles = {role: text for role, text in (raw.get("roles") or {}).items() if text is not None}
        self.flops_convention = TRIALS if self._flops is None else f"hydra.sweeper.flops={self._flops}"
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._known: dict[Any, tuple[float, dict[str, float]]] = {}

    def overrides(self, point: Point) -> tuple[str, ...]:
        """Those of the job at a point, in the order in which they were given."""
        written = []
        for name, text in self._order:
            if name is None:
                written.append(text)
            elif name in point:
                value = point[name]
                written.append(f"{text}={self._texts[name].get((type(value), value), value)}")
        return tuple(written)

    def _costs(self, point: Point) -> tuple[float, dict[str, float]]:
        """FLOPs and roles by the configuration of the job at a point."""
        key = point_key(point)
        if key not in self._known:
            groups = {name: value for name, value in point.items() if name in self._groups}
            chosen = self.overrides(groups)
            if chosen not in self._composed:
                self._composed[chosen] = self._loader.load_sweep_config(self._config, list(chosen))
            composed = self._composed[chosen]
            OmegaConf.set_readonly(composed, False)
            for name, value in point.items():
                if name not in groups:
                    OmegaConf.update(composed, name, value, merge=False, force_add=True)
            sweeper = composed.hydra.sweeper
            flops = 1.0 if self._flops is None else _number("flops", sweeper.flops)
            roles = {role: _number(f"roles.{role}", sweeper.roles[role]) for role in self._roles}
            self._known[key] = flops, roles
        return self._known[key]

    def flops(self, point: Point) -> float:
        """By `hydra.sweeper.flops`, else 1."""
        return self._costs(point)[0]

    def roles(self, point: Point) -> dict[str, float]:
        """By `hydra.sweeper.roles`."""
        return self._costs(point)[1]

    def identity(self) -> dict[str, Any]:
        """The space, the other overrides, and how costs and roles are read."""
        space = {name: str(distribution) for name, distribution in self.space.items()}
        return {"space": space, "overrides": self.fixed, "flops": self._flops, "roles": self._roles}


def _number(key: str, value: Any) -> float:
    """A number of the app's configuration, or a formula of numbers that interpolations made."""
    if isinstance(value, int | float):
        return float(value)
    return Formula(str(value), f"hydra.sweeper.{key}").number({})


def sweep(sweeper: "CarbsScalingSweeper", arguments: list[str]) -> list[Sequence[JobReturn]]:
    """Goes on with the study, or begins it, until its budget is spent; gives the batches that ran.

    Raises:
        CarbsScalingError: one line.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options = sweeper.options
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    written = parser.parse_overrides([f"{k}={v}" for k, v in (options["params"] or {}).items()])
    given = parser.parse_overrides(arguments)
    keys = {override.get_key_element() for override in given}
    task = AppTask(sweeper, [*(o for o in written if o.get_key_element() not in keys), *given])
    folder = Path(str(sweeper.config.hydra.sweep.dir))
    name = options["study_name"]
    place = StudyConfig(
        "study" if name is None else str(name),
        str(folder) if name is None else options["directory"],
        options["storage"],
        options["seed"],
    )
    budget, sampler = _sampler(task, options)
    with sole_coordinator(place) as lease:
        study = Study.begin(place, task, budget, sampler, lease)
        batches = _run(sweeper, task, study, sampler)
        write_atomically(
            folder / RESULTS, OmegaConf.to_yaml(OmegaConf.create(results(study, options))).encode()
        )
    return batches


def _sampler(task: AppTask, options: Mapping[str, Any]) -> tuple[float, Sampler]:
    """What may be spent, and who proposes."""
    if task.flops_convention == TRIALS:
        if options["n_trials"] is None:
            raise ConfigError("hydra.sweeper: set n_trials, or budget_flops and flops")
        budget, dearest, overhead = float(options["n_trials"]), 1.0, 0.0
    else:
        if options["budget_flops"] is None:
            raise ConfigError("hydra.sweeper.flops needs hydra.sweeper.budget_flops, of the whole study")
        budget = float(options["budget_flops"])
        dearest, overhead = budget * float(options["max_trial_fraction"]), None
    legal = LegalSpace(
        Encoding(task.space), task.flops, task.roles, None, lambda point: task.flops(point) <= dearest
    )
    chosen = options["sampler"] if isinstance(options["sampler"], str) else "carbs"
    return budget, build_sampler(chosen, legal, budget, options["seed"], None, overhead)


def _run(
    sweeper: "CarbsScalingSweeper", task: AppTask, study: Study, sampler: Sampler
) -> list[Sequence[JobReturn]]:
    """Batches of jobs, until nothing more can be paid."""
    batches: list[Sequence[JobReturn]] = []
    options = sweeper.options
    most = options["n_trials"] if task.flops_convention == TRIALS or options["budget_flops"] is None else None
    provenance = {"sampler": "carbs", "flops_convention": task.flops_convention}
    left_open = study.unfinished(task, provenance)
    while True:
        batch: list[TrialRecord] = left_open[: options["n_jobs"]]
        left_open = left_open[len(batch) :]
        while len(batch) < options["n_jobs"] and sampler.affordable(study.optuna_study):
            if most is not None and len(study.records()) >= most:
                break
            batch.append(study.ask(task, provenance))
        if not batch:
            return batches
        overrides = [task.overrides(record.point) for record in batch]
        sweeper.validate_batch_is_legal(overrides)
        returned = sweeper.launcher.launch(overrides, initial_job_idx=batch[0].number)
        batches.append(returned)
        outcomes = [_outcome(job, options["direction"]) for job in returned]
        for record, outcome in zip(batch, outcomes, strict=True):
            study.tell(record.number, outcome)
        failed = [job for job in returned if job.status is not JobStatus.COMPLETED]
        if len(failed) > options["max_failure_rate"] * len(batch):
            _ = failed[0].return_value  # raises what the job raised


def _outcome(job: JobReturn, direction: Any) -> TrialOutcome:
    """How a job ended. It returns its loss, a list that begins with it, or a mapping with a `loss`."""
    if job.status is not JobStatus.COMPLETED:
        return Diverged(progress=1.0, message="the job raised an error")
    value = job.return_value
    if isinstance(value, Mapping):
        value = value.get("loss")
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        value = value[0]
    try:
        loss = float(value)  # a tensor or a NumPy number too
    except (TypeError, ValueError):
        return Diverged(progress=1.0, message=f"{NO_LOSS}: {str(value)[:60]!r}")
    if not math.isfinite(loss):
        return Diverged(progress=1.0, message=f"{NO_LOSS}: {loss}")
    first = direction if isinstance(direction, str) else next(iter(direction))
    maximised = str(getattr(first, "name", first)).lower() == "maximize"
    return Completed(loss=-loss if maximised else loss)


def results(study: Study, options: Mapping[str, Any]) -> dict[str, Any]:
    """What `optimization_results.yaml` says: the best job, and the front."""
    completed = [record for record in study.records() if record.completed]
    first = (
        options["direction"] if isinstance(options["direction"], str) else next(iter(options["direction"]))
    )
    sign = -1.0 if str(getattr(first, "name", first)).lower() == "maximize" else 1.0
    if not completed:
        return {"name": "carbs_scaling", "best_params": None, "best_value": None, "solutions": []}
    front = pareto_front([r.flops for r in completed], [r.loss for r in completed])
    best = min(completed, key=lambda record: record.loss)
    return {
        "name": "carbs_scaling",
        "best_params": best.point,
        "best_value": sign * best.loss,
        "solutions": [
            {"params": completed[i].point, "values": [sign * completed[i].loss, completed[i].flops]}
            for i in front
        ],
    }
