"""`carbs-scaling fit`: the scaling law of a study or of a table of runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from carbs_scaling.config import StudyConfig
from carbs_scaling.config_loading import load_config
from carbs_scaling.laws.runs.table import RunTable
from carbs_scaling.laws.scaling_law import ScalingLaw
from carbs_scaling.verb_config import FitConfig


def run(composed: DictConfig) -> None:
    """Fits, shows and writes the law."""
    config = load_config(FitConfig, composed)

    from carbs_scaling.commands.front import print_paths
    from carbs_scaling.report.laws import law_report
    from carbs_scaling.report.terminal import console, working

    with working("reading runs"):
        tables = tables_of(config.runs, config.study, config.only_optimizer, config.columns)
    with working(f"fitting the law of {sum(map(len, tables.values()))} runs"):
        laws = laws_of(tables, config.prior)
    if config.runs is None:
        laws = with_edges(laws, config.study)
    paths = []
    for law in laws:
        output = config.output
        if output is None and config.runs is None:
            output = str(config.study.folder / "law.json")
        if output is not None:
            path = Path(output)
            name = path.name if len(laws) == 1 else f"{path.stem}-{law.optimizer}{path.suffix}"
            paths.append(law.save(path.with_name(name)))
            if config.plots:
                paths += draw_law(law, tables[law.optimizer], paths[-1])
    if config.format == "json":
        values = [law.to_dict() for law in laws]
        print(json.dumps(values[0] if len(values) == 1 else values, indent=1))
        return
    out = console()
    for law in laws:
        out.print(law_report(law))
    print_paths(paths, out)


def tables_of(
    runs: str | None,
    study: StudyConfig,
    only_optimizer: str | None = None,
    columns: dict[str, Any] | None = None,
) -> dict[str, RunTable]:
    """The runs of each optimizer, or of one alone, in a table, or in a study where no table is given."""
    from carbs_scaling.laws.runs.reading import read_runs

    if runs is not None:
        return read_runs(runs, only_optimizer, columns)
    import optuna

    from carbs_scaling.ledger.study import Study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return read_runs(Study.load(study), only_optimizer)


def laws_of(tables: dict[str, RunTable], prior: list[str] | None = None) -> list[ScalingLaw]:
    """The law of each optimizer, with published laws as its prior."""
    from carbs_scaling.laws.fit.fit_law import fit_law

    laws = [fit_law(table, prior=prior) for table in tables.values()]
    return [law for law in laws if isinstance(law, ScalingLaw)]  # a table of one optimizer has one law


def with_edges(laws: list[ScalingLaw], config: StudyConfig) -> list[ScalingLaw]:
    """Add to laws a warning for each edge that the study's front presses on, and one for its task."""
    from carbs_scaling.ledger.study import Study
    from carbs_scaling.report.front import front_edges

    study = Study.load(config)
    more = front_edges(study)
    task = study.identity.get("task")
    if "model" in study.identity and task != "pretraining":
        more.append(f"the runs are of task={task}, published laws of pretraining: a prior, no more")
    return [replace(law, warnings=(*law.warnings, *more)) for law in laws]


def draw_law(law: ScalingLaw, table: RunTable, beside: Path) -> list[Path]:
    """The pictures of a law, named after its file; valleys only where some cell was swept."""
    from carbs_scaling.report.laws_figures import draw_law_png, draw_valleys_png, swept_cells

    paths = [draw_law_png(law, table, beside.with_suffix(".png"), f"Scaling law of {table.source}")]
    if swept_cells(table):
        file = beside.with_name(f"{beside.stem}_valleys.png")
        paths.append(draw_valleys_png(law, table, file, f"Learning-rate valleys of {table.source}"))
    return paths
