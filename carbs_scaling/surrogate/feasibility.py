"""The probability that a run trains to its end: not diverged, not out of memory.

A Gaussian process on labels, squashed by a probit. Where nothing is known, runs are taken to end: a search
that fears what it has not tried never finds where the edge is. One coordinate is special: how far the log of
the learning rate lies above the law's best, since divergence is a cliff on that side. Counted from the law,
it carries over to sizes where nothing has failed yet.
"""

import torch
from gpytorch.kernels import RBFKernel
from torch import Tensor

from carbs_scaling.ledger.history import History
from carbs_scaling.space.projection import LegalSpace
from carbs_scaling.surrogate.law_mean import N_FEATURES, LawMean, features_of
from carbs_scaling.surrogate.posterior import LossModel, MixturePosterior

# Label where nothing is known, and of runs that ended: the probability is 0.93 after the squashing below.
_PRIOR = 1.5
_FAILED = -1.0
# Lengthscales: of a unit-cube column, and of the log of the learning rate over the best.
_CUBE_LENGTHSCALE = 0.4
_RATE_LENGTHSCALE = 0.7
_VARIANCE = 2.0  # of two kernels
# Divergence is partly luck: labels next to one another may differ.
_NOISE = 0.3
_MAX_RUNS = 600


class Feasibility(LossModel):
    """Labels of runs: a process with fixed hyperparameters.

    Half the variance is by all coordinates, half by the learning rate alone, which holds for all sizes. The
    kernels are GPyTorch's; the prediction is written out, since that of an `ExactGP` takes 8 ms for 256
    points after 100 runs and this one 3 ms, and a proposal asks five times.

    Args:
        runs: earlier runs, rows of unit-cube coordinates and centred log features, shape `n x (d + 4)`.
        ended: whether each trained to its end, shape `n`.
        law: that says the best rate.
    """

    def __init__(self, runs: Tensor, ended: Tensor, law: LawMean) -> None:
        super().__init__()
        self.law = law
        columns = runs.shape[-1] - N_FEATURES
        by_all, by_rate = (
            RBFKernel(ard_num_dims=columns + 1).double(),
            RBFKernel(active_dims=(columns,)).double(),
        )
        by_all.lengthscale = torch.tensor([_CUBE_LENGTHSCALE] * columns + [_RATE_LENGTHSCALE])
        by_rate.lengthscale = _RATE_LENGTHSCALE
        self.kernel = (by_all + by_rate).requires_grad_(False)
        self.runs = self._inputs(runs)
        noise = _NOISE * torch.eye(len(runs), dtype=torch.float64)
        self.cholesky = torch.linalg.cholesky(self.kernel(self.runs).to_dense() + noise)
        # A run that ended as expected is no surprise; one that failed is, by the whole way down.
        surprise = torch.where(ended, 0.0, _FAILED - _PRIOR).double()[:, None]
        self._solved = torch.cholesky_solve(surprise, self.cholesky)
        self.eval()

    def _posterior(self, X: Tensor) -> MixturePosterior:
        """Labels of runs X, `batch_shape x q x (d + 4)`; one component."""
        inputs = self._inputs(X)
        cross = self.kernel(inputs.reshape(-1, inputs.shape[-1]), self.runs).to_dense()
        half = torch.linalg.solve_triangular(self.cholesky, cross.T, upper=False)
        variance = (_VARIANCE - half.square().sum(dim=0).reshape(X.shape[:-1])).clamp_min(1e-12)
        mean = _PRIOR + (cross @ self._solved).reshape(X.shape[:-1])

        def correlation() -> Tensor:
            explained = half.T.reshape(*X.shape[:-1], -1)
            own = self.kernel(inputs).to_dense() - explained @ explained.mT
            sd = variance.sqrt()
            return own / (sd[..., :, None] * sd[..., None, :])

        one = torch.ones(1, dtype=torch.float64)
        return MixturePosterior(one, mean[None], variance.sqrt()[None], correlation)

    def _inputs(self, X: Tensor) -> Tensor:
        """Unit-cube columns, and ln(learning rate / the law's best) or -1; `batch_shape x q x (d + 1)`."""
        features = features_of(X)
        offset = torch.from_numpy(features[:, 2] - self.law.valley(features)[0]).clamp_min(-1.0)
        return torch.cat([X[..., :-N_FEATURES], offset.reshape(*X.shape[:-1], 1)], dim=-1)

    def probability(self, X: Tensor) -> Tensor:
        """Probability to end, shape `batch_shape x q`, of runs X, `batch_shape x q x (d + 4)`."""
        posterior = self.posterior(X)
        probit = posterior.mean[..., 0] / (0.5 + posterior.variance[..., 0] / 4).sqrt()
        return torch.special.ndtr(probit)


def feasibility_of(space: LegalSpace, history: History, law: LawMean) -> Feasibility | None:
    """The model of the other trials' ends by the most probable law; None while no run has failed."""
    if not history.failed:
        return None
    failed = history.failed[-_MAX_RUNS:]
    ended = history.points[: _MAX_RUNS - len(failed)]
    tried = space.describe(failed + ended)
    return Feasibility(tried.rows, torch.arange(len(tried)) >= len(failed), law)
