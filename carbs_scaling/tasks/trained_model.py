"""Tasks with our training loop: a model of each point's shape is trained, and scored on what was held out."""

import math
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from carbs_scaling.data.examples import LabelledExamples
from carbs_scaling.data.prepared import PreparedText
from carbs_scaling.data.rows import PreparedRows
from carbs_scaling.errors import ConfigError
from carbs_scaling.laws.prior.rates import rate_prior
from carbs_scaling.models.pretrained import PretrainedOptions
from carbs_scaling.numbers import compact
from carbs_scaling.task import Limits, Point, Task, TrialContext
from carbs_scaling.tasks.pretraining_config import TrainedModelConfig
from carbs_scaling.tasks.pretraining_memory import MemoryLimit, activation_size
from carbs_scaling.tasks.pretraining_recipe import data_settings
from carbs_scaling.tasks.pretraining_space import PretrainingSpace
from carbs_scaling.tasks.trunks import FOLDER, Trunks
from carbs_scaling.training.checkpoint import CheckpointPlan, run_identity
from carbs_scaling.training.config import SCORES
from carbs_scaling.training.job import TrainingJob
from carbs_scaling.training.learning import Material, learning
from carbs_scaling.training.loop import train
from carbs_scaling.training.model_card import write_card
from carbs_scaling.training.recipe_file import RecipeFile
from carbs_scaling.trial import Completed, TrialOutcome

# Folders in that of a study, each with one a trial: kept models, and states of running trials.
MODELS, CHECKPOINTS = "models", "checkpoints"
METRIC_UNITS = {
    "nats_per_token": "nats/token",
    "bits_per_byte": "bits/byte",
    "nats_per_label": "nats/label",
    **{name: f"1 - {name}" for name in SCORES},
}


class TrainedModel(Task):
    """Trains a model of each point's shape on some material and scores it on what was held out.

    Args:
        config: all sections.
        text: token files, or labelled examples.
        limits: what one trial may cost and need.
        may_be_fixed: whether every dimension may be fixed, so that the only point is the empty one.

    Raises:
        DataError: the text is too short for one window.
        ConfigError: a space that cannot be, or in which no run keeps to the limits.
    """

    config_type: type
    comparable_by = ("data.sha256", "objective.metric", "objective.validation_tokens")

    def __init__(
        self, config: TrainedModelConfig, text: Material, limits: Limits, may_be_fixed: bool = False
    ) -> None:
        learning(text, config.model.sequence_length)  # too little text is reported now, not by a worker
        self.config = config
        self.text = text
        self.description = f"{self.material}: {text.description}"
        self.metric = METRIC_UNITS[config.objective.metric]
        self.flops_convention = config.model.flops_convention
        if (
            isinstance(text, PreparedText)
            and text.bytes_per_token is None
            and config.objective.metric == "bits_per_byte"
        ):
            raise ConfigError(
                "objective=bits_per_byte: nothing says how many bytes these token files stand for; name "
                "their data.tokenizer"
            )
        self.legal = space_of(config, text, limits.max_trial_flops)
        self.space = self.legal.distributions
        self.rates = rate_prior(**self._rates())
        if not (self.space or may_be_fixed):
            raise ConfigError("space: every dimension is fixed; give at least one a range, or use train")
        if isinstance(text, PreparedText):
            self.description += self._repeats(text)
        self.continues, self.stops = limits.trials.continued, True
        self._disk_bytes = limits.trials.disk_bytes
        if self.continues:
            self._require_trunks()
        self.trunks = Trunks(self.legal, config.schedule)
        self.memory: MemoryLimit | None = None
        if limits.memory_bytes is not None:
            self.memory = MemoryLimit(
                self.legal,
                limits.memory_bytes,
                config.optimizer.name,
                activation_size(limits.device),
                config.training.micro_batch_tokens,
            )

    material = "text"

    @staticmethod
    def prepare(config: Any) -> Material:
        """What is learnt from, from the cache or made now.

        Raises:
            CarbsScalingError: there is no such material.
        """
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: TrainedModelConfig, limits: Limits) -> Self:
        """With the material of the configuration.

        Raises:
            CarbsScalingError: there is none, or see the class.
        """
        return cls(config, cls.prepare(config), limits)

    def _repeats(self, text: PreparedText) -> str:
        """A warning where the longest runs see their text more than once; else empty."""
        most = max(self.legal.roles(self.legal.project(point))["tokens"] for point in _corners(self.space))
        if text.train_tokens is None or most <= text.train_tokens:
            return ""
        return (
            f"; runs may have {compact(most)} tokens, and it has {compact(text.train_tokens)} to train "
            f"on: they see it up to {most / text.train_tokens:.2g} times (epochs of a trial)"
        )

    def project(self, point: Point) -> Point:
        """The nearest recipe of whole steps within the limit on cost."""
        return self.legal.project(point)

    def flops(self, point: Point) -> float:
        """Training FLOPs in the convention of the configuration."""
        return self.legal.flops(point)

    def roles(self, point: Point) -> dict[str, float]:
        """N, D, batch in tokens, and the learning rate where it is not a law's."""
        return self.legal.roles(point)

    def _require_trunks(self) -> None:
        """Refuses a configuration in which no run can go on from another."""
        schedule, space = self.config.schedule, self.config.space
        if schedule.name != "wsd" or schedule.warmup_steps is None:
            raise ConfigError(
                "trials=continued needs schedule=wsd and schedule.warmup_steps, such as 40: with others the "
                "rates depend on a run's length from its first step on; +experiment=continued sets both"
            )
        if "warmup_fraction" in self.space:
            raise ConfigError(
                f"space.warmup_fraction={space['warmup_fraction']}: schedule.warmup_steps is read"
            )

    def parent(self, point: Point, completed: Mapping[int, Point]) -> int | None:
        """The trial whose trunk is the longest that the run can begin with."""
        found = self.trunks.longest(point, completed) if self.continues else None
        return None if found is None else found[0]

    def price(self, point: Point, completed: Mapping[int, Point]) -> float:
        """FLOPs of the steps after the trunk."""
        flops = self.flops(point)
        found = self.trunks.longest(point, completed) if self.continues else None
        return flops if found is None else flops * (1 - found[1] / self.legal.steps(point))

    def keep_trunks(self, useful: Sequence[int], running: Collection[int], study_folder: str) -> None:
        """Keeps those that fit into `trials.disk_bytes`."""
        if self.continues:
            self.trunks.look(Path(study_folder) / FOLDER, useful, running, self._disk_bytes)

    def details(self, point: Point) -> dict[str, Any]:
        """The whole recipe and shape, and FLOPs in every convention."""
        return self.legal.details(point)

    def allowed(self, point: Point) -> bool:
        """Whether the run fits into memory by estimate."""
        return self.memory is None or self.memory(point)

    def run(self, point: Point, context: TrialContext) -> TrialOutcome:
        """Trains and scores one model."""
        job = self.job(point, context)
        try:
            outcome = train(job)
        except RuntimeError as error:
            if job.compile is False or (job.device == "cpu" and not job.compile):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise RuntimeError(f"{reason}; try training.compile=false") from error
        if isinstance(outcome, Completed) and job.model_folder is not None:
            write_card(
                Path(job.model_folder), self._recipe_file(job, context), outcome, self.text.description
            )
        return outcome

    def job(self, point: Point, context: TrialContext) -> TrainingJob:
        """The training run that a legal point stands for."""
        how, folder = self.config.training, context.study_folder
        recipe = self.legal.recipe(point, context.seed)
        checkpoints = model_folder = None
        if folder is not None and how.checkpoint_minutes is not None:
            run = run_identity(recipe.to_dict(), self.identity())
            place = Path(folder) / CHECKPOINTS / f"{context.number:05d}"
            checkpoints = CheckpointPlan(str(place), how.checkpoint_minutes, run)
        if folder is not None and how.keep_models != "none":
            model_folder = str(Path(folder) / MODELS / f"{context.number:05d}")
        trunk = goes_on_from = None
        if self.continues and folder is not None:
            same = self.legal.recipe_key(point)
            run, place = run_identity("trunk", same, context.seed, self.identity()), Path(folder) / FOLDER
            trunk = CheckpointPlan(str(place / f"{context.number:05d}"), 0.0, run)
            if context.parent is not None:
                goes_on_from = CheckpointPlan(str(place / f"{context.parent:05d}"), 0.0, run)
        return TrainingJob(
            recipe=recipe,
            text=self.text,
            optimizer=self.config.optimizer,
            schedule=self.config.schedule,
            objective=self.config.objective,
            device=context.device,
            compile=how.compile,
            micro_batch_tokens=how.micro_batch_tokens,
            curve_path=context.curve_path,
            cuda_graph=how.cuda_graph,
            checkpoints=checkpoints,
            model_folder=model_folder,
            tokenizer=self.text.tokenizer,
            trunk=trunk,
            goes_on_from=goes_on_from,
            stop_rule=context.stop_rule,
        )

    def recorded(self, numbers: Collection[int], study_folder: str) -> None:
        """Drops the checkpoints of these trials: until the ledger had them they could be run again."""
        _drop(Path(study_folder) / CHECKPOINTS, numbers)

    def retire(self, numbers: Collection[int], study_folder: str) -> None:
        """Drops the models of these trials where only those of the front are kept."""
        if self.config.training.keep_models == "front":
            _drop(Path(study_folder) / MODELS, numbers)

    def _recipe_file(self, job: TrainingJob, context: TrialContext) -> RecipeFile:
        """What the model card of a trial's model says of its run."""
        assert context.study_folder is not None
        study = Path(context.study_folder).name
        return RecipeFile(
            name=f"{study}-{context.number}",
            task=self.name,
            recipe=job.recipe,
            optimizer=job.optimizer,
            schedule=job.schedule,
            objective=job.objective,
            flops_convention=self.flops_convention,
            data=data_settings(self.config.data, self.text),
            data_sha256=self.text.sha256,
            source=f"trial {context.number} of study {study}",
        )

    def identity(self) -> dict[str, Any]:
        """The sections that say what is trained; how a device is used, and what nothing reads, may change."""
        config = self.config
        schedule = {name: getattr(config.schedule, name) for name in config.schedule.read}
        objective = asdict(config.objective)
        if not config.objective.gradient_noise_scale:
            del objective["gradient_noise_scale"]
        trials = {"trials": {"name": "continued"}} if self.continues else {}
        return {
            **trials,
            "space": config.space,
            "model": config.model.plain(),
            "optimizer": asdict(config.optimizer),
            "schedule": schedule,
            "objective": objective,
            "data": {"sha256": self.text.sha256},
            "rates": self._rates(),
        }

    def _rates(self) -> dict[str, Any]:
        """Arguments of `rate_prior`."""
        model = self.config.model
        base = None
        if model.parametrization != "standard":
            base = float(self.legal.base_shape.params)
        said = {
            "optimizer": self.config.optimizer.name,
            "parametrization": model.parametrization,
            "base_params": base,
        }
        width = model.fixed_sizes.get("width", 1)
        if not isinstance(model.options, PretrainedOptions) or width == 1:  # a configuration without a width
            return said
        adapters = bool(model.options.lora_rank) or "lora_rank" in self.space
        return {**said, "finetuned_width": width, "adapters": adapters}

    def provenance(self) -> dict[str, Any]:
        """The text and the version of PyTorch."""
        import torch

        return {
            "text_sha256": self.text.sha256,
            "text": self.text.description,
            "data": data_settings(self.config.data, self.text),
            "flops_convention": self.flops_convention,
            "torch": torch.__version__,
        }


def _corners(space: Mapping[str, BaseDistribution]) -> Iterator[Point]:
    """Points from one corner of the space to the opposite one, with the most tokens a parameter."""
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        point: Point = {}
        for name, distribution in space.items():
            if isinstance(distribution, CategoricalDistribution):
                point[name] = distribution.choices[round(share * (len(distribution.choices) - 1))]
            elif isinstance(distribution, FloatDistribution | IntDistribution):
                low, high = float(distribution.low), float(distribution.high)
                value = low * (high / low) ** share if distribution.log else low + share * (high - low)
                whole = isinstance(distribution, IntDistribution)
                longest = name in ("tokens_per_parameter", "epochs")
                point[name] = high if longest else round(value) if whole else value
        yield point


def _drop(folder: Path, numbers: Collection[int]) -> None:
    """Remove the folders of these trials."""
    for path in folder.glob("[0-9]*"):
        if path.name.isdecimal() and int(path.name) in numbers:
            shutil.rmtree(path)


def space_of(
    config: TrainedModelConfig, text: Material, max_trial_flops: float = math.inf
) -> PretrainingSpace:
    """The space of a configuration, for some material.

    Raises:
        ConfigError: see `PretrainingSpace`.
    """
    classes, epoch_tokens = None, None
    if isinstance(text, LabelledExamples):
        classes = len(text.classes)
        epoch_tokens = text.train_examples * text.form.sequence_length
    elif isinstance(text, PreparedRows):
        epoch_tokens = text.train_rows * text.sequence_length
    elif text.train_tokens is not None:
        epoch_tokens = text.train_tokens
    return PretrainingSpace(
        config.space, config.model, text.vocabulary_size, max_trial_flops, config.optimizer.name, classes,
        epoch_tokens,
    )  # fmt: skip
