"""The surrogate: a Gaussian process over runs whose prior mean is the fitted loss law.

Two stages, repeated: the law by robust maximum a posteriori (`laws.loss`), then the residual process' scale,
lengthscales and noise by maximum a posteriori through the marginal likelihood with the law's parameters
integrated out (`law_mean`). Losses are divided by their robust spread and nothing else, so the same priors
serve any unit.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from math import log, sqrt

import numpy as np
import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.models import SingleTaskGP
from botorch.optim.fit import fit_gpytorch_mll_scipy
from gpytorch.constraints import GreaterThan, Interval
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from linear_operator.utils.errors import NanError, NotPSDError

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

logger = logging.getLogger(__name__)

# Hyperparameters are fitted to at most this many runs; all runs are conditioned on.
_MAX_FITTED = 200
_FIT_ITERATIONS = 25
# A run far above the law's floor is known to this share of its excess: it says "bad", not how bad to a
# decimal.
_EXCESS_SHARE = 0.15
# Variance, in squared spreads: below this GPyTorch rounds up with a warning for every call.
_LEAST_NOISE = 1.01e-6


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
        chosen = _subset(target, _MAX_FITTED)
        kernel = ScaleKernel(
            MaternKernel(
                nu=2.5,
                ard_num_dims=dimensions,
                active_dims=tuple(range(dimensions)),
                # Hvarfner et al. 2024 (arXiv 2402.02229): lengthscales grow with the square root of the
                # dimension.
                lengthscale_prior=LogNormalPrior(sqrt(2) + 0.5 * log(max(dimensions, 1)) - 1.0, 1.0),
                lengthscale_constraint=Interval(0.05, 30.0, initial_value=1.0),
            ),
            # Variance of what the law misses: published runs leave some 5% of the spread, tiny ones 25%.
            outputscale_prior=LogNormalPrior(2 * log(0.12), 1.6),
            outputscale_constraint=Interval(1e-5, 10.0, initial_value=0.02),
        )
        likelihood = FixedNoiseGaussianLikelihood(
            noise=torch.as_tensor(vague[chosen] + _LEAST_NOISE), learn_additional_noise=True
        )
        second = likelihood.second_noise_covar
        second.register_constraint("raw_noise", GreaterThan(1e-6, initial_value=3e-4))
        second.register_prior("noise_prior", LogNormalPrior(2 * log(0.015), 2.0), "noise")
        model = SingleTaskGP(
            inputs[chosen],
            torch.as_tensor(target[chosen])[:, None],
            likelihood=likelihood,
            mean_module=LawMean(law),
            covar_module=LawKernel(law) + kernel,
            outcome_transform=None,
        )
        model.all_noise = torch.as_tensor(vague + _LEAST_NOISE)
        start = {name: value.detach().clone() for name, value in model.state_dict().items()}
        mll = ExactMarginalLogLikelihood(model.likelihood, model)
        try:
            fit_gpytorch_mll_scipy(mll, options={"maxiter": _FIT_ITERATIONS})
        except (ModelFittingError, NotPSDError, NanError, RuntimeError) as error:
            self._fall_back("hyperparameters kept at their prior", error)
            model.load_state_dict(start)
        model.eval()
        return model

    def _condition(self, model, inputs, loss, scale: float, prior: LawPrior) -> Surrogate:
        law = model.mean_module.law
        noise = model.likelihood.second_noise.detach().double().squeeze()
        with torch.no_grad():
            covariance = model.covar_module(inputs).to_dense() + torch.diag(model.all_noise + noise)
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
        return Surrogate(model, fitted, inputs, cholesky, weights, scale, float(noise.sqrt()) * scale)

    def _fall_back(self, what: str, error: Exception) -> None:
        reason = f"{what}: {type(error).__name__}"
        self.fallbacks[reason] += 1
        logger.warning("%s (%s)", reason, str(error).splitlines()[0] if str(error) else "no message")


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
