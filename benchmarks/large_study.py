"""Seconds and memory of verbs on a study of many trials, and of proposals in a search that goes on with it.

    OMP_NUM_THREADS=1 python benchmarks/large_study.py --trials 10000

The ledger is made by copying the rows of one small run, with other values, straight into SQLite. `search`
goes on for four trials of a second or so. `--folder` keeps the study. `--caches` shows instead what is saved
by remembering trials that have ended: a proposal reads the history four times.
"""

import argparse
import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

VERBS = {
    "front": ["front", "plots=false"],
    "front with plots": ["front"],
    "check": ["check"],
    "fit": ["fit", "plots=false"],
    "search": ["search", "budget.trials={more}", "executor=in_process"],
}
# Of `search`, the processor seconds of each proposal, and those since the start of Python.
PROPOSALS = """
import sys, time
from carbs_scaling import cli
if sys.argv[1] == "search":
    from carbs_scaling import search
    proposing = search.Search._next
    def timed(*arguments):
        begun = time.process_time()
        found = proposing(*arguments)
        print("proposed", time.process_time() - begun, time.process_time(), file=sys.stderr)
        return found
    search.Search._next = timed
cli.main()
"""
# No run takes longer than a second, and the budget pays for all.
SPACE = ["data.max_bytes=200000", "model.sequence_length=32", "budget.flops=1e18"]
SPACE += ["budget.min_trial_fraction=0", "budget.max_trial_fraction=5e-10", "budget.trial_overhead_flops=1e9"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--verbs", default=",".join(name for name in VERBS if name != "fit"))
    parser.add_argument("--folder", help="keeps the study, or takes the one that is there")
    parser.add_argument("--out", default="benchmarks/results/large_study.json")
    parser.add_argument("--caches", action="store_true")
    arguments = parser.parse_args()
    rows = {}
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or stack.enter_context(tempfile.TemporaryDirectory())
        study = [f"study.directory={folder}", "study.name=large"]
        if not (Path(folder) / "large").exists():
            timed(["search", *SPACE, *study, "budget.trials=2", "executor=in_process"])
            multiply(Path(folder) / "large" / "study.db", arguments.trials)
        if arguments.caches:
            caches(folder)
            return
        print("| | seconds | processor seconds | MB |\n|---|---|---|---|")
        for name in arguments.verbs.split(","):
            verb, *options = VERBS[name]
            have = trials_of(Path(folder) / "large" / "study.db")
            options = [text.format(more=have + 4) for text in options]
            row, proposals = timed([verb, *(SPACE if verb == "search" else []), *study, *options])
            rows[name] = {"trials": have, **row, "proposals": proposals}
            failed = f" (exit code {row['code']})" if row["code"] else ""
            figures = f"{row['seconds']:.1f} | {row['processor']:.1f} | {row['megabytes']:.0f}"
            print(f"| {name}{failed} | {figures} |", flush=True)
            if proposals:
                (first, since_start), *later = proposals
                print(f"| to the end of the first proposal | | {since_start:.1f} | |")
                print(f"| the first proposal | | {first:.2f} | |")
                print(f"| later proposals | | {np.mean(later, axis=0)[0]:.2f} | |")
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=1))


def caches(folder: str) -> None:
    """Prints the processor seconds of reading the history with and without what is remembered."""
    import optuna

    from carbs_scaling.config import StudyConfig
    from carbs_scaling.ledger import trials
    from carbs_scaling.ledger.database import storage_to_read
    from carbs_scaling.ledger.history import SeenPoints, essential, read_history, without_collapsed
    from carbs_scaling.space.encoding import Encoding
    from carbs_scaling.space.projection import LegalSpace

    def roles(point: dict) -> dict:
        params = 12 * point["width"] ** 2 * point["depth"]
        sizes = {"params": params, "tokens": params * point["tokens_per_parameter"]}
        return {**sizes, "batch_tokens": 32 * point["batch_size"], "learning_rate": point["learning_rate"]}

    def flops(point: dict) -> float:
        return 6 * roles(point)["params"] * roles(point)["tokens"]

    storage = storage_to_read(StudyConfig("large", folder, None, 0))
    study = optuna.load_study(study_name="large", storage=storage)
    space = LegalSpace(Encoding(study.get_trials(deepcopy=False)[-1].distributions), flops, roles)
    print("| | reading | runs that collapsed, and the choice of runs |\n|---|---|---|")
    for name, of_trials, of_points in (("neither", 0, 0), ("trials", 1, 0), ("trials and points", 1, 1)):
        seen, took = SeenPoints(), []
        for _ in range(4):
            seen = seen if of_points else SeenPoints()
            if not of_trials:
                trials._ENDED.clear()
            times = [time.process_time()]
            history = read_history(study, space, seen=seen)
            times.append(time.process_time())
            essential(without_collapsed(history, space, seen), 800, seen.key)
            took.append(np.diff([*times, time.process_time()]))
        reading, choice = np.min(took, axis=0)
        print(f"| {name} | {reading:.3f} | {choice:.3f} |", flush=True)


def timed(words: list[str]) -> tuple[dict[str, float], list[list[float]]]:
    """What a command took, and the processor seconds of each of its proposals and until then."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", PROPOSALS, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        print(said, file=sys.stderr)
    took = {
        "seconds": time.monotonic() - begun,
        "processor": used.ru_utime + used.ru_stime,
        "megabytes": used.ru_maxrss / 1024,
        "code": process.returncode,
    }
    found = re.findall("^proposed (.+)$", said, re.MULTILINE)
    return took, [[float(word) for word in line.split()] for line in found]


def trials_of(file: Path) -> int:
    """How many trials a ledger has."""
    with contextlib.closing(sqlite3.connect(file)) as ledger:
        return int(ledger.execute("SELECT count(*) FROM trials").fetchone()[0])


def multiply(file: Path, trials: int) -> None:
    """Copies the first completed trial until there are so many, each at a point of its own."""
    rng = np.random.default_rng(0)
    with contextlib.closing(sqlite3.connect(file)) as ledger:
        first = ledger.execute("SELECT min(trial_id) FROM trials WHERE state = 'COMPLETE'").fetchone()[0]
        last, have = ledger.execute("SELECT max(trial_id), count(*) FROM trials").fetchone()
        points = [random_point(rng) for _ in range(trials - have)]
        for table in ("trials", "trial_values", "trial_params", "trial_user_attributes"):
            found = ledger.execute(f"SELECT * FROM {table} WHERE trial_id = ?", (first,))
            names, originals = [column[0] for column in found.description], found.fetchall()
            key = names[0]  # the primary one
            top = ledger.execute(f"SELECT max({key}) FROM {table}").fetchone()[0]
            copies = []
            for i, (point, roles, flops, loss) in enumerate(points):
                for original in originals:
                    row = dict(zip(names, original, strict=True))
                    top += 1
                    row[key] = top
                    row["trial_id"] = last + 1 + i
                    if table == "trials":
                        row["number"] = have + i
                    elif table == "trial_values":
                        row["value"] = flops if row["objective"] else loss
                    elif table == "trial_params":
                        row["param_value"] = point[row["param_name"]]
                    elif row["key"] != "outcome":
                        value = json.loads(row["value_json"])
                        if row["key"] == "record":
                            value |= {"flops": flops, "roles": roles}
                        elif row["key"] == "outcome_record":
                            value["loss"] = loss
                        else:
                            value = flops
                        row["value_json"] = json.dumps(value)
                    copies.append(tuple(row.values()))
            marks = ", ".join("?" * len(names))
            ledger.executemany(f"INSERT INTO {table} VALUES ({marks})", copies)
        ledger.commit()


def random_point(rng: np.random.Generator) -> tuple[dict, dict, float, float]:
    """A point of the default space, about its roles and FLOPs, and a loss."""
    point = {"width": 8.0 * rng.integers(1, 9), "depth": float(rng.integers(1, 5))}
    point["batch_size"] = float(np.exp(rng.uniform(0, np.log(64))) // 1)
    point["learning_rate"] = float(np.exp(rng.uniform(np.log(1e-3), np.log(1e-1))))
    point["tokens_per_parameter"] = float(np.exp(rng.uniform(np.log(5), np.log(1000))))
    params = 12 * point["width"] ** 2 * point["depth"]
    tokens, batch = params * point["tokens_per_parameter"], 32 * point["batch_size"]
    roles = {
        "params": params,
        "tokens": tokens,
        "batch_tokens": batch,
        "learning_rate": point["learning_rate"],
    }
    off = np.log(point["learning_rate"] / 0.4 * params**0.4 / batch**0.3)
    loss = 1.0 + 10 * params**-0.3 + 30 * tokens**-0.35 + 0.03 * off**2 + 0.005 * rng.normal()
    return point, roles, 12 * params * tokens, float(loss)


if __name__ == "__main__":
    main()
