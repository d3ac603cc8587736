"""`carbs-scaling front`, and the end of a search: the front as a table, files and plots."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from carbs_scaling.config_loading import load_config
from carbs_scaling.errors import StudyError
from carbs_scaling.laws.runs.table import LawError
from carbs_scaling.laws.scaling_law import ScalingLaw
from carbs_scaling.ledger.study import Study, spent_flops
from carbs_scaling.report.energy import energy_line
from carbs_scaling.report.figures import draw_front_png
from carbs_scaling.report.front import front_edges, front_law, front_rows, write_front
from carbs_scaling.report.html import write_front_html
from carbs_scaling.report.table import front_table
from carbs_scaling.report.terminal import console
from carbs_scaling.verb_config import FrontConfig

if TYPE_CHECKING:
    from rich.console import Console

SMALL_TERMS = ("where ", "with m = ")  # lines of the formula that a terminal leaves to `fit`


def run(composed: DictConfig) -> None:
    """Shows or exports the front of a study that exists."""
    config = load_config(FrontConfig, composed)

    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("carbs_scaling").addHandler(logging.NullHandler())
    study = Study.load(config.study)
    require_completed(study)
    folder = config.study.folder
    if config.format == "table":
        out = console()
        laws = print_front(study, out)
        if config.plots:
            print_paths(write_plots(study, laws, folder), out)
        return
    # The front goes to standard output, for a pipe; what else there is to say goes beside it.
    out = console(stderr=True)
    output = config.output
    if output is None and config.format == "parquet":
        output = str(folder / "front.parquet")
    write_front(front_rows(study.records()), config.format, output)
    paths = [Path(output)] if output is not None else []
    if config.plots:
        paths += write_plots(study, list(law_lines(study)), folder)
    print_paths(paths, out)


def require_completed(study: Study) -> None:
    """Refuse a study without a front.

    Raises:
        StudyError: none of its runs has completed.
    """
    records = study.records()
    if any(record.completed for record in records):
        return
    ended = sum(not record.running for record in records)
    raise StudyError(
        f"study {study.name} has no completed run yet, so no front ({ended} of its trials ended, "
        f"{len(records) - ended} are open)"
    )


def show_front(study: Study, folder: Path, out: "Console") -> None:
    """The end of a search: prints the front and writes every form of it into the study's folder.

    Raises:
        StudyError: none of its runs has completed.
    """
    require_completed(study)
    laws = print_front(study, out)
    rows = front_rows(study.records())
    for format in ("csv", "json"):
        write_front(rows, format, folder / f"front.{format}")
    print_paths([folder / "front.csv", folder / "front.json", *write_plots(study, laws, folder)], out)


def print_front(study: Study, out: "Console") -> list[str]:
    """Prints the front as a table, then the fitted laws, each as soon as it is there; returns those."""
    records = study.records()
    table = front_table(
        records,
        study_name=study.name,
        metric=study.metric,
        spent_flops=spent_flops(records),
        budget_flops=study.budget_flops,
    )
    out.print(table)
    laws = []
    for line in law_lines(study):
        laws.append(line)
        if not line.startswith(SMALL_TERMS):
            out.print(line)
    if any(line.startswith(SMALL_TERMS) for line in laws):
        out.print("F, G and H: corrections, which fit spells out", style="dim")
    return laws


def law_lines(study: Study) -> Iterator[str]:
    """The energy, the law through the front, and the scaling law of all runs, which `fit` shows in full.

    Where the runs give no scaling law, the reason stands in its place.
    """
    energy = energy_line(study.records())
    if energy is not None:
        yield energy
    yield from (f"at the edge of the space: {edge}" for edge in front_edges(study))
    along_front = front_law(study.records())
    if along_front is not None:
        yield f"along the front, C in FLOPs: {along_front.formula()}"
    from carbs_scaling.laws.fit.fit_law import fit_law  # takes half a second: what is there is shown before

    try:
        law = fit_law(study, check=False)
    except LawError as error:
        yield f"over all runs, no scaling law: {error}"
        return
    assert isinstance(law, ScalingLaw)  # the runs of one study have one optimizer
    yield from ("over all runs:", *law.formulas())


def write_plots(study: Study, laws: list[str], folder: Path) -> list[Path]:
    """The picture and the interactive page of the study."""
    records, metric = study.records(), study.metric
    title = f"{study.name}: loss against FLOPs"
    law = front_law(records)
    return [
        draw_front_png(records, folder / "front.png", title, law=law, metric=metric),
        write_front_html(records, folder / "front.html", title, law=law, metric=metric, law_lines=laws),
    ]


def print_paths(paths: list[Path], out: "Console") -> None:
    """Where the files are, a line each that no terminal width breaks."""
    for path in paths:
        out.print(f"wrote {path}", style="dim", soft_wrap=True)
