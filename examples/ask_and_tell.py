"""The sampler by plain ask and tell, with legal widths, a run that diverges, and two runs at a time.

python examples/ask_and_tell.py
"""

import math

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from carbs_scaling import CarbsSampler

SPACE = {
    "width": IntDistribution(128, 1024, log=True),
    "tokens": FloatDistribution(1e8, 1e10, log=True),
    "learning_rate": FloatDistribution(1e-4, 3e-2, log=True),
}


def params(point: dict) -> float:
    return 12.0 * 8 * point["width"] ** 2


def flops(point: dict) -> float:
    return 6.0 * params(point) * point["tokens"]


def roles(point: dict) -> dict:
    return {"params": params(point), "tokens": point["tokens"], "learning_rate": point["learning_rate"]}


def project(point: dict) -> dict:
    return {**point, "width": 64 * round(point["width"] / 64)}


def train(point: dict) -> float | None:
    off = math.log(point["learning_rate"] / (3e-3 * (params(point) / 1e7) ** -0.4))
    floor = 1.8 + 1.7 * (params(point) / 1e7) ** -0.35 + (point["tokens"] / 1e9) ** -0.36
    return None if off > 1.5 else floor + 0.04 * off**2


if __name__ == "__main__":
    sampler = CarbsSampler(SPACE, flops, roles, project, budget_flops=2e19, seed=0)
    study = optuna.create_study(sampler=sampler, directions=["minimize", "minimize"])
    study.set_metric_names(["loss", "FLOPs"])  # for optuna-dashboard
    while sampler.affordable(study) and len(study.trials) < 40:
        batch = [study.ask(SPACE) for _ in range(2) if sampler.affordable(study)]
        for trial in batch:
            loss = train(trial.params)
            if loss is None:
                trial.set_user_attr("outcome", "diverged")
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, [loss, flops(trial.params)])
    for trial in sorted(study.best_trials, key=lambda t: t.values[1]):
        print(f"{trial.values[1]:.2e} FLOPs  loss {trial.values[0]:.4f}  {trial.params}")
    print(sampler.law(study))
    print(sampler.best_recipe(study, 1e9, 2e10))
