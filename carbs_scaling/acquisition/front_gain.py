"""What a run is worth: the expected gain of the front of loss against cost.

With the cost of a run known, the expected growth of the hypervolume in (log10 FLOPs, loss) is a
one-dimensional integral of expected improvement along the front at and above the run's cost (Emmerich et al.
2011 with one certain coordinate).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.models.deterministic import DeterministicModel
from botorch.models.model import Model
from botorch.utils.transforms import t_batch_mode_transform
from numpy.typing import ArrayLike
from torch import Tensor

from carbs_scaling.acquisition.components import components
from carbs_scaling.frontier import pareto_front

# Pairs of a run and a step that are worked on at once: few enough to stay in a processor's cache.
_PAIRS = 512


@dataclass(frozen=True)
class FrontLevels:
    """The front as steps: between `edges[i]` and `edges[i + 1]` decades the best loss so far is `levels[i]`.

    Args:
        edges: log10 FLOPs, shape `k + 1`, rising; the last is the reference cost.
        levels: losses, shape `k`; below the cheapest run it is the reference loss.
    """

    edges: Tensor
    levels: Tensor

    @staticmethod
    def of(flops: ArrayLike, loss: ArrayLike, lowest: float, reference: tuple[float, float]) -> FrontLevels:
        """The front of some runs.

        Args:
            flops: shape (n,).
            loss: shape (n,).
            lowest: log10 FLOPs of the cheapest legal run.
            reference: (log10 FLOPs, loss) of the corner that areas are measured to.
        """
        cost, loss = np.asarray(flops, dtype=float), np.asarray(loss, dtype=float)
        front = pareto_front(cost, loss)
        log_cost, levels = np.log10(cost[front]), np.minimum(loss[front], reference[1])
        inside = log_cost < reference[0]
        edges = np.concatenate([[min(lowest, reference[0])], log_cost[inside], [reference[0]]])
        edges[0] = min(edges[0], edges[1])
        return FrontLevels(
            torch.from_numpy(edges), torch.from_numpy(np.concatenate([[reference[1]], levels[inside]]))
        )

    def at(self, log_cost: Tensor) -> Tensor:
        """Best loss so far at or below costs, in the shape of `log_cost`."""
        index = torch.searchsorted(self.edges, log_cost.contiguous(), right=True) - 1
        return self.levels[index.clamp(0, len(self.levels) - 1)]


def expected_improvement(mean: Tensor, sd: Tensor, level: Tensor) -> Tensor:
    """E[(level - y)+] for y ~ Normal(mean, sd), elementwise; exact also far in the tail."""
    sd = sd.clamp_min(1e-12)
    z = (level - mean) / sd
    density = (-0.5 * z.square()).exp() / sqrt(2 * pi)
    # phi(z) + z Phi(z) cancels for very negative z, where it is phi(z) / z^2 to first order.
    direct = (density + z * torch.special.ndtr(z)).clamp_min(0.0)
    return sd * torch.where(z < -6, density / z.square().clamp_min(1.0), direct)


def expected_front_gain(
    weights: Tensor, mean: Tensor, sd: Tensor, log_cost: Tensor, front: FrontLevels
) -> Tensor:
    """Expected growth of the front's area by one more run, in decades x loss; shape `m`.

    Args:
        weights: of the components of the predictions, shape `s`.
        mean: predicted losses, shape `s x m`.
        sd: their standard deviations, shape `s x m`.
        log_cost: log10 FLOPs, shape `m`.
        front: the front so far.
    """
    start = torch.maximum(front.edges[:-1], log_cost[:, None])
    width = (front.edges[1:] - start).clamp_min(0.0)
    # Steps below a run's own cost are as many as those above, and gain nothing.
    gain = torch.zeros_like(log_cost)
    runs, steps = width.nonzero(as_tuple=True)
    for run, step in zip(runs.split(_PAIRS), steps.split(_PAIRS), strict=True):
        improvement = weights @ expected_improvement(mean[:, run], sd[:, run], front.levels[step])
        gain = gain.index_add(0, run, improvement * width[run, step])
    return gain


class ExpectedFrontGain(AcquisitionFunction):
    """Expected growth of the front's area by one more run, in decades of FLOPs x loss.

    Exact for every component of a mixture posterior; else for a normal one.

    Args:
        model: of the loss: one outcome, less is better.
        front: the front so far.
        cost_model: training FLOPs of a run, one outcome.
    """

    def __init__(self, model: Model, front: FrontLevels, cost_model: DeterministicModel) -> None:
        super().__init__(model=model)
        self.front, self.cost_model = front, cost_model

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: Tensor) -> Tensor:
        """Gains, shape `b`, of candidates X, `b x 1 x d'`."""
        weights, means, deviations = components(self.model.posterior(X))
        members, log_cost = len(weights), self.cost_model(X)[..., 0, 0].log10()
        gain = expected_front_gain(
            weights,
            means.reshape(members, -1),
            deviations.reshape(members, -1),
            log_cost.reshape(-1),
            self.front,
        )
        return gain.reshape(log_cost.shape)
