"""What another run of a known point is worth."""

import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from botorch.models.deterministic import GenericDeterministicModel
from botorch.models.model import Model
from botorch.posteriors import GPyTorchPosterior
from carbs_scaling.acquisition.repeat_gain import ExpectedRepeatGain
from gpytorch.distributions import MultivariateNormal

KNOWN = torch.arange(3, dtype=torch.float64)[:, None]
COST = GenericDeterministicModel(lambda X: torch.where(X == 0, 1e10, 1e9))
MEAN, NOISE_SD, REFERENCE = np.array([1.5, 2.01, 2.0]), 0.02, (11.0, 3.0)


class Believing(Model):
    """A normal posterior of the three known points."""

    num_outputs = 1

    def __init__(self, covariance):
        super().__init__()
        self.distribution = MultivariateNormal(torch.from_numpy(MEAN), torch.from_numpy(covariance))

    def posterior(self, X, **_):
        return GPyTorchPosterior(self.distribution)


def test_a_repeat_is_worth_what_choosing_by_the_new_means_gains():
    """Against draws: two near ties that hang together by `correlation`, and a clear winner at its cost."""
    draws = np.random.default_rng(0).normal(size=400_000)

    def area(values):
        cheap = np.minimum(values[:, 1], values[:, 2])
        return (3 - cheap) + (3 - np.minimum(cheap, values[:, 0]))

    gains = []
    for correlation in (0.0, 0.6, 0.9999):
        covariance = 0.02**2 * np.array([[1, 0, 0], [0, 1, correlation], [0, correlation, 1]])
        acquisition = ExpectedRepeatGain(Believing(covariance), KNOWN, NOISE_SD, COST, REFERENCE)
        gain = acquisition(KNOWN[:, None]).numpy()
        assert gain[[2, 0]] == pytest.approx(acquisition(KNOWN[[2, 0], None]).numpy())
        for i in (1, 2):
            step = covariance[i] / np.sqrt(covariance[i, i] + NOISE_SD**2)
            real = area(MEAN + step * draws[:, None]).mean() - area(MEAN[None])[0]
            assert gain[i] == pytest.approx(real, rel=0.05, abs=3e-5)
        assert gain[0] < 1e-12
        gains.append(gain[2])
    assert gains[0] > gains[1] > 1e3 * max(gains[2], 1e-15)  # neighbours that are alike teach nothing


def test_it_runs_on_a_stock_model_and_refuses_what_was_not_run():
    X = torch.rand(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = SingleTaskGP(X, 2 - X[:, :1] + 0.1 * X[:, 1:])
    cost = GenericDeterministicModel(lambda X: 10 ** (9 + X[..., :1]))
    gain = ExpectedRepeatGain(model, X, 0.02, cost, (11.0, 3.0))
    assert gain(X[:, None]).shape == torch.Size([9])
    assert (gain(X[:, None]) >= 0).all()
    with pytest.raises(ValueError, match="none of the known ones"):
        gain(X[:2, None] + 0.1)
