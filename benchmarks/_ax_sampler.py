"""Ax (an extra, `pip install ax-platform`) as an Optuna sampler, for the benchmarks alone."""

import logging
from typing import Any

import numpy as np
from ax.api.client import Client
from ax.api.configs import RangeParameterConfig
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from carbs_scaling.ledger.history import read_history
from carbs_scaling.space.projection import LegalSpace


class AxSampler(BaseSampler):
    """Ax's default two-objective strategy over (loss, log10 FLOPs), told what is really run.

    Args:
        space: what may be run.
        seed: of Ax's generators.
    """

    def __init__(self, space: LegalSpace, seed: int) -> None:
        logging.getLogger("ax").setLevel(logging.ERROR)
        self.space = space
        self.told = 0
        self.client = Client(random_seed=seed)
        self.client.configure_experiment(
            parameters=[
                RangeParameterConfig(
                    name=name,
                    bounds=(float(d.low), float(d.high)),
                    parameter_type="float",
                    scaling="log" if d.log else "linear",
                )
                for name, d in space.encoding.distributions.items()
            ]
        )
        self.client.configure_optimization(objective="-loss, -log_flops")

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.space.encoding.distributions)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict) -> dict[str, Any]:
        history = read_history(study, self.space, but=trial.number)
        news = zip(history.points, history.loss, history.flops, strict=True)
        for point, loss, flops in list(news)[self.told :]:
            index = self.client.attach_trial(parameters={k: float(v) for k, v in point.items()})
            self.client.complete_trial(index, raw_data={"loss": loss, "log_flops": float(np.log10(flops))})
        self.told = len(history.points)
        ((index, point),) = self.client.get_next_trials(max_trials=1).items()
        self.client.mark_trial_abandoned(index)
        return self.space.encoding.clip(dict(point))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise NotImplementedError("every parameter is proposed together")
