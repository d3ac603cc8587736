"""Seconds a proposal (wall and processor) and peak memory of the process, by number of finished trials.

OMP_NUM_THREADS=1 python benchmarks/suggest_latency.py --samplers ours,TPE,qLogNEHVI
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import torch
from _problems import BANK
from _samplers import Task, build

from carbs_scaling.errors import BudgetSpent
from carbs_scaling.samplers.sampler import new_study


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samplers", default="ours")
    parser.add_argument("--trials", default="30,100,300,1000,2000,10000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="benchmarks/results/suggest_latency.json")
    parser.add_argument("--one", help="internal: SAMPLER,TRIALS measured in this process")
    arguments = parser.parse_args()
    if arguments.one:
        name, count = arguments.one.rsplit(",", 1)
        print(json.dumps(measure(name, int(count), arguments.repeats)))
        return
    rows = []
    print("| sampler | trials | seconds | processor seconds | MB |\n|---|---|---|---|---|")
    for name in arguments.samplers.split(","):
        for count in arguments.trials.split(","):
            command = [
                sys.executable,
                __file__,
                "--one",
                f"{name},{count}",
                "--repeats",
                str(arguments.repeats),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            row = rows[-1]
            figures = f"{row['seconds']:.3f} | {row['processor_seconds']:.3f} | {row['megabytes']:.0f}"
            print(f"| {name} | {count} | {figures} |", flush=True)
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=1))


def measure(name: str, count: int, repeats: int) -> dict:
    """Median seconds of a proposal after `count` random trials, and the process' peak memory."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem, rng = BANK[0], np.random.default_rng(0)
    task = Task(problem, 1e6 * problem.budget, problem.start, lambda point: problem.loss(point, rng))
    sampler = build(name, task, 0)
    study = new_study(sampler)
    for _ in range(count):
        point = problem.project(sampler.space.encoding.point(rng.random(len(problem.distributions))))
        study.add_trial(
            optuna.trial.create_trial(
                params=point,
                distributions=problem.distributions,
                values=[problem.loss(point, rng), problem.flops(point)],
            )
        )
    seconds, processor = [], []
    for _ in range(repeats):
        began, began_processor = time.perf_counter(), time.process_time()
        try:
            trial = study.ask(problem.distributions)
        except BudgetSpent:
            break
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - began_processor)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "sampler": name,
        "trials": count,
        "seconds": float(np.median(seconds)),
        "processor_seconds": float(np.median(processor)),
        "megabytes": peak,
    }


if __name__ == "__main__":
    main()
