"""Other acquisitions than ours, on our model and our candidates, for comparison."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.models.deterministic import DeterministicModel
from botorch.models.model import Model
from botorch.utils.transforms import t_batch_mode_transform
from torch import Tensor

from carbs_scaling.acquisition.components import components
from carbs_scaling.acquisition.front_gain import ExpectedFrontGain, FrontLevels, expected_improvement
from carbs_scaling.acquisition.price import LogGainPerCost, known_costs, per_flop
from carbs_scaling.frontier import pareto_front
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.front_search import FrontSearch, FrontState
from carbs_scaling.space.projection import Candidates


class LevelImprovement(AcquisitionFunction):
    """Expected improvement on a level of each candidate's own, by the components of the posterior.

    Args:
        model: of the loss.
        level: of candidates `b x 1 x d'`, shape `b`.
    """

    def __init__(self, model: Model, level: Callable[[Tensor], Tensor]) -> None:
        super().__init__(model=model)
        self.level = level

    @t_batch_mode_transform(expected_q=1)
    def forward(self, X: Tensor) -> Tensor:
        """Improvements, shape `b`."""
        weights, means, deviations = components(self.model.posterior(X))
        gain = expected_improvement(means[..., 0], deviations[..., 0], self.level(X))
        return torch.tensordot(weights, gain, dims=1)


class GittinsIndex(AcquisitionFunction):
    """The front's level less Pandora's-box index g, E[(g - y)+] = price.

    Weitzman 1979; as an acquisition Xie et al. 2024 (arXiv 2406.20062).

    Args:
        model: of the loss.
        level: of the front at the cost of candidates `b x 1 x d'`, shape `b`.
        price: of looking, in losses, shape `b`.
    """

    def __init__(
        self, model: Model, level: Callable[[Tensor], Tensor], price: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(model=model)
        self.level, self.price = level, price

    @t_batch_mode_transform(expected_q=1)
    def forward(self, X: Tensor) -> Tensor:
        """Scores, shape `b`."""
        weights, means, deviations = components(self.model.posterior(X))
        return self.level(X) - gittins_index(weights, means[..., 0], deviations[..., 0], self.price(X))


def gittins_index(weights: Tensor, mean: Tensor, sd: Tensor, price: Tensor) -> Tensor:
    """The index, shape `b`, of components `s x b` and prices `b`."""
    low, high = (mean - 8 * sd).amin(dim=0) - price, (mean + 8 * sd).amax(dim=0) + 2 * price
    for _ in range(50):
        middle = (low + high) / 2
        above = weights @ expected_improvement(mean, sd, middle) > price
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


class NearFront(AcquisitionFunction):
    """A gain times CARBS's factor for staying near the front (arXiv 2306.08055).

    Args:
        gain: that is not negative.
        front: unit-cube rows of the runs on the front, shape `k x d`.
    """

    def __init__(self, gain: AcquisitionFunction, front: Tensor) -> None:
        super().__init__(model=gain.model)
        self.gain, self.front = gain, front

    @t_batch_mode_transform(expected_q=1)
    def forward(self, X: Tensor) -> Tensor:
        """Gains, shape `b`."""
        gaps = torch.cdist(X[..., 0, : self.front.shape[1]], self.front).amin(dim=-1)
        return self.gain(X) * (-0.5 * (gaps / 0.3).square()).exp()


def level_of(front: FrontLevels, costs: DeterministicModel) -> Callable[[Tensor], Tensor]:
    """The front's loss at the cost of candidates."""
    return lambda X: front.at(costs(X)[..., 0, 0].log10())


class AlternativeSampler(CarbsSampler):
    """Our search with another acquisition: one of `ALTERNATIVES`.

    Args:
        alternative: its name.
        arguments, options: of `CarbsSampler`.
    """

    def __init__(self, alternative: str, *arguments: Any, **options: Any) -> None:
        # What a repeat is worth can only be compared with gains of the front per FLOP.
        super().__init__(*arguments, **options)
        self.alternative = alternative

    def front_search(self, history) -> FrontSearch:
        """With the acquisition."""
        return FrontSearch(
            self.space, self.options, self.budget_flops, self._overhead(history), self._acquisition
        )

    def _acquisition(self, state: FrontState, pool: Candidates) -> AcquisitionFunction:
        return ALTERNATIVES[self.alternative](
            self, state, known_costs(pool.rows, torch.from_numpy(pool.flops))
        )


def _front_gain(
    sampler: AlternativeSampler, state: FrontState, costs: DeterministicModel
) -> AcquisitionFunction:
    return LogGainPerCost([ExpectedFrontGain(state.model, state.front, costs)])


def _ei_front(
    sampler: AlternativeSampler, state: FrontState, costs: DeterministicModel
) -> AcquisitionFunction:
    return LogGainPerCost([LevelImprovement(state.model, level_of(state.front, costs))])


def _ei_per_cost(
    sampler: AlternativeSampler, state: FrontState, costs: DeterministicModel
) -> AcquisitionFunction:
    lowest = torch.tensor(min(state.history.loss), dtype=torch.float64)
    return LogGainPerCost([LevelImprovement(state.model, lambda X: lowest)], per_flop(costs))


def _gittins(
    sampler: AlternativeSampler, state: FrontState, costs: DeterministicModel
) -> AcquisitionFunction:
    levels, budget = state.front.levels, sampler.budget_flops or sampler.space.highest_flops
    unit = float(levels[0] - levels[-1]) / budget
    return GittinsIndex(state.model, level_of(state.front, costs), lambda X: unit * costs(X)[..., 0, 0])


def _carbs_local(
    sampler: AlternativeSampler, state: FrontState, costs: DeterministicModel
) -> AcquisitionFunction:
    best = pareto_front(state.history.flops, state.history.loss)
    rows = sampler.space.encoding.rows([state.history.points[i] for i in best])
    gain = LevelImprovement(state.model, level_of(state.front, costs))
    return LogGainPerCost([NearFront(gain, torch.from_numpy(np.asarray(rows)))])


# `front_gain`: the front's expected gain, whatever it costs. `ei_front`: improvement on the front at the
# run's own cost. `ei_per_cost`: improvement on the lowest loss by cost (Snoek et al. 2012). `gittins`:
# Pandora's box. `carbs_local`: CARBS's factor for staying near the front.
ALTERNATIVES: dict[
    str, Callable[[AlternativeSampler, FrontState, DeterministicModel], AcquisitionFunction]
] = {
    "front_gain": _front_gain,
    "ei_front": _ei_front,
    "ei_per_cost": _ei_per_cost,
    "gittins": _gittins,
    "carbs_local": _carbs_local,
}
