"""The surrogate: Gaussian processes over runs whose prior means are loss laws.

Fitted in stages: the law, its gamma kept near .7, by robust maximum a posteriori (`laws.loss_fit`); scale,
lengthscales, noise and the floor's field (`floor_field`) of what it misses through the marginal likelihood
with the law integrated out (`residual`); the law again under those correlated errors; and an ensemble of laws
from its posterior (`ensemble`). Losses are divided by their robust spread and nothing else, so the same
priors serve any unit.
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

from carbs_scaling.laws.fit.law_fit import most_probable
from carbs_scaling.laws.fit.least_squares import CorrelatedErrors
from carbs_scaling.laws.fit.problem import LawProblem
from carbs_scaling.laws.loss import LossLaw, law_jacobian, law_value
from carbs_scaling.laws.loss_fit import loss_scale
from carbs_scaling.laws.loss_prior import LawPrior, law_prior
from carbs_scaling.surrogate.ensemble import sample_laws
from carbs_scaling.surrogate.floor_field import FloorField, field_correlation, law_lack
from carbs_scaling.surrogate.hyperparameters import LEAST_NOISE, Residual, ResidualPrior, fit_residual
from carbs_scaling.surrogate.law_mean import LawMean, MisfitKernel, law_excess

logger = logging.getLogger(__name__)

# Hyperparameters are fitted to at most this many runs; all runs are conditioned on.
_MAX_FITTED = 200
# A run far above the law's floor is known to this share of its excess: it says "bad", not how bad to a
# decimal.
EXCESS_SHARE = 0.05
# The same in the first, independent fit, which has no process to put the misfit into.
_ROBUST_SHARE = 0.2
# Deviation of what the law misses up the valley's walls, as a share of their height there.
WALL_SHARE = 0.25


@dataclass(frozen=True)
class SurrogateLaw:
    theta: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class Surrogate:
    """An ensemble of s fitted processes with one kernel and what is needed to predict and to condition.

    Args:
        law: the most probable law.
        mean: the ensemble's prior means.
        kernel: covariance of what the laws miss.
        inputs: finished and pending runs, shape (n, d + 4).
        target: their losses divided by `scale`, shape (n,).
        noise: noise variance of each, shape (n,), in squared scales.
        cholesky: lower factor of the runs' covariance with noise, shape (n, n).
        weights: inverse covariance times each member's residuals, shape (n, s).
        scale: unit of the process in losses.
        repeat_noise: variance of a repeated run near the front, in squared scales.
        shares: weight of each member, shape (s,), summing to 1.
    """

    law: LossLaw
    mean: LawMean
    kernel: MisfitKernel
    inputs: torch.Tensor
    target: torch.Tensor
    noise: torch.Tensor
    cholesky: torch.Tensor
    weights: torch.Tensor
    scale: float
    repeat_noise: float
    shares: np.ndarray

    @property
    def noise_sd(self) -> float:
        """Standard deviation of a repeated run near the front, in losses."""
        return sqrt(self.repeat_noise) * self.scale

    def predict(self, inputs: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Noise-free losses at m rows of `inputs`: members' means and deviations, each of shape (s, m).

        The kernel is wide where the most probable law has its walls. A member that sees a lower wall there
        is as sure of it as the kernel is at that height; else every steep wall would hide a loss below the
        floor, which no wall does.
        """
        with torch.no_grad():
            cross = self.kernel(inputs, self.inputs).to_dense()
            half = torch.linalg.solve_triangular(self.cholesky, cross.T, upper=False)
            mean = self.mean(inputs) + (cross @ self.weights).T
            variance = (self.kernel(inputs, diag=True) - half.square().sum(dim=0)).clamp_min(1e-12)
            sd = variance.sqrt() * self.kernel.relative_sd(self.mean.thetas, inputs)
        return mean.numpy() * self.scale, sd.numpy() * self.scale

    def marginal(self, inputs: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation over the whole ensemble, each of shape (m,)."""
        members, sd = self.predict(inputs)
        mean = self.shares @ members
        return mean, np.sqrt(self.shares @ (sd**2 + (members - mean) ** 2))

    def joint(self, inputs: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance over the whole ensemble at m rows of `inputs`, shapes (m,) and (m, m)."""
        with torch.no_grad():
            cross = self.kernel(inputs, self.inputs).to_dense()
            half = torch.linalg.solve_triangular(self.cholesky, cross.T, upper=False)
            members = (self.mean(inputs) + (cross @ self.weights).T).numpy() * self.scale
            own = (self.kernel(inputs).to_dense() - half.T @ half).numpy() * self.scale**2
        mean = self.shares @ members
        off = members - mean
        return mean, own + (self.shares[:, None] * off).T @ off

    def believe(self, inputs: torch.Tensor) -> "Surrogate":
        """Conditioned on m runs at `inputs` ending at the ensemble's mean prediction.

        Members that predict otherwise lose weight, so both kinds of doubt shrink.
        """
        if not len(inputs):
            return self
        believed, _ = self.marginal(inputs)
        members, _ = self.predict(inputs)
        target = torch.cat([self.target, torch.from_numpy(believed / self.scale)])
        noise = torch.cat([self.noise, torch.full((len(inputs),), self.repeat_noise, dtype=torch.float64)])
        joined = torch.cat([self.inputs, inputs])
        with torch.no_grad():
            cross = self.kernel(self.inputs, inputs).to_dense()
            half = torch.linalg.solve_triangular(self.cholesky, cross, upper=False)
            own = self.kernel(inputs).to_dense() + self.repeat_noise * torch.eye(len(inputs))
            corner = stable_cholesky(own - half.T @ half)
            n, m = len(self.inputs), len(inputs)
            cholesky = torch.zeros(n + m, n + m, dtype=torch.float64)
            cholesky[:n, :n], cholesky[n:, :n], cholesky[n:, n:] = self.cholesky, half.T, corner
            residual = target[:, None] - self.mean(joined).reshape(-1, n + m).T
            weights = torch.cholesky_solve(residual, cholesky)
            surprise = torch.from_numpy((believed - members).T / self.scale)
            z = torch.linalg.solve_triangular(corner, surprise, upper=False)
        log_shares = np.log(self.shares) - 0.5 * z.square().sum(dim=0).numpy()
        shares = np.exp(log_shares - log_shares.max())
        return replace(
            self,
            inputs=joined,
            target=target,
            noise=noise,
            cholesky=cholesky,
            weights=weights,
            shares=shares / shares.sum(),
        )

    def botorch_model(self) -> SingleTaskGP:
        """The same as a BoTorch model with one batch of outcomes a member, in losses divided by `scale`."""
        members = len(self.mean.thetas)
        model = SingleTaskGP(
            self.inputs.expand(members, *self.inputs.shape),
            self.target.expand(members, -1)[..., None],
            likelihood=FixedNoiseGaussianLikelihood(noise=self.noise.expand(members, -1)),
            mean_module=self.mean,
            covar_module=self.kernel,
            outcome_transform=None,
        )
        return model.eval()


@dataclass
class SurrogateFitter:
    """Fits surrogates and counts the fallbacks that it had to take.

    Args:
        centre: what the features are centred on.
        has_role: which of the law's roles there are.
        rate_range: (ln lowest, ln highest) learning rate, or None.
        batch_range: the same for batch tokens.
        members: laws in the ensemble; 1 for the most probable one alone.
        floor_field: where the law's floor is off by the same, or None for no such field.
        fallbacks: reasons, counted.
    """

    centre: tuple[float, float, float, float]
    has_role: tuple[bool, bool, bool, bool]
    rate_range: tuple[float, float] | None = None
    batch_range: tuple[float, float] | None = None
    members: int = 48
    floor_field: FloorField | None = None
    fallbacks: Counter = field(default_factory=Counter)

    def fit(
        self, cube: np.ndarray, features: np.ndarray, loss: np.ndarray, rng: np.random.Generator
    ) -> Surrogate:
        """The surrogate of finished runs.

        Args:
            cube: unit-cube coordinates, shape (n, d).
            features: centred log features, shape (n, 4).
            loss: finite losses, shape (n,).
            rng: of the ensemble.
        """
        # A point that was run many times is one point: else repeats of good ones shrink the scale by which
        # another repeat seems worth its cost.
        level, spread = loss_scale(loss[np.unique(cube, axis=0, return_index=True)[1]])
        # A small gamma says that the larger lack rules and more of the other is worth nothing: where the law
        # is wrong, as for tiny runs, a search that believes it never tries the next size.
        prior = law_prior(level, self.centre, self.has_role, self.rate_range, self.batch_range)
        # A loss far beyond the rest is an outlier of one run, not news about the scale of all.
        loss = np.minimum(loss, np.median(loss) + 10 * spread)
        rough, vague = robust_law(features, loss, spread, prior)
        residual = self._residual(cube, features, loss / spread, vague, rough, prior, spread)
        inputs = torch.from_numpy(np.column_stack([cube, features]))
        kernel = MisfitKernel(
            residual_kernel(residual),
            rough.theta,
            self.has_role,
            WALL_SHARE,
            self.floor_field,
            residual.field_share,
            spread,
        )
        noise = torch.from_numpy(np.maximum(vague + residual.noise, LEAST_NOISE))
        with torch.no_grad():
            cholesky = stable_cholesky(kernel(inputs).to_dense() + torch.diag(noise))
        whitener = cholesky.numpy() * spread
        fit = self._law_under_residual(features, loss, whitener, prior, rough)
        thetas = self._ensemble(features, loss, whitener, prior, fit, rng)
        mean = LawMean(thetas, self.has_role, spread)
        target = torch.from_numpy(loss / spread)
        weights = torch.cholesky_solve(target[:, None] - mean(inputs).T, cholesky)
        off = loss - law_value(fit.theta, features, self.has_role)
        return Surrogate(
            law=LossLaw(
                theta=tuple(float(v) for v in fit.theta),
                centre=self.centre,
                has_role=self.has_role,
                covariance=tuple(tuple(float(v) for v in row) for row in fit.covariance),
                residual_sd=float(np.sqrt(np.mean(np.square(off)))),
            ),
            mean=mean,
            kernel=kernel,
            inputs=inputs,
            target=target,
            noise=noise,
            cholesky=cholesky,
            weights=weights,
            scale=spread,
            repeat_noise=residual.noise,
            shares=np.full(len(thetas), 1.0 / len(thetas)),
        )

    def _residual(
        self, cube, features, target, vague, fit: SurrogateLaw, prior: LawPrior, spread
    ) -> Residual:
        """Hyperparameters with the law, linear around its most probable parameters, integrated out."""
        chosen = _subset(target, _MAX_FITTED)
        value, slopes = law_jacobian(fit.theta, features[chosen], self.has_role)
        centred = (value + slopes @ (prior.mean - fit.theta)) / spread
        basis = slopes @ prior.root / spread
        walls = WALL_SHARE * law_excess(fit.theta, features[chosen], self.has_role) / spread
        hyperprior = ResidualPrior(cube.shape[1])
        floors = np.zeros((len(chosen), len(chosen)))
        if self.floor_field is not None:
            places = self.floor_field.places(cube[chosen], features[chosen])
            lack = law_lack(fit.theta, features[chosen], self.has_role) / spread
            floors = np.outer(lack, lack) * field_correlation(places, places)
        surprise, law = target[chosen] - centred, basis @ basis.T
        try:
            return fit_residual(cube[chosen], surprise, law, floors, vague[chosen], walls, hyperprior)
        except LinAlgError as error:
            self._fall_back("hyperparameters kept at their prior", error)
            return hyperprior.unpack(hyperprior.mean)

    def _law_under_residual(self, features, loss, whitener, prior, rough: SurrogateLaw) -> SurrogateLaw:
        try:
            problem = LawProblem(features, loss, prior)
            errors = CorrelatedErrors(whitener)
            z = problem.minimise(problem.begin(rough.theta), errors)
            return SurrogateLaw(problem.theta(z), _full(prior, problem.covariance(z, errors)))
        except LinAlgError as error:
            self._fall_back("law kept at its robust fit", error)
            return rough

    def _ensemble(self, features, loss, whitener, prior: LawPrior, fit: SurrogateLaw, rng) -> np.ndarray:
        if self.members == 1:
            return fit.theta[None]
        chol = torch.from_numpy(whitener)

        def log_density(thetas: np.ndarray) -> np.ndarray:
            off = torch.from_numpy(loss - law_value(thetas, features, self.has_role))
            z = torch.linalg.solve_triangular(chol, off.T, upper=False)
            return -0.5 * z.square().sum(dim=0).numpy() - prior.half_squares(thetas)

        try:
            return sample_laws(fit, log_density, self.members, rng)
        except LinAlgError as error:
            self._fall_back("the most probable law alone", error)
            return fit.theta[None]

    def _fall_back(self, what: str, error: Exception) -> None:
        reason = f"{what}: {type(error).__name__}"
        self.fallbacks[reason] += 1
        logger.warning("%s (%s)", reason, str(error).splitlines()[0] if str(error) else "no message")


def _full(prior, covariance):
    full = np.zeros((len(prior.mean),) * 2)
    full[np.ix_(prior.free, prior.free)] = covariance
    return full


def robust_law(features, loss, spread, prior):
    problem = LawProblem(features, loss, prior)
    at = most_probable(problem, [prior.mean], turns=TURNS)
    height = problem.evaluate(at.z)[1]
    covariance = problem.covariance(at.z, at.noise.errors(height))
    excess = np.maximum(loss - (problem.evaluate(at.z)[0] - height), 0.0)
    return SurrogateLaw(problem.theta(at.z), _full(prior, covariance)), (EXCESS_SHARE * excess / spread) ** 2


TURNS = 3


def residual_kernel(residual: Residual) -> ScaleKernel:
    """Matern-5/2 over the unit-cube columns of the inputs."""
    dimensions = len(residual.lengthscales)
    base = MaternKernel(nu=2.5, ard_num_dims=dimensions, active_dims=tuple(range(dimensions)))
    kernel = ScaleKernel(base).double()
    kernel.outputscale = residual.variance
    base.lengthscale = torch.as_tensor(residual.lengthscales)[None]
    return kernel


def stable_cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """Lower Cholesky factor of a symmetric (n, n) matrix, with as little jitter as makes it one.

    Raises:
        NotPSDError: not even a jitter of a thousandth of the mean diagonal helps.
    """
    typical = float(matrix.diagonal().abs().mean())
    identity = torch.eye(len(matrix), dtype=matrix.dtype)
    for jitter in (0.0, 1e-10, 1e-8, 1e-6, 1e-4, 1e-3):
        factor, info = torch.linalg.cholesky_ex(matrix + jitter * typical * identity)
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
