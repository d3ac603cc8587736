"""`carbs-scaling plan`: what a budget buys, before anything is run."""

import json
import shlex
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from carbs_scaling.config_keys import configuration_folder
from carbs_scaling.config_loading import load_config
from carbs_scaling.errors import ConfigError
from carbs_scaling.verb_config import PlanConfig

if TYPE_CHECKING:
    from carbs_scaling.compute.plan import Plan


def run(composed: DictConfig) -> None:
    """Plans, shows, and writes a preset of the search."""
    config = load_config(PlanConfig, composed)
    if config.search is not None:
        _tell_search_time(config.search, config.format)
        return

    from carbs_scaling.report.terminal import working

    with working("counting the FLOPs of models, and asking published laws"):
        plan, memory = _planned(config)

    from carbs_scaling.files import write_atomically
    from carbs_scaling.report.plan import plan_dict, plan_lines
    from carbs_scaling.tasks.pretraining_overrides import search_preset

    if config.format == "json":
        print(json.dumps(plan_dict(plan), indent=1))
    else:
        print("\n".join(plan_lines(plan, memory)))
    if config.output is None:
        return
    output = _preset_path(config.output)
    hours = None if config.hours is None else config.hours * config.share_for_search
    preset = OmegaConf.to_yaml(OmegaConf.create(search_preset(plan, output.stem, hours)))
    head = f"The search of carbs-scaling plan. Add a text with a vocabulary of {config.vocabulary_size:,}."
    write_atomically(output, f"# @package _global_\n# {head}\n{preset}".encode())
    if config.format != "json":
        folder = output.parent.parent
        print(f"\nwrote {output}: carbs-scaling search --config-dir {folder} +experiment={output.stem}")


def _planned(config: PlanConfig) -> "tuple[Plan, float | None]":
    """The plan, and the memory of a device in bytes where that is known."""
    from carbs_scaling.compute.plan import ModelPlan, by_laws, make_plan
    from carbs_scaling.compute.throughput import device_called, table_throughput
    from carbs_scaling.tasks.pretraining_config import ModelConfig

    output = None if config.output is None else _preset_path(config.output)
    family = ModelConfig.from_section(OmegaConf.create(config.model))
    if output is not None and not family.scaling.is_standard:
        raise ConfigError(
            "a preset has the rates of published laws, which are of model.parametrization=standard: leave it "
            "out here, and add it to the search with a space.learning_rate of its own"
        )
    # A parametrization changes neither FLOPs nor memory.
    names = {field.name for field in fields(ModelPlan)} - {"vocabulary_size"}
    shared = {name: getattr(family, name) for name in names}
    model = ModelPlan(**shared, vocabulary_size=config.vocabulary_size)
    memory: float | None = None
    if config.probe:
        from carbs_scaling.training.probe import probe

        def batch_of(params: float) -> float:
            return by_laws(lambda law: law.recipe(params, 20 * params).batch_tokens)[0]

        throughput = probe(model.shape, batch_of, model.flops_convention, config.gpus)
    else:
        throughput = table_throughput(config.gpu, config.utilization)
        memory = device_called(config.gpu).memory_bytes
    if config.flops is not None:
        flops = config.flops
    else:
        assert config.hours is not None
        flops = config.gpus * config.hours * 3600 * max(throughput.flops_per_second)
    plan = make_plan(
        flops, config.share_for_search, model, throughput, config.gpus, str(config.optimizer["name"])
    )
    return plan, memory


def _tell_search_time(search: str, format: str) -> None:
    """Prints how long the search of these overrides takes here."""
    from carbs_scaling.commands.search import build_task, load_search
    from carbs_scaling.executors.processes import worker_environments
    from carbs_scaling.numbers import scientific
    from carbs_scaling.report.plan import time_text
    from carbs_scaling.tasks.pretraining import Pretraining
    from carbs_scaling.tasks.pretraining_time import search_time

    config, task_config = load_search(_composed_search([] if search == "default" else shlex.split(search)))
    task = build_task(config, task_config)
    if not isinstance(task, Pretraining):
        raise ConfigError(f"plan search=... times steps of task=pretraining, not of {task.name}")
    in_process = config.executor.name == "in_process"
    workers = 1 if in_process else len(worker_environments(config.executor.device, config.executor.workers))
    found = search_time(config, task, workers)
    if format == "json":
        print(json.dumps(asdict(found), indent=1))
        return
    print("\n".join(found.steps_timed))
    print(
        f"search of {scientific(config.budget.flops, 3)} FLOPs: about {time_text(found.seconds)} with "
        f"{found.workers} at a time, some {found.runs} runs"
    )


def _composed_search(overrides: list[str]) -> DictConfig:
    """The configuration of a search, with `experiment=x` as the command line takes it."""
    overrides = [f"+{text}" if text.startswith("experiment=") else text for text in overrides]
    running = GlobalHydra.instance().is_initialized()  # as in the command line, in the same folder
    folder = str(configuration_folder())
    with nullcontext() if running else initialize_config_dir(folder, version_base="1.3"):
        return compose("search", overrides)


def _preset_path(output: str) -> Path:
    """The file that Hydra finds under `+experiment=NAME` with `--config-dir DIR`.

    Raises:
        ConfigError: it would not be found there.
    """
    path = Path(output)
    if path.suffix != ".yaml" or path.resolve().parent.name != "experiment":
        raise ConfigError(
            f"output={output} must be DIR/experiment/NAME.yaml, for search --config-dir DIR +experiment=NAME"
        )
    return path
