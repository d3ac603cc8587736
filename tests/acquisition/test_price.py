"""Gains per FLOP, and costs that are known for candidates alone."""

import pytest
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.models import SingleTaskGP

from carbs_scaling.acquisition.price import KnownRows, LogGainPerCost, known_costs, per_flop

ROWS = torch.rand(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
FLOPS = torch.tensor([1e3, 1e4, 1e5, 1e6, 1e7], dtype=torch.float64)


class Constant(AcquisitionFunction):
    """The same gain everywhere."""

    def __init__(self, value):
        super().__init__(SingleTaskGP(ROWS, ROWS[:, :1].sin()))
        self.value = value

    def forward(self, X):
        return torch.full(X.shape[:-2], self.value, dtype=torch.float64)


class Half:
    """Every second run ends."""

    def probability(self, X):
        return torch.full(X.shape[:-1], 0.5, dtype=torch.float64)


def test_rows_are_found_again_in_any_shape_and_others_are_refused():
    known = KnownRows(ROWS)
    assert known.find(ROWS[[3, 1]][None]).tolist() == [[3, 1]]
    with pytest.raises(ValueError, match="none of the known ones"):
        known.find(ROWS + 1e-12)


def test_costs_are_those_of_the_rows():
    costs = known_costs(ROWS, FLOPS)
    for X in (ROWS[:, None], ROWS[:4].reshape(2, 2, 1, 3)):
        assert costs(X).shape == costs.posterior(X).mean.shape == (*X.shape[:-1], 1)
    assert costs(ROWS[[4, 0], None])[..., 0, 0].tolist() == [1e7, 1e3]


def test_gains_are_added_weighed_by_the_chance_to_end_and_divided_by_the_price():
    utility = per_flop(known_costs(ROWS, FLOPS), overhead_flops=500.0)
    score = LogGainPerCost([Constant(0.3), Constant(0.1)], utility, Half())(ROWS[:, None])
    torch.testing.assert_close(score.exp(), 0.4 * 0.5 / (FLOPS + 500))
    assert LogGainPerCost([Constant(0.3)])(ROWS[:, None]).exp().tolist() == pytest.approx([0.3] * 5)
    assert LogGainPerCost([Constant(0.0)], utility)(ROWS[:, None]).isfinite().all()
