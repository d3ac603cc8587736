"""The figures of a study's report, for plotly: the law with its runs, valleys, recipe, dimensions, budget."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from carbs_scaling.laws.runs.table import RunTable
from carbs_scaling.laws.scaling_law import ScalingLaw
from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.numbers import compact, log_ticks, scientific
from carbs_scaling.report.canvas import short
from carbs_scaling.report.columns import ROLES, point_columns
from carbs_scaling.report.front import completed_records, front_records
from carbs_scaling.report.html import (
    FRONT_COLOUR,
    LAW_BAND,
    LAW_COLOUR,
    LAYOUT,
    MOST_DRAWN,
    SHADES,
    count_text,
    drawn_runs,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

AXIS_GAP = 8  # pixels between ticks and title
LEVEL = 0.9  # of all bands
CURVES = 4  # values of N for which the law is drawn
BEYOND = 10.0  # the recipe is drawn so far beyond the largest N of the runs
LABELS_IN_LINE = 110  # characters side by side above the axes of all runs; more are tilted
FEW_VALUES = 6  # of a dimension, up to which its axis is labelled with them


def _drawn(count: int) -> np.ndarray:
    """Indices of at most about `MOST_DRAWN` of so many points, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_DRAWN)).astype(int))


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title, "standoff": AXIS_GAP}, "zeroline": False, "automargin": True, **more}


def log_axis(values: Sequence[float] | np.ndarray, title: str, most: int = 7) -> dict[str, Any]:
    """A logarithmic axis that holds all positive values, with at most so many labelled ticks."""
    positive = np.asarray(values, dtype=float)
    positive = positive[np.isfinite(positive) & (positive > 0)]
    low, high = positive.min() / 1.15, positive.max() * 1.15
    ticks = log_ticks(low, high, most=most)
    return _axis(
        title, type="log", range=np.log10([low, high]).tolist(), tickvals=ticks,
        ticktext=[short(tick) for tick in ticks], tickangle=0,
    )  # fmt: skip


def empty_figure(**layout: Any) -> "Figure":
    """A figure in the report's style."""
    import plotly.graph_objects as go

    return go.Figure(layout=LAYOUT | layout)


def _sizes_colour(params: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    """Markers of the drawn ones of some runs, coloured by N."""
    logs = np.log10(params)
    ticks = log_ticks(params.min() / 1.01, params.max() * 1.01, most=6)
    bar = {
        "title": {"text": "N", "side": "top"}, "tickvals": np.log10(ticks).tolist(),
        "ticktext": [short(t) for t in ticks], "thickness": 12, "outlinewidth": 0,
    }  # fmt: skip
    return {
        "color": logs[drawn], "colorscale": SHADES, "cmin": float(logs.min()), "cmax": float(logs.max()),
        "colorbar": bar, "showscale": bool(np.ptp(logs) > 0), "size": 8,
        "line": {"width": 0.6, "color": "rgba(128,128,128,.6)"},
    }  # fmt: skip


def _band(
    figure: "Figure", x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str = LAW_BAND, **named: Any
) -> None:
    figure.add_scatter(
        x=[*x, *x[::-1]], y=[*high, *low[::-1]], fill="toself", fillcolor=colour, line={"width": 0},
        mode="lines", hoverinfo="skip", **named,
    )  # fmt: skip


def law_figure(law: ScalingLaw, table: RunTable, metric: str) -> "Figure":
    """Loss against D: the runs, and the law at its best rate and batch for a few N.

    The smallest and the largest N have a band: what the runs leave open of the law; a run's own noise comes
    on top. Those of the sizes between would lie over both.
    """
    from plotly.colors import sample_colorscale

    figure = empty_figure()
    sizes = np.unique(np.round(np.log(table.params), 6))
    chosen = np.exp(
        np.unique([sizes[np.argmin(np.abs(sizes - aim))] for aim in np.linspace(sizes[0], sizes[-1], CURVES)])
    )
    tokens = np.geomspace(table.tokens.min(), table.tokens.max(), 60)
    low_n, high_n = np.log10(table.params.min()), np.log10(table.params.max())
    for number, params in enumerate(chosen):
        share = (np.log10(params) - low_n) / max(high_n - low_n, 1e-9)
        colour = sample_colorscale(SHADES, [float(np.clip(share, 0, 1))])[0]
        name, banded = f"N = {compact(params)}", number in (0, len(chosen) - 1)
        if banded:
            losses = np.stack([law.draws(params, d, 400, noise=False)[:, 2] for d in tokens])
            low, high = np.quantile(losses, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
            faint = colour.replace("rgb", "rgba").replace(")", ",.2)")
            _band(figure, tokens, low, high, faint, legendgroup=name, showlegend=False)
        figure.add_scatter(
            x=tokens, y=law.loss(params, tokens), mode="lines", legendgroup=name,
            name=f"{name}, {LEVEL:.0%} band" if banded else name, line={"color": colour, "width": 2},
            hovertemplate="D %{x:.3s}: %{y:.3f}<extra>" + f"law, {name}</extra>",
        )  # fmt: skip
    drawn = _drawn(len(table))
    sizes_and_tokens = zip(table.params[drawn], table.tokens[drawn], strict=True)
    figure.add_scatter(
        x=table.tokens[drawn], y=table.loss[drawn], mode="markers",
        name=f"run ({count_text(len(drawn), len(table))})", marker=_sizes_colour(table.params, drawn),
        text=[f"N {compact(n)}, D {compact(d)}" for n, d in sizes_and_tokens],
        hovertemplate="%{text}: %{y:.4f}<extra>run</extra>",
    )  # fmt: skip
    figure.update_layout(
        xaxis=log_axis(table.tokens, "training tokens D"), yaxis=log_axis(table.loss, f"loss, {metric}")
    )
    return figure


def valley_figure(law: ScalingLaw, table: RunTable, metric: str) -> "Figure":
    """Loss above the law's best against the rate over the best rate, of all sizes in one valley.

    What a run lost by its batch and shape is taken off it, by the law: else it hangs above the curve.
    """
    n, d, rates = table.params, table.tokens, table.learning_rate
    off = rates / law.learning_rate(n, d)
    above = table.loss - law.loss(n, d) - law.excess_of_others(table)
    if law.has_role[3]:
        at_best_batch = law.run_loss(n, d, rates, law.batch_tokens(n, d))
        above -= law.run_loss(n, d, rates, table.batch_tokens) - at_best_batch
    figure, drawn = empty_figure(), _drawn(len(table))
    params, tokens = float(np.median(table.params)), float(np.median(table.tokens))
    x = np.geomspace(min(off.min(), 0.25), max(off.max(), 4.0), 80)
    low, high = min(float(np.quantile(above, 0.05)), 0.0), float(np.quantile(above, 0.95))
    margin = 0.1 * (high - low)
    limits = [low - margin, high + 2 * margin]
    runs, outside = count_text(len(drawn), len(table)), int(((above < limits[0]) | (above > limits[1])).sum())
    name = f"run ({runs}, {outside} of all beyond the picture)" if outside else f"run ({runs})"
    curve = law.run_loss(
        params, tokens, x * float(law.learning_rate(params, tokens)), float(law.batch_tokens(params, tokens))
    )
    figure.add_scatter(
        x=x, y=curve - float(law.loss(params, tokens)), mode="lines",
        name="law at the middle N and D, best batch", line={"color": LAW_COLOUR, "width": 2},
    )  # fmt: skip
    figure.add_scatter(
        x=off[drawn], y=above[drawn], mode="markers", name=name, marker=_sizes_colour(table.params, drawn),
        text=[f"N {compact(n)}, lr {rate:.3g}" for n, rate in zip(n[drawn], rates[drawn], strict=True)],
        hovertemplate="%{text}: %{y:+.4f}<extra>run</extra>",
    )  # fmt: skip
    figure.update_layout(
        xaxis=log_axis(x, "learning rate / best rate by the law"),
        yaxis=_axis(f"loss above the law's best, {metric}", range=limits),
    )
    return figure


def recipe_figure(law: ScalingLaw, table: RunTable, front: Sequence[TrialRecord], role: str) -> "Figure":
    """Best rate or batch against N, to `BEYOND` times the largest of the runs, with band and front.

    Of runs of one N it is drawn against D.

    Args:
        law: the law.
        table: its runs.
        front: records of the front.
        role: `learning_rate` or `batch_tokens`.
    """
    column = {"learning_rate": 0, "batch_tokens": 1}[role]
    ratio = float(np.median(table.tokens / table.params))
    of_runs, axis = (table.params, "params") if not table.one_size else (table.tokens, "tokens")
    x = np.geomspace(of_runs.min(), BEYOND * of_runs.max(), 25)
    params, tokens = (np.full_like(x, table.params[0]), x) if table.one_size else (x, ratio * x)
    draws = np.stack(
        [np.exp(law.draws(n, d, count=600)[:, column]) for n, d in zip(params, tokens, strict=True)]
    )
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    curve = getattr(law, role)
    figure = empty_figure()
    _band(figure, x, low, high, name=f"{LEVEL:.0%} interval")
    inside = x <= of_runs.max() * 1.001
    for name, part, dash in (
        ("law", inside, "solid"),
        ("extrapolated", x >= x[inside][-1], "dash"),
    ):
        figure.add_scatter(
            x=x[part], y=curve(params[part], tokens[part]), mode="lines", name=name,
            line={"color": LAW_COLOUR, "width": 2, "dash": dash},
            hovertemplate=f"{'D' if table.one_size else 'N'} %{{x:.3s}}: %{{y:.3g}}<extra></extra>",
        )  # fmt: skip
    points = [record for record in front if {axis, role} <= set(record.roles)]
    heading, text = ROLES[role]
    figure.add_scatter(
        x=[record.roles[axis] for record in points], y=[record.roles[role] for record in points],
        mode="markers", name=f"front ({len(points)})",
        marker={"symbol": "circle-open", "size": 10, "color": FRONT_COLOUR, "line": {"width": 1.8}},
        text=[f"trial {record.number}: {heading} {text(record.roles[role])}" for record in points],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    title = {"learning_rate": "best learning rate (peak)", "batch_tokens": "best batch, tokens a step"}[role]
    values = [*low, *high, *(record.roles[role] for record in points)]
    of_x = "tokens D" if table.one_size else f"parameters N (D = {ratio:.3g} N)"
    figure.update_layout(xaxis=log_axis(x, of_x), yaxis=log_axis(values, title))
    return figure


def dimensions_figure(records: Sequence[TrialRecord], metric: str) -> "Figure | None":
    """Every completed run as a line through its roles, dimensions and loss; None for no run."""
    import plotly.graph_objects as go

    completed = drawn_runs(completed_records(records))
    if not completed:
        return None
    columns = point_columns(completed)
    dimensions = [
        d
        for column in columns
        if (d := _parallel(column.heading.replace("_", " "), [r.values.get(column.name) for r in completed]))
    ]
    loss = [record.loss for record in completed]
    dimensions += [
        d
        for d in (_parallel("FLOPs", [r.flops for r in completed], scientific), _parallel(metric, loss))
        if d
    ]
    rank = np.argsort(np.argsort(_above_front(completed)))
    line = {"color": rank, "colorscale": SHADES, "reversescale": True, "showscale": False}
    longest = max(len(dimension["label"]) for dimension in dimensions)
    # Long names side by side would run into each other.
    angle = -15 if longest * len(dimensions) > LABELS_IN_LINE else 0
    return go.Figure(
        go.Parcoords(dimensions=dimensions, line=line, labelangle=angle, labelfont={"size": 11}),
        layout=LAYOUT | {"margin": {"l": 60, "r": 60, "t": 90, "b": 30}},
    )


def _above_front(completed: Sequence[TrialRecord]) -> np.ndarray:
    """How far each run lies above the front at its FLOPs, in loss."""
    front = front_records(completed)
    flops, loss = np.array([r.flops for r in front]), np.array([r.loss for r in front])
    below = np.maximum(np.searchsorted(flops, [r.flops for r in completed], side="right") - 1, 0)
    return np.array([r.loss for r in completed]) - loss[below]


def _parallel(label: str, values: list[Any], text: Callable[[float], str] = short) -> dict[str, Any] | None:
    """One axis: logarithms of numbers that span a factor of 3, words by name; None for a single value.

    A few values, such as depths, carry the ticks themselves.
    """
    if any(value is None for value in values) or len(set(map(str, values))) < 2:
        return None
    if any(isinstance(value, str | bool | list) for value in values):
        words = sorted(set(map(str, values)))
        places = [words.index(str(value)) for value in values]
        return {"label": label, "values": places, "tickvals": list(range(len(words))), "ticktext": words}
    numbers = np.array(values, dtype=float)
    few = np.unique(numbers) if len(set(values)) <= FEW_VALUES else None
    if numbers.min() <= 0 or numbers.max() < 3 * numbers.min():
        return {"label": label, "values": numbers} | ({} if few is None else {"tickvals": few.tolist()})
    ticks = log_ticks(numbers.min(), numbers.max(), most=6) if few is None else few.tolist()
    if few is not None and text is short and (few % 1 == 0).all() and few.max() < 10_000:
        text = "{:.0f}".format  # 2048, not 2.05k
    return {
        "label": label, "values": np.log10(numbers), "tickvals": np.log10(ticks).tolist(),
        "ticktext": [text(tick) for tick in ticks],
    }  # fmt: skip


def budget_figure(ended: Sequence[tuple[datetime, TrialRecord]], budget_flops: float) -> "Figure":
    """FLOPs spent and lowest loss so far, over the time since the first run ended; infinite: no budget."""
    figure = empty_figure()
    seconds = [(at - ended[0][0]).total_seconds() for at, _ in ended]
    unit, size = ("hours", 3600) if seconds[-1] > 2 * 3600 else ("minutes", 60)
    times = np.array(seconds) / size
    spent = np.cumsum([record.price_flops for _, record in ended])
    name, axis, unit_of_y = "FLOPs spent", _axis("FLOPs spent"), ".3g} FLOPs"
    if np.isfinite(budget_flops):
        spent = spent / budget_flops * 100
        name, axis, unit_of_y = "budget spent", _axis("budget spent, %", range=[0, 105]), ".0f}%"
    best = np.minimum.accumulate([record.loss if record.completed else np.inf for _, record in ended])
    drawn = _drawn(len(ended))
    times, spent, best = times[drawn], spent[drawn], best[drawn]
    figure.add_scatter(
        x=times, y=spent, mode="lines", name=name, line={"color": FRONT_COLOUR, "shape": "hv"},
        hovertemplate="%{y:" + unit_of_y + " after %{x:.3g} " + unit + "<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=times, y=[float(loss) if np.isfinite(loss) else None for loss in best], mode="lines",
        name="lowest loss so far", yaxis="y2", line={"color": LAW_COLOUR, "shape": "hv", "width": 2},
        hovertemplate="%{y:.4f}<extra></extra>",
    )  # fmt: skip
    right = {"overlaying": "y", "side": "right", "showgrid": False, "tickmode": "auto", "nticks": 6}
    figure.update_layout(
        xaxis=_axis(f"{unit} since the first run ended"), yaxis=axis,
        yaxis2=_axis("lowest loss so far", **right), margin={"l": 70, "r": 70, "t": 50, "b": 60},
    )  # fmt: skip
    return figure
