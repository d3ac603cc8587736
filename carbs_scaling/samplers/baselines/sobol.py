"""Baseline: a scrambled Sobol sequence, one point a trial."""

from collections import Counter
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from carbs_scaling.samplers.projected import ProjectedSampler
from carbs_scaling.samplers.sampler import SamplerEntry
from carbs_scaling.space.projection import LegalSpace


class SobolSampler(BaseSampler):
    """Trial n runs point n of the sequence; asked again for the same trial, it answers with random points.

    Optuna's own (`QMCSampler`) counts its proposals in the study, so that one that is lost in a crash changes
    all that follow. Here a point depends on the seed and the trial's number alone.

    Args:
        space: what may be run.
        seed: of the scrambling.
    """

    def __init__(self, space: LegalSpace, seed: int) -> None:
        self.space, self.seed = space, seed
        self.asked: Counter[int] = Counter()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.space.encoding.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        again = self.asked[trial.number]
        self.asked[trial.number] += 1
        knobs = self.space.encoding.knobs
        if again:
            random = np.random.default_rng([self.seed, trial.number, again]).random(knobs)
            return self.space.encoding.point(random)
        sequence = qmc.Sobol(knobs, rng=self.seed)
        if trial.number:  # SciPy does not skip zero points
            sequence.fast_forward(trial.number)
        return self.space.encoding.point(sequence.random(1)[0])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.sample_relative(study, trial, {})[param_name]


def _build(space: LegalSpace, budget_flops: float, seed: int, options: Any) -> ProjectedSampler:
    return ProjectedSampler(lambda _: SobolSampler(space, seed), space, budget_flops, seed)


SAMPLER = SamplerEntry(_build)
