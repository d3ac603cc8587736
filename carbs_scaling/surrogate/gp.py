"""The surrogate: a Gaussian process over runs whose prior mean is the fitted loss law.

Two stages, repeated: the law by robust maximum a posteriori (`laws.loss`), then the residual process' scale,
lengthscales and noise by maximum a posteriori through the marginal likelihood with the law's parameters
integrated out (`law_mean`). Losses are divided by their robust spread and nothing else, so the same priors
serve any unit.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from math import sqrt

import numpy as np
import torch
from botorch.models import SingleTaskGP
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from linear_operator.utils.errors import NotPSDError
from numpy.linalg import LinAlgError

from carbs_scaling.laws.loss import (
    LawPrior,
    LossLaw,
    fit_law_map,
    law_floor,
    law_prior,
    law_value,
    loss_scale,
)
from carbs_scaling.surrogate.law_mean import N_FEATURES, LawKernel, LawMean, LinearisedLaw
from carbs_scaling.surrogate.residual import LEAST_NOISE, Residual, ResidualPrior, fit_residual

logger = logging.getLogger(__name__)

# Hyperparameters are fitted to at most this many runs; all runs are conditioned on.
_MAX_FITTED = 200
# A run far above the law's floor is known to this share of its excess: it says "bad", not how bad to a
# decimal.
_EXCESS_SHARE = 0.15


@dataclass(frozen=True)
class Surrogate:
    """A fitted process with what is needed to predict at, and condition on, further runs.

    Args:
        model: the BoTorch model, in losses divided by `scale`.
        law: the law under the posterior.
        inputs: finished and pending runs, shape (n, d + 4).
        cholesky: lower Cholesky factor of their covariance with noise, shape (n, n).
        weights: the inverse covariance times the residuals, shape (n,).
        scale: unit of the process in losses.
        noise_sd: standard deviation of a repeated run near the front, in losses.
    """

    model: SingleTaskGP
    law: LossLaw
    inputs: torch.Tensor
    cholesky: torch.Tensor
    weights: torch.Tensor
    scale: float
    noise_sd: float

    def predict(self, inputs: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the noise-free loss at rows of `inputs`, each of shape (m,)."""
        with torch.no_grad():
            cross = self.model.covar_module(inputs, self.inputs).to_dense()
            prior = self.model.covar_module(inputs, diag=True)
            half = torch.linalg.solve_triangular(self.cholesky, cross.T, upper=False)
            mean = self.model.mean_module(inputs) + cross @ self.weights
            variance = (prior - half.square().sum(dim=0)).clamp_min(1e-12)
        return mean.numpy() * self.scale, variance.sqrt().numpy() * self.scale

    def believe(self, inputs: torch.Tensor) -> "Surrogate":
        """Conditioned on runs at `inputs` ending just as predicted: means stay, variances shrink."""
        if not len(inputs):
            return self
        noise = torch.full((len(inputs),), (self.noise_sd / self.scale) ** 2, dtype=torch.float64)
        with torch.no_grad():
            cross = self.model.covar_module(self.inputs, inputs).to_dense()
            half = torch.linalg.solve_triangular(self.cholesky, cross, upper=False)
            own = self.model.covar_module(inputs).to_dense() + torch.diag(noise)
            corner = stable_cholesky(own - half.T @ half)
            n, m = len(self.inputs), len(inputs)
            cholesky = torch.zeros(n + m, n + m, dtype=torch.float64)
            cholesky[:n, :n], cholesky[n:, :n], cholesky[n:, n:] = self.cholesky, half.T, corner
        return replace(
            self,
            inputs=torch.cat([self.inputs, inputs]),
            cholesky=cholesky,
            # A run that ends as predicted has no surprise: its weight is zero.
            weights=torch.cat([self.weights, torch.zeros(len(inputs), dtype=torch.float64)]),
        )


@dataclass
class SurrogateFitter:
    """Fits surrogates and counts the fallbacks that it had to take."""

    fallbacks: Counter = field(default_factory=Counter)

    def fit(
        self,
        cube: np.ndarray,
        features: np.ndarray,
        loss: np.ndarray,
        has_role: tuple[bool, bool, bool, bool],
        centre: tuple[float, float, float, float],
        ranges: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None),
    ) -> Surrogate:
        """The surrogate of finished runs.

        Args:
            cube: unit-cube coordinates, shape (n, d).
            features: centred log features, shape (n, 4).
            loss: finite losses, shape (n,).
            has_role: which roles there are.
            centre: what the features are centred on.
            ranges: (ln lowest, ln highest) of learning rate and batch tokens, or None.
        """
        level, spread = loss_scale(loss)
        prior = law_prior(level, centre, has_role, *ranges)
        # A loss far beyond the rest is an outlier of one run, not news about the scale of all.
        capped = np.minimum(loss, np.median(loss) + 10 * spread)
        inputs = torch.from_numpy(np.column_stack([cube, features]))
        residual_sd = np.full(len(loss), 0.15 * spread)
        starts: tuple[np.ndarray, ...] = ()
        for _ in range(2):
            fit = fit_law_map(features, capped, residual_sd, prior, starts)
            excess = np.maximum(capped - law_floor(fit.theta, features, has_role), 0.0)
            off = capped - law_value(fit.theta, features, has_role)
            typical = max(1.4826 * float(np.median(np.abs(off))), 0.02 * spread)
            residual_sd = np.sqrt(typical**2 + (_EXCESS_SHARE * excess) ** 2)
            starts = (fit.theta,)
        vague = (_EXCESS_SHARE * excess / spread) ** 2
        model = self._fit_process(inputs, capped / spread, vague, LinearisedLaw(fit.theta, prior, spread))
        return self._condition(model, inputs, capped, spread, prior)

    def _fit_process(self, inputs, target, vague, law: LinearisedLaw) -> SingleTaskGP:
        dimensions = inputs.shape[-1] - N_FEATURES
        prior = ResidualPrior(dimensions)
        chosen = _subset(target, _MAX_FITTED)
        mean, basis = (value.numpy() for value in law.at(inputs[chosen]))
        cube = inputs[chosen, :dimensions].numpy()
        try:
            residual = fit_residual(cube, target[chosen] - mean, basis @ basis.T, vague[chosen], prior)
        except LinAlgError as error:
            self._fall_back("hyperparameters kept at their prior", error)
            residual = prior.unpack(prior.mean)
        return build_model(inputs, target, vague, law, residual)

    def _condition(self, model, inputs, loss, scale: float, prior: LawPrior) -> Surrogate:
        law = model.mean_module.law
        with torch.no_grad():
            covariance = model.covar_module(inputs).to_dense() + torch.diag(model.likelihood.noise)
            mean, basis = law.at(inputs)
            residual = torch.as_tensor(loss / scale) - mean
            cholesky = stable_cholesky(covariance)
            weights = torch.cholesky_solve(residual[:, None], cholesky)[:, 0]
            whitened = torch.linalg.solve_triangular(cholesky, basis, upper=False)
            step = (basis.T @ weights).numpy()
            shrunk = np.eye(law.free.size) - (whitened.T @ whitened).numpy()
        sd = prior.sd[law.free]
        theta = prior.mean.copy()
        theta[law.free] += sd * step
        covariance = np.zeros((len(theta), len(theta)))
        covariance[np.ix_(law.free, law.free)] = shrunk * np.outer(sd, sd)
        fitted = LossLaw(
            theta=tuple(float(v) for v in law.theta),
            centre=prior.centre,
            has_role=prior.has_role,
            covariance=tuple(tuple(float(v) for v in row) for row in covariance),
            residual_sd=float(model.covar_module.kernels[1].outputscale.detach().sqrt()) * scale,
        )
        return Surrogate(model, fitted, inputs, cholesky, weights, scale, sqrt(model.repeat_noise) * scale)

    def _fall_back(self, what: str, error: Exception) -> None:
        reason = f"{what}: {type(error).__name__}"
        self.fallbacks[reason] += 1
        logger.warning("%s (%s)", reason, str(error).splitlines()[0] if str(error) else "no message")


def build_model(
    inputs: torch.Tensor, target: np.ndarray, vague: np.ndarray, law: LinearisedLaw, residual: Residual
) -> SingleTaskGP:
    """The BoTorch model: the law's mean and parameter doubt, and a Matern-5/2 process for what it misses.

    Args:
        inputs: `n x (d + 4)`.
        target: losses divided by the law's scale, shape (n,).
        vague: extra noise variance of each run, shape (n,).
        law: the linearised law.
        residual: hyperparameters.
    """
    dimensions = inputs.shape[-1] - N_FEATURES
    matern = ScaleKernel(
        MaternKernel(nu=2.5, ard_num_dims=dimensions, active_dims=tuple(range(dimensions)))
    )
    noise = torch.as_tensor(np.maximum(vague + residual.noise, LEAST_NOISE))
    model = SingleTaskGP(
        inputs,
        torch.as_tensor(target)[:, None],
        likelihood=FixedNoiseGaussianLikelihood(noise=noise),
        mean_module=LawMean(law),
        covar_module=LawKernel(law) + matern,
        outcome_transform=None,
    ).double()
    matern.outputscale = residual.variance
    matern.base_kernel.lengthscale = torch.as_tensor(residual.lengthscales)[None]
    model.repeat_noise = residual.noise
    return model.eval()


def stable_cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """Lower Cholesky factor of a symmetric (n, n) matrix, with as little jitter as makes it one.

    Raises:
        NotPSDError: not even a jitter of a thousandth of the mean diagonal helps.
    """
    typical = float(matrix.diagonal().abs().mean())
    for jitter in (0.0, 1e-10, 1e-8, 1e-6, 1e-4, 1e-3):
        factor, info = torch.linalg.cholesky_ex(
            matrix + jitter * typical * torch.eye(len(matrix), dtype=matrix.dtype)
        )
        if int(info) == 0:
            return factor
    raise NotPSDError("covariance is not positive definite")


def _subset(target: np.ndarray, size: int) -> np.ndarray:
    """At most `size` indices: the lowest half by loss, and an even spread of the others."""
    if len(target) <= size:
        return np.arange(len(target))
    order = np.argsort(target, kind="stable")
    best, rest = order[: size // 2], order[size // 2 :]
    spread = rest[np.linspace(0, len(rest) - 1, size - size // 2).astype(int)]
    return np.sort(np.concatenate([best, spread]))
