"""Recipe files of pretraining: from a study's law or a trial, and as sections of a configuration."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from omegaconf import OmegaConf

from carbs_scaling.data.config import DataConfig
from carbs_scaling.data.examples_config import ExamplesConfig
from carbs_scaling.data.rows import RowsConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.laws.recommend.advice import Advice, advise
from carbs_scaling.laws.recommend.predicted_curve import SeenCurve, predict_curve
from carbs_scaling.laws.recommend.reach import FAR_ASPECT
from carbs_scaling.laws.runs.reading import ALSO_CALLED
from carbs_scaling.laws.scaling_law import ScalingLaw
from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.models.family import ModelShape
from carbs_scaling.numbers import compact
from carbs_scaling.tasks.pretraining_config import ModelConfig
from carbs_scaling.tasks.pretraining_space import LORA
from carbs_scaling.training.config import ObjectiveConfig, OptimizerConfig, ScheduleConfig
from carbs_scaling.training.learning import Material
from carbs_scaling.training.recipe import OPTIMIZER_VALUES, Recipe
from carbs_scaling.training.recipe_file import LOCAL_DATA_KEYS, Prediction, RecipeFile

# Of a run's schedule where the identity of a study leaves out what its shape does not read.
UNREAD_SCHEDULE: dict[str, Any] = {
    "decay_fraction": 1.0,
    "decay_shape": "linear",
    "decay_exponent": 1.0,
    "warmup_steps": None,
}
# How much a factor of e in width / depth weighs against one in N, squared: the loss depends on the aspect
# weakly (Kaplan et al. 2020, arXiv 2001.08361, section 3.1), so N is met first.
ASPECT_WEIGHT = 0.01
# A difference of N from what was asked that is worth a warning.
NOTED_SHARE = 0.01


def trial_recipe(record: TrialRecord, identity: Mapping[str, Any], study: str) -> RecipeFile:
    """The run of a study's trial, to be trained again as it was.

    Raises:
        ConfigError: the study is not one of pretraining.
    """
    _require_pretraining(identity, study)
    details = record.details
    shape = _model(identity).shape(
        int(details["width"]), int(details["depth"]), int(details["vocabulary_size"]), details.get("classes"),
        **{name: details[name] for name in LORA if name in details},
    )  # fmt: skip
    batch_size = int(details["batch_size"])
    recipe = Recipe(
        shape=shape,
        learning_rate=float(details["learning_rate"]),
        batch_size=batch_size,
        steps=int(details["steps"]),
        warmup_fraction=float(details["warmup_fraction"]),
        seed=record.seed,
        parametrization=_model(identity).scaling,
        **{name: float(details[name]) for name in OPTIMIZER_VALUES},
    )
    return RecipeFile(
        name=f"{study}-{record.number}",
        recipe=recipe,
        source=f"trial {record.number} of study {study}",
        data=dict(record.provenance["data"]),
        **_constants(identity),
    )


def advised_recipe(
    law: ScalingLaw,
    advice: Advice,
    best: TrialRecord,
    identity: Mapping[str, Any],
    study: str,
    curves: Sequence[SeenCurve] = (),
) -> RecipeFile:
    """The run that a law recommends, with the constants of the study that it was fitted to.

    N is that of the nearest shape of whole heads and layers, or of the nearest whole rank of adapters beside
    a trained model, and the law is asked again for it; D is that of
    whole steps; the rate is the law's for the batch in whole sequences. What the runs searched and the law
    does not say is that of the study's best run.

    Args:
        law: of the study.
        advice: for the N and D that were asked for.
        best: the study's best run, see `best_run`.
        identity: of the study.
        study: its name.
        curves: of its runs, for the curve that is predicted.

    Raises:
        ConfigError: the runs do not identify a shape.
        LawError: the law does not answer for the shape's N.
    """
    sizes = int(best.details["vocabulary_size"]), best.details.get("classes")
    adapters = {name: best.details[name] for name in LORA if name in best.details}
    model = _model(identity)
    shape = (
        nearest_rank(advice, model, *sizes, adapters) if adapters else nearest_shape(advice, model, *sizes)
    )
    length = shape.sequence_length
    asked = advice.recipe
    advice = advise(law, shape.params, asked.tokens, level=advice.level, head_size=shape.head_size)
    batch_size = advice.sequences(length)
    other = {ALSO_CALLED.get(name, name): value for name, value in advice.recipe.other.items()}
    recipe = Recipe(
        shape=shape,
        learning_rate=float(f"{advice.recipe.learning_rate_at(batch_size * length):.6g}"),
        batch_size=batch_size,
        steps=advice.steps(batch_size * length),
        seed=int(identity["seed"]),
        parametrization=model.scaling,
        **{
            name: float(other.get(name, best.details[name]))
            for name in (*OPTIMIZER_VALUES, "warmup_fraction")
        },
    )
    warnings = [advice.reach.line] if advice.reach.reasons else []
    warnings += advice.warnings
    if abs(shape.params / asked.params - 1) > NOTED_SHARE:
        kind = "whole rank of adapters" if adapters else "shape of whole heads and layers"
        has = f"rank {shape.options.lora_rank}" if adapters else f"{shape.width} x {shape.depth}"
        warnings.append(f"no {kind} has N = {compact(asked.params)}: {has} has {compact(shape.params)}")
    return RecipeFile(
        name=f"{study}-{compact(shape.params)}-{compact(recipe.tokens)}",
        recipe=recipe,
        source=f"law of {law.support.source} ({law.support.runs} runs)",
        data=dict(best.provenance["data"]),
        prediction=Prediction(
            loss=advice.recipe.loss,
            interval=advice.intervals["loss"],
            level=advice.level,
            asked_params=float(asked.params),
            asked_tokens=float(asked.tokens),
            warnings=tuple(warnings),
            curve=predict_curve(law, curves, shape.params, recipe.tokens, advice.level),
        ),
        **_constants(identity),
    )


def best_run(records: Sequence[TrialRecord], identity: Mapping[str, Any], study: str) -> TrialRecord:
    """The run of least loss.

    Raises:
        ConfigError: the study is not one of pretraining, or none of its runs completed.
    """
    _require_pretraining(identity, study)
    completed = [record for record in records if record.completed]
    if not completed:
        raise ConfigError(f"study {study} has no completed run yet")
    return min(completed, key=lambda record: record.loss)


def nearest_shape(
    advice: Advice, model: ModelConfig, vocabulary_size: int, classes: int | None = None
) -> ModelShape:
    """The shape of whole heads and layers nearest to N, then to the width / depth that is advised.

    Args:
        advice: for N.
        model: the family, and what all its shapes share.
        vocabulary_size: V.
        classes: that it tells apart; None for a model of the next token.

    Raises:
        ConfigError: the runs do not identify a shape, or the family has a single one of another N.
    """
    sizes = model.fixed_sizes
    if "width" in sizes and "depth" in sizes:
        only = model.shape(sizes["width"], sizes["depth"], vocabulary_size, classes)
        if abs(only.params / advice.recipe.params - 1) <= NOTED_SHARE:
            return only
        raise ConfigError(
            f"model={model.architecture} has one size: a recipe for another N has no model, unless "
            "adapters are trained beside it (space.lora_rank)"
        )
    if advice.width is None or advice.depth is None:
        raise ConfigError("these runs do not say which shape N should have: a recipe file cannot be written")
    params, step = advice.recipe.params, model.width_step
    aspect = advice.width / advice.depth

    def distance(candidate: ModelShape) -> float:
        off = math.log(candidate.params / params)
        return off**2 + ASPECT_WEIGHT * math.log(candidate.width / candidate.depth / aspect) ** 2

    candidates = []
    for width in [sizes["width"]] if "width" in sizes else range(step, 3 * advice.width + step, step):
        depth = params / model.shape(width, sizes.get("depth", 1), vocabulary_size, classes).params
        depths = {max(1, math.floor(depth)), max(1, math.ceil(depth))}
        candidates += [
            model.shape(width, sizes.get("depth", whole), vocabulary_size, classes)
            for whole in sorted(depths)
        ]
    # Of few parameters many layers of one head come nearest to N, but nobody has tried such a shape.
    usual = [c for c in candidates if 1 / FAR_ASPECT <= c.width / c.depth / aspect <= FAR_ASPECT]
    return min(usual or candidates, key=distance)


def nearest_rank(
    advice: Advice,
    model: ModelConfig,
    vocabulary_size: int,
    classes: int | None,
    adapters: Mapping[str, Any],
) -> ModelShape:
    """The trained model with adapters of the whole rank whose N is nearest to the one that is advised.

    N is a straight line in the rank.

    Args:
        advice: for N.
        model: the trained model.
        vocabulary_size: V.
        classes: that it tells apart; None for a model of the next token.
        adapters: rank and scale of a run of the study; the scale is kept.
    """
    sizes = model.fixed_sizes

    def of_rank(rank: int) -> ModelShape:
        changes = {**adapters, LORA[0]: rank}
        return model.shape(sizes["width"], sizes["depth"], vocabulary_size, classes, **changes)

    least, next_params = of_rank(1).params, of_rank(2).params
    return of_rank(max(1, 1 + round((advice.recipe.params - least) / (next_params - least))))


def recipe_sections(file: RecipeFile) -> dict[str, dict[str, Any]]:
    """A recipe as the sections `space`, `model`, `optimizer`, ... of a configuration, all fixed."""
    recipe, shape = file.recipe, file.recipe.shape
    optimizer, schedule, objective = (vars(part) for part in (file.optimizer, file.schedule, file.objective))
    return {
        "space": {
            "width": shape.width,
            "depth": shape.depth,
            "learning_rate": recipe.learning_rate,
            "batch_size": recipe.batch_size,
            "tokens_per_parameter": recipe.tokens / recipe.params,
            "epochs": None,
            **dict.fromkeys(LORA),
            "warmup_fraction": recipe.warmup_fraction,
            **{name: getattr(recipe, name) for name in OPTIMIZER_VALUES},
        },
        "model": {
            "architecture": shape.architecture,
            "head_size": shape.head_size,
            "sequence_length": shape.sequence_length,
            "flops_convention": file.flops_convention,
            "parametrization": recipe.parametrization.name,
            "base_width": recipe.parametrization.base_width,
            "base_depth": recipe.parametrization.base_depth,
            **asdict(shape.options),
        },
        "data": dict(file.data),
        "optimizer": dict(optimizer),
        "schedule": dict(schedule),
        "objective": dict(objective),
    }


def data_settings(config: DataConfig | ExamplesConfig | RowsConfig, text: Material) -> dict[str, Any]:
    """What says where a text is, without the folders of this machine; of the hub, that commit of it."""
    settings = {name: value for name, value in vars(config).items() if name not in LOCAL_DATA_KEYS}
    return settings | {"revision": text.revision or config.revision}


def _require_pretraining(identity: Mapping[str, Any], study: str) -> None:
    if "model" not in identity:
        raise ConfigError(
            f"study {study} is of task={identity.get('task')}: recipes are of tasks with our own training"
        )


def _model(identity: Mapping[str, Any]) -> ModelConfig:
    """The family of a study."""
    return ModelConfig.from_section(OmegaConf.create(dict(identity["model"])))


def _constants(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `RecipeFile` that are the same for all runs of a study."""
    return {
        "optimizer": OptimizerConfig(**identity["optimizer"]),
        "schedule": ScheduleConfig(**{**UNREAD_SCHEDULE, **identity["schedule"]}),
        "objective": ObjectiveConfig(**{"gradient_noise_scale": False, **identity["objective"]}),
        "flops_convention": identity["flops_convention"],
        "task": identity["task"],
        "data_sha256": identity["data"]["sha256"],
    }
