"""Best learning rate and batch against N for each optimizer: exponents with intervals, beside published ones.

    python benchmarks/exponents.py --processes 2       # some 20 CPU minutes; the same command goes on
    python benchmarks/exponents.py --only adamw muon
    python benchmarks/exponents.py --smoke

GPT-2 of five sizes over two decades of N on Python's own library, in bytes, all runs of the same D: 65,536
tokens of windows of 32, so that batches down to 32 tokens are possible. Each size's rate and batch are swept
by real runs (`_sweep.py`): about nine a size. One paraboloid a size with a curvature that an optimizer's
sizes share gives the best rate and batch of each, and a line through their logs the exponents. Intervals are
90%, of the scatter of the sizes around the line. Exponents in N hold at this D; a published law that moves D
with N is read at a fixed D too. Rates are those at the best batch.

The compute is the least at which the five optimizers leave the loss of bytes drawn by their frequencies far
behind: some 500 steps. One seed, so that a single best rate is known to within about a quarter.
"""

import argparse
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _sweep import FIRST_RATE, Line, Model, Runs, Valley, fit_line, fit_valley, walk

from carbs_scaling.files import write_atomically
from carbs_scaling.laws.prior.published import LAWS
from carbs_scaling.numbers import compact
from carbs_scaling.report.canvas import GREY, INK, finish_axes, series_colours, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPTIMIZERS = ("adamw", "adam", "nadam", "sgd", "muon")
SHAPES = ((8, 1), (16, 1), (32, 1), (48, 2), (64, 2))  # 768 to 98,304 parameters
TOKENS = 65_536
LENGTH = 32
# Where the sweep of the smallest model begins, as powers of 2 of `FIRST_RATE` and of sequences.
STARTS = {"sgd": (6, 2)}
START = (1, 2)
# Exponents in N at a fixed D; Kaplan's and the "claimed" one say nothing of the batch.
CLAIMED = ("claimed for Adam", "the rule of thumb N^-0.25", -0.25, None)


@dataclass(frozen=True)
class Swept:
    """What the sweeps of one family of models gave.

    Args:
        params: N of each size, shape (s,).
        valley: their best (ln rate, ln batch in tokens).
        rate, batch: lines through them against ln N.
        edge: sizes whose best batch lies at an end of those that were run.
    """

    params: np.ndarray
    valley: Valley
    rate: Line
    batch: Line
    edge: int

    def at(self, params: float) -> tuple[float, float]:
        """Best rate and batch in tokens for N."""
        x = float(np.log(params))
        return float(np.exp(self.rate.at(x))), float(np.exp(self.batch.at(x)))


def models_of(optimizer: str, shapes: tuple[tuple[int, int], ...], tokens: int) -> list[Model]:
    """GPT-2 of each size with this optimizer, nothing but rate and batch searched."""
    overrides = (
        f"optimizer={optimizer}",
        f"model.sequence_length={LENGTH}",
        "objective.validation_tokens=32768",
    )
    return [Model(f"gpt2-{optimizer}", width, depth, tokens, overrides) for width, depth in shapes]


def sweep(runs: Runs, models: list[Model], start: tuple[int, int]) -> list[dict[tuple[int, int], float]]:
    """Losses by lattice point for each size; each begins where the one before was best."""
    swept = []
    for model in models:
        seen = walk(partial(runs.at, model), start)
        swept.append(seen)
        start = min(seen, key=lambda point: seen[point])
    return swept


def summary(runs: Runs, models: list[Model], swept: list[dict[tuple[int, int], float]]) -> Swept:
    """Valley and lines."""
    places, losses, params = [], [], []
    for model, seen in zip(models, swept, strict=True):
        first = next(iter(seen))
        record = runs.known[f"{model.key} {first[0]} {first[1]}"]
        tokens_a_sequence = record["batch_tokens"] / 2 ** first[1]
        places.append(
            np.array([[np.log(FIRST_RATE * 2.0**r), np.log(tokens_a_sequence * 2.0**b)] for r, b in seen])
        )
        losses.append(np.array(list(seen.values())))
        params.append(record["params"])
    valley = fit_valley(places, losses)
    x = np.log(params)
    edge = int(valley.at_edge.sum())
    lines = [fit_line(x, valley.bottoms[:, column]) for column in (0, 1)]
    return Swept(np.array(params), valley, *lines, edge)


def published(params: np.ndarray, tokens: float) -> list[tuple[str, str, float | None, float | None]]:
    """(law, formula, exponent of rate, of batch) in N at a fixed D, over these sizes."""

    def slope(function: Any) -> float | None:
        if function is None:
            return None
        values = np.log([function(float(n), tokens) for n in params])
        return float(np.polyfit(np.log(params), values, 1)[0])

    rows = [
        (law.name, law.formula.split("; L")[0], slope(law.learning_rate), slope(law.batch_tokens))
        for law in LAWS
        if law.name in ("Step Law", "DeepSeek", "Kaplan")
    ]
    return [*rows, CLAIMED]


def as_table(found: dict[str, Swept], runs: Runs, tokens: float) -> str:
    """Exponents of each optimizer, and the published ones."""
    lines = [
        "| optimizer | rate: exponent in N (90%) | batch: exponent in N (90%) | best rate, batch at the "
        "smallest N | at the largest | runs | CPU min |",
        "|" + " --- |" * 7,
    ]
    for name, one in found.items():
        ends = [f"{np.exp(r):.2g}, {np.exp(b):.0f}" for r, b in one.valley.bottoms[[0, -1]]]
        family = f"gpt2-{name}"
        count = sum(key.startswith(f"{family} ") for key in runs.known)
        minutes = runs.cpu_minutes([family])
        exponents = [
            f"{line.slope:+.2f} ({line.low:+.2f} to {line.high:+.2f})" for line in (one.rate, one.batch)
        ]
        if not one.valley.identified or len(one.params) - one.edge < 3:
            exponents[1] = "not identified"
        note = f"; {one.edge} with the best batch at an end" if one.edge else ""
        lines.append(
            f"| {name} | {exponents[0]} | {exponents[1]}{note} | {ends[0]} | {ends[1]} "
            f"| {count} | {minutes:.1f} |"
        )
    params = next(iter(found.values())).params
    for name, formula, rate, batch in published(params, tokens):
        shown = ["-" if value is None else f"{value:+.2f}" for value in (rate, batch)]
        lines.append(f"| *{name}*: {formula} | {shown[0]} | {shown[1]} | | | | |")
    return "\n".join(lines) + "\n"


def draw(figure: "Figure", found: dict[str, Swept]) -> None:
    """Best rate and best batch against N, with the fitted lines."""
    panels = figure.subplots(1, 2)
    for (name, one), colour in zip(found.items(), series_colours(len(found)), strict=True):
        for column, (axes, line) in enumerate(zip(panels, (one.rate, one.batch), strict=True)):
            axes.plot(one.params, np.exp(one.valley.bottoms[:, column]), "o", color=colour, ms=4.5)
            ends = one.params[[0, -1]]
            label = f"{name} {line.slope:+.2f}"
            axes.plot(
                ends, np.exp([line.at(float(np.log(n))) for n in ends]), color=colour, lw=1.2, label=label
            )
    params = next(iter(found.values())).params
    middle = found.get("adamw", next(iter(found.values())))
    for name, _, *slopes in published(params, TOKENS):
        for column, (axes, slope) in enumerate(zip(panels, slopes, strict=True)):
            if slope is None:
                continue
            # Level of AdamW's line in the middle: only the slopes are compared.
            x = np.log(params)
            level = (middle.rate, middle.batch)[column].at(float(x.mean()))
            axes.plot(params[[0, -1]], np.exp(level + slope * (x[[0, -1]] - x.mean())), ":", color=GREY, lw=1)
            axes.annotate(
                name, (params[0], np.exp(level + slope * (x[0] - x.mean()))), fontsize=7, color=GREY
            )
    for axes, what in zip(panels, ("best learning rate", "best batch, tokens"), strict=True):
        finish_axes(axes, "N", what, log_y=True)
        axes.legend(frameon=False, fontsize=7.5, labelcolor=INK)


def report(runs: Runs, found: dict[str, Swept], folder: Path, tokens: int) -> None:
    """Prints and writes what is known."""
    text = as_table(found, runs, tokens)
    content = {
        name: {
            "params": one.params.tolist(),
            "rate": np.exp(one.valley.bottoms[:, 0]).tolist(),
            "batch_tokens": np.exp(one.valley.bottoms[:, 1]).tolist(),
            "loss": one.valley.losses.tolist(),
            **{what: vars(line) for what, line in (("rate_line", one.rate), ("batch_line", one.batch))},
            "identified": one.valley.identified,
        }
        for name, one in found.items()
    }
    write_atomically(folder / "exponents.json", (json.dumps(content, indent=1) + "\n").encode())
    sizes = [compact(n) for n in next(iter(found.values())).params]
    head = f"GPT-2 of N = {', '.join(sizes)}; D = {tokens:,} tokens; 90% intervals\n\n"
    write_atomically(folder / "exponents.md", (head + text).encode())
    write_figure(lambda figure: draw(figure, found), folder / "exponents.png", (9.0, 3.8), font_size=9)
    print(head + text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--tokens", type=int, default=TOKENS, help="D of each run")
    parser.add_argument("--processes", type=int, default=1, help="runs at once, of different optimizers")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/sweeps"))
    parser.add_argument("--smoke", action="store_true", help="AdamW at three small sizes, 8,192 tokens")
    arguments = parser.parse_args()
    folder, shapes, tokens, only = arguments.folder, SHAPES, arguments.tokens, arguments.only
    if arguments.smoke:
        folder, shapes, tokens, only = folder.with_name("sweeps-smoke"), SHAPES[:3], 8192, ["adamw"]
    runs = Runs(folder / "runs.json", arguments.processes)
    models = {name: models_of(name, shapes, tokens) for name in only}
    jobs = [partial(sweep, runs, models[name], STARTS.get(name, START)) for name in only]
    swept = runs.together(jobs)
    report(runs, {n: summary(runs, models[n], s) for n, s in zip(only, swept, strict=True)}, folder, tokens)


if __name__ == "__main__":
    main()
