"""What a run teaches about the valley of rates and batches, for the front's later runs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.utils.transforms import t_batch_mode_transform
from torch import Tensor

from carbs_scaling.space.projection import Candidates
from carbs_scaling.surrogate.fit import EXCESS_SHARE
from carbs_scaling.surrogate.model import LawEnsembleModel

# Levels of cost at which what is learnt about the valley is put to use.
_LEVELS = 10


@dataclass(frozen=True)
class ValleySpread:
    """What an ensemble of s laws does not agree on: where the valley's floor lies at the front's t levels.

    Args:
        rates: ln of the best learning rate at each level, shape `s x t`.
        batches: ln of the best batch, shape `s x t`.
        rate_curvature: loss per squared factor of e off the best rate, shape `t`.
        batch_curvature: the same for the batch, shape `t`.
        width: decades of cost that each level stands for.
    """

    rates: Tensor
    batches: Tensor
    rate_curvature: Tensor
    batch_curvature: Tensor
    width: float

    @staticmethod
    def of(model: LawEnsembleModel, pool: Candidates, limit: float) -> ValleySpread | None:
        """The spread at the best shape of each level of cost; None where there is no valley or one law.

        Args:
            model: of the loss.
            pool: candidates of all costs.
            limit: FLOPs of the dearest run that can be paid.
        """
        has_role = model.best_law.has_role
        if not (has_role[2] or has_role[3]) or len(model.member_weights) < 2:
            return None
        floor, log_cost = model.best_law.floor(pool.features), np.log10(pool.flops)
        top = min(log_cost.max(), np.log10(min(limit / 2, 1e300)))
        edges = np.linspace(log_cost.min(), top + 1e-9, _LEVELS + 1)
        best = [
            int(inside[np.argmin(floor[inside])])
            for low, high in itertools.pairwise(edges)
            if len(inside := np.flatnonzero((log_cost >= low) & (log_cost < high)))
        ]
        if not best:
            return None
        features = pool.features[best]
        features[:, 3] = model.best_law.valley(features)[1] if has_role[3] else 0.0
        rates, batches = model.members.valley(features)
        by_rate, by_batch = model.best_law.curvatures(features)
        return ValleySpread(
            rates=torch.from_numpy(rates),
            batches=torch.from_numpy(batches),
            rate_curvature=torch.from_numpy(by_rate),
            batch_curvature=torch.from_numpy(by_batch),
            width=float(edges[1] - edges[0]),
        )


class LessonGain(AcquisitionFunction):
    """Front area that later runs are expected to gain by what a run teaches about the valley.

    A run at the mean of the laws' best rates loses curvature x variance to the best. A run's loss y cuts the
    variance of the best rate r by cov(r, y)^2 / var(y), as for jointly normal variables (the knowledge
    gradient of Frazier et al. 2009, with the later decision's value in closed form).

    Args:
        model: of the loss.
        spread: what its laws do not agree on.
        share: factor of the gain.
    """

    model: LawEnsembleModel

    def __init__(self, model: LawEnsembleModel, spread: ValleySpread, share: float = 1.0) -> None:
        super().__init__(model=model)
        self.spread, self.share = spread, share

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: Tensor) -> Tensor:
        """Gains, shape `b`, of candidates X, `b x 1 x (d + 4)`."""
        posterior = self.model.posterior(X)
        weights, means = posterior.weights, posterior.means[..., 0]
        mean = torch.tensordot(weights, means, dims=1)
        excess = (mean - self.model.floor(X)[..., 0]).clamp_min(0.0)
        own = torch.tensordot(weights, posterior.deviations[..., 0].square(), dims=1)
        noise = own + self.model.noise_sd**2 + (EXCESS_SHARE * excess).square()
        off = means - mean
        laws_variance = torch.tensordot(weights, off.square(), dims=1)
        gain = torch.zeros_like(mean)
        for best, curvature in (
            (self.spread.rates, self.spread.rate_curvature),
            (self.spread.batches, self.spread.batch_curvature),
        ):
            centred = weights[:, None] * (best - weights @ best)
            shared = torch.tensordot(centred, off, dims=([0], [0]))
            # Two unrelated columns of s draws have a squared covariance of this size by chance.
            chance = (centred * (best - weights @ best)).sum(dim=0).reshape(-1, *[1] * mean.dim())
            chance = chance * laws_variance / len(weights)
            explained = (shared.square() - chance).clamp_min(0.0) / (laws_variance + noise)
            gain = gain + torch.tensordot(self.spread.width * curvature, explained, dims=1)
        return self.share * gain
