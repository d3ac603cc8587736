"""What all pictures share: colours, fonts, ticks, and how a figure becomes a PNG file."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from carbs_scaling.files import write_atomically
from carbs_scaling.numbers import compact, log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Colour = tuple[float, float, float, float]  # red, green, blue, opacity

INK, GREY, FAINT, BAND = "#1b1f24", "#6b7280", "#e5e7eb", "#f4f5f7"
LAW_COLOUR, ALARM = "#d9480f", "#c92a2a"
DOTS_PER_INCH = 200  # twice what a page shows, for screens with two pixels a point
# Taken where installed; DejaVu Sans comes with matplotlib.
FONTS = ("Inter", "Source Sans 3", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans")


def write_figure(
    draw: Callable[["Figure"], None], path: str | Path, size: tuple[float, float], font_size: float = 10
) -> Path:
    """Draw a figure of `size` inches in the common style and write it as a PNG.

    Raises:
        CarbsScalingError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fonts = _installed_fonts()
    style: dict[Any, Any] = {
        "font.family": fonts,
        "font.size": font_size,
        "mathtext.fontset": "custom",
        "mathtext.rm": fonts[0],
        "mathtext.cal": fonts[0],  # unused, but matplotlib warns of the default's absence
        "mathtext.it": f"{fonts[0]}:italic",
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "lines.color": LAW_COLOUR,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)  # explicit, so that no window system is ever asked for
        draw(figure)
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=DOTS_PER_INCH)
    return write_atomically(path, image.getvalue())


def finish_axes(axes: "Axes", x_label: str, y_label: str, log_x: bool = True, log_y: bool = False) -> None:
    """Set labels, logarithmic scales with a few round ticks, and the grid that all pictures share."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    for axis, scale, limits, log in (
        (axes.xaxis, axes.set_xscale, axes.get_xlim, log_x),
        (axes.yaxis, axes.set_yscale, axes.get_ylim, log_y),
    ):
        if log:
            scale("log")
            axis.set_major_locator(FixedLocator(log_ticks(*limits(), most=6)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
            axis.set_minor_locator(NullLocator())
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(which="major", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def series_colours(count: int) -> list[Colour]:
    """Colours for an ordered series, dark to light."""
    import matplotlib

    return [matplotlib.colormaps["viridis"](x) for x in np.linspace(0.0, 0.88, max(count, 1))][:count]


def short(value: float) -> str:
    """A round number without the zeros that `compact` keeps: `10k`, `300k`, `1M`."""
    text = compact(value)
    digits, suffix = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    return f"{float(digits):g}{suffix}"


def _installed_fonts() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return [name for name in FONTS if name in installed]  # a missing one would be warned of at each text
