"""`carbs-scaling train`: one training run, from a recipe, a trial or overrides, to a model on disk."""

import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import filelock
from omegaconf import DictConfig, OmegaConf, open_dict

from carbs_scaling.config import StudyConfig
from carbs_scaling.config_loading import load_config
from carbs_scaling.errors import CarbsScalingError, ConfigError
from carbs_scaling.files import write_atomically
from carbs_scaling.tasks.pretraining_config import TrainedModelConfig
from carbs_scaling.training.model_card import PICTURE, RECIPE, RECORD, write_card
from carbs_scaling.training.recipe_file import RecipeFile
from carbs_scaling.verb_config import TrainConfig

if TYPE_CHECKING:
    from carbs_scaling.tasks.trained_model import TrainedModel
    from carbs_scaling.training.distributed import Ranks
    from carbs_scaling.training.job import TrainingJob
    from carbs_scaling.training.learning import Material

logger = logging.getLogger(__name__)

CHECKPOINTS, CURVE = "checkpoints", "curve.jsonl"
DEFAULT_TASK = "pretraining"  # of conf/train.yaml
OWN = ("study", "recipe", "trial", "train", "energy")


def run(composed: DictConfig, overrides: Sequence[str] | None = None) -> None:
    """Trains, shows the progress, and leaves the model in `train.directory`/`train.name`.

    Args:
        composed: of `conf/train.yaml`.
        overrides: those of the command line, which win over the recipe; None for Hydra's.

    Raises:
        CarbsScalingError: one line; a run that was refused leaves nothing behind.
    """
    overrides = _given_overrides() if overrides is None else overrides
    config = load_config(TrainConfig, OmegaConf.masked_copy(composed, list(OWN)))
    given = _given_recipe(config)
    kind = trained_task(composed)
    if given is not None and given.task != kind.name:
        composed = _of_its_task(given.task, kind.name, overrides)
        kind = trained_task(composed)
    rest = [str(name) for name in composed if name not in OWN and name != "task"]
    sections = OmegaConf.masked_copy(composed, rest)
    if given is not None:
        sections = with_recipe(sections, given, overrides)
    task_config: TrainedModelConfig = load_config(kind.config_type, sections)

    from carbs_scaling.training.launch import is_launched, joined, launch

    if config.train.processes is not None and not is_launched():
        launch(config.train.processes, ["train", *sys.argv[1:]])
    else:
        with joined(config.train.device, config.train.parallel) as ranks:
            _train(config, kind, task_config, given, ranks)


def _of_its_task(task: str, named: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a recipe's task, where the command line names none.

    Args:
        task: of the recipe.
        named: that of the configuration.
        overrides: of the command line.

    Raises:
        ConfigError: it names another, by `task=` or a preset.
    """
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra

    is_default = named == DEFAULT_TASK and not any(text.startswith("task=") for text in overrides)
    if not is_default or not GlobalHydra.instance().is_initialized():
        raise ConfigError(f"the recipe is of task={task}, not of task={named}: say task={task}")
    return compose("train", [*overrides, f"task={task}"])


def trained_task(composed: DictConfig) -> "type[TrainedModel]":
    """The task that is named, one with our training loop.

    Raises:
        ConfigError: there is none of this name, or it trains by a program of the user's.
    """
    from carbs_scaling.tasks import TASKS
    from carbs_scaling.tasks.trained_model import TrainedModel

    kind = TASKS.load(str(composed.task.name))
    if not (isinstance(kind, type) and issubclass(kind, TrainedModel)):
        raise ConfigError(f"task={composed.task.name} trains by a program of yours: run that")
    return kind


def _train(
    config: TrainConfig,
    kind: "type[TrainedModel]",
    task_config: TrainedModelConfig,
    given: RecipeFile | None,
    ranks: "Ranks",
) -> None:
    """What each of the processes of a run does; the first one alone writes and shows anything."""
    from carbs_scaling.compute.energy import EnergyMeter, gpus_here
    from carbs_scaling.ledger.curves import read_curve
    from carbs_scaling.report.terminal import console
    from carbs_scaling.report.training import TrainingDisplay
    from carbs_scaling.report.training_figure import draw_curve_png
    from carbs_scaling.training.device import device_name
    from carbs_scaling.training.loop import train
    from carbs_scaling.trial import Completed

    def file_and_text() -> "tuple[RecipeFile, Material]":
        file, text = _file_to_train(config, kind, task_config, given)
        ranks.check(file.recipe, file.optimizer.name, file.objective, bool(task_config.training.compile))
        return file, text

    file, text = ranks.first_then_all(file_and_text)
    folder = config.train.directory_path / file.name
    job = _job(config, task_config, file, text, folder, str(ranks.device))
    recipe = file.recipe
    display = TrainingDisplay(
        file.name,
        recipe.steps,
        recipe.batch_tokens,
        file.flops,
        file.prediction,
        console(quiet=not ranks.first),
        device_name(ranks.device),
        ranks.size,
    )
    with ExitStack() as stack:
        ranks.on_first(lambda: stack.enter_context(_sole_trainer(folder)))
        ranks.on_first(lambda: _require_free(folder, file))
        try:
            ranks.on_first(lambda: write_atomically(folder / RECIPE, file.to_json()))
            meter = EnergyMeter(config.energy, gpus_here(str(ranks.device)))
            with display, warnings_to(sys.stderr), closing(meter):
                there = getattr(text, "train_tokens", None)  # examples and rows are seen again and again
                if there is not None and recipe.tokens > there:
                    logger.warning(
                        "the run has %s tokens, and the text %s to train on: it sees it %.2g times",
                        f"{recipe.tokens:,}", f"{there:,}", recipe.tokens / there,
                    )  # fmt: skip
                outcome = train(job, display.step_done, ranks)
                # Each process has a device of its own, and all do the same work.
                energy = meter.energy(device_name(ranks.device), outcome.seconds, ranks.size)
                outcome = replace(outcome, energy=energy)
            if not ranks.first:
                return
            if not isinstance(outcome, Completed):
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
                said = f"after {outcome.progress:.1%} of its steps: {outcome.message}"
                raise CarbsScalingError(f"the run ended without a model {said}")
        except (CarbsScalingError, OSError):
            if ranks.first:
                _leave_nothing(folder)
            raise
        draw_curve_png(
            read_curve(folder / CURVE),
            folder / PICTURE,
            f"{file.name}: loss along the run",
            file.prediction,
            next(iter(outcome.metrics.values())) / outcome.law_loss,
        )
        write_card(folder, file, outcome, text.description)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    display.finished(outcome, folder)


@contextmanager
def _sole_trainer(folder: Path) -> Iterator[None]:
    """Holds a model's folder by a lock beside it, which goes away with what else was made in vain.

    Raises:
        ConfigError: another process trains it.
        OSError: the folder of models cannot be made or written.
    """
    missing = [path for path in folder.parents if not path.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ConfigError(
            f"{folder} is being trained by another process: wait for it, or take another train.name"
        ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        for path in missing:
            if not any(path.iterdir()):
                path.rmdir()


def with_recipe(sections: DictConfig, file: RecipeFile, overrides: Sequence[str]) -> DictConfig:
    """The configuration with a recipe's values wherever no override says otherwise."""
    from carbs_scaling.tasks.pretraining_recipe import recipe_sections

    keys = [override.lstrip("~+").split("=")[0].split("@")[0] for override in overrides]
    result = sections.copy()

    def overridden(path: str) -> bool:
        return any(key == path or path.startswith(f"{key}.") or key.startswith(f"{path}.") for key in keys)

    for group, values in recipe_sections(file).items():
        if group == "model":  # the options of another family than the recipe's
            for name in [name for name in result.model if name not in values]:
                if not overridden(f"model.{name}"):
                    with open_dict(result):
                        result.model.pop(name)
        for name, value in values.items():
            path = f"{group}.{name}"
            if overridden(path):
                continue
            with open_dict(result):
                # A range does not merge with a number: it is taken out first.
                result[group].pop(name, None)
                result[group][name] = value
    return result


def _given_overrides() -> Sequence[str]:
    from hydra.core.hydra_config import HydraConfig

    return [str(text) for text in HydraConfig.get().overrides.task] if HydraConfig.initialized() else []


def _given_recipe(config: TrainConfig) -> RecipeFile | None:
    """The recipe of `recipe=` or `trial=`; None where the overrides say everything."""
    if config.recipe is not None:
        return RecipeFile.load(config.recipe)
    return None if config.trial is None else _recipe_of_trial(config.study, config.trial)


def _recipe_of_trial(config: StudyConfig, number: int) -> RecipeFile:
    import optuna

    from carbs_scaling.ledger.study import Study
    from carbs_scaling.tasks.pretraining_recipe import trial_recipe

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = Study.load(config)
    records = {record.number: record for record in study.records()}
    if number not in records:
        raise ConfigError(f"study {study.name} has no trial {number}: its trials are 0 to {len(records) - 1}")
    return trial_recipe(records[number], study.identity, study.name)


def _file_to_train(
    config: TrainConfig, kind: "type[TrainedModel]", task_config: TrainedModelConfig, given: RecipeFile | None
) -> "tuple[RecipeFile, Material]":
    """The recipe file of what will be trained, overrides included, and its text.

    Raises:
        ConfigError: a dimension without one value, or another text than the recipe's.
    """
    from carbs_scaling.numbers import compact
    from carbs_scaling.tasks.pretraining_recipe import data_settings
    from carbs_scaling.tasks.trained_model import space_of
    from carbs_scaling.training.learning import learning

    text = kind.prepare(task_config)
    learning(text, task_config.model.sequence_length)  # too little is reported before anything is made
    known = None if given is None else given.data_sha256
    if known is not None and known != text.sha256 and not config.train.any_text:
        raise ConfigError(
            f"the recipe is for another text (sha256 {known[:12]}, here {text.sha256[:12]}): give the "
            "recipe's text in data.*, or train.any_text=true"
        )
    space = space_of(task_config, text)
    if space.searched:
        name = next(iter(space.searched))
        raise ConfigError(
            f"space.{name} is a range: train needs recipe=FILE, study.name=NAME trial=NUMBER, or one value "
            f"for each of space.{', space.'.join(space.searched)}"
        )
    seed = config.train.seed
    if seed is None:
        seed = config.study.seed if given is None else given.recipe.seed
    recipe = space.recipe({}, seed)
    name = config.train.name or (
        given.name if given is not None else f"{compact(recipe.params)}-{compact(recipe.tokens)}"
    )
    file = RecipeFile(
        name=name,
        task=kind.name,
        recipe=recipe,
        optimizer=task_config.optimizer,
        schedule=task_config.schedule,
        objective=task_config.objective,
        flops_convention=task_config.model.flops_convention,
        data=data_settings(task_config.data, text),
        data_sha256=text.sha256,
        source="overrides" if given is None else given.source,
    )
    if given is None:
        return file, text
    if _asked_about(given) != _asked_about(file):
        return replace(file, source=f"{given.source}, with overrides"), text
    return replace(file, prediction=given.prediction), text


def _asked_about(file: RecipeFile) -> tuple[object, ...]:
    """All that a prediction is about; where the text lies is not."""
    constants = file.optimizer, file.schedule, file.objective, file.flops_convention
    return file.recipe, *constants, file.data_sha256


def _require_free(folder: Path, file: RecipeFile) -> None:
    """Refuses a folder with a model, or with an unfinished run of another recipe.

    Raises:
        ConfigError: it is one of them.
    """
    if (folder / RECORD).exists():
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)  # left by a kill right after the record
        raise ConfigError(f"{folder} holds a trained model: take another train.name, or move it away")
    if (folder / RECIPE).exists():
        if run_of(RecipeFile.load(folder / RECIPE)) != run_of(file):
            raise ConfigError(
                f"{folder} holds an unfinished run of another recipe: take another train.name, or "
                "move it away"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds other files: take another train.name, or move them away")


def _job(
    config: TrainConfig,
    task_config: TrainedModelConfig,
    file: RecipeFile,
    text: "Material",
    folder: Path,
    device: str,
) -> "TrainingJob":
    from carbs_scaling.training.checkpoint import CheckpointPlan
    from carbs_scaling.training.job import TrainingJob

    how = task_config.training
    checkpoints = None
    if how.checkpoint_minutes is not None:
        run = run_of(file)
        checkpoints = CheckpointPlan(str(folder / CHECKPOINTS), how.checkpoint_minutes, run)
    return TrainingJob(
        recipe=file.recipe,
        text=text,
        optimizer=file.optimizer,
        schedule=file.schedule,
        objective=file.objective,
        device=device,
        compile=how.compile,
        micro_batch_tokens=how.micro_batch_tokens,
        curve_path=str(folder / CURVE),
        cuda_graph=how.cuda_graph,
        checkpoints=checkpoints,
        model_folder=str(folder),
        tokenizer=text.tokenizer,
    )


def run_of(file: RecipeFile) -> str:
    """What says that two runs are the same."""
    from carbs_scaling.training.checkpoint import run_identity

    return run_identity(replace(file, prediction=None, source="", name="any").to_dict())


def _leave_nothing(folder: Path) -> None:
    """Remove the folder of a run that cannot go on from anywhere."""
    checkpoints = folder / CHECKPOINTS
    if not (checkpoints.is_dir() and any(checkpoints.glob("*.json"))):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def warnings_to(stream: TextIO) -> Iterator[None]:
    """What the package warns of meanwhile, a line each."""
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("carbs-scaling: %(message)s"))
    package = logging.getLogger("carbs_scaling")
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
