"""What a recommendation costs in a swept cell of a table of runs."""

import argparse
import json
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from carbs_scaling.laws.fit.hold_out import swept_loss
from carbs_scaling.laws.fit.law_fit import most_probable
from carbs_scaling.laws.fit.problem import LawProblem
from carbs_scaling.laws.form.law import INDEX
from carbs_scaling.laws.form.law import NAMES as PARAMETERS
from carbs_scaling.laws.prior.prior import LawPrior, law_prior

NAMES = ("learning_rate", "batch_tokens", "loss")
FIT_MAX_PARAMS = 4.3e8
TARGET_MIN_PARAMS = 1.0e9


def arguments(description: str, data: str) -> argparse.ArgumentParser:
    """A parser with --data and --output."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--data", default=data)
    parser.add_argument("--output", help="JSON file for the figures")
    return parser


def write(output: str | None, figures: dict) -> None:
    """Writes the figures as JSON, where a file is asked for."""
    if output:
        Path(output).write_text(json.dumps(figures, indent=1) + "\n")


def smoothed_optimum(points: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The floor of one cell's own valley, and its standard errors: each (ln rate, ln batch, loss).

    The best of forty runs is the luckiest of those near the floor, on a grid. This is the valley of
    `carbs_scaling.laws.form.law` through the better half of the cell's runs, with no law behind it.

    Args:
        points: ln learning rate and ln batch tokens, shape (n, 2).
        losses: shape (n,).
    """
    better = losses <= np.median(losses)
    points, losses = points[better], losses[better]
    centre = np.concatenate([[0.0, 0.0], points.mean(axis=0)])
    features = np.concatenate([np.zeros((len(losses), 2)), points - centre[2:]], axis=1)
    prior = law_prior(float(losses.min()), [np.log(1e9), np.log(1e10), *centre[2:]])
    mean = prior.mean.copy()
    for name, level in (("ln_E", np.log(losses.min())), ("ln_R", -30.0), ("a0", 0.0), ("b0", 0.0)):
        mean[INDEX[name]] = level
    free = np.isin(PARAMETERS, ("ln_E", "a0", "b0", "a_B", "ln_k_e", "r_e", "ln_k_B", "r_B"))
    problem = LawProblem(
        features, losses, LawPrior(mean, np.where(free, prior.scale, 0.0), np.zeros((1, len(mean))))
    )
    fit = most_probable(problem, [mean])
    errors = np.zeros(len(mean))
    covariance = problem.covariance(fit.z, fit.noise.errors(problem.floor_and_height(fit.z)[1]))
    errors[free] = np.sqrt(np.diag(covariance))
    at = [INDEX[name] for name in ("a0", "b0", "ln_E")]
    optimum, errors = problem.theta(fit.z)[at], errors[at]
    loss = float(np.exp(optimum[2]))
    return np.array([*(optimum[:2] + centre[2:]), loss]), np.array([*errors[:2], loss * errors[2]])


class Target:
    """One swept cell, as a judge of recommendations."""

    def __init__(self, params: float, tokens: float, runs: pd.DataFrame) -> None:
        self.params, self.tokens = params, tokens
        self.points = np.log(runs[["learning_rate", "batch_tokens"]].to_numpy())
        self.losses = runs.loss.to_numpy()
        best = runs.loc[runs.loss.idxmin()]
        self.best_loss, self.best_rate, self.best_batch = best.loss, best.learning_rate, best.batch_tokens
        self._loss_of = swept_loss(self.points, self.losses)

    @cached_property
    def smoothed(self) -> np.ndarray:
        """ln rate, ln batch and loss of the `smoothed_optimum` of the cell, shape (3,)."""
        return self._smoothed[0]

    @cached_property
    def smoothed_sd(self) -> np.ndarray:
        """Standard errors of `smoothed`, shape (3,)."""
        return self._smoothed[1]

    @cached_property
    def _smoothed(self) -> tuple[np.ndarray, np.ndarray]:
        return smoothed_optimum(self.points, self.losses)

    def inside(self, recipe) -> list[bool]:
        """Whether the 90% intervals hold the learning rate, batch and loss of the cell's best run."""
        real = (self.best_rate, self.best_batch, self.best_loss)
        bounds = [recipe.interval(name) for name in NAMES]
        return [bool(low <= value <= high) for (low, high), value in zip(bounds, real, strict=True)]

    def inside_smoothed(self, recipe) -> list[bool]:
        """Whether they hold its smoothed optimum, whose own standard error widens them."""
        error = self.smoothed_sd * np.random.default_rng(0).normal(size=(len(recipe.draws), 3))
        low, high = np.quantile(recipe.draws + error, [0.05, 0.95], axis=0)
        return [bool(x) for x in (low <= self.smoothed) & (self.smoothed <= high)]

    def regret(self, recipe) -> float:
        """Loss of the recommendation less the cell's best run."""
        return self._loss_of(recipe) - self.best_loss


def targets(runs: pd.DataFrame) -> list[Target]:
    """Every (N, D) of the runs."""
    return [Target(n, d, cell) for (n, d), cell in runs.groupby(["params", "tokens"])]
