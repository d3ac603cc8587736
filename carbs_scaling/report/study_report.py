"""A study as one page for somebody who has never seen the program: what it holds, and the HTML file.

The page needs nothing from outside: the plotting library travels inside it. All texts of a study are escaped.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from markupsafe import Markup, escape

from carbs_scaling import __version__
from carbs_scaling.files import write_atomically
from carbs_scaling.laws.fit.fit_law import fit_law
from carbs_scaling.laws.recommend.advice import Advice, advise
from carbs_scaling.laws.runs.reading import read_runs
from carbs_scaling.laws.runs.table import LawError, RunTable
from carbs_scaling.laws.scaling_law import CONVENTION, ScalingLaw
from carbs_scaling.ledger.record import TrialRecord, ended
from carbs_scaling.ledger.study import Study, spent_flops
from carbs_scaling.numbers import compact, rough_duration, scientific, spent_text
from carbs_scaling.report.energy import energy_line
from carbs_scaling.report.front import completed_records, front_edges, front_law, front_records
from carbs_scaling.report.html import CONFIG, front_figure
from carbs_scaling.report.laws import LABELS, OTHER_LABELS, held_out_line, number_text
from carbs_scaling.report.study_figures import (
    budget_figure,
    dimensions_figure,
    law_figure,
    recipe_figure,
    valley_figure,
)
from carbs_scaling.report.table import front_columns
from carbs_scaling.trial import Status

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TEMPLATE = Path(__file__).with_name("study_report.html.j2")
FURTHER = 10.0  # the recommendation's FLOPs over those of the largest run, where none is asked for
MOST_FAILURES = 50
COMMAND_CHARACTERS = 60  # of a command that are shown above the figures; all of it stands at the end
TABLE_CHARACTERS = 105  # that the page has room for, of a table
SHOWN = 3  # formulas: loss, learning rate and batch; their small terms open with a click
STEPS = (0.25, 0.5, 2.0, 4.0)  # factors off the optimum whose price is told
LESS, MORE = ["quarter", "half"], ["double", "fourfold"]


@dataclass
class Table:
    """Headings and rows of texts; the first column is to the left."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Section:
    """One part of the page.

    Args:
        title: its heading.
        lead: what it shows, for somebody who sees it for the first time.
        figure: of plotly; None for none.
        table: below the figure; None for none.
        lines: short statements.
        more: statements that open with a click.
        text: kept as it is, with its line breaks; empty for none.
    """

    title: str
    lead: str
    figure: "Figure | None" = None
    table: Table | None = None
    lines: list[str] = field(default_factory=list)
    more: list[str] = field(default_factory=list)
    text: str = ""

    @property
    def anchor(self) -> str:
        """Its address on the page."""
        return self.title.lower().replace(" ", "-").replace(",", "")


def write_report(study: Study, path: str | Path, target_flops: float | None = None) -> Path:
    """Write the page of a study.

    Args:
        study: with a completed run.
        path: the file; an existing one is replaced only once the new one is whole.
        target_flops: C of the recommendation, 6 N D; None for `FURTHER` times that of the largest run.

    Raises:
        CarbsScalingError: the file cannot be written.
    """
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["powers"] = _with_powers
    sections = report_sections(study, target_flops)
    figures = {
        section.anchor: section.figure.to_json().replace("<", "\\u003c")  # what a study holds ends no script
        for section in sections
        if section.figure is not None
    }
    page = environment.from_string(TEMPLATE.read_text()).render(
        title=f"Study {study.name}", intro=_intro(study), summary=_summary(study), sections=sections,
        figures=figures, plotly=get_plotlyjs(), config=CONFIG, version=__version__,
    )  # fmt: skip
    return write_atomically(path, page.encode())


def report_sections(study: Study, target_flops: float | None = None) -> list[Section]:
    """The parts of the page; those of the law only where the runs give one."""
    records, metric = study.records(), study.metric
    found = [_front(study, records)]
    try:
        # The runs of a study have one optimizer.
        table = next(iter(read_runs(study).values()))
        law = fit_law(table)
    except LawError as error:
        lead = "A law of loss, learning rate and batch needs runs that differ in size or length."
        found.append(Section("The law", lead, lines=[f"These runs give none: {error}."]))
    else:
        assert isinstance(law, ScalingLaw)
        found += _law(law, table, metric, front_records(records))
        found.append(_recommendation(law, target_flops, records))
    dimensions = dimensions_figure(records, metric)
    if dimensions is not None:
        found.append(
            Section(
                "All runs",
                "Each line is a run; light green ones lie close to the front for their cost. Drag along an "
                "axis to keep the runs that pass there; click it to let them go.",
                dimensions,
            )
        )
    return [*found, _budget(study), *_failures(records), _reproduction(study, records)]


def _with_powers(text: str) -> Markup:
    """A formula with its `^-0.5` raised."""
    return Markup(re.sub(r"\^(-?[\w.]+)", r"<sup>\1</sup>", str(escape(text))))


def _intro(study: Study) -> str:
    """What was asked, for somebody who has never seen the program."""
    command = str(study.identity.get("program", {}).get("command") or "")
    by = f"task={study.identity['task']}"
    if command:
        command = re.sub(r"^\S*/", "", command)  # where an interpreter lies says nothing to others
        by += f" ({shorten(command, COMMAND_CHARACTERS, placeholder=' ...')})"
    return (
        "A search for the lowest loss at every cost of training, and for the recipe of a larger run. Each "
        f"run trained a model of its own size, for its own time, with its own settings, by {by}. "
        "Cost is counted in FLOPs, the arithmetic of training."
    )


def _summary(study: Study) -> list[tuple[str, str]]:
    records = study.records()
    over = [record for record in records if not record.running]
    completed = completed_records(records)
    best = min(completed, key=lambda record: record.loss)
    stopped = sum(record.status is Status.STOPPED for record in over)
    counts = {
        "completed": len(completed),
        "stopped": stopped,
        "failed": len(over) - len(completed) - stopped,
        "open": len(records) - len(over),
    }
    return [
        ("lowest loss", f"{best.loss:.4f} {study.metric}, trial {best.number}"),
        ("spent", spent_text(spent_flops(records), study.budget_flops, 3)),
        ("runs", ", ".join(f"{count} {what}" for what, count in counts.items() if count)),
        ("time", rough_duration(study.wall_seconds)),
        ("front", f"{len(front_records(records))} runs"),
    ]  # fmt: skip


def _front(study: Study, records: list[TrialRecord]) -> Section:
    over = [record for record in records if not record.running]
    law, columns = front_law(records), front_columns(over, study.metric, TABLE_CHARACTERS)
    rows = list(zip(*(column.cells for column in columns), strict=True))
    lines = [] if law is None else [f"Along the front, C in FLOPs: {law.formula()}"]
    lines += [f"At the edge of the space: {edge}" for edge in front_edges(study)]
    return Section(
        "The front",
        "Every run by what it cost and the loss it reached. The runs on the front are those that no other "
        "beats in both: for a given cost, nothing better was found. Point at a run for its recipe.",
        front_figure(over, law, study.metric),
        Table([column.heading for column in columns], rows),
        lines,
    )


def _law(law: ScalingLaw, table: RunTable, metric: str, front: list[TrialRecord]) -> list[Section]:
    formulas = law.formulas()
    small = ". F, G and H: small terms, below" if formulas[SHOWN:] else ""
    lines = [*formulas[:SHOWN], CONVENTION + small, f"Checked: {held_out_line(law)}."]
    lines += [f"Mind: {warning}." for warning in law.warnings]
    what, by = ("this model", "") if table.one_size else ("any model of their kind", "parameters N and ")
    found = [
        Section(
            "The law",
            f"What the runs say of {what}: the loss at the best learning rate and batch, by {by}training "
            "tokens D. Runs lie above the curve of their size where their rate or batch was not the best.",
            law_figure(law, table, metric),
            lines=lines,
            more=list(formulas[SHOWN:]),
        )
    ]
    if not law.has_role[2]:
        return found
    found.append(
        Section(
            "The valley of the learning rate",
            "How much loss a wrong learning rate costs. Rates are divided by the law's best for each run's N "
            "and D, so that runs of all sizes lie in one valley; what a run lost by its batch and shape "
            "is taken off it, by the law.",
            valley_figure(law, table, metric),
            _prices(law, table, metric),
        )
    )
    by = "length" if table.one_size else "size"
    names = {"learning_rate": f"Best learning rate by {by}", "batch_tokens": f"Best batch by {by}"}
    for role, title in names.items():
        if law.has_role[2 if role == "learning_rate" else 3]:
            lead = "By the law, with its interval; dashed beyond the largest run. Circles: the front."
            found.append(Section(title, lead, recipe_figure(law, table, front, role)))
    return found


def _prices(law: ScalingLaw, table: RunTable, metric: str) -> Table:
    """What each hyperparameter is worth: loss above the best at the largest run's N and D, by factor."""
    largest = int(np.argmax(table.params * table.tokens))
    params, tokens = float(table.params[largest]), float(table.tokens[largest])
    rate, batch = float(law.learning_rate(params, tokens)), float(law.batch_tokens(params, tokens))
    best = float(law.loss(params, tokens))
    factors = np.array(STEPS)

    def cells(name: str, value: float, losses: np.ndarray) -> list[str]:
        return [
            name,
            number_text("batch_tokens" if name == "batch" else name, value),
            *(f"{x:+.4f}" for x in losses),
        ]

    rows = []
    if law.has_role[2]:
        rows.append(cells("learning rate", rate, law.run_loss(params, tokens, rate * factors, batch) - best))
    if law.has_role[3]:
        rows.append(cells("batch", batch, law.run_loss(params, tokens, rate, batch * factors) - best))
    place = f"{metric} lost at N {compact(params)}, D {compact(tokens)}"
    return Table([place, "best", *(f"x {step:g}" for step in STEPS)], rows)


def _recommendation(law: ScalingLaw, target_flops: float | None, records: list[TrialRecord]) -> Section:
    largest = law.support.largest_run_flops
    flops = FURTHER * largest if target_flops is None else target_flops
    head_size = next((int(r.details["head_size"]) for r in records if "head_size" in r.details), 64)
    advice = advise(law, flops=flops, head_size=head_size)
    recipe, level = advice.recipe, advice.level
    rows = [["parameters N", compact(recipe.params), _range(advice.optimal, "params_interval")]]
    rows.append(["tokens D", compact(recipe.tokens), _range(advice.optimal, "tokens_interval")])
    if advice.width is not None:
        rows.append(["nearest width x depth", f"{advice.width} x {advice.depth}", ""])
    for name, (low, high) in advice.intervals.items():
        value = getattr(recipe, name, None)
        value = recipe.other[name] if value is None else value
        if np.isfinite(value):
            text = number_text(name, value)
            label = LABELS.get(name) or OTHER_LABELS[name]
            rows.append([label, text, f"{number_text(name, low)} to {number_text(name, high)}"])
    lines = [f"Mind: {advice.reach.line}."] if advice.reach.reasons else []
    lines += [f"Mind: {note}." for note in recipe.notes if note not in law.warnings]
    lines.append(_next_flops(advice))
    run = "run of this model for" if advice.optimal is None else "compute-optimal run of"
    return Section(
        "What to train next",
        f"The {run} {scientific(flops, 3)} FLOPs (6 N D), {flops / largest:.3g} times the "
        f"largest run here, by the law. Intervals hold with a probability of {level:.0%}.",
        table=Table(["", "value", f"{level:.0%} interval"], rows),
        lines=lines,
    )


def _range(optimal: Any, name: str) -> str:
    if optimal is None:
        return ""
    low, high = getattr(optimal, name)
    return f"{compact(low)} to {compact(high)}"


def _next_flops(advice: Advice) -> str:
    """What further search would buy."""
    larger = "longer" if advice.optimal is None else "larger"
    if advice.halving_flops is None:
        return (
            "More runs of the kind made here would hardly narrow the rate's interval: what is left is how "
            f"single sizes lie off the law. Spend the next FLOPs on {larger} runs."
        )
    return (
        f"Some {scientific(advice.halving_flops, 2)} FLOPs more of runs like these would halve the interval "
        f"of the learning rate; fewer do where the runs are {larger}."
    )


def _budget(study: Study) -> Section:
    lines = [line for line in (energy_line(study.records()),) if line is not None]
    return Section(
        "Budget over time",
        "What was spent, and the lowest loss so far.",
        budget_figure(study.endings(), study.budget_flops),
        lines=lines,
    )


def _failures(records: list[TrialRecord]) -> list[Section]:
    failed = [record for record in records if not record.running and not record.completed]
    if not failed:
        return []
    rows = [
        [str(r.number), str(r.status).replace("_", " "), scientific(r.flops), ended(r).message or "-"]
        for r in failed[:MOST_FAILURES]
    ]
    more = [] if len(failed) <= MOST_FAILURES else [f"and {len(failed) - MOST_FAILURES} more"]
    lead = "Runs without a loss. Those that diverged or ran out of memory teach the search where not to go."
    title = "Failures"
    if any(record.status is Status.STOPPED for record in failed):
        title = "Failures and stopped runs"
        lead += " Stopped ones would hardly have reached the front."
    return [Section(title, lead, table=Table(["trial", "how it ended", "FLOPs", "reason"], rows), lines=more)]


def _said(settings: Any) -> Any:
    """Nested settings without what is null or empty."""
    if not isinstance(settings, Mapping):
        return settings
    kept = {name: _said(value) for name, value in settings.items()}
    return {name: value for name, value in kept.items() if value not in (None, "", [], {})}


def _reproduction(study: Study, records: list[TrialRecord]) -> Section:
    provenance = records[-1].provenance
    settings = {
        "study": study.name,
        **({"budget_flops": scientific(study.budget_flops, 3)} if isfinite(study.budget_flops) else {}),
        "identity": _said(study.identity),
        "versions": {k: v for k, v in provenance.items() if isinstance(v, str | int | float)},
    }
    again = (
        f"is carbs-scaling train study.name={study.name} trial=T"
        if "model" in study.identity
        else "is its program with the values of that run, which the first figure shows"
    )
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return Section(
        "How to reproduce it",
        f"The same study is carbs-scaling search study.name={study.name} with these settings; trial T again "
        f"{again}.",
        text=text,
    )
