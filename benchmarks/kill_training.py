"""Kills a training run, or a search with one long trial, at random moments; compares with the unbroken one.

    python benchmarks/kill_training.py --of train
    python benchmarks/kill_training.py --of search --executor processes
    python benchmarks/kill_training.py --of train --signal TERM     # as Ctrl-C: no step may be lost

The run is started again after each kill, by a fork of this process, which has imported the program: on a busy
machine the imports would take most of the time. One kill in five hits the start, the others the training. The
checkpoints are a few steps apart (`--checkpoint-minutes`), so that each start makes some way. On the CPU, in
float32, the losses must agree to 1e-4 and the FLOPs must be the same.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # sums of floats have the same order

import optuna
import torch  # noqa: F401 (imported here for all forks)
import transformers  # noqa: F401
from kill_and_resume import ledger

from carbs_scaling import cli
from carbs_scaling.commands import search, train  # noqa: F401
from carbs_scaling.models import gpt2  # noqa: F401
from carbs_scaling.training import loop  # noqa: F401

# One run of 12,288 parameters, a few hundred steps of 1,024 tokens.
SHAPE = ("space.width=32", "space.depth=1", "space.batch_size=8", "model.sequence_length=128")
LOSS_TOLERANCE = 1e-4


def command(folder: Path, name: str, options: argparse.Namespace) -> list[str]:
    """The run under test."""
    length = f"space.tokens_per_parameter={options.tokens_per_parameter:g}"
    common = (*SHAPE, length, f"training.checkpoint_minutes={options.checkpoint_minutes:g}")
    if options.of == "train":
        rate = "space.learning_rate=0.01"
        return [
            "train", *common, rate, "train.device=cpu", f"train.directory={folder}",
            f"train.name={name}",
        ]  # fmt: skip
    rates = "space.learning_rate={low: 0.005, high: 0.02, log: true}"
    return [
        "search", *common, rates, f"study.name={name}", f"study.directory={folder}",
        f"executor={options.executor}", "executor.device=cpu", "budget.trials=1", "budget.flops=1e12",
        "budget.max_trial_fraction=1",
    ]  # fmt: skip


def start(arguments: list[str]) -> BaseProcess:
    """Starts the run in a fork."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(arguments,))
    process.start()
    return process


def _run(arguments: list[str]) -> None:
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    sys.argv = ["carbs-scaling", *arguments]
    cli.main()


def finish(process: BaseProcess) -> None:
    """Waits for the end."""
    process.join()
    if process.exitcode:
        raise SystemExit("the run failed")


def curve_age(folder: Path) -> int:
    """When the loss curve was last written, in ns; 0 without one."""
    return max((path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")), default=0)


def last_checkpoint(folder: Path) -> int:
    """Steps of the last checkpoint; 0 without one."""
    return max((int(path.stem) for path in folder.rglob("checkpoints/**/[0-9]*.json")), default=0)


def result(folder: Path, name: str, of: str) -> tuple[float, float]:
    """Final loss and FLOPs charged."""
    if of == "train":
        record = json.loads((folder / name / "training.json").read_text())
        return record["loss"], record["flops"]
    trials = ledger(folder, name)
    if len(trials) != 1 or trials[0]["state"] != "COMPLETE":
        raise SystemExit(f"the search has {len(trials)} trials: {trials}")
    return trials[0]["values"][0], trials[0]["flops"]


def main() -> None:
    """Prints one line a kill, then losses, FLOPs, and whether they agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/kill_training"))
    parser.add_argument("--of", choices=["train", "search"], default="train")
    parser.add_argument("--executor", choices=["in_process", "processes"], default="processes")
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--tokens-per-parameter", type=float, default=50)
    parser.add_argument("--checkpoint-minutes", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    folder, rng = options.folder.resolve(), random.Random(options.seed)

    begun, trained = time.perf_counter(), 0.0
    process = start(command(folder, "unbroken", options))
    while process.is_alive() and not trained:
        trained = time.perf_counter() if curve_age(folder / "unbroken") else 0.0
        time.sleep(0.02)
    finish(process)
    startup, seconds = trained - begun, time.perf_counter() - trained
    print(f"unbroken: {seconds:.1f} s of training after {startup:.1f} s", flush=True)

    broken, kills, ended = folder / "broken", 0, False
    while kills < options.kills and not ended:
        age, hits_start = curve_age(broken), rng.random() < 0.2
        process = start(command(folder, "broken", options))
        while not hits_start and process.is_alive() and curve_age(broken) == age:
            time.sleep(0.02)
        process.join(rng.uniform(0, startup if hits_start else 1.5 * seconds / options.kills))
        ended = not process.is_alive()
        if not ended:
            os.kill(process.pid or 0, getattr(signal, f"SIG{options.signal}"))
            process.join()
            kills += 1
            where = "start" if hits_start else "training"
            print(f"kill {kills}, in the {where}: step {last_checkpoint(broken)} is kept", flush=True)
    if not ended:
        finish(start(command(folder, "broken", options)))

    losses, flops = zip(*(result(folder, name, options.of) for name in ("unbroken", "broken")), strict=True)
    left = [str(path) for path in folder.rglob("checkpoints/**/*.safetensors")]
    agree = abs(losses[1] - losses[0]) <= LOSS_TOLERANCE and flops[0] == flops[1] and not left
    summary = {
        "of": options.of, "executor": options.executor if options.of == "search" else None,
        "signal": options.signal, "kills": kills, "losses": losses, "flops": flops,
        "checkpoints_left": left, "agree": agree,
    }  # fmt: skip
    print(json.dumps(summary, indent=1))
    (folder / "result.json").write_text(json.dumps(summary, indent=1))
    if not agree or kills < options.kills:
        raise SystemExit("the broken run differs from the unbroken one, or ended before its last kill")


if __name__ == "__main__":
    main()
