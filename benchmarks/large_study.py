"""Seconds and memory of verbs on a study of many trials; `search` goes on for one proposal and its run.

    OMP_NUM_THREADS=1 python benchmarks/large_study.py --trials 10000

The ledger is made by copying the rows of two imported runs, with other values, straight into SQLite.
"""

import argparse
import json
import os
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
    "search": ["search", "budget.trials={next}", "executor=in_process"],
}
SPACE = ["data.max_bytes=200000", "model.sequence_length=32"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--verbs", default=",".join(name for name in VERBS if name != "fit"))
    parser.add_argument("--out", default="benchmarks/results/large_study.json")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        study = [f"study.directory={folder}", "study.name=large"]
        run = [*SPACE, *study, "budget.flops=1e15"]
        timed(["search", *run, "budget.trials=2", "executor=in_process"])
        multiply(Path(folder) / "large" / "study.db", arguments.trials)
        print(f"| {arguments.trials} trials | seconds | processor seconds | MB |\n|---|---|---|---|")
        for name in arguments.verbs.split(","):
            verb, *options = VERBS[name]
            own = run if verb == "search" else study
            # One more trial: the time is that of reading the ledger, one proposal, and a run of a second.
            options = [text.format(next=arguments.trials + 1) for text in options]
            seconds, processor, megabytes, code = timed([verb, *own, *options])
            rows.append({"verb": name, "seconds": seconds, "processor": processor, "megabytes": megabytes})
            failed = f" (exit code {code})" if code else ""
            print(f"| {name}{failed} | {seconds:.1f} | {processor:.1f} | {megabytes:.0f} |", flush=True)
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=1))


def timed(words: list[str]) -> tuple[float, float, float, int]:
    """Seconds, processor seconds and peak megabytes of a command, and its exit code."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "carbs_scaling.cli", *words], stdout=subprocess.DEVNULL, stderr=sys.stderr
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - begun
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, process.returncode


def multiply(file: Path, trials: int) -> None:
    """Copies the first completed trial until there are so many, each with values of its own."""
    rng = np.random.default_rng(0)
    with sqlite3.connect(file) as ledger:
        first = ledger.execute("SELECT min(trial_id) FROM trials WHERE state = 'COMPLETE'").fetchone()[0]
        last, have = ledger.execute("SELECT max(trial_id), count(*) FROM trials").fetchone()

        def rows(table: str) -> tuple[list[str], list[tuple]]:
            found = ledger.execute(f"SELECT * FROM {table} WHERE trial_id = ?", (first,))
            return [column[0] for column in found.description], found.fetchall()

        for table in ("trials", "trial_values", "trial_params", "trial_user_attributes"):
            names, originals = rows(table)
            key = "trial_id" if table == "trials" else f"{table[:-1]}_id"
            top = ledger.execute(f"SELECT max({key}) FROM {table}").fetchone()[0]
            copies = []
            shift = np.random.default_rng(1).uniform(-1, 1, (trials - have, 8))
            for i in range(trials - have):
                for original in originals:
                    row = dict(zip(names, original, strict=True))
                    top += 1
                    row[key] = top
                    row["trial_id"] = last + 1 + i
                    if table == "trials":
                        row["number"] = have + i
                    _change(table, row, shift[i], rng)
                    copies.append(tuple(row.values()))
            marks = ", ".join("?" * len(names))
            ledger.executemany(f"INSERT INTO {table} VALUES ({marks})", copies)


def _change(table: str, row: dict, shift: np.ndarray, rng: np.random.Generator) -> None:
    """Tokens, learning rate, FLOPs and loss of one copy, the same in all its rows."""
    larger, loss = float(np.exp(3 * shift[0])), float(2 - 0.1 * shift[0] + 0.1 * shift[1] ** 2)
    if table == "trial_values":
        row["value"] = loss if row["objective"] == 0 else row["value"] * larger
    elif table == "trial_params" and row["param_name"] == "learning_rate":
        row["param_value"] *= float(np.exp(shift[1]))
    elif table == "trial_user_attributes":
        value = json.loads(row["value_json"])
        if row["key"] == "record":
            value["flops"] *= larger
            value["roles"]["tokens"] = value["roles"].get("tokens", 1.0) * larger
            value["roles"]["params"] = value["roles"].get("params", 1.0) * float(np.exp(shift[2]))
            value["roles"]["learning_rate"] *= float(np.exp(shift[1]))
        elif row["key"] == "outcome_record":
            value["loss"] = loss
        elif row["key"] == "flops":
            value *= larger
        row["value_json"] = json.dumps(value)


if __name__ == "__main__":
    main()
