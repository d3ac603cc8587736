"""A search of each preset, from GPT-2 to LoRA, with its front: the table and the picture of `docs/runs.md`.

    python benchmarks/documented_runs.py --processes 2      # half an hour of CPU; the same command goes on
    python benchmarks/documented_runs.py --only muon moe
    python benchmarks/documented_runs.py --smoke            # two presets at a twenty-fifth of the budget

Each is a call of `carbs-scaling search` at the budget that stands in `PRESETS`, and 24 trials: a minute or
two of two cores. Language models learn the text that comes with Python, classifiers scikit-learn's digits
and what kind each line of that text is, the trained encoder movie snippets. `finetune` and `lora` train the
largest model of the front of `gpt2` further on names of functions and their docstrings (`_material.py`). What
has ended is not run again. The page is written after every run.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _material
import optuna

from carbs_scaling.config import StudyConfig
from carbs_scaling.files import write_atomically
from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.ledger.study import Study
from carbs_scaling.numbers import compact
from carbs_scaling.report.canvas import FAINT, GREY, INK, write_figure
from carbs_scaling.report.front import completed_records, front_records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOKE_SHARE = 0.04
TRIALS = 24
COLUMNS = 4  # of the picture


@dataclass(frozen=True)
class Preset:
    """One documented search.

    Args:
        name: of the study, and of its row.
        what: is trained, on what.
        flops: the budget.
        overrides: of `search`, beside the budget.
        material: overrides that name what must be fetched or made before, given the folder of all runs.
    """

    name: str
    what: str
    flops: float
    overrides: tuple[str, ...] = ()
    material: Callable[[Path], tuple[str, ...]] = field(default=lambda folder: ())


def snippets_and_encoder(folder: Path) -> tuple[str, ...]:
    """Two thousand snippets to train on, and the trained encoder."""
    return (
        f"data.paths=[{_material.movie_snippets(folder / 'material', 1000, 2000)}]",
        f"model.path={_material.encoder(folder / 'material')}",
    )


def rows_and_model(folder: Path) -> tuple[str, ...]:
    """Rows of names and docstrings, and the dearest model of the front of `gpt2`."""
    models = sorted((folder / "gpt2/models").glob("[0-9]*"), key=model_bytes)
    if not models:
        raise SystemExit("finetune and lora train a model of gpt2 further: run that first")
    return (
        f"data.paths=[{_material.docstring_rows(folder / 'material')}]",
        f"model.path={models[-1]}",
    )


def model_bytes(folder: Path) -> int:
    """Size of a model's weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


LIBRARY = "of Python's own library"
TEXT = "on Python's own library, in bytes"
ROWS = "model.sequence_length=64"  # of the model that is trained further
ENCODER = (
    "+experiment=classify", "examples=labelled", "model=pretrained", "model.sequence_length=32",
    "space=finetuning", "space.epochs={low: 0.1, high: 2}", "data.max_examples=1000",
)  # fmt: skip
PRESETS = (
    Preset("gpt2", f"GPT-2 {TEXT}; AdamW", 3e11, ("training.keep_models=front",)),
    Preset("llama", f"Llama, two queries a key, {TEXT}", 3e11, ("+experiment=llama",)),
    Preset("qwen3", f"Qwen3 {TEXT}", 3e11, ("+experiment=qwen3",)),
    Preset("moe", f"eight experts, two a token, {TEXT}", 3e11, ("+experiment=moe",)),
    Preset("muon", f"GPT-2 {TEXT}; Muon, ratio to AdamW's rate searched", 3e11, ("+experiment=muon",)),
    Preset("sgd", f"GPT-2 {TEXT}; SGD, momentum searched", 3e11, ("+experiment=sgd",)),
    Preset("vit_digits", "ViT on scikit-learn's digits", 1e11, ("+experiment=vit_digits",)),
    Preset(
        "classify", f"GPT-2: is a line {LIBRARY} code, comment or docstring?", 3e11, ("+experiment=classify",)
    ),
    Preset(
        "finetune",
        "the GPT-2 above, all weights, on names and docstrings",
        1e11,
        ("+experiment=finetune", ROWS, "space.learning_rate={low: 1e-4, high: 3e-2}"),
        rows_and_model,
    ),
    Preset(
        "lora",
        "the same, adapters of a searched rank and alpha",
        1e11,
        ("+experiment=lora", ROWS, "space.learning_rate={low: 1e-4, high: 1e-1}"),
        rows_and_model,
    ),
    Preset("adam", f"GPT-2 {TEXT}; Adam, epsilon searched", 3e11, ("+experiment=adam",)),
    Preset("nadam", f"GPT-2 {TEXT}; NAdam, beta1 searched", 3e11, ("+experiment=nadam",)),
    Preset(
        "classify_trained", "the encoder of 22.7M on movie snippets", 1.2e13, ENCODER, snippets_and_encoder
    ),
)


def search(preset: Preset, folder: Path, processes: int, share: float) -> None:
    """Runs the search of a preset to its end, unless that was reached before."""
    if (folder / preset.name / "front.json").exists():
        return
    budget = preset.flops * share
    overrides = (
        *preset.overrides,
        *preset.material(folder),
        f"study.name={preset.name}",
        f"study.directory={folder}",
        f"budget.flops={budget}",
        "budget.max_trial_fraction=0.15",
        "budget.min_trial_fraction=0.001",
        f"budget.trial_overhead_flops={budget / 5}",  # as in the default search
        f"budget.trials={TRIALS}",  # so small a budget would else go into runs of a second each
        *(("executor=in_process",) if processes == 1 else (f"executor.workers={processes}",)),
    )
    print(f"{preset.name}: search", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    cost = folder / preset.name / "cost.json"
    # Of a call that was killed nothing is known.
    spent = {"cpu_seconds": 0.0, "at_least": (folder / preset.name / "study.db").exists()}
    if cost.exists():
        spent |= json.loads(cost.read_text())
    before = child_seconds()
    ended = subprocess.run(
        [sys.executable, "-m", "carbs_scaling.cli", "search", *overrides],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    spent["cpu_seconds"] += child_seconds() - before
    write_atomically(cost, json.dumps(spent).encode())
    if ended.returncode:
        raise SystemExit(f"{preset.name} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")


def child_seconds() -> float:
    """CPU seconds of all child processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@dataclass(frozen=True)
class Run:
    """A search that ended; `cpu_seconds` are a lower bound where `at_least` is set."""

    preset: Preset
    study: Study
    records: list[TrialRecord]
    cpu_seconds: float
    at_least: bool


def ended_runs(folder: Path) -> list[Run]:
    """The runs of all presets that have ended, in the order of `PRESETS`."""
    runs = []
    for preset in PRESETS:
        cost = folder / preset.name / "cost.json"
        if (folder / preset.name / "front.json").exists() and cost.exists():
            study = Study.load(StudyConfig(preset.name, str(folder), None, 0))
            spent = json.loads(cost.read_text())
            least = bool(spent.get("at_least"))
            runs.append(Run(preset, study, study.records(), spent["cpu_seconds"], least))
    return runs


def row(run: Run) -> dict[str, Any]:
    """The figures of a search."""
    front, completed = front_records(run.records), completed_records(run.records)
    best = front[-1]
    accuracy = best.outcome.metrics.get("accuracy") if best.outcome is not None else None
    sizes = [record.roles["params"] for record in completed]
    return {
        "preset": run.preset.name,
        "what": run.preset.what,
        "metric": run.study.metric,
        "budget_flops": run.study.budget_flops,
        "spent_flops": sum(record.flops for record in run.records),
        "runs": len(run.records),
        "completed": len(completed),
        "front": len(front),
        "params": [min(sizes), max(sizes)],
        "losses": [front[0].loss, best.loss],
        "accuracy": accuracy,
        "best": {**best.roles, **best.point},
        "cpu_seconds": run.cpu_seconds,
        "cpu_seconds_at_least": run.at_least,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The figures for people."""
    lines = [
        "| preset | trained | budget | runs (front) | N | loss of the front "
        "| best run: rate, batch, D | CPU min |",
        "|" + " --- |" * 8,
    ]
    for r in rows:
        low, high = r["params"]
        sizes = compact(low) if low == high else f"{compact(low)} to {compact(high)}"
        more = "" if r["accuracy"] is None else f" ({r['accuracy']:.1%} right)"
        best = r["best"]
        lines.append(
            f"| `{r['preset']}` | {r['what']} | {r['budget_flops']:.2g} | {r['runs']} ({r['front']}) "
            f"| {sizes} "
            f"| {r['losses'][0]:.3f} to {r['losses'][1]:.3f} {r['metric']}{more} "
            f"| {best['learning_rate']:.2g}, {compact(best['batch_tokens'])}, {compact(best['tokens'])} "
            f"| {'over ' if r['cpu_seconds_at_least'] else ''}{r['cpu_seconds'] / 60:.1f} |"
        )
    return "\n".join(lines) + "\n"


def draw(figure: "Figure", runs: list[Run]) -> None:
    """A panel a search: all runs, and the front as steps."""
    across = min(COLUMNS, len(runs))
    panels = figure.subplots(-(-len(runs) // across), across, squeeze=False).ravel()
    for axes, run in zip(panels, runs, strict=False):
        front, completed = front_records(run.records), completed_records(run.records)
        axes.set_title(run.preset.name, loc="left", fontweight="bold", color=INK, fontsize=9)
        axes.set_xscale("log")
        axes.plot([r.flops for r in completed], [r.loss for r in completed], ".", color=GREY, alpha=0.6)
        axes.plot([r.flops for r in front], [r.loss for r in front], "o-", color=INK, mfc="none", ms=4,
                  lw=1, drawstyle="steps-post")  # fmt: skip
        # One collapsed run would flatten the front.
        low, high = front[-1].loss, front[0].loss
        axes.set_ylim(low - 0.08 * (high - low), high + 0.35 * (high - low))
        axes.tick_params(labelsize=7.5)
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(which="major", color=FAINT, linewidth=0.7)
    for axes in panels[len(runs) :]:
        axes.set_axis_off()
    figure.supxlabel("training FLOPs", fontsize=9)
    figure.supylabel("held-out loss, nats", fontsize=9)


PAGE = """# Documented runs

One search of each preset that has been run so far, at a small budget and 24 trials, seed 0: what it trains,
how far its front comes, and what that costs. Made by

    python benchmarks/documented_runs.py

CPU minutes are of all processes, on a machine that was busy with other work; "over" where a search was
interrupted on the way. N counts what the laws count: of experts the active ones, of LoRA the trained
adapters. `finetune` and `lora` train the largest model on the front of `gpt2` further. The first loss of a
front is that of its cheapest run.

{table}
![Loss against training FLOPs of each search](runs.png)

*Grey: all runs; black: the front. A panel's loss axis ends a little above its front.*
"""


def write_page(folder: Path, docs: Path) -> None:
    """`runs.json` beside the studies; the table and the picture of the docs."""
    runs = ended_runs(folder)
    if not runs:
        return
    rows = [row(run) for run in runs]
    write_atomically(folder / "runs.json", (json.dumps(rows, indent=1) + "\n").encode())
    write_atomically(docs / "runs.md", PAGE.format(table=table(rows)).encode())
    height = 1.9 * -(-len(runs) // COLUMNS) + 0.3
    write_figure(lambda figure: draw(figure, runs), docs / "runs.png", (9.0, height), font_size=8.5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [preset.name for preset in PRESETS]
    parser.add_argument("--only", nargs="*", choices=names, default=names, metavar="PRESET")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/documented"))
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where runs.md and runs.png go")
    parser.add_argument("--processes", type=int, default=2, help="trials at once")
    parser.add_argument("--smoke", action="store_true", help="gpt2 and vit_digits, hardly trained")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder, docs, only, share = arguments.folder.resolve(), arguments.docs, arguments.only, 1.0
    if arguments.smoke:
        folder, only, share = folder.with_name(folder.name + "-smoke"), ["gpt2", "vit_digits"], SMOKE_SHARE
        docs = folder
    folder.mkdir(parents=True, exist_ok=True)
    for preset in PRESETS:
        if preset.name in only:
            search(preset, folder, arguments.processes, share)
            write_page(folder, docs)
    write_page(folder, docs)
    print((docs / "runs.md").read_text())


if __name__ == "__main__":
    main()
