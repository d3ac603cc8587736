"""A picture of one training run: its losses beside the curve that a law predicted for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from carbs_scaling.laws.recommend.predicted_curve import PARTS
from carbs_scaling.numbers import compact
from carbs_scaling.report.canvas import GREY, INK, LAW_COLOUR, finish_axes, short, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from carbs_scaling.training.recipe_file import Prediction


def draw_curve_png(
    points: Sequence[Mapping[str, Any]],
    path: str | Path,
    title: str,
    prediction: "Prediction | None" = None,
    nats_a_unit: float = 1.0,
) -> Path:
    """Draw the training losses and the last held-out loss of a run against its tokens, as a PNG.

    Args:
        points: of its loss curve (`ledger.curves.read_curve`), in nats a token; the last has the held-out
            loss.
        path: the file; an existing one is replaced only once the new one is whole.
        title: stands above the figure.
        prediction: of a law, drawn beside them; None where none was asked.
        nats_a_unit: nats a token in one unit of the predicted final loss.

    Raises:
        CarbsScalingError: the file cannot be written.
    """
    training = [point for point in points if "train_loss" in point]
    tokens, loss = (np.array([p[name] for p in training], dtype=float) for name in ("tokens", "train_loss"))
    end = points[-1]

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.set_title(title, loc="left", fontweight="bold", color=INK, fontsize=12)
        axes.plot(tokens, loss, color=GREY, alpha=0.35, linewidth=0.9, zorder=2)
        middle, mean = _means(tokens, loss, end["tokens"])
        axes.plot(
            middle, mean, "o-", color=INK, ms=4, linewidth=1.3, zorder=4,
            label=f"training loss, means of {PARTS} parts",
        )  # fmt: skip
        seen = [*mean[1:], end["validation_loss"]]
        if prediction is not None:
            seen += _draw_prediction(axes, prediction, end["tokens"], nats_a_unit)
        axes.plot(
            end["tokens"], end["validation_loss"], "D", color=INK, mec="white", mew=0.8, ms=8, zorder=6,
            label=f"held-out loss, {end['validation_loss']:.3f}", clip_on=False,
        )  # fmt: skip
        margin = 0.08 * (max(seen) - min(seen)) or 0.1
        # Without the first part, where the loss falls from that of a uniform guess.
        axes.set_ylim(min(seen) - margin, max(seen) + margin)
        axes.set_xlim(0, end["tokens"] * 1.04)
        axes.xaxis.set_major_formatter(lambda value, _: short(value) if value > 0 else "0")
        finish_axes(axes, f"training tokens (D = {compact(end['tokens'])})", "loss (nats/token)", log_x=False)
        axes.legend(loc="upper right", framealpha=0.85, edgecolor="none", fontsize=9, labelcolor=INK)

    return write_figure(draw, path, (8.6, 4.6))


def _means(tokens: np.ndarray, loss: np.ndarray, whole: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean tokens and mean loss of the equal parts of a run that have a point, each (k,), k <= `PARTS`."""
    middle = (np.append(0.0, tokens[:-1]) + tokens) / 2
    parts = np.minimum((middle / whole * PARTS).astype(int), PARTS - 1)
    count = np.bincount(parts, minlength=PARTS)
    there = count > 0
    sums = (np.bincount(parts, values, PARTS)[there] for values in (middle, loss))
    first, second = (total / count[there] for total in sums)
    return first, second


def _draw_prediction(axes: "Axes", prediction: "Prediction", whole: float, nats_a_unit: float) -> list[float]:
    """The predicted band and final loss; gives the losses that must be inside the picture."""
    drawn = [nats_a_unit * bound for bound in prediction.interval]
    loss = nats_a_unit * prediction.loss
    curve = prediction.curve
    if curve is not None:
        tokens = np.array(curve.share) * whole
        axes.fill_between(tokens, curve.low, curve.high, color=LAW_COLOUR, alpha=0.14, linewidth=0, zorder=1)
        axes.plot(
            tokens, curve.loss, "--", color=LAW_COLOUR, linewidth=1.6, zorder=3,
            label=f"predicted, {prediction.level:.0%} interval",
        )  # fmt: skip
        drawn += [*curve.low, *curve.high]
    axes.errorbar(
        [whole * 1.015], [loss], [[loss - drawn[0]], [drawn[1] - loss]], fmt="s", color=LAW_COLOUR, ms=5,
        capsize=3, linewidth=1.4, zorder=5, label=f"predicted held-out loss, {loss:.3f}",
    )  # fmt: skip
    return drawn
