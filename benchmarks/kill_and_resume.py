"""Kills a small search with -9 at random moments, resumes it each time, and compares with the unbroken run.

    python benchmarks/kill_and_resume.py --kills 10 --executor in_process

In-process, the same seed must end with the same trials; with worker processes the order of arrival is chance,
so only the ledger's arithmetic is compared: every trial once, nothing charged twice, the budget not exceeded.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import optuna


def command(folder: Path, name: str, executor: str, budget_flops: float) -> list[str]:
    """The search under test."""
    return [
        *(sys.executable, "-m", "carbs_scaling.cli", "search", "+experiment=smoke"),
        *(
            f"study.name={name}",
            f"study.directory={folder}",
            f"executor={executor}",
            f"budget.flops={budget_flops}",
        ),
    ]


def run(arguments: list[str], kill_after: float | None) -> bool:
    """Runs until the end (True) or until it is killed with SIGKILL (False)."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    if process.returncode:
        raise SystemExit(f"the search failed: {errors.strip()}")
    return True


def ledger(folder: Path, name: str) -> list[dict]:
    """What the ledger says of each trial that ended."""
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{folder / name / 'study.db'}")
    return [
        {
            "number": trial.number,
            "state": trial.state.name,
            "params": trial.params,
            "values": trial.values,
            "flops": trial.user_attrs.get("flops"),
        }
        for trial in study.trials
    ]


def main() -> None:
    """Prints one line a kill, the two ledgers' sums, and whether they agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/kill_and_resume"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--executor", choices=["in_process", "processes"], default="in_process")
    parser.add_argument("--budget-flops", type=float, default=2e11)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    folder = options.folder.resolve()
    rng = random.Random(options.seed)

    whole = command(folder, "unbroken", options.executor, options.budget_flops)
    begun = time.perf_counter()
    run(whole, None)
    unbroken_seconds = time.perf_counter() - begun

    broken = command(folder, "broken", options.executor, options.budget_flops)
    kills, ended = 0, False
    while not ended and kills < options.kills:
        # Up to the start-up time and a share of the work: some kills hit the start and some the middle.
        moment = rng.uniform(1.0, 8.0 + unbroken_seconds / options.kills)
        ended = run(broken, moment)
        kills += not ended
        has_ledger = (folder / "broken" / "study.db").exists()
        states = [trial["state"] for trial in ledger(folder, "broken")] if has_ledger else []
        complete, still_open = states.count("COMPLETE"), states.count("RUNNING")
        print(f"killed after {moment:5.1f} s: {complete} complete, {still_open} open", flush=True)
    if not ended:
        run(broken, None)

    before, after = ledger(folder, "unbroken"), ledger(folder, "broken")
    spent = [sum(trial["flops"] for trial in trials) for trials in (before, after)]
    result = {
        "kills": kills,
        "executor": options.executor,
        "trials": [len(before), len(after)],
        "spent_flops": spent,
        "budget_flops": options.budget_flops,
        "each_trial_ended_once": all(trial["state"] in ("COMPLETE", "FAIL") for trial in after)
        and [trial["number"] for trial in after] == list(range(len(after))),
        "within_budget": max(spent) <= options.budget_flops,
        "same_ledger": before == after,
    }
    print(json.dumps(result, indent=2))
    (options.folder / "result.json").write_text(json.dumps(result, indent=2))
    agreed = result["each_trial_ended_once"] and result["within_budget"]
    if not agreed or (options.executor == "in_process" and not result["same_ledger"]):
        raise SystemExit("the broken search differs from the unbroken one")


if __name__ == "__main__":
    main()
