"""The picture of a study as a page to explore: every run's point under the pointer, the front as a table.

One file that needs nothing from outside: the plotting library travels inside it, some 5 MB.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from carbs_scaling.files import write_atomically
from carbs_scaling.laws.front_law import LEVEL, PowerLaw
from carbs_scaling.ledger.record import IMPORTED_FROM, TrialRecord
from carbs_scaling.ledger.record import ended as ended_outcome
from carbs_scaling.numbers import clock_text, log_ticks, scientific
from carbs_scaling.report.canvas import short
from carbs_scaling.report.columns import point_columns, value_text
from carbs_scaling.report.figures import FAILURE_MARKS, TOP_BAND, axis_limits, loss_label
from carbs_scaling.report.front import completed_records, front_records
from carbs_scaling.report.table import front_columns

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LAW_COLOUR, ALARM = "#e8590c", "#e03131"  # both readable on white and on near-black
# Viridis from a lighter start, which a dark page does not swallow, and without the end that is lost on white.
_SHADES = ("#4c58ad", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b")
SHADES = [[place / (len(_SHADES) - 1), shade] for place, shade in enumerate(_SHADES)]
FRONT_COLOUR = "#868e96"
LAW_BAND = "rgba(232,89,12,.18)"
_DETAILS_A_LINE = 5
MOST_DRAWN = 1000  # runs beside the front in a figure of a page
FAILURE_SYMBOLS = {"x": "x-thin-open", "^": "triangle-up-open"}

# Named one by one: the default row offers to send the figure to a web service.
CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtons": [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
}

# Transparent, so that a figure can follow its page from light to dark.
LAYOUT: dict[str, Any] = {
    "template": "none",
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": "system-ui, Liberation Sans, Arial, sans-serif", "size": 13},
    "margin": {"l": 70, "r": 20, "t": 50, "b": 60},
    "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    "hoverlabel": {"align": "left"},
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": FRONT_COLOUR, "activecolor": LAW_COLOUR},
}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1b1f24; --soft: #6b7280; --line: #e5e7eb; --page: #ffffff; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e8eb; --soft: #9aa3ad; --line: #30363d; --page: #14171a; }}
}}
body {{ font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif;
  color: var(--ink); background: var(--page); max-width: 1120px; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.35rem; margin: 0 0 .2rem; }}
h2 {{ font-size: 1.05rem; margin: 1.6rem 0 .4rem; }}
p {{ color: var(--soft); margin: .2rem 0; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: .87rem; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: right; padding: .3rem .6rem; white-space: nowrap; }}
th {{ border-bottom: 1px solid var(--soft); font-weight: 600; }}
td {{ border-bottom: 1px solid var(--line); }}
.best {{ font-weight: 600; }}
</style>
</head>
<body>
<h1>{title}</h1>
{lines}
{plot}
{table}
</body>
</html>
"""

# Plotly's text has no colours of its own, so that it can follow the page from light to dark.
FOLLOW_PAGE_COLOURS = """
const plot = document.getElementById('{plot_id}');
const dark = matchMedia('(prefers-color-scheme: dark)');
function follow() {
  const style = getComputedStyle(document.documentElement);
  const [ink, line, page] = ['--ink', '--line', '--page'].map(name => style.getPropertyValue(name).trim());
  Plotly.relayout(plot, {'font.color': ink, 'xaxis.gridcolor': line, 'yaxis.gridcolor': line,
    'hoverlabel.bgcolor': page, 'hoverlabel.font.color': ink});
}
dark.addEventListener('change', follow);
follow();
"""


def write_front_html(
    records: Sequence[TrialRecord],
    path: str | Path,
    title: str,
    law: PowerLaw | None = None,
    metric: str = "loss",
    law_lines: Sequence[str] = (),
) -> Path:
    """Write the interactive figure of a study and its front as a table.

    Args:
        records: of one study; running ones are left out.
        path: the file; an existing one is replaced only once the new one is whole.
        title: heads the page.
        law: the power law of the front, drawn.
        metric: unit of the loss.
        law_lines: fitted laws, a line each, under the title.

    Raises:
        CarbsScalingError: the file cannot be written.
    """
    ended = [record for record in records if not record.running]
    lines = [escape(line) for line in (f"Trials ended: {len(ended)}.", *law_lines)]
    if completed_records(ended):
        figure = front_figure(ended, law, metric)
        plot = figure.to_html(
            full_html=False, include_plotlyjs=True, post_script=FOLLOW_PAGE_COLOURS,
            default_height="560px", config=CONFIG,
        )  # fmt: skip
        table = _front_table(ended, metric)
    else:
        plot, table = "<p>no completed run yet</p>", ""
    paragraphs = "\n".join(f"<p>{line}</p>" for line in lines)
    page = PAGE.format(title=escape(title), lines=paragraphs, plot=plot, table=table)
    return write_atomically(path, page.encode())


def front_figure(ended: Sequence[TrialRecord], law: PowerLaw | None, metric: str) -> "Figure":
    """All runs, the front and its power law, each run's recipe under the pointer."""
    import plotly.graph_objects as go

    figure = go.Figure()
    completed = completed_records(ended)
    flops_limits = axis_limits([record.flops for record in ended], 0.05, 0.08)
    ticks = log_ticks(*flops_limits, most=5)
    _add_runs(figure, completed, metric)
    _add_front(figure, front_records(ended), flops_limits[1])
    if law is not None:
        flops = np.geomspace(law.lowest_flops, law.highest_flops, 100)
        band, name = law.band(flops), law.formula("html")
        if band is not None:
            low, high = band
            figure.add_scatter(
                x=[*flops, *flops[::-1]], y=[*high, *low[::-1]], fill="toself", fillcolor=LAW_BAND,
                line={"width": 0}, mode="lines", hoverinfo="skip", showlegend=False,
            )  # fmt: skip
            name += f", {LEVEL:.0%} band"
        figure.add_scatter(
            x=flops, y=law.loss(flops), mode="lines", name=name,
            line={"dash": "dash", "color": LAW_COLOUR, "width": 2},
            hovertemplate="%{x:.2e} FLOPs<br>%{y:.3f} by the power law<extra></extra>",
        )  # fmt: skip
    _add_failures(figure, ended, metric)
    figure.update_layout(
        **LAYOUT,
        xaxis={
            "type": "log", "title": {"text": "training FLOPs"}, "range": np.log10(flops_limits).tolist(),
            "tickvals": ticks, "ticktext": [_power_of_ten(tick) for tick in ticks],
            "zeroline": False, "tickangle": 0,
        },
        yaxis=_loss_axis([record.loss for record in completed], metric),
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
    )  # fmt: skip
    return figure


def _power_of_ten(value: float) -> str:
    mantissa, power = scientific(value).removesuffix(".0").split("e")
    times = "" if float(mantissa) == 1 else f"{float(mantissa):g}\u00d7"
    return f"{times}10<sup>{power}</sup>"


def _loss_axis(loss: Sequence[float], metric: str) -> dict[str, Any]:
    """A logarithmic axis; a linear one where a loss is not positive."""
    axis: dict[str, Any] = {"title": {"text": loss_label(metric)}, "zeroline": False}
    if min(loss) <= 0:
        return axis
    limits = axis_limits(loss, 0.09, 0.08 + TOP_BAND)
    ticks = log_ticks(*limits, most=10)
    text = [f"{tick:g}" for tick in ticks]
    return axis | {"type": "log", "range": np.log10(limits).tolist(), "tickvals": ticks, "ticktext": text}


def _params_colours(completed: Sequence[TrialRecord]) -> dict[str, Any]:
    """Colours by parameters; one colour where a run has none, or all have as many."""
    sizes = {record.roles.get("params") for record in completed}
    if None in sizes or len(sizes) == 1:
        return {"color": FRONT_COLOUR}
    params = np.log10([record.roles["params"] for record in completed])
    ticks = log_ticks(10 ** (params.min() - 0.01), 10 ** (params.max() + 0.01), most=8)
    bar = {
        "title": {"text": "parameters N", "side": "right"},
        "tickvals": np.log10(ticks).tolist(),
        "ticktext": [short(tick) for tick in ticks],
        "thickness": 14,
        "outlinewidth": 0,
    }
    return {"color": params, "colorscale": SHADES, "colorbar": bar}


def drawn_runs(completed: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The front with repeats of its points, and at most `MOST_DRAWN` of the others, evenly spaced.

    More make a page slow and a picture no clearer.
    """
    front = {record.point_key for record in front_records(completed)}
    others = [record.number for record in completed if record.point_key not in front]
    kept = set(others[:: max(1, -(-len(others) // MOST_DRAWN))])
    return [record for record in completed if record.number in kept or record.point_key in front]


def count_text(drawn: int, all_runs: int) -> str:
    """`200`, or `1,000 of 5,000` where not all are drawn."""
    return str(all_runs) if drawn == all_runs else f"{drawn:,} of {all_runs:,}"


def _add_runs(figure: "Figure", of_study: Sequence[TrialRecord], metric: str) -> None:
    completed = drawn_runs(of_study)
    figure.add_scatter(
        x=[record.flops for record in completed],
        y=[record.loss for record in completed],
        mode="markers",
        name=f"run ({count_text(len(completed), len(of_study))})",
        marker={
            "size": 9,
            "line": {"width": 0.6, "color": "rgba(128,128,128,.6)"},
            **_params_colours(completed),
        },
        text=[trial_text(record, metric) for record in completed],
        hovertemplate="%{text}<extra></extra>",
    )


def _add_front(figure: "Figure", front: Sequence[TrialRecord], right_edge: float) -> None:
    flops, loss = [record.flops for record in front], [record.loss for record in front]
    figure.add_scatter(
        x=[*flops, right_edge], y=[*loss, loss[-1]], mode="lines", showlegend=False, hoverinfo="skip",
        line={"shape": "hv", "color": FRONT_COLOUR, "width": 1.5}, legendgroup="front",
    )  # fmt: skip
    figure.add_scatter(
        x=flops, y=loss, mode="markers", name=f"front ({len(front)})", hoverinfo="skip", legendgroup="front",
        marker={"symbol": "circle-open", "size": 14, "line": {"width": 1.8}, "color": FRONT_COLOUR},
    )  # fmt: skip


def _add_failures(figure: "Figure", ended: Sequence[TrialRecord], metric: str) -> None:
    for status, (name, marker) in FAILURE_MARKS.items():
        of_study = [record for record in ended if record.status is status]
        failed = of_study[:: max(1, -(-len(of_study) // MOST_DRAWN))]
        if failed:
            figure.add_scatter(
                x=[record.flops for record in failed], y=[1 - TOP_BAND / 2] * len(failed), yaxis="y2",
                mode="markers", name=f"{name} ({count_text(len(failed), len(of_study))})",
                marker={"symbol": FAILURE_SYMBOLS[marker], "size": 9, "color": ALARM, "line": {"width": 1.6}},
                text=[trial_text(record, metric) for record in failed],
                hovertemplate="%{text}<extra></extra>",
            )  # fmt: skip


def trial_text(record: TrialRecord, metric: str) -> str:
    """All that is known of a trial that ended, as HTML lines for the pointer."""
    outcome = ended_outcome(record)
    measured = ", ".join(f"{name} {value:.4g}" for name, value in outcome.metrics.items())
    ending = (
        f"{record.loss:.4f} {metric}"
        if record.completed
        else f"{outcome.status.replace('_', ' ')}: {outcome.message}"
    )
    columns = point_columns([record])
    shown = {column.name for column in columns}
    details = [f"{k} {value_text(v)}" for k, v in record.details.items() if k not in shown]
    lines = [
        f"{scientific(record.flops, 3)} FLOPs, {clock_text(outcome.seconds)} on {outcome.device}",
        ", ".join(f"{column.heading} {column.cell(record)}" for column in columns),
        *(
            ", ".join(details[start : start + _DETAILS_A_LINE])
            for start in range(0, len(details), _DETAILS_A_LINE)
        ),
        measured,
        f"imported from {record.provenance[IMPORTED_FROM]}" if record.imported else f"seed {record.seed}",
    ]
    head = f"<b>trial {record.number}: {escape(ending)}</b>"
    return "<br>".join((head, *(escape(line) for line in lines if line)))


def _front_table(ended: Sequence[TrialRecord], metric: str) -> str:
    columns = front_columns(ended, metric)
    heads = "".join(f"<th>{escape(column.heading)}</th>" for column in columns)
    body = []
    for cells in zip(*(column.cells for column in columns), strict=True):
        marked = (
            f"<td{' class=best' if column.heading == metric else ''}>{escape(cell)}</td>"
            for column, cell in zip(columns, cells, strict=True)
        )
        body.append(f"<tr>{''.join(marked)}</tr>")
    head = "<h2>The front</h2>\n<div class='scroll'><table>\n<thead><tr>"
    head += f"{heads}</tr></thead>\n<tbody>\n"
    return head + "\n".join(body) + "\n</tbody></table></div>"
