"""Baseline: BoTorch's noisy expected hypervolume improvement of (loss, log10 FLOPs), as in its tutorial."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelListGP, SingleTaskGP
from botorch.optim import optimize_acqf
from botorch.sampling import SobolQMCNormalSampler
from gpytorch.mlls import SumMarginalLogLikelihood
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from carbs_scaling.ledger.history import History, read_history
from carbs_scaling.samplers.projected import FEW_ATTEMPTS, ProjectedSampler
from carbs_scaling.samplers.sampler import SamplerEntry, require_count
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.projection import LegalSpace


class QLogNEHVI(BaseSampler):
    """Sobol points first, then qLogNEHVI with one process for the loss and one for the cost.

    Args:
        space: what may be run.
        seed: of the proposals.
        startup_trials: Sobol points before the model; None for 2 (d + 1), as in the tutorial.
    """

    def __init__(self, space: LegalSpace, seed: int, startup_trials: int | None = None) -> None:
        self.space, self.seed = space, seed
        self.asked: Counter[int] = Counter()
        knobs = space.encoding.knobs
        self.startup_trials = 2 * (knobs + 1) if startup_trials is None else startup_trials

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.space.encoding.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        history = read_history(study, self.space, but=trial.number)
        again = self.asked[trial.number]
        self.asked[trial.number] += 1
        # Where its own choice is known or cannot be paid, it is asked again and falls back on Sobol points.
        if trial.number < self.startup_trials or len(history.points) < 3 or again:
            points = qmc.Sobol(self.space.encoding.knobs, rng=self.seed).random(4096)
            return self.space.encoding.point(points[(trial.number + 97 * again) % 4096])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 100_003 + trial.number)
            return self.space.encoding.point(self._best(history).numpy())

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        rng = np.random.default_rng([self.seed, trial.number])
        return Encoding({param_name: param_distribution}).point(rng.random(1))[param_name]

    def _best(self, history: History) -> torch.Tensor:
        inputs = torch.as_tensor(np.array([self.space.encoding.position(p) for p in history.points]))
        # BoTorch maximises.
        outcomes = -torch.as_tensor(np.column_stack([history.loss, np.log10(history.flops)]))
        models = [SingleTaskGP(inputs, outcomes[:, i : i + 1]) for i in range(2)]
        model = ModelListGP(*models)
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        worst, best = outcomes.min(dim=0).values, outcomes.max(dim=0).values
        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            model=model,
            ref_point=(worst - 0.1 * (best - worst)).tolist(),
            X_baseline=inputs,
            sampler=SobolQMCNormalSampler(sample_shape=torch.Size([64]), seed=self.seed),
            prune_baseline=True,
        )
        bounds = torch.tensor([[0.0] * inputs.shape[1], [1.0] * inputs.shape[1]], dtype=torch.float64)
        found, _ = optimize_acqf(
            acquisition, bounds, q=1, num_restarts=4, raw_samples=128, options={"maxiter": 50}
        )
        return found[0]


@dataclass(frozen=True)
class QLogNEHVIOptions:
    """Options of qLogNEHVI.

    Args:
        startup_trials: Sobol points before the model; None for 2 (d + 1).
    """

    startup_trials: int | None = None

    def __post_init__(self) -> None:
        require_count("startup_trials", self.startup_trials, least=1)


def _build(space: LegalSpace, budget_flops: float, seed: int, options: QLogNEHVIOptions) -> ProjectedSampler:
    return ProjectedSampler(
        lambda _: QLogNEHVI(space, seed, options.startup_trials), space, budget_flops, seed, FEW_ATTEMPTS
    )


SAMPLER = SamplerEntry(_build, QLogNEHVIOptions)
