"""The search with prices by trunk against the same search at full prices, on synthetic problems.

    OMP_NUM_THREADS=1 python benchmarks/continued_replay.py [--seeds 3] [--problems "published law"]

A run of the same recipe with fewer tokens leaves a trunk before its decay: a longer one pays for what comes
after. What that costs in loss is in the table: continued runs end `--penalty` higher, as a decay over the
last 30% from a constant rate does against the best cosine, and their best rate is half the cosine's. Arms:

    fresh        cosine, full prices
    continued    trunks, and a sampler that knows the prices and looks one run ahead
    nearsighted  the same without the look ahead
    blind        trunks and their prices charged, by a sampler that takes all runs at full price

Regret: 1 - area of the noise-free losses of what was run over that of the true front of fresh runs. Figure:
the share of fresh's FLOPs that an arm has spent when its regret is that of fresh at the end.
"""

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from _problems import BANK, Problem
from optuna.trial import TrialState

from carbs_scaling.frontier import hypervolume
from carbs_scaling.samplers import look_ahead
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.sampler import new_study

DECAY = 0.3
SAME = ("width", "depth", "learning_rate", "batch_sequences")


def main() -> None:
    """Prints a row a problem."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", default="", help="part of a problem's name")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-trials", type=int, default=60)
    parser.add_argument("--budget", type=float, default=2.0, help="in dearest runs")
    parser.add_argument(
        "--overhead", type=float, help="of a trial, in budgets; None: half a share of a trial"
    )
    parser.add_argument("--least", type=float, default=0.0, help="FLOPs of the cheapest run, in budgets")
    parser.add_argument("--penalty", type=float, default=0.001)
    parser.add_argument("--members", type=int, default=48, help="laws of the surrogate; 8 are quick")
    parser.add_argument("--candidates", type=int, default=256, help="that a proposal begins with")
    parser.add_argument("--arms", default="fresh,continued,nearsighted,blind")
    parser.add_argument("--smoke", action="store_true", help="one problem, one seed, 16 trials")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/continued_replay.json"))
    options = parser.parse_args()
    if options.smoke:
        options.problems, options.seeds, options.max_trials = "published", 1, 16
    torch.set_num_threads(1)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    arms = options.arms.split(",")
    bank = [problem for problem in BANK if options.problems in problem.name]
    for seed in range(options.seeds):
        for problem in bank:
            for arm in arms:
                key = key_of(arm, problem, options, seed)
                if key not in results:
                    near = patch.object(look_ahead, "SHARE", 1e-9)
                    with near if arm == "nearsighted" else nullcontext():
                        results[key] = one_search(arm, problem, seed, options)
                    options.output.write_text(json.dumps(results, indent=1))
    print("| problem | " + " | ".join(f"{arm}: regret, share to fresh's" for arm in arms) + " |")
    print("| --- | " + " | ".join("---" for _ in arms) + " |")
    shares = {arm: [] for arm in arms}
    for problem in bank:
        row = [problem.name]
        for arm in arms:
            runs = [
                (
                    results[key_of(arm, problem, options, seed)],
                    results[key_of("fresh", problem, options, seed)],
                )
                for seed in range(options.seeds)
            ]
            share = [needed(run, fresh) for run, fresh in runs]
            shares[arm] += share
            row.append(f"{np.mean([run['regret'][-1] for run, _ in runs]):.4f}, {np.median(share):.2f}")
        print("| " + " | ".join(row) + " |")
    for problem, arm in ((problem, arm) for problem in bank for arm in arms):
        searches = [results[key_of(arm, problem, options, seed)] for seed in range(options.seeds)]
        for run in searches:
            continued = sum(one["price"] < 0.999 * one["flops"] for one in run["runs"])
            whole = sum(one["flops"] for one in run["runs"]) / run["budget"]
            print(
                f"{problem.name}, {arm}: {len(run['runs'])} trials, {continued} continued; of the budget "
                f"{run['paid'][-1] / run['budget']:.2f} paid, {whole:.2f} by whole runs"
            )
    for arm in arms:
        reached = [share for share in shares[arm] if np.isfinite(share)]
        print(
            f"{arm}: median share {np.median(shares[arm]):.2f}, mean of those that got there "
            f"{np.mean(reached) if reached else np.nan:.2f} ({len(reached)} of {len(shares[arm])})"
        )


def key_of(arm: str, problem: Problem, options: argparse.Namespace, seed: int) -> str:
    """The key under which a search stands in the JSON."""
    setting = f"{options.budget:g}|{options.max_trials}|{options.penalty:g}|{options.overhead}"
    setting += f"|{options.least:g}|{options.members}|{options.candidates}"
    return f"{arm}|{problem.name}|{setting}|{seed}"


def needed(run: dict, fresh: dict) -> float:
    """FLOPs until the final regret of fresh is reached, as a share of what fresh had spent by then."""
    goal = fresh["regret"][-1]
    first = {}
    for name, one in (("own", run), ("fresh", fresh)):
        there = [paid for paid, regret in zip(one["paid"], one["regret"], strict=True) if regret <= goal]
        first[name] = there[0] if there else np.inf
    return first["own"] / first["fresh"]


class Prices:
    """FLOPs after the longest trunk of the recipe that is no longer than the run before its decay.

    A proposal asks for some thousand points with the same trials, of which an index is kept.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, self._asked, self._trunks = problem, None, {}

    def __call__(self, point: dict, completed: dict[int, dict]) -> float:
        if self._asked is not completed or self._count != len(completed):
            self._asked, self._count, self._trunks = completed, len(completed), {}
            for other in completed.values():
                recipe = tuple(other[name] for name in SAME)
                self._trunks.setdefault(recipe, []).append(other["tokens"])
        trunks = self._trunks.get(tuple(point[name] for name in SAME), [])
        longest = max([tokens for tokens in trunks if tokens <= point["tokens"]], default=0.0)
        return self._problem.flops(point) * (1 - (1 - DECAY) * longest / point["tokens"])


def one_search(arm: str, problem: Problem, seed: int, options: argparse.Namespace) -> dict:
    """Spends the budget: (FLOPs paid, regret) after each trial."""
    noise = np.random.default_rng([7, seed])
    budget = options.budget * problem.budget / 5
    fresh = arm == "fresh"

    price = Prices(problem)

    def allowed(point: dict) -> bool:
        return problem.flops(point) >= options.least * budget

    told = {} if arm in ("fresh", "blind") else {"price": price}
    sampler = CarbsSampler(
        problem.distributions,
        problem.flops,
        problem.roles,
        problem.project,
        budget,
        seed=seed,
        members=options.members,
        candidates=options.candidates,
        allowed=allowed if options.least else None,
        overhead_flops=budget * (options.overhead or 0.5 / options.max_trials),
        **told,
    )
    study = new_study(sampler)
    began, best, total = time.perf_counter(), problem.best_area(options.least * budget), 0.0
    done, flops, truth, paid, regrets, runs = {}, [], [], [], [], []
    while len(paid) < options.max_trials and total < budget and sampler.affordable(study):
        trial = study.ask(problem.distributions)
        point = dict(trial.params)
        own = problem.flops(point) if fresh else price(point, done)
        total += own
        runs.append({**point, "flops": problem.flops(point), "price": own})
        # A constant rate is best at half the cosine's, which a cosine has on average.
        as_cosine = point if fresh else {**point, "learning_rate": 2 * point["learning_rate"]}
        loss = problem.loss(as_cosine, noise)
        if loss is None:
            study.tell(trial, state=TrialState.FAIL)
        else:
            more = 0.0 if fresh else options.penalty
            study.tell(trial, [loss + more, problem.flops(point)])
            done[trial.number] = point
            flops.append(problem.flops(point))
            truth.append(problem.true_loss(as_cosine) + more)
        paid.append(total)
        area = hypervolume(np.array(flops), np.array(truth), problem.reference) if flops else 0.0
        regrets.append(1 - area / best)
    seconds = time.perf_counter() - began
    return {"paid": paid, "regret": regrets, "budget": budget, "seconds": seconds, "runs": runs}


if __name__ == "__main__":
    main()
