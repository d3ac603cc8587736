"""Baseline: Optuna's multivariate tree-structured Parzen estimator, on loss and FLOPs."""

from typing import Any

from optuna.samplers import TPESampler

from carbs_scaling.samplers.projected import ProjectedSampler
from carbs_scaling.samplers.sampler import SamplerEntry, seed_of
from carbs_scaling.space.projection import LegalSpace


def _build(space: LegalSpace, budget_flops: float, seed: int, options: Any) -> ProjectedSampler:
    def base_for(number: int) -> TPESampler:
        return TPESampler(seed=seed_of(seed, number), multivariate=True)

    return ProjectedSampler(base_for, space, budget_flops, seed)


SAMPLER = SamplerEntry(_build)
