"""The loss curves of a study's trials in one figure, those of running trials too."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from carbs_scaling.ledger.curves import curve_path, read_curve
from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.numbers import compact
from carbs_scaling.report.front import front_records
from carbs_scaling.report.html import FRONT_COLOUR, LAW_COLOUR, SHADES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_CURVES = 120  # drawn: the running ones and the front first, then the latest
MOST_POINTS = 60  # of one curve


def curves_figure(records: Sequence[TrialRecord], folder: Path) -> "Figure | None":
    """Training loss against FLOPs, logarithmic; None where no trial has a curve.

    The front is coloured by parameters, other runs are grey, running ones orange.
    """
    from plotly.colors import sample_colorscale

    from carbs_scaling.report.study_figures import empty_figure, log_axis

    front = {record.number for record in front_records(records)}
    order = sorted(records, key=lambda r: (not r.running, r.number not in front, -r.number))
    sizes = [record.roles["params"] for record in records if "params" in record.roles]
    figure = empty_figure()
    flops: list[float] = []
    losses: list[float] = []
    for record in reversed(order[:MOST_CURVES]):
        points = [p for p in read_curve(curve_path(folder, record.number)) if p.get("train_loss", 0) > 0]
        points = [p for p in points if p.get("progress", 0) > 0]
        if not points:
            continue
        chosen = np.unique(np.geomspace(1, len(points), MOST_POINTS).astype(int)) - 1
        # A curve of a trial that ended early was charged for its share alone.
        whole = record.flops if record.running or record.completed else record.flops / points[-1]["progress"]
        x = [whole * points[i]["progress"] for i in chosen]
        y = [points[i]["train_loss"] for i in chosen]
        params = record.roles.get("params")
        kind, colour = "other runs", "rgba(134,142,150,.35)"
        if record.running:
            kind, colour = "running", LAW_COLOUR
        elif record.number in front:
            share = 0.5
            if params and max(sizes) > min(sizes):
                share = np.log(params / min(sizes)) / np.log(max(sizes) / min(sizes))
            kind, colour = (
                "front",
                FRONT_COLOUR if params is None else sample_colorscale(SHADES, [share])[0],
            )
        size = "" if params is None else f", N = {compact(params)}"
        figure.add_scatter(
            x=x, y=y, mode="lines", name=kind, legendgroup=kind,
            showlegend=all(trace.name != kind for trace in figure.data),
            line={"color": colour, "width": 1 if kind == "other runs" else 1.8},
            hovertemplate=f"trial {record.number}{size}: " + "%{y:.3f}<extra></extra>",
        )  # fmt: skip
        flops += x
        losses += y
    if not flops:
        return None
    figure.update_layout(
        xaxis=log_axis(flops, "training FLOPs so far"), yaxis=log_axis(losses, "training loss")
    )
    return figure
