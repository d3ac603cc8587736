"""A recipe file: all that one training run needs, as JSON with units in the names.

`carbs-scaling recommend format=recipe` writes it and `carbs-scaling train recipe=FILE` reads it. A trained
model has the one that it was trained by beside it.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from carbs_scaling.compute.flops import FLOPS_CONVENTIONS, flops_by_convention
from carbs_scaling.config import require
from carbs_scaling.data.config import DataConfig
from carbs_scaling.data.examples_config import ExamplesConfig
from carbs_scaling.data.rows import RowsConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.laws.recommend.predicted_curve import PredictedCurve
from carbs_scaling.models.family import ModelShape
from carbs_scaling.models.parametrization import Parametrization
from carbs_scaling.names import require_name
from carbs_scaling.training.config import ObjectiveConfig, OptimizerConfig, ScheduleConfig
from carbs_scaling.training.recipe import OPTIMIZER_VALUES, Recipe

KIND = "carbs_scaling recipe"
# Raised whenever a file of the same content would be read as another run.
FORMAT = 4
# Where the token files of this machine are is no part of a recipe.
# The schemas of the section `data` of all tasks.
DATA_CONFIGS: tuple[type, ...] = (DataConfig, ExamplesConfig, RowsConfig)
LOCAL_DATA_KEYS = ("cache_directory", "cached_blocks")


@dataclass(frozen=True)
class Prediction:
    """What a law says of the run.

    Args:
        loss: expected final loss, in the unit of the objective.
        interval: its bounds.
        level: probability of the interval.
        asked_params, asked_tokens: N and D that were asked for; the run has the nearest.
        warnings: of the law, one line each.
        curve: training losses along the run, in nats a token; None where too few runs have one.
    """

    loss: float
    interval: tuple[float, float]
    level: float
    asked_params: float
    asked_tokens: float
    warnings: tuple[str, ...] = ()
    curve: PredictedCurve | None = None


@dataclass(frozen=True)
class RecipeFile:
    """One training run with all its constants, the text it is for, and what is expected of it.

    Args:
        name: of the run; the default of `train.name`.
        recipe: what is trained.
        optimizer, schedule, objective: its constants.
        flops_convention: in which its FLOPs are counted.
        data: where the text is and how it is tokenized (`conf/data`), without local folders.
        data_sha256: of texts, tokenizer and split; None for any text.
        source: where the recipe comes from.
        prediction: None where no law was asked.
        task: that the run is of.
    """

    name: str
    recipe: Recipe
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    objective: ObjectiveConfig
    flops_convention: str
    data: dict[str, Any]
    data_sha256: str | None
    source: str
    prediction: Prediction | None = None
    task: str = "pretraining"

    def __post_init__(self) -> None:
        require_name("name", self.name, "train.directory")
        require(
            self.flops_convention in FLOPS_CONVENTIONS,
            f"flops_convention={self.flops_convention} is not one of {', '.join(FLOPS_CONVENTIONS)}",
        )

    @property
    def flops(self) -> float:
        """Training FLOPs in the recipe's convention."""
        recipe = self.recipe
        return flops_by_convention(recipe.shape, recipe.tokens)[self.flops_convention]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        recipe, shape = self.recipe, self.recipe.shape
        prediction = None if self.prediction is None else asdict(self.prediction)
        return {
            "kind": KIND,
            "format": FORMAT,
            "task": self.task,
            "name": self.name,
            "source": self.source,
            "params": recipe.params,
            "tokens": recipe.tokens,
            "model": {
                "architecture": shape.architecture,
                "width": shape.width,
                "depth": shape.depth,
                "head_size": shape.head_size,
                "vocabulary_tokens": shape.vocabulary_size,
                "classes": shape.classes,
                "sequence_length_tokens": shape.sequence_length,
                "options": asdict(shape.options),
                "parametrization": asdict(recipe.parametrization),
            },
            "steps": recipe.steps,
            "batch_sequences": recipe.batch_size,
            "batch_tokens": recipe.batch_tokens,
            "peak_learning_rate": recipe.learning_rate,
            "warmup_fraction_of_steps": recipe.warmup_fraction,
            "schedule": asdict(self.schedule),
            "optimizer": {
                **asdict(self.optimizer),
                **{name: getattr(recipe, name) for name in OPTIMIZER_VALUES},
            },
            "seed": recipe.seed,
            "objective": asdict(self.objective),
            "data": {"sha256": self.data_sha256, "settings": self.data},
            "flops_convention": self.flops_convention,
            "flops": flops_by_convention(shape, recipe.tokens),
            "prediction": json.loads(json.dumps(prediction)),
        }

    def to_json(self) -> bytes:
        """The content of the file."""
        # `inf` stands for no clipping; JSON has no infinity, Python's reader and writer do.
        return f"{json.dumps(self.to_dict(), indent=1)}\n".encode()

    @staticmethod
    def from_dict(values: Any, where: str) -> "RecipeFile":
        """The inverse of `to_dict`; `where` names the file in messages.

        Raises:
            ConfigError: no recipe, another format, a field that is missing or cannot be.
        """
        if not isinstance(values, dict) or values.get("kind") != KIND:
            raise ConfigError(
                f"{where} is not a recipe: carbs-scaling recommend ... format=recipe output=FILE writes one"
            )
        if values.get("format") != FORMAT:
            raise ConfigError(
                f"{where} has recipe format {values.get('format')}, this program reads {FORMAT}: "
                "write it again"
            )
        try:
            return _parsed(values)
        except KeyError as error:
            raise ConfigError(f"{where}: the recipe has no {error.args[0]}") from None
        except (TypeError, ValueError, ConfigError) as error:
            raise ConfigError(f"{where}: {error}") from None

    @staticmethod
    def load(file: str | Path) -> "RecipeFile":
        """Reads a recipe.

        Raises:
            ConfigError: see `from_dict`; or the file cannot be read.
        """
        try:
            text = Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise ConfigError(f"recipe={file}: {reason}") from None
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        return RecipeFile.from_dict(values, f"recipe={file}")


def _parsed(values: dict[str, Any]) -> RecipeFile:
    model, optimizer, data = (_group(values, name) for name in ("model", "optimizer", "data"))
    shape = ModelShape(
        architecture=model["architecture"],
        width=model["width"],
        depth=model["depth"],
        head_size=model["head_size"],
        vocabulary_size=model["vocabulary_tokens"],
        sequence_length=model["sequence_length_tokens"],
        options=model["options"],
        classes=model["classes"],
    )
    recipe = Recipe(
        shape=shape,
        learning_rate=float(values["peak_learning_rate"]),
        batch_size=values["batch_sequences"],
        steps=values["steps"],
        **{name: float(optimizer[name]) for name in OPTIMIZER_VALUES},
        warmup_fraction=float(values["warmup_fraction_of_steps"]),
        seed=values["seed"],
        parametrization=Parametrization(**_chosen(_group(model, "parametrization"), Parametrization)),
    )
    for name in ("params", "tokens", "batch_tokens"):
        require(
            values[name] == getattr(recipe, name),
            f"{name}={values[name]} is not that of its own model, batch and steps, {getattr(recipe, name)}",
        )
    prediction = values["prediction"]
    if prediction is not None:
        low, high = prediction["interval"]
        warnings = tuple(prediction["warnings"])
        curve = prediction["curve"]
        if curve is not None:
            share, loss, lower, upper = (tuple(curve[name]) for name in ("share", "loss", "low", "high"))
            curve = PredictedCurve(share, loss, lower, upper, curve["runs"])
        changed: dict[str, Any] = {"interval": (low, high), "warnings": warnings, "curve": curve}
        prediction = Prediction(**{**prediction, **changed})
    settings = data["settings"]
    known = ([f.name for f in fields(kind) if f.name not in LOCAL_DATA_KEYS] for kind in DATA_CONFIGS)
    complete = isinstance(settings, dict) and sorted(settings) in [sorted(keys) for keys in known]
    require(complete, "data.settings are not complete")
    return RecipeFile(
        name=str(values["name"]),
        recipe=recipe,
        optimizer=OptimizerConfig(**_chosen(optimizer, OptimizerConfig)),
        schedule=ScheduleConfig(**_chosen(_group(values, "schedule"), ScheduleConfig)),
        objective=ObjectiveConfig(**_chosen(_group(values, "objective"), ObjectiveConfig)),
        flops_convention=values["flops_convention"],
        data=settings,
        data_sha256=data["sha256"],
        source=str(values["source"]),
        prediction=prediction,
        task=str(values["task"]),
    )


def _group(values: dict[str, Any], name: str) -> dict[str, Any]:
    group = values[name]
    if not isinstance(group, dict):
        raise ValueError(f"{name} must be an object, not {group!r}")
    return group


def _chosen(values: dict[str, Any], kind: type) -> dict[str, Any]:
    """All fields of the dataclass `kind`; KeyError names one that is missing."""
    return {field.name: values[field.name] for field in fields(kind)}
