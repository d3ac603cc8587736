"""`carbs-scaling recommend`: a recipe with intervals for a model too large to search at."""

import io
import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from carbs_scaling.commands.fit import laws_of, tables_of, with_edges
from carbs_scaling.config import StudyConfig
from carbs_scaling.config_loading import load_config
from carbs_scaling.errors import ConfigError
from carbs_scaling.laws.scaling_law import ScalingLaw
from carbs_scaling.verb_config import RecommendConfig, TargetConfig

if TYPE_CHECKING:
    from carbs_scaling.laws.recipe import Recommendation
    from carbs_scaling.laws.recommend.advice import Advice
    from carbs_scaling.training.recipe_file import RecipeFile

# Where neither the target nor a study says: of a table of runs, or a law in a file.
USUAL = {"sequence_length": 2048, "head_size": 64}
OUT_OF_REACH = 3  # exit code: the answer is there, led by why these runs cannot give it


def run(composed: DictConfig) -> None:
    """Fits or reads the law and says what it recommends for the target.

    A target that the runs cannot reach (`laws.recommend.reach`) ends with exit code `OUT_OF_REACH`.
    """
    open_keys = [name for name in USUAL if OmegaConf.select(composed, f"target.{name}") is None]
    config = load_config(RecommendConfig, _with_usual(composed, open_keys))

    from carbs_scaling.laws.recommend.advice import advise

    target = config.target
    if target.flops is None and target.tokens is None:
        if target.params is not None:
            raise ConfigError(
                f"target.params={target.params:g} says how large: say how long too, by target.tokens=1.4e12 "
                "or target.flops=1e22"
            )
        raise ConfigError(
            "say what is to be trained: target.params=7e9 target.tokens=1.4e12, or target.flops=1e22"
        )
    law = _law(config)
    if config.runs is None and config.law is None:
        target = _like_the_study(target, config.study, open_keys)
        config = replace(config, target=target)
    if config.format == "recipe":
        advice = _write_recipe(config, law)
    else:
        advice = advise(law, target.params, target.tokens, target.flops, config.level, target.head_size)
        if advice.lacks and config.format in ("yaml", "training_arguments"):
            raise ConfigError(
                f"the runs have no {' and no '.join(advice.lacks)}, which format={config.format} needs: "
                "format=table and format=json say the rest"
            )
        _write(config, law, advice)
    if config.format != "table":  # there they stand below the answer, and no file of the others may hold them
        for warning in advice.warnings:
            print(f"carbs-scaling: warning: {warning}", file=sys.stderr)
    if advice.reach.reasons:
        if config.format != "table" or config.output is not None:  # else it stands on top of the table
            print(f"carbs-scaling: {advice.reach.line}", file=sys.stderr)
        raise SystemExit(OUT_OF_REACH)


def _with_usual(composed: DictConfig, open_keys: list[str]) -> DictConfig:
    if not isinstance(composed.target, DictConfig):
        return composed  # refused with the rest of the configuration
    usual = {"target": {name: USUAL[name] for name in open_keys}}
    return OmegaConf.merge(composed, usual)  # type: ignore[return-value]


def _like_the_study(target: TargetConfig, study: StudyConfig, open_keys: list[str]) -> TargetConfig:
    """The target with the sequence length and head size of the study's runs, where they have one."""
    from carbs_scaling.ledger.study import Study

    details = next((record.details for record in Study.load(study).records()), {})
    return replace(target, **{name: int(details[name]) for name in open_keys if name in details})


def _write(config: RecommendConfig, law: ScalingLaw, advice: "Advice") -> None:
    """The answer in the format asked for, to the terminal or a file."""
    from carbs_scaling.commands.front import print_paths
    from carbs_scaling.files import write_atomically
    from carbs_scaling.report.laws import advice_dict, advice_report, training_arguments
    from carbs_scaling.report.terminal import console
    from carbs_scaling.tasks.pretraining_overrides import space_overrides

    target = config.target
    if config.format == "table":
        report = advice_report(law, advice, target)
        if config.output is None:
            console().print(report)
            return
        page = io.StringIO()
        console(page, width=110).print(report)
        text = page.getvalue()
    elif config.format == "json":
        text = json.dumps(advice_dict(law, advice, target), indent=1) + "\n"
    elif config.format == "yaml":
        said = [advice.reach.line] if advice.reach.reasons else []
        said += [f"warning: {warning}" for warning in advice.warnings]
        lead = "".join(f"# {line}\n" for line in said)
        values = OmegaConf.to_yaml(OmegaConf.create(space_overrides(advice, target)))
        text = f"# @package _global_\n{lead}{values}"
    else:
        text = json.dumps(training_arguments(advice, target), indent=1) + "\n"
    if config.output is None:
        sys.stdout.write(text)
    else:
        print_paths([write_atomically(config.output, text.encode())], console())


def _law(config: RecommendConfig) -> ScalingLaw:
    if config.law is not None:
        return ScalingLaw.load(config.law)
    from carbs_scaling.report.terminal import working

    with working("reading runs"):
        tables = tables_of(config.runs, config.study, config.only_optimizer, config.columns)
    if len(tables) > 1:
        raise ConfigError(f"the runs are of {', '.join(tables)}: say which with optimizer=NAME")
    with working(f"fitting the law of {sum(map(len, tables.values()))} runs"):
        law = laws_of(tables, config.prior)[0]
    return law if config.runs is not None else with_edges([law], config.study)[0]


def _write_recipe(config: RecommendConfig, law: ScalingLaw) -> "Advice":
    """The recommendation as a recipe file, with all constants of the study's runs."""
    import optuna

    from carbs_scaling.files import write_atomically
    from carbs_scaling.laws.recommend.advice import advise
    from carbs_scaling.ledger.curves import seen_curves
    from carbs_scaling.ledger.study import Study
    from carbs_scaling.tasks.pretraining_recipe import advised_recipe, best_run

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, target = Study.load(config.study), config.target
    records = study.records()
    best = best_run(records, study.identity, study.name)
    own = study.identity["optimizer"]["name"]
    if law.optimizer and law.optimizer != own:
        raise ConfigError(
            f"the law is of {law.optimizer}, and the runs of study {study.name}, whose constants the recipe "
            f"takes, are of {own}: say study.name= of the law's own study"
        )
    curves = seen_curves(records, config.study.folder / "curves")
    head_size = int(best.details["head_size"])
    advice = advise(law, target.params, target.tokens, target.flops, config.level, head_size)
    file = advised_recipe(law, advice, best, study.identity, study.name, curves)
    if config.output is None:
        sys.stdout.write(file.to_json().decode())
    else:
        write_atomically(config.output, file.to_json())
    # The file may go to standard output, for a pipe.
    out = sys.stderr if config.output is None else sys.stdout
    print(_written_line(config.output or "the recipe", file, advice.recipe), file=out)
    return advice


def _written_line(where: str, file: "RecipeFile", asked: "Recommendation") -> str:
    """What a recipe file holds beside what was asked: its shape is the nearest of whole heads and layers."""
    shape, tokens = file.recipe.shape, file.recipe.tokens
    return (
        f"wrote {where}: N = {shape.params:,} ({shape.width} x {shape.depth}; asked: {asked.params:,.0f}), "
        f"D = {tokens:,} (asked: {asked.tokens:,.0f})"
    )
