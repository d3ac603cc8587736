"""Convergence against model size: tables for the terminal, plain values, and a picture."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from carbs_scaling.laws.convergence.law import Convergence, Interval
from carbs_scaling.laws.convergence.loss_curves import RunCurve, steady_part
from carbs_scaling.laws.prior.published import kaplan_critical_batch, zhang_critical_batch
from carbs_scaling.numbers import compact, log_ticks, scientific
from carbs_scaling.report.canvas import (
    ALARM,
    FAINT,
    GREY,
    INK,
    Colour,
    finish_axes,
    series_colours,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEYOND = (3.0, 10.0)  # multiples of the largest N that are shown, marked as extrapolated
RUNS_A_SIZE = 2  # loss curves drawn of each size
SIZES_DRAWN = 5  # sizes whose loss curves are drawn
MOST_TICKS = 6  # labels of a logarithmic axis
MEANING = (
    "tokens: at a batch far below the critical one; steps: at one far above it; both at the best learning "
    "rate, before it falls. A run at batch B takes tokens x (1 + B / critical batch)."
)
CAUTION = (
    "* beyond the largest N: power laws fall without end, but even an infinite model needs some tokens to "
    "reach a loss. Expect these numbers to be too small."
)


def sizes_shown(fit: Convergence) -> list[tuple[float, bool]]:
    """Sizes N of the table's rows, and whether each is larger than all runs: three inside, two beyond."""
    sizes = np.unique(fit.observations.params)
    inside = [sizes[0], sizes[len(sizes) // 2], sizes[-1]] if len(sizes) > 2 else sizes
    return [(float(n), False) for n in inside] + [(fit.params_range[1] * k, True) for k in BEYOND]


def convergence_report(fit: Convergence, name: str, convention: str, gap: float | None) -> Group:
    """The levels with their exponents and critical batches, then tokens, steps and FLOPs by size.

    Args:
        fit: result of `fit_convergence`.
        name: name of the study.
        convention: FLOP convention of the study.
        gap: held-out loss minus training loss at the end of a run, in nats a token; None where unknown.
    """
    title = Text(f"convergence of {name}", style="bold")
    counts = Text(
        f"{fit.runs} runs, N {compact(fit.params_range[0])} to {compact(fit.params_range[1])} "
        f"(non-embedding), batch {compact(fit.batch_range[0])} to {compact(fit.batch_range[1])} tokens; "
        f"{fit.usable_share:.0%} of a run's tokens are used; intervals are at 90%"
    )
    middle = float(np.exp(fit.centre[0]))
    levels = _table(
        "loss", "reached", "sizes", "tokens\n~ N^", "steps\n~ N^", "critical\nbatch", "noise\nscale"
    )
    for index, (loss, support) in enumerate(zip(fit.levels, fit.supports, strict=True)):
        levels.add_row(
            f"{loss:.3g}",
            f"{support.reached}/{fit.runs}",
            str(support.sizes),
            _exponent(fit.size_exponent(index)),
            f"{fit.step_exponent(index).value:.2f}",
            _span(fit.critical_batch(index, middle)),
            "" if support.noise_scale_tokens is None else _short(support.noise_scale_tokens),
        )
    sizes = _table("loss", "N", "tokens", "steps", "FLOPs")
    for index, loss in enumerate(fit.levels):
        for row, (params, beyond) in enumerate(sizes_shown(fit)):
            sizes.add_row(
                f"{loss:.3g}" if row == 0 else "",
                compact(params) + ("*" if beyond else " "),
                _span(fit.min_tokens(index, params)),
                _span(fit.min_steps(index, params)),
                _span(fit.min_flops(index, params), scientific),
                style="dim" if beyond else None,
                end_section=params == sizes_shown(fit)[-1][0],
            )
    low = float(fit.levels[-1])
    dim = [
        f"critical batch and noise scale in tokens, at N = {compact(middle)}; FLOPs by {convention}",
        MEANING,
        CAUTION,
        f"published critical batches, for other text and vocabularies: Kaplan "
        f"{compact(kaplan_critical_batch(low))} tokens at loss {low:.3g}, Zhang et al. "
        f"{compact(zhang_critical_batch(middle))} at N = {compact(middle)}",
    ]
    if fit.held_out is not None:
        held = fit.held_out
        dim.append(
            f"fitted without N = {compact(held.params)}, its tokens are predicted {np.expm1(held.bias):+.0%} "
            f"off in the mean, {np.expm1(held.error):.0%} rms ({held.observations} crossings)"
        )
    if gap is not None:
        dim.append(
            f"losses are training losses in nats a token; held-out losses end {gap:+.3f} from them (median)"
        )
    warnings = [Text(f"warning: {said}", style="yellow") for said in fit.warnings]
    return Group(title, counts, levels, sizes, *(Text(line, style="dim") for line in dim), *warnings)


def convergence_dict(fit: Convergence, convention: str, gap: float | None) -> dict[str, Any]:
    """The content of `convergence_report` as plain JSON types; intervals are [low, high] at 90%."""
    middle = float(np.exp(fit.centre[0]))

    def plain(interval: Interval) -> dict[str, Any]:
        return {"value": interval.value, "interval": [interval.low, interval.high]}

    return {
        "runs": fit.runs,
        "params_convention": "non-embedding",
        "flops_convention": convention,
        "params_range": list(fit.params_range),
        "batch_tokens_range": list(fit.batch_range),
        "usable_share": fit.usable_share,
        "held_out_gap": gap,
        "held_out_size": None
        if fit.held_out is None
        else {
            "params": fit.held_out.params,
            "observations": fit.held_out.observations,
            "bias_ln_tokens": fit.held_out.bias,
            "rms_ln_tokens": fit.held_out.error,
        },
        "levels": [
            {
                "loss": float(loss),
                "reached": support.reached,
                "not_reached": support.not_reached,
                "below_from_the_beginning": support.early,
                "sizes": support.sizes,
                "tokens_exponent": plain(fit.size_exponent(index)),
                "steps_exponent": plain(fit.step_exponent(index)),
                "critical_batch_tokens": {"params": middle, **plain(fit.critical_batch(index, middle))},
                "noise_scale_tokens": support.noise_scale_tokens,
                "sizes_shown": [
                    {
                        "params": params,
                        "extrapolated": beyond,
                        "min_tokens": plain(fit.min_tokens(index, params)),
                        "min_steps": plain(fit.min_steps(index, params)),
                        "min_flops": plain(fit.min_flops(index, params)),
                    }
                    for params, beyond in sizes_shown(fit)
                ],
            }
            for index, (loss, support) in enumerate(zip(fit.levels, fit.supports, strict=True))
        ],
        "warnings": list(fit.warnings),
    }


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _exponent(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _short(value: float) -> str:
    """Two significant digits and a suffix, enough for an interval: 7,130 -> `7.1k`."""
    text = compact(float(f"{value:.2g}"))
    return re.sub(r"\.?0+(?=[kMBT]?$)", "", text) if "." in text else text


def _span(interval: Interval, form: Callable[[float], str] = _short) -> str:
    return f"{form(interval.value)} [{form(interval.low)}, {form(interval.high)}]"


def draw_convergence_png(
    fit: Convergence, curves: Sequence[RunCurve], path: str | Path, title: str, rate_share: float
) -> Path:
    """Six panels: curves; tokens, steps and FLOPs to each level against N; tokens for batch; critical batch.

    Args:
        fit: result of `fit_convergence` for `curves`.
        curves: loss curves of the runs.
        path: the PNG file.
        title: of the picture.
        rate_share: share of the peak learning rate down to which the fit used the curves.
    """

    def draw(figure: "Figure") -> None:
        axes = figure.subplots(2, 3)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", color=INK, fontsize=12.5)
        colours = series_colours(len(fit.levels))
        _draw_curves(axes[0, 0], fit, curves, rate_share)
        panels = (
            (axes[0, 1], "tokens to the loss", fit.min_tokens, lambda n, batch: 1.0),
            (axes[0, 2], "steps to the loss", fit.min_steps, lambda n, batch: 1 / batch),
            (axes[1, 0], "FLOPs to the loss", fit.min_flops, lambda n, batch: fit.flops_per_token(n)),
        )
        for panel, label, quantity, unit in panels:
            _draw_against_size(panel, fit, label, quantity, unit, colours)
        _draw_exchange(axes[1, 1], fit, colours)
        _draw_critical_batch(axes[1, 2], fit, colours)

    return write_figure(draw, path, (13.5, 8.0))


def _draw_curves(axes: "Axes", fit: Convergence, curves: Sequence[RunCurve], rate_share: float) -> None:
    """Loss curves of the best runs of a few sizes: the part that the fit uses, the whole curve faintly."""
    sizes = np.unique([curve.params for curve in curves])
    chosen = sizes[np.unique(np.linspace(0, len(sizes) - 1, SIZES_DRAWN).round().astype(int))]
    drawn = []
    for size, colour in zip(chosen, _size_colours(len(chosen)), strict=True):
        parts = [
            (part.loss.min(), part, curve)
            for curve in curves
            if curve.params == size and (part := steady_part(curve, rate_share)) is not None
        ]
        best = sorted(parts, key=lambda found: found[0])[:RUNS_A_SIZE]
        for index, (_, part, curve) in enumerate(best):
            seen = curve.tokens > 0
            axes.plot(curve.tokens[seen], curve.loss[seen], color=colour, alpha=0.25, linewidth=0.7)
            label = f"N = {compact(size)}" if index == 0 else None
            axes.plot(np.exp(part.ln_tokens), part.loss, color=colour, linewidth=1.6, label=label)
            drawn.append(part)
    for level in fit.levels:
        axes.axhline(level, color=GREY, linewidth=0.7, linestyle=":")
    finish_axes(axes, "training tokens", "training loss (nats/token)")
    bottom, top = min(part.loss.min() for part in drawn), float(fit.levels[0])
    margin = 0.35 * (top - bottom)
    axes.set_ylim(bottom - margin, top + margin)
    ends = [np.exp(part.ln_tokens[part.loss < top + margin]) for part in drawn]
    axes.set_xlim(
        min(tokens[0] for tokens in ends if len(tokens)) / 1.5,
        max(tokens[-1] for tokens in ends if len(tokens)) * 1.5,
    )
    _round_ticks(axes, "x")
    axes.legend(
        frameon=False, fontsize=8.5, labelcolor=INK, loc="lower left", title="best runs of each size",
        title_fontsize=8.5,
    )  # fmt: skip


def _draw_against_size(
    axes: "Axes",
    fit: Convergence,
    label: str,
    quantity: Callable[[int, float], Interval],
    unit: Callable[[float, float], float],
    colours: list[Colour],
) -> None:
    """Draw `quantity(level, N)` for every level; runs are points, their tokens times `unit(N, batch)`."""
    low, high = fit.params_range
    params = np.geomspace(low, high * BEYOND[-1], 41)
    inside = params <= high * 1.0001
    seen = fit.observations
    _, floor_tokens = fit.adjusted_tokens()
    for index, (loss, colour) in enumerate(zip(fit.levels, colours, strict=True)):
        found = [quantity(index, n) for n in params]
        values, lows, highs = (
            np.array([getattr(f, name) for f in found]) for name in ("value", "low", "high")
        )
        axes.fill_between(params, lows, highs, color=colour, alpha=0.13, linewidth=0)
        axes.plot(params[inside], values[inside], color=colour, linewidth=1.7, label=f"loss {loss:.3g}")
        start = int(inside.sum()) - 1
        axes.plot(params[start:], values[start:], "--", color=colour, linewidth=1.5)
        rows = (seen.level == index) & seen.reached
        scale = [unit(n, fit.critical_batch(index, n).value) for n in seen.params[rows]]
        axes.plot(
            seen.params[rows], floor_tokens[rows] * scale, "o", ms=3.5, mec="white", mew=0.4, color=colour
        )
    axes.axvspan(high, params[-1], color=FAINT, alpha=0.45, zorder=0, linewidth=0)
    axes.text(
        high * 1.1, 0.02, "beyond the runs", transform=axes.get_xaxis_transform(), color=GREY, fontsize=8.5
    )
    axes.set_xlim(low / 1.2, params[-1])
    axes.set_yscale("log")
    finish_axes(axes, "non-embedding parameters N", label)
    _round_ticks(axes, "x", "y")
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="best")


def _draw_exchange(axes: "Axes", fit: Convergence, colours: list[Colour]) -> None:
    """All runs on one curve: tokens / D_min against batch / critical batch."""
    seen = fit.observations
    tokens, _ = fit.adjusted_tokens()
    ends = [np.inf, 0.0]
    for index, colour in enumerate(colours):
        rows = np.flatnonzero((seen.level == index) & seen.reached)
        batch = np.array(
            [seen.batch_tokens[row] / fit.critical_batch(index, seen.params[row]).value for row in rows]
        )
        ratio = np.array([tokens[row] / fit.min_tokens(index, seen.params[row]).value for row in rows])
        axes.plot(batch, ratio, "o", ms=4, mec="white", mew=0.5, color=colour)
        ends = [min(ends[0], batch.min()), max(ends[1], batch.max())]
    line = np.geomspace(ends[0] / 1.5, ends[1] * 1.5, 100)
    axes.plot(line, 1 + line, color=INK, linewidth=1.3, label="1 + B / critical batch")
    axes.set_yscale("log")
    finish_axes(axes, "batch / critical batch", "tokens / least tokens, at the best rate")
    _round_ticks(axes, "x", "y")
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="upper left")


def _draw_critical_batch(axes: "Axes", fit: Convergence, colours: list[Colour]) -> None:
    middle = float(np.exp(fit.centre[0]))
    found = [fit.critical_batch(index, middle) for index in range(len(fit.levels))]
    values = np.array([[f.value, f.low, f.high] for f in found])
    axes.fill_between(fit.levels, values[:, 1], values[:, 2], color=GREY, alpha=0.15, linewidth=0)
    axes.plot(fit.levels, values[:, 0], "o-", color=INK, ms=5, linewidth=1.5, label="fitted, 90% interval")
    measured = [(loss, s.noise_scale_tokens) for loss, s in zip(fit.levels, fit.supports, strict=True)]
    measured = [(loss, scale) for loss, scale in measured if scale is not None]
    if measured:
        axes.plot(*zip(*measured, strict=True), "s", color=ALARM, ms=6, label="gradient-noise scale")
    for end in fit.batch_range:
        axes.axhline(end, color=GREY, linestyle=":", linewidth=1)
    axes.text(
        0.99, fit.batch_range[1], "largest and smallest batch of the runs", va="bottom", ha="right",
        fontsize=8, color=GREY, transform=axes.get_yaxis_transform(),
    )  # fmt: skip
    axes.set_yscale("log")
    axes.invert_xaxis()
    low, high = min(values[:, 1].min(), fit.batch_range[0]), max(values[:, 2].max(), fit.batch_range[1])
    axes.set_ylim(low / 3, high * 2)
    finish_axes(
        axes, f"loss (falls to the right), N = {compact(middle)}", "critical batch (tokens)", log_x=False
    )
    _round_ticks(axes, "y")
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="lower right")


def _size_colours(count: int) -> list[Colour]:
    """Colours of the sizes, from another map than those of the levels."""
    import matplotlib

    return [matplotlib.colormaps["plasma"](x) for x in np.linspace(0.0, 0.85, count)]


def _round_ticks(axes: "Axes", *names: str) -> None:
    """Label logarithmic axes with a few round numbers: the default labels decades only, or every multiple."""
    from matplotlib.ticker import NullFormatter

    for name in names:
        axis = getattr(axes, f"{name}axis")
        low, high = axis.get_view_interval()
        ticks = log_ticks(low, high, MOST_TICKS)
        axis.set_ticks(ticks, [_tick(tick) for tick in ticks])
        axis.set_minor_formatter(NullFormatter())


def _tick(value: float) -> str:
    return scientific(value, 1) if value >= 1e9 else _short(value)
