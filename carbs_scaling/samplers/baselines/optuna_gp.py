"""Baseline: Optuna's Gaussian-process sampler, on loss and FLOPs."""

from typing import Any

from optuna.samplers import GPSampler

from carbs_scaling.samplers.projected import FEW_ATTEMPTS, ProjectedSampler
from carbs_scaling.samplers.sampler import SamplerEntry, seed_of
from carbs_scaling.space.projection import LegalSpace


def _build(space: LegalSpace, budget_flops: float, seed: int, options: Any) -> ProjectedSampler:
    return ProjectedSampler(
        lambda number: GPSampler(seed=seed_of(seed, number)), space, budget_flops, seed, FEW_ATTEMPTS
    )


SAMPLER = SamplerEntry(_build)
