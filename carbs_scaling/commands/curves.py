"""`carbs-scaling curves`: how convergence changes with model size, from the loss curves that trials left."""

import json
from pathlib import Path

from omegaconf import DictConfig

from carbs_scaling.config_loading import load_config
from carbs_scaling.laws.convergence.fit import fit_convergence
from carbs_scaling.verb_config import CurvesConfig


def run(composed: DictConfig) -> None:
    """Fits, shows, draws and writes."""
    config = load_config(CurvesConfig, composed)

    import optuna

    from carbs_scaling.commands.front import print_paths
    from carbs_scaling.files import write_atomically
    from carbs_scaling.ledger.curves import held_out_gap, run_curves
    from carbs_scaling.ledger.study import Study
    from carbs_scaling.report.convergence import convergence_dict, convergence_report, draw_convergence_png
    from carbs_scaling.report.terminal import console

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = Study.load(config.study)
    records, folder = study.records(), config.study.folder / "curves"
    curves = run_curves(records, folder)
    fit = fit_convergence(curves, config.levels, config.rate_share, config.draws)
    gap = held_out_gap(records, folder)
    values = json.dumps(convergence_dict(fit, study.convention, gap), indent=1)
    output = Path(config.output) if config.output is not None else config.study.folder / "convergence.json"
    paths = [write_atomically(output, f"{values}\n".encode())]
    if config.plots:
        title = f"Convergence of {study.name}"
        picture = output.with_suffix(".png")
        paths.append(draw_convergence_png(fit, curves, picture, title, config.rate_share))
    if config.format == "json":
        print(values)
        return
    out = console()
    out.print(convergence_report(fit, study.name, study.convention, gap))
    print_paths(paths, out)
