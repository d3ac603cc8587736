"""What a search of language models would buy, on losses drawn from a law: seconds instead of minutes.

    python benchmarks/default_search.py --seeds 0,1,2
    python benchmarks/default_search.py budget.flops=1e13 space.depth.high=6      # overrides of `search`

Space, budget and sampler are those of `carbs-scaling search`; nothing is trained. The law's constants are of
some twenty runs on the text that comes with Python (docs/log.md, 2026-11-26), so it shows whether a space and
a budget give a law that stands - how far N spans, which edges the front presses on, which exponents are
identified - and not which loss is reached.
"""

import argparse
import logging
import warnings
from collections import Counter
from dataclasses import dataclass

import numpy as np
import optuna
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from optuna.distributions import IntDistribution

from carbs_scaling import fit_law
from carbs_scaling.cli import configuration_folder
from carbs_scaling.commands.search import build_task, load_search
from carbs_scaling.errors import BudgetSpent
from carbs_scaling.frontier import pareto_front
from carbs_scaling.laws.fit.diagnostics import EXPONENTS
from carbs_scaling.laws.recommend.reach import Range, edge_lines
from carbs_scaling.samplers.sampler import new_study
from carbs_scaling.search import build_sampler
from carbs_scaling.training.recipe import Recipe

STEP_SECONDS, FLOPS_PER_SECOND = 3e-3, 5e10  # of a core: what each step takes, and what its arithmetic takes


@dataclass(frozen=True)
class Truth:
    """Losses of bytes of Python; valleys are exponential on one side and linear on the other.

    Args:
        irreducible, by_params, by_tokens: E, and the reducible loss at N = 2e4 and at D = 1e6.
        alpha, beta: exponents of the loss.
        rate, rate_by_params, rate_by_batch: best learning rate at N = 2e4 and B = 256, and its exponents.
        batch, batch_by_tokens: best batch at D = 1e6, and its exponent.
        aspect: best width / depth.
        rate_height, batch_height, aspect_height: of the valleys, as shares of the reducible loss.
        noise: of a run, as a share of its loss.
    """

    irreducible: float = 0.6
    by_params: float = 0.45
    alpha: float = 0.28
    by_tokens: float = 0.736
    beta: float = 0.3
    rate: float = 0.010
    rate_by_params: float = -0.6
    rate_by_batch: float = 0.1
    batch: float = 600.0
    batch_by_tokens: float = 0.6
    aspect: float = 35.0
    rate_height: float = 0.2
    batch_height: float = 0.06
    aspect_height: float = 0.03
    noise: float = 0.008

    def loss(self, recipe: Recipe) -> float:
        """Without noise."""
        n, d, b = recipe.params / 2e4, recipe.tokens / 1e6, recipe.batch_tokens
        reducible = self.by_params * n**-self.alpha + self.by_tokens * d**-self.beta
        best_rate = self.rate * n**self.rate_by_params * (b / 256) ** self.rate_by_batch
        rate = np.log(recipe.learning_rate / best_rate)
        batch = np.log(b / (self.batch * d**self.batch_by_tokens))
        aspect = np.log(recipe.shape.width / recipe.shape.depth / self.aspect)
        above = self.rate_height * (np.exp(0.8 * rate) - 0.8 * rate - 1)
        above += self.batch_height * (np.exp(0.7 * batch) - 0.7 * batch - 1)
        above += self.aspect_height * aspect**2
        return float(self.irreducible + reducible * (1 + above))


def search(seed: int, overrides: list[str]) -> None:
    """One search, and what its front and its law say."""
    with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
        composed = compose("search", overrides=[f"study.seed={seed}", *overrides])
    config, task_config = load_search(composed)
    task = build_task(config, task_config)
    sampler = build_sampler(config, task)
    study, rng, truth = new_study(sampler), np.random.default_rng(seed), Truth()
    rows: list[dict] = []
    while sampler.remaining_flops(study) >= config.budget.stop_below_fraction * config.budget.flops:
        try:
            trial = study.ask(task.space)
        except BudgetSpent:
            break
        recipe, flops = task.legal.recipe(trial.params, seed=0), task.flops(trial.params)
        loss = truth.loss(recipe) * (1 + truth.noise * rng.normal())
        study.tell(trial, [loss, flops])
        row = {name: getattr(recipe, name) for name in ("params", "tokens", "learning_rate", "batch_tokens")}
        shape = {"width": recipe.shape.width, "depth": recipe.shape.depth}
        rows.append(
            {**row, **shape, "loss": loss, "flops": flops, "steps": recipe.steps, "point": trial.params}
        )
    show(seed, pd.DataFrame(rows), task.space)


def show(seed: int, runs: pd.DataFrame, space: dict) -> None:
    """A few lines on the runs, their front, its edges and the law."""
    on_front = runs.iloc[pareto_front(runs.flops.to_numpy(), runs.loss.to_numpy())]
    seconds = (runs.steps.sum() * STEP_SECONDS + runs.flops.sum() / FLOPS_PER_SECOND) / 2
    low, high = runs.params.min(), runs.params.max()
    print(
        f"seed {seed}: {len(runs)} runs, {runs.flops.sum():.3g} FLOPs, {len(on_front)} on the front, about "
        f"{seconds:.0f} s of training on two quiet cores; N {low:,} to {high:,}, "
        f"{np.log10(high / low):.2f} decades"
    )
    for name in ("width", "depth", "batch_tokens"):
        print(
            f"  front, {name}: " + ", ".join(f"{k}: {v}" for k, v in sorted(Counter(on_front[name]).items()))
        )
    ranges = {name: Range(d.low, d.high, d.log, isinstance(d, IntDistribution)) for name, d in space.items()}
    for line in edge_lines(list(on_front.point), ranges):
        print(f"  edge: {line}")
    law = fit_law(runs.drop(columns=["flops", "steps", "point"]), check=False)
    for name, what in EXPONENTS.items():
        if not name.startswith("ln_"):
            print(f"  exponent {what}: {law.parameter(name):.2f} ({law.standard_error(name):.2f})")
    for warning in law.warnings:
        print(f"  warning: {warning}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("overrides", nargs="*", help="of carbs-scaling search")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    logging.disable(logging.WARNING)
    for seed in arguments.seeds.split(","):
        search(int(seed), arguments.overrides)


if __name__ == "__main__":
    main()
