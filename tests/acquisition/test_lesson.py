"""What a run teaches about the valley."""

import pytest
import torch
from botorch.models.model import Model

from carbs_scaling.acquisition.lesson import LessonGain, ValleySpread
from carbs_scaling.surrogate.posterior import MixturePosterior


class Predicting(Model):
    """Members that predict rows of their own, nearly noise-free, at the law's floor."""

    num_outputs, noise_sd = 1, 1e-3

    def __init__(self, means):
        super().__init__()
        self.means = means

    def posterior(self, X, **_):
        weights = torch.full((len(self.means),), 1 / len(self.means), dtype=torch.float64)
        return MixturePosterior(weights, self.means[..., None], torch.full_like(self.means, 1e-6)[..., None])

    def floor(self, X):
        return self.posterior(X).mean[..., 0]


def test_a_run_that_the_laws_disagree_on_teaches_and_one_they_agree_on_does_not():
    rates = 0.5 * torch.randn(200, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    spread = ValleySpread(
        rates=rates,
        batches=torch.zeros_like(rates),
        rate_curvature=torch.tensor([0.1], dtype=torch.float64),
        batch_curvature=torch.tensor([0.1], dtype=torch.float64),
        width=2.0,
    )
    telling, silent = 3 + rates[:, 0], torch.full((200,), 3.0, dtype=torch.float64)
    model, X = Predicting(torch.stack([telling, silent], dim=1)), torch.zeros(2, 1, 6, dtype=torch.float64)
    gain = LessonGain(model, spread)(X)
    assert gain[1] == 0.0
    # Nothing is left unknown: width x curvature x variance of the best rate.
    assert float(gain[0]) == pytest.approx(2.0 * 0.1 * float(rates.var(correction=0)), rel=0.02)
    torch.testing.assert_close(LessonGain(model, spread, 0.25)(X), gain / 4)
