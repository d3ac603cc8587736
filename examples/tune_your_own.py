"""Tune somebody's own training function under a FLOP budget: `python examples/tune_your_own.py`.

`train` stands for yours: it fits a small network to a function by plain gradient descent, in milliseconds.
"""

import numpy as np
import optuna
from optuna.distributions import FloatDistribution, IntDistribution

from carbs_scaling import CarbsSampler

BATCH = 64
SPACE = {
    "width": IntDistribution(128, 1024, log=True),
    "steps": IntDistribution(40, 1000, log=True),
    "learning_rate": FloatDistribution(1e-3, 1.0, log=True),
}


def train(width: int, steps: int, learning_rate: float) -> float:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(3, width)), rng.normal(size=width) / width**0.5
    for _ in range(steps):
        x = np.c_[rng.uniform(-2, 2, (BATCH, 2)), np.ones(BATCH)]
        hidden = np.tanh(x @ first)
        error = hidden @ second - np.sin(3 * x[:, 0]) * x[:, 1]
        second -= learning_rate * hidden.T @ error / BATCH
        first -= learning_rate * x.T @ (error[:, None] * (1 - hidden**2) * second) / BATCH
    grid = np.c_[np.random.default_rng(1).uniform(-2, 2, (2000, 2)), np.ones(2000)]
    loss = float(np.mean((np.tanh(grid @ first) @ second - np.sin(3 * grid[:, 0]) * grid[:, 1]) ** 2))
    return loss if loss < 10 else float("nan")  # a run that diverged


def flops(point: dict) -> float:
    return 6.0 * 4 * point["width"] * point["steps"] * BATCH


def roles(point: dict) -> dict:
    tokens = point["steps"] * BATCH
    return {"params": 4 * point["width"], "tokens": tokens, "learning_rate": point["learning_rate"]}


def objective(trial: optuna.Trial) -> tuple[float, float]:
    point = {
        "width": trial.suggest_int("width", 128, 1024, log=True),
        "steps": trial.suggest_int("steps", 40, 1000, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1.0, log=True),
    }
    return train(**point), flops(point)


if __name__ == "__main__":
    sampler = CarbsSampler(SPACE, flops, roles, budget_flops=2e10, n_trials=40, seed=0)
    study = optuna.create_study(sampler=sampler, directions=["minimize", "minimize"])
    study.set_metric_names(["loss", "FLOPs"])  # for optuna-dashboard
    study.optimize(objective)
    for trial in sorted(study.best_trials, key=lambda t: t.values[1]):
        print(f"{trial.values[1]:.2e} FLOPs  loss {trial.values[0]:.4f}  {trial.params}")
    print(sampler.law(study))
