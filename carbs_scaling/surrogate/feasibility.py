"""The probability that a run trains to its end: not diverged, not out of memory.

A Gaussian process on labels, squashed by a probit. Where nothing is known, runs are taken to end: a search
that fears what it has not tried never finds where the edge is. One coordinate is special: how far the log of
the learning rate lies above the law's best, since divergence is a cliff on that side. Counted from the law,
it carries over to sizes where nothing has failed yet.
"""

import torch
from botorch.models.gpytorch import GPyTorchModel
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import RBFKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.models import ExactGP
from torch import Tensor

from carbs_scaling.ledger.history import History
from carbs_scaling.space.projection import LegalSpace
from carbs_scaling.surrogate.law_mean import N_FEATURES, LawMean, features_of

# Label where nothing is known, and of runs that ended: the probability is 0.93 after the squashing below.
_PRIOR = 1.5
_FAILED = -1.0
# Lengthscales: of a unit-cube column, and of the log of the learning rate over the best.
_CUBE_LENGTHSCALE = 0.4
_RATE_LENGTHSCALE = 0.7
# Divergence is partly luck: labels next to one another may differ.
_NOISE = 0.3
_MAX_RUNS = 600


class Feasibility(ExactGP, GPyTorchModel):
    """Labels of runs: a process with fixed hyperparameters.

    Half the variance is by all coordinates, half by the learning rate alone, which holds for all sizes.

    Args:
        runs: earlier runs, rows of unit-cube coordinates and centred log features, shape `n x (d + 4)`.
        ended: whether each trained to its end, shape `n`.
        law: that says the best rate.
    """

    _num_outputs = 1

    def __init__(self, runs: Tensor, ended: Tensor, law: LawMean) -> None:
        # A run that ended as expected is no surprise; one that failed is, by the whole way down.
        labels = torch.where(ended, _PRIOR, _FAILED).double()
        super().__init__(None, None, FixedNoiseGaussianLikelihood(torch.full_like(labels, _NOISE)))
        self.law = law
        self.set_train_data(self.transform_inputs(runs), labels, strict=False)  # type: ignore[operator]
        columns = runs.shape[-1] - N_FEATURES
        self.by_all = RBFKernel(ard_num_dims=columns + 1).double()
        self.by_rate = RBFKernel(active_dims=(columns,)).double()
        self.by_all.lengthscale = torch.tensor([_CUBE_LENGTHSCALE] * columns + [_RATE_LENGTHSCALE])
        self.by_rate.lengthscale = _RATE_LENGTHSCALE
        self.requires_grad_(False)
        self.eval()

    def transform_inputs(self, X: Tensor, input_transform: object = None) -> Tensor:
        """Unit-cube columns, and ln(learning rate / the law's best) or -1; `batch_shape x q x (d + 1)`."""
        features = features_of(X)
        offset = torch.from_numpy(features[:, 2] - self.law.valley(features)[0]).clamp_min(-1.0)
        return torch.cat([X[..., :-N_FEATURES], offset.reshape(*X.shape[:-1], 1)], dim=-1)

    def forward(self, x: Tensor) -> MultivariateNormal:
        """Prior of labels at transformed inputs, `batch_shape x n x (d + 1)`."""
        prior = torch.full(x.shape[:-1], _PRIOR, dtype=x.dtype)
        return MultivariateNormal(prior, self.by_all(x) + self.by_rate(x))

    def probability(self, X: Tensor) -> Tensor:
        """Probability to end, shape `batch_shape x q`, of runs X, `batch_shape x q x (d + 4)`."""
        # All as one t-batch: the process would be copied for each other.
        with torch.no_grad():
            posterior = self.posterior(X.reshape(-1, X.shape[-1]))
            probit = posterior.mean / (0.5 + posterior.variance.clamp_min(0.0) / 4).sqrt()
        return torch.special.ndtr(probit).reshape(X.shape[:-1])


def feasibility_of(space: LegalSpace, history: History, law: LawMean) -> Feasibility | None:
    """The model of the other trials' ends; None while no run has failed.

    Args:
        space: of the caller.
        history: of the other trials.
        law: the most probable law.
    """
    if not history.failed:
        return None
    failed = history.failed[-_MAX_RUNS:]
    ended = history.points[: _MAX_RUNS - len(failed)]
    tried = space.describe(failed + ended)
    return Feasibility(tried.rows, torch.arange(len(tried)) >= len(failed), law)
