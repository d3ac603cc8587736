"""Baseline: Optuna's NSGA-II, an evolutionary search for fronts."""

from dataclasses import dataclass

from optuna.samplers import NSGAIISampler

from carbs_scaling.samplers.projected import ProjectedSampler
from carbs_scaling.samplers.sampler import SamplerEntry, require_count, seed_of
from carbs_scaling.space.projection import LegalSpace


@dataclass(frozen=True)
class Nsga2Options:
    """Options of NSGA-II.

    Args:
        population_size: trials a generation.
    """

    population_size: int = 20

    def __post_init__(self) -> None:
        require_count("population_size", self.population_size, least=2)


def _build(space: LegalSpace, budget_flops: float, seed: int, options: Nsga2Options) -> ProjectedSampler:
    def base_for(number: int) -> NSGAIISampler:
        return NSGAIISampler(seed=seed_of(seed, number), population_size=options.population_size)

    return ProjectedSampler(base_for, space, budget_flops, seed)


SAMPLER = SamplerEntry(_build, Nsga2Options)
