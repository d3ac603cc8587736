"""`carbs-scaling schedules`: the schedule that laws of loss curves like best, for a run of so many steps."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from carbs_scaling.config_loading import load_config
from carbs_scaling.errors import ConfigError
from carbs_scaling.verb_config import SchedulesConfig

if TYPE_CHECKING:
    from carbs_scaling.laws.schedules.law import Schedule
    from carbs_scaling.laws.schedules.sde import FunctionalExponents
    from carbs_scaling.training.config import ScheduleConfig

FRACTIONS = (0.1, 0.2, 0.3)  # of the steps, in which the candidates decay
THEORY = "sde"
LEAST_RATE = 1e-4  # of the peak, where a schedule ends at 0: laws take the logarithm of rates


def run(composed: DictConfig) -> None:
    """Fits, ranks, shows and writes."""
    config = load_config(SchedulesConfig, composed)

    from carbs_scaling.commands.front import print_paths
    from carbs_scaling.files import write_atomically
    from carbs_scaling.laws.schedules.comparison import best_law, check_laws, rank, theory_exponents
    from carbs_scaling.report.schedules import schedules_report
    from carbs_scaling.report.terminal import console

    models = _models(config)
    checks = check_laws(models) if config.check else {}
    kind = config.law_type or best_law(checks)
    choices = candidates(theory_exponents(models))
    longest = max(len(c.schedule.learning_rates) for curves in models.values() for c in curves.values())
    steps = config.target.steps or longest
    warmup = config.target.warmup_fraction

    def schedules(peak: float) -> dict[str, "Schedule"]:
        return {name: as_schedule(schedule, peak, steps, warmup) for name, (schedule, _) in choices.items()}

    ranking = rank(kind, models, schedules, config.target.peak)
    best = next(iter(ranking.excess))
    schedule, arguments = choices[best]
    values = {
        "law": ranking.law,
        "steps": steps,
        "curves": {model: sorted(curves) for model, curves in models.items()},
        "left_out": {name: asdict(check) for name, check in checks.items()},
        "excess": ranking.excess,
        "losses": ranking.losses,
        "best": {"name": best, "schedule": asdict(schedule), "law_scheduler": arguments},
    }
    paths = []
    if config.output is not None:
        text = OmegaConf.to_yaml(OmegaConf.create(asdict(schedule)))
        lead = f"# @package schedule\n# {best}: best of {len(choices)} for {steps:,} steps by {ranking.law}\n"
        folder = Path(config.output)
        paths.append(write_atomically(folder / "schedule" / "best.yaml", f"{lead}{text}".encode()))
        content = json.dumps(arguments, indent=1)
        paths.append(write_atomically(folder / "law_scheduler.json", f"{content}\n".encode()))
    if config.format == "json":
        print(json.dumps(values, indent=1))
        return
    out = console()
    out.print(schedules_report(models, checks, ranking, steps, schedule, longest, THEORY))
    print_paths(paths, out)


def _models(config: SchedulesConfig) -> dict[str, dict[str, Any]]:
    """Curves by model and run.

    Raises:
        ConfigError: there is none.
    """
    if config.curves is not None:
        from carbs_scaling.laws.schedules.curves import read_curves

        files = []
        for pattern in config.curves:
            path = Path(pattern).expanduser()
            found = sorted(path.parent.glob(path.name)) if "*" in path.name or "?" in path.name else [path]
            if not found:
                raise ConfigError(f"curves={pattern}: no such file")
            files += found
        return read_curves(files)
    import optuna

    from carbs_scaling.ledger.curves import curves_by_model
    from carbs_scaling.ledger.study import Study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    models = curves_by_model(Study.load(config.study).records(), config.study.folder / "curves")
    if not models:
        raise ConfigError(
            f"the trials of study {config.study.name} left no loss curves with learning rates: give "
            "curves=FILES"
        )
    return models


def candidates(
    theory: "FunctionalExponents | None",
) -> dict[str, tuple["ScheduleConfig", dict[str, float | str]]]:
    """Schedules by name, each as `conf/schedule` and as arguments of `law_scheduler`; `sde` by theory."""
    from carbs_scaling.training.config import ScheduleConfig
    from carbs_scaling.training.law_scheduler import DECAY_EXPONENTS, DECAY_FRACTION

    def made(
        shape: str, final: float = 0.0, fraction: float = DECAY_FRACTION, exponent: float = 1.0
    ) -> tuple[ScheduleConfig, dict[str, float | str]]:
        name, decay = ("wsd", "power") if shape == "sde" else (shape, "linear")
        arguments: dict[str, float | str] = {"shape": shape, "final_fraction": final}
        if name == "wsd":
            arguments["decay_fraction"] = fraction
        if shape in ("sde", "power"):
            arguments["decay_exponent"] = exponent
        return ScheduleConfig(name, final, fraction, decay, exponent), arguments

    found = {"constant": made("constant", 1.0), "linear to 0": made("linear")}
    found |= {f"cosine to {final:g}": made("cosine", final) for final in (0.1, 0.0)}
    found["power 2 to 0"] = made("power", exponent=2.0)
    for fraction in FRACTIONS:
        found[f"wsd, last {fraction:.0%} linear"] = made("wsd", fraction=fraction)
        found[f"wsd, last {fraction:.0%} power 2"] = made("sde", fraction=fraction, exponent=2.0)
    if theory is not None and theory.easy:
        found[THEORY] = made("power", exponent=theory.decay_exponent)
    else:
        found[THEORY] = made("sde", exponent=DECAY_EXPONENTS["sde"])
    return found


def as_schedule(schedule: "ScheduleConfig", peak: float, steps: int, warmup_fraction: float) -> "Schedule":
    """The learning rates of a run of so many steps, for a schedule law."""
    from carbs_scaling.laws.schedules.law import Schedule
    from carbs_scaling.training.schedules import learning_rate_factor

    rates = peak * np.array(
        [learning_rate_factor(schedule, warmup_fraction, step, steps) for step in range(steps)]
    )
    warmup = round(warmup_fraction * steps)
    return Schedule(np.maximum(rates[warmup:], LEAST_RATE * peak), float(rates[:warmup].sum()))
