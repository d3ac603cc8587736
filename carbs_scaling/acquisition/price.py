"""What runs cost, and gains per FLOP."""

from collections.abc import Sequence

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.acquisition.cost_aware import CostAwareUtility, InverseCostWeightedUtility
from botorch.acquisition.objective import GenericMCObjective
from botorch.models.deterministic import DeterministicModel, GenericDeterministicModel
from botorch.utils.transforms import t_batch_mode_transform
from torch import Tensor

from carbs_scaling.surrogate.feasibility import Feasibility


class KnownRows:
    """The numbers of rows of a table, found again.

    Args:
        rows: shape `n x d'`.
    """

    def __init__(self, rows: Tensor) -> None:
        self._numbers = {row.tobytes(): i for i, row in enumerate(np.ascontiguousarray(rows.numpy()))}

    def find(self, X: Tensor) -> Tensor:
        """The number of each row of X, `batch_shape x d'`; shape `batch_shape`.

        Raises:
            ValueError: a row that is not in the table.
        """
        rows = np.ascontiguousarray(X.detach().reshape(-1, X.shape[-1]).numpy())
        try:
            numbers = [self._numbers[row.tobytes()] for row in rows]
        except KeyError:
            raise ValueError("a row of X is none of the known ones") from None
        return torch.tensor(numbers, dtype=torch.long).reshape(X.shape[:-1])


def known_costs(rows: Tensor, flops: Tensor) -> DeterministicModel:
    """Training FLOPs of legal candidates as a model: known for each, and for nothing else.

    Args:
        rows: the candidates, shape `n x d'`.
        flops: of each, shape `n`.
    """
    known = KnownRows(rows)
    return GenericDeterministicModel(lambda X: flops[known.find(X)][..., None])


def per_flop(cost_model: DeterministicModel, overhead_flops: float = 0.0) -> CostAwareUtility:
    """Division of log gains by FLOPs and what a trial costs beside them.

    Args:
        cost_model: training FLOPs of candidates, one outcome.
        overhead_flops: what a trial costs beside its FLOPs.
    """

    def price(Y: Tensor, X: Tensor | None) -> Tensor:
        return Y[..., 0] + overhead_flops

    cost = GenericMCObjective(price)
    return InverseCostWeightedUtility(cost_model, cost_objective=cost, log=True)


class LogGainPerCost(AcquisitionFunction):
    """Log of the sum of gains times the probability to end, over the price.

    Args:
        gains: acquisitions that are not negative; they are added.
        utility: what makes of a log gain one per cost (`per_flop`); None: whatever it costs.
        feasibility: the probability that a run ends; None where all do.
    """

    def __init__(
        self,
        gains: Sequence[AcquisitionFunction],
        utility: CostAwareUtility | None = None,
        feasibility: Feasibility | None = None,
    ) -> None:
        super().__init__(model=gains[0].model)
        self.gains = torch.nn.ModuleList(gains)
        self.utility, self.feasibility = utility, feasibility

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: Tensor) -> Tensor:
        """Scores, shape `b`, of candidates X, `b x 1 x d'`."""
        gain = torch.stack([gain(X) for gain in self.gains]).sum(dim=0)
        if self.feasibility is not None:
            gain = gain * self.feasibility.probability(X)[..., 0]
        score = gain.clamp_min(1e-300).log()
        return score if self.utility is None else self.utility(X, score)
