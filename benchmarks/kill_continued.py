"""Kills a search of continued runs with -9 at chosen moments, resumes it, and compares with the unbroken one.

    python benchmarks/kill_continued.py --kills 10

The moments take turns: while a trunk is being written, just after one was (the run is in its decay), as a
trial begins (a continued one then reads its trunk), and at random. In process, the same seed must end with
the same ledger: every trial once, the same parents, prices and losses, and no FLOP charged twice.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna

OVERRIDES = (
    *("trials=continued", "schedule=wsd", "schedule.decay_fraction=0.3", "schedule.warmup_steps=20"),
    *("executor=in_process", "budget.max_trial_fraction=0.3", "budget.min_trial_fraction=0"),
    *("budget.trial_overhead_flops=1e9", "objective.validation_tokens=16384"),
    *("space.width=16", "space.depth=1", "space.learning_rate=0.015", "space.batch_size=8"),
    "space.tokens_per_parameter={low: 10, high: 200, log: true}",
)


def command(folder: Path, name: str, budget_flops: float) -> list[str]:
    """The search under test."""
    place = (f"study.name={name}", f"study.directory={folder}", f"budget.flops={budget_flops}")
    return [sys.executable, "-m", "carbs_scaling.cli", "search", *OVERRIDES, *place]


def written(study: Path) -> set[Path]:
    """Trunks that are whole."""
    return set(study.glob("trunks/*/*.json"))


def moments(study: Path, rng: random.Random) -> list[tuple[str, Callable[[], bool]]]:
    """Names of moments, and whether each has come, as of now."""
    trunks, curves = written(study), set(study.glob("curves/*"))
    end = time.monotonic() + rng.uniform(3.0, 25.0)
    return [
        ("while a trunk is written", lambda: any(study.glob("trunks/*/.*"))),
        ("after a trunk was written", lambda: bool(written(study) - trunks)),
        ("as a trial begins", lambda: bool(set(study.glob("curves/*")) - curves)),
        ("at random", lambda: time.monotonic() > end),
    ]


def run(arguments: list[str], moment: Callable[[], bool]) -> bool:
    """Runs until the end (True), or kills it with SIGKILL when the moment has come (False)."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        if moment():
            process.kill()
            process.communicate()
            return False
        time.sleep(0.001)
    if process.returncode:
        assert process.stderr is not None
        raise SystemExit(f"the search failed: {process.stderr.read().strip()}")
    return True


def ledger(folder: Path, name: str) -> list[dict]:
    """What the ledger says of each trial."""
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{folder / name / 'study.db'}")
    rows = []
    for trial in study.trials:
        record = trial.user_attrs.get("record", {})
        kept = {key: record.get(key) for key in ("flops", "parent", "inherited_flops", "seed")}
        rows.append({"state": trial.state.name, "params": trial.params, "values": trial.values, **kept})
    return rows


def main() -> None:
    """Prints one line a kill, and whether the ledgers agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/kill_continued"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--budget-flops", type=float, default=4e10)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    folder, rng = options.folder.resolve(), random.Random(options.seed)
    run(command(folder, "unbroken", options.budget_flops), lambda: False)
    broken, ended, kills = command(folder, "broken", options.budget_flops), False, []
    while not ended and len(kills) < options.kills:
        name, moment = moments(folder / "broken", rng)[len(kills) % 4]
        ended = run(broken, moment)
        if not ended:
            kills.append(name)
            has_ledger = (folder / "broken/study.db").exists()
            states = [row["state"] for row in ledger(folder, "broken")] if has_ledger else []
            open_now = states.count("RUNNING")
            print(f"killed {name}: {states.count('COMPLETE')} complete, {open_now} open", flush=True)
    if not ended:
        run(broken, lambda: False)
    before, after = ledger(folder, "unbroken"), ledger(folder, "broken")
    paid = [sum(row["flops"] - (row["inherited_flops"] or 0) for row in rows) for rows in (before, after)]
    result = {
        "kills": kills,
        "trials": [len(before), len(after)],
        "continued": sum(row["parent"] is not None for row in after),
        "paid_flops": paid,
        "budget_flops": options.budget_flops,
        "same_ledger": before == after,
    }
    print(json.dumps(result, indent=2))
    (options.folder / "result.json").write_text(json.dumps(result, indent=2))
    if before != after or max(paid) > options.budget_flops:
        raise SystemExit("the broken search differs from the unbroken one")


if __name__ == "__main__":
    main()
