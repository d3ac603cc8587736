"""Learning rate and batch for a model 8 times larger than any searched, on real text, against a grid.

    python benchmarks/extrapolate_text.py --optimizer adamw
    python benchmarks/extrapolate_text.py --optimizer sgd
    python benchmarks/extrapolate_text.py --larger              # models three times as large
    python benchmarks/extrapolate_text.py --smoke               # minutes, to see everything work

1. A sweep of learning rates on one small cell finds the range: one to a decade, whatever the optimizer.
2. Small models are searched under a budget, with the large one as the sampler's target (`--search target`),
   or by an even spread of sizes and tokens with rates and batches around the law so far (`--search design`).
3. `fit_law` on all of these runs recommends learning rate and batch for the large model, which is trained.
4. A grid of 5 learning rates x 3 batches around it, factors of 2 apart, is trained too, and extended where
   its best lies on an edge. The best cells and the recommendation are repeated with further seeds.

Steps 1 to 3 may cost `--share` of what the 15 runs of the grid do. Every run is written down as it ends; the
same command goes on from there.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import torch
from _laboratory import LARGER, SEQUENCE_LENGTH, SMOKE, Laboratory, Plan
from _recipe_grid import GRID_BATCHES, GRID_RATES, cell_recipe, compare, show_grid, train_grid
from hydra import compose, initialize_config_dir
from optuna.trial import TrialState, create_trial
from scipy.stats import qmc

from carbs_scaling import fit_law
from carbs_scaling.cli import configuration_folder
from carbs_scaling.commands.search import load_search
from carbs_scaling.data.token_files import prepare_text
from carbs_scaling.errors import BudgetSpent
from carbs_scaling.laws.recommend.peak import peak_learning_rate
from carbs_scaling.laws.scaling_law import ScalingLaw
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.sampler import new_study
from carbs_scaling.tasks.pretraining_space import PretrainingSpace
from carbs_scaling.training.recipe import Recipe

# Learning rates of the first sweep: all that anybody uses, at little more than a factor of 3.
SWEEP = {"adamw": np.geomspace(3e-4, 1.0, 8), "sgd": np.geomspace(3e-3, 30.0, 9)}
SWEEP_SEQUENCES = 2
RATE_REACH = 10.0  # the search keeps within this factor of the sweep's best rate
# SGD adds the decay to the gradient, so that AdamW's 0.1 would shrink weights by a tenth of the rate a step.
WEIGHT_DECAY = {"adamw": 0.1, "sgd": 0.0}
# Proposals weigh a run's lesson against its FLOPs and this share of the budget: it buys some 50 runs.
OVERHEAD_SHARE = 1 / 50
MAX_SEARCH_RUNS = 120
DESIGN_FIRST = 12  # runs of the design before its first law, and runs between two fits
DESIGN_REFIT = 8
DESIGN_SPREAD = 0.7  # nepers around the law's rate and batch


def search_space(lab: Laboratory, rates: tuple[float, float]) -> PretrainingSpace:
    """Small models, with learning rates in a range."""
    low, high = lab.plan.tokens_per_parameter
    return PretrainingSpace(
        {
            "width": list(lab.plan.widths),
            "depth": list(lab.plan.depths),
            "learning_rate": {"low": rates[0], "high": rates[1], "log": True},
            "batch_size": {"low": 1, "high": 64, "log": True},
            "tokens_per_parameter": {"low": low, "high": high, "log": True},
            **constants(lab),
        },
        lab.config.model,
        lab.text.vocabulary_size,
        optimizer=lab.plan.optimizer,
    )


def constants(lab: Laboratory) -> dict[str, float]:
    """What no run varies: `conf/space/small.yaml`, but for the weight decay of SGD."""
    fixed = ("beta1", "beta2", "epsilon", "adamw_rate_ratio", "warmup_fraction")
    return {
        "weight_decay": WEIGHT_DECAY[lab.plan.optimizer],
        **{name: float(lab.config.space[name]) for name in fixed},
    }


def sweep(lab: Laboratory) -> tuple[float, float]:
    """Trains one small cell at rates over decades; the range around the best one."""
    plan = lab.plan
    shape = plan.shape(plan.widths[len(plan.widths) // 2], max(plan.depths), lab.text.vocabulary_size)
    tokens = plan.target_tokens_per_parameter * shape.params
    runs = []
    for number, rate in enumerate(SWEEP[plan.optimizer]):
        recipe = Recipe(
            shape=shape,
            learning_rate=float(rate),
            batch_size=SWEEP_SEQUENCES,
            steps=round(tokens / (SWEEP_SEQUENCES * SEQUENCE_LENGTH)),
            seed=1000 * plan.seed + number,
            **constants(lab),
        )
        runs.append(lab.train(recipe, "sweep"))
    best = min((run for run in runs if not run["diverged"]), key=lambda run: run["loss"])["learning_rate"]
    return best / RATE_REACH, best * RATE_REACH


def search(lab: Laboratory, space: PretrainingSpace, budget_flops: float) -> None:
    """Spends what the sweep left of the budget on small models."""
    propose = {"target": target_points, "design": design_points}[lab.plan.search]
    for point in propose(lab, space, budget_flops):
        if len(lab.searched()) >= MAX_SEARCH_RUNS:
            return
        number = len(lab.searched())
        lab.train(space.recipe(point, 1000 * lab.plan.seed + number), "search", point)


def target_points(lab: Laboratory, space: PretrainingSpace, budget_flops: float) -> Iterator[dict]:
    """What the sampler buys for its target, given all runs so far."""
    target = lab.plan.target(lab.text.vocabulary_size).params
    sampler = CarbsSampler(
        space.distributions,
        space.flops,
        space.roles,
        space.project,
        budget_flops=budget_flops,
        target=(target, lab.plan.target_tokens_per_parameter * target),
        overhead_flops=OVERHEAD_SHARE * budget_flops,
        seed=lab.plan.seed,
    )
    while True:
        study = study_of(lab, sampler, space)
        if not sampler.affordable(study):
            return
        try:
            yield space.project(study.ask(space.distributions).params)
        except BudgetSpent:
            return


def study_of(lab: Laboratory, sampler: CarbsSampler, space: PretrainingSpace) -> optuna.Study:
    """The small runs so far as an Optuna study in memory. The sweep is charged; its runs are not points."""
    study = new_study(sampler)
    for run in lab.searched():
        common = {
            "user_attrs": {"flops": run["flops"], "outcome": "diverged" if run["diverged"] else "completed"}
        }
        if run["point"] is not None:
            common |= {"params": run["point"], "distributions": space.distributions}
        if run["diverged"]:
            study.add_trial(create_trial(state=TrialState.FAIL, **common))
        else:
            study.add_trial(create_trial(values=[run["loss"], run["flops"]], **common))
    return study


def design_points(lab: Laboratory, space: PretrainingSpace, budget_flops: float) -> Iterator[dict]:
    """Sizes and tokens spread evenly in logs; rates and batches around the law of the runs so far."""
    plan = lab.plan
    rows = qmc.Sobol(3, rng=plan.seed).random(128)
    ratio = math.log(plan.tokens_per_parameter[1] / plan.tokens_per_parameter[0])
    shapes = sorted(
        ((w, d) for w in plan.widths for d in plan.depths),
        key=lambda s: plan.shape(*s, lab.text.vocabulary_size).params,
    )
    swept = len(SWEEP[plan.optimizer])
    rates = space.searched["learning_rate"]
    for number, row in enumerate(rows):
        if number < len(lab.searched()) - swept:
            continue
        rng = np.random.default_rng([plan.seed, number])
        width, depth = shapes[int(row[0] * len(shapes))]
        point = {
            "width": width,
            "depth": depth,
            "tokens_per_parameter": plan.tokens_per_parameter[0] * math.exp(ratio * row[1]),
            "learning_rate": math.sqrt(rates.low * rates.high) * math.exp(rng.uniform(-1.2, 1.2)),
            "batch_size": round(math.exp(row[2] * math.log(16))),
        }
        if number >= DESIGN_FIRST:
            known = lab.searched()[: swept + number - (number - DESIGN_FIRST) % DESIGN_REFIT]
            params = plan.shape(width, depth, lab.text.vocabulary_size).params
            advice = law_of(known).recommend(params, point["tokens_per_parameter"] * params)
            rate, batch = np.exp(DESIGN_SPREAD * rng.normal(size=2))
            point["learning_rate"] = advice.learning_rate * rate
            point["batch_size"] = max(1, round(advice.batch_tokens * batch / SEQUENCE_LENGTH))
        point = space.project(point)
        if sum(run["flops"] for run in lab.searched()) + space.flops(point) > budget_flops:
            return
        yield point


def law_of(runs: list[dict], check: bool = False) -> ScalingLaw:
    """The law of some runs; those that diverged bound the rate."""
    return fit_law(
        pd.DataFrame(runs).drop(columns=["point", "recipe", "stage", "flops", "seconds"]), check=check
    )


def recommend(lab: Laboratory) -> None:
    """Fits the law to the searched runs, says what it recommends, and writes it down."""
    shape = lab.plan.target(lab.text.vocabulary_size)
    tokens = lab.plan.target_tokens_per_parameter * shape.params
    runs = lab.searched()
    law = law_of(runs, check=True)
    advice = law.recommend(shape.params, tokens)
    spent = sum(run["flops"] for run in runs)
    largest = max(run["params"] for run in runs)
    intervals = {name: advice.interval(name) for name in ("learning_rate", "batch_tokens", "loss")}
    lab.result = {
        "search_runs": len(runs),
        "diverged": sum(run["diverged"] for run in runs),
        "search_flops": spent,
        "largest_searched": largest,
        "law": law.formula(),
        "held_out": None if law.held_out is None else asdict(law.held_out),
        "warnings": law.warnings,
        "recommended": recommended_recipe(lab, law).to_dict(),
        "recommendation": {name: getattr(advice, name) for name in intervals} | {"intervals": intervals},
    }
    lab.save()
    print(f"\n{len(runs)} runs, {spent:.3g} FLOPs, N up to {largest:,}\n{law.formula()}")
    print(*law.warnings, f"held out: {law.held_out}", sep="\n")
    for name, (low, high) in intervals.items():
        print(f"{name:14}{getattr(advice, name):10.4g}  90% {low:.4g} to {high:.4g}", flush=True)


def recommended_recipe(lab: Laboratory, law: ScalingLaw) -> Recipe:
    """The large model with the law's nearest batch of whole sequences, and its rate at that batch."""
    shape = lab.plan.target(lab.text.vocabulary_size)
    tokens = lab.plan.target_tokens_per_parameter * shape.params
    sequences = max(1, round(float(law.batch_tokens(shape.params, tokens)) / SEQUENCE_LENGTH))
    peak = peak_learning_rate(law, shape.params, tokens, sequences * SEQUENCE_LENGTH, lab.plan.optimizer)
    return Recipe(
        shape=shape,
        learning_rate=peak.learning_rate,
        batch_size=sequences,
        steps=round(tokens / (sequences * SEQUENCE_LENGTH)),
        seed=0,
        **constants(lab),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--optimizer", choices=sorted(SWEEP), default="adamw")
    parser.add_argument("--search", choices=["target", "design"], default="target")
    parser.add_argument("--share", type=float, default=0.24, help="of the grid's FLOPs, all told")
    parser.add_argument(
        "--repeats", type=int, default=3, help="seeds of the recommendation and the best cells"
    )
    parser.add_argument("--extensions", type=int, default=3, help="times that a best on the edge widens it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--larger", action="store_true", help="models three times as large, an hour or two")
    parser.add_argument("--smoke", action="store_true", help="tiny models")
    parser.add_argument("--search-only", action="store_true", help="stop at the recommendation")
    parser.add_argument(
        "--no-grid", action="store_true", help="train the recommendation alone, --repeats times"
    )
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/extrapolate_text_*.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    plan = Plan(options.optimizer, options.search, options.seed, options.share, options.repeats)
    plan = replace(plan, **(LARGER if options.larger else {}) | (SMOKE if options.smoke else {}))
    size = "_smoke" if options.smoke else "_larger" if options.larger else ""
    name = f"extrapolate_text_{plan.optimizer}_{plan.search}{size}.json"
    overrides = [
        *(f"optimizer={plan.optimizer}", f"model.head_size={plan.head_size}"),
        f"model.sequence_length={SEQUENCE_LENGTH}",
    ]
    with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
        config = load_search(compose("search", overrides))[1]
    text = prepare_text(config.data)
    lab = Laboratory(plan, options.out or Path("benchmarks/results") / name, config, text)
    run_plan(lab, options)


def run_plan(lab: Laboratory, options: argparse.Namespace) -> None:
    """All four steps, and what they say."""
    plan = lab.plan
    shape = plan.target(lab.text.vocabulary_size)
    tokens = plan.target_tokens_per_parameter * shape.params
    run_flops = tokens * lab.flops_per_token(shape)
    grid_flops = run_flops * len(GRID_RATES) * len(GRID_BATCHES)
    budget_flops = plan.share * grid_flops - run_flops
    print(
        f"{lab.text.description}; {plan.optimizer}; target N {shape.params:,} D {tokens:,.0f}, "
        f"{run_flops:.3g} FLOPs a run; search {budget_flops:.3g} FLOPs",
        flush=True,
    )
    if "recommended" not in lab.result:  # once it is there, no later change of the fit may move the grid
        space = search_space(lab, sweep(lab))
        search(lab, space, budget_flops)
        recommend(lab)
    if options.search_only:
        return
    centre = Recipe.from_dict(lab.result["recommended"])
    if options.no_grid:
        for seed in range(plan.repeats):
            lab.train(cell_recipe(centre, (0, 0), seed), "repeat")
        return
    spent = sum(run["flops"] for run in lab.searched())
    losses = train_grid(lab, centre, options.extensions)
    compared = compare(lab, centre, losses)
    recommended_flops = centre.tokens * lab.flops_per_token(shape)
    lab.result |= compared | {
        "grid": [[*cell, loss] for cell, loss in losses.items()],
        "share_of_grid_flops": (spent + recommended_flops) / grid_flops,
    }
    lab.save()
    print()
    show_grid(centre, losses)
    print("\nseeds of the recommendation and of the best cells (powers of 2 in rate and batch around it):")
    for cell, values in zip(compared["cells"], compared["losses"], strict=True):
        print(
            f"  {tuple(cell)!s:>8} " + " ".join(f"{v:.4f}" for v in values) + f"  mean {np.mean(values):.4f}"
        )
    print(
        f"behind the best: {compared['behind_best']:+.4f} "
        f"({compared['behind_best_fresh_seeds']:+.4f} on fresh seeds), seed sd {compared['seed_sd']:.4f}, "
        f"standard error of a difference {compared['standard_error']:.4f}; "
        f"FLOPs all told {lab.result['share_of_grid_flops']:.1%} of the grid's"
    )


if __name__ == "__main__":
    main()
