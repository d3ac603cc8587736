"""Baseline: uniform random points."""

from typing import Any

from optuna.samplers import RandomSampler

from carbs_scaling.samplers.projected import ProjectedSampler
from carbs_scaling.samplers.sampler import SamplerEntry, seed_of
from carbs_scaling.space.projection import LegalSpace


def _build(space: LegalSpace, budget_flops: float, seed: int, options: Any) -> ProjectedSampler:
    return ProjectedSampler(
        lambda number: RandomSampler(seed=seed_of(seed, number)), space, budget_flops, seed
    )


SAMPLER = SamplerEntry(_build)
