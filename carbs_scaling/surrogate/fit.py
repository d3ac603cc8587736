"""Fits the surrogate: from finished runs to a `LawEnsembleModel`.

In stages: the law, its gamma kept near .7, by robust maximum a posteriori (`laws.loss_fit`); scale,
lengthscales, noise and the floor's field (`floor_field`) of what it misses through the marginal likelihood
with the law integrated out (`hyperparameters`); the law again under those correlated errors; and an ensemble
of laws from its posterior (`ensemble`). Losses are divided by their robust spread and nothing else, so the
same priors serve any unit.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from gpytorch.kernels import MaternKernel, ScaleKernel
from numpy.linalg import LinAlgError

from carbs_scaling.laws.loss import LossLaw, law_floor, law_jacobian, law_value
from carbs_scaling.laws.loss_fit import LawFit, fit_law_map, loss_scale, refine_law
from carbs_scaling.laws.loss_prior import LawPrior, law_prior, nearly_additive
from carbs_scaling.surrogate.ensemble import sample_laws
from carbs_scaling.surrogate.floor_field import FloorField, field_correlation, law_lack
from carbs_scaling.surrogate.hyperparameters import LEAST_NOISE, Residual, ResidualPrior, fit_residual
from carbs_scaling.surrogate.law_mean import LawMean, MisfitKernel
from carbs_scaling.surrogate.model import LawEnsembleModel, stable_cholesky

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
    fallbacks: Counter[str] = field(default_factory=Counter)

    def fit(
        self, cube: np.ndarray, features: np.ndarray, loss: np.ndarray, rng: np.random.Generator
    ) -> LawEnsembleModel:
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
        published = law_prior(level, self.centre, self.has_role, self.rate_range, self.batch_range)
        prior = nearly_additive(published)
        # A loss far beyond the rest is an outlier of one run, not news about the scale of all.
        loss = np.minimum(loss, np.median(loss) + 10 * spread)
        rough, vague = robust_law(features, loss, spread, prior)
        residual = self._residual(cube, features, loss / spread, vague, rough, prior, spread)
        inputs = torch.from_numpy(np.column_stack([cube, features]))
        kernel = MisfitKernel(
            residual_kernel(residual),
            LawMean(rough.theta, self.has_role, spread),
            WALL_SHARE,
            self.floor_field,
            residual.field_share,
        )
        noise = torch.from_numpy(np.maximum(vague + residual.noise, LEAST_NOISE))
        with torch.no_grad():
            cholesky = stable_cholesky(kernel(inputs).to_dense() + torch.diag(noise))
        whitener = cholesky.numpy() * spread
        fit = self._law_under_residual(features, loss, whitener, prior, rough)
        thetas = self._ensemble(features, loss, whitener, prior, fit, rng)
        off = loss - law_value(fit.theta, features, prior.has_role)
        return LawEnsembleModel(
            law=LossLaw(
                theta=tuple(float(v) for v in fit.theta),
                centre=prior.centre,
                has_role=prior.has_role,
                covariance=tuple(tuple(float(v) for v in row) for row in fit.covariance),
                residual_sd=float(np.sqrt(np.mean(np.square(off)))),
            ),
            members=LawMean(thetas, self.has_role, spread),
            kernel=kernel,
            inputs=inputs,
            target=torch.from_numpy(loss / spread),
            noise=noise,
            cholesky=cholesky,
            repeat_noise=residual.noise,
            member_weights=torch.full((len(thetas),), 1.0 / len(thetas), dtype=torch.float64),
        )

    def _residual(
        self,
        cube: np.ndarray,
        features: np.ndarray,
        target: np.ndarray,
        vague: np.ndarray,
        fit: LawFit,
        prior: LawPrior,
        spread: float,
    ) -> Residual:
        """Hyperparameters with the law, linear around its most probable parameters, integrated out."""
        chosen = _subset(target, _MAX_FITTED)
        value, slopes = law_jacobian(fit.theta, features[chosen], self.has_role)
        centred = (value + slopes @ (prior.mean - fit.theta)) / spread
        basis = slopes @ prior.root / spread
        excess = value - law_floor(fit.theta, features[chosen], self.has_role)
        walls = WALL_SHARE * excess / spread
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

    def _law_under_residual(
        self, features: np.ndarray, loss: np.ndarray, whitener: np.ndarray, prior: LawPrior, rough: LawFit
    ) -> LawFit:
        try:
            return refine_law(features, loss, whitener, prior, rough.theta)
        except LinAlgError as error:
            self._fall_back("law kept at its robust fit", error)
            return rough

    def _ensemble(
        self,
        features: np.ndarray,
        loss: np.ndarray,
        whitener: np.ndarray,
        prior: LawPrior,
        fit: LawFit,
        rng: np.random.Generator,
    ) -> np.ndarray:
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


def robust_law(
    features: np.ndarray, loss: np.ndarray, spread: float, prior: LawPrior
) -> tuple[LawFit, np.ndarray]:
    """The law under independent errors with Huber's loss, and each run's extra noise variance.

    Args:
        features: centred log features, shape (n, 4).
        loss: shape (n,).
        spread: robust standard deviation of the losses.
        prior: of the law.

    Returns:
        The fit, and variances in squared spreads, shape (n,).
    """
    residual_sd = np.full(len(loss), 0.15 * spread)
    starts: tuple[np.ndarray, ...] = ()
    for _ in range(2):
        fit = fit_law_map(features, loss, residual_sd, prior, starts)
        excess = np.maximum(loss - law_floor(fit.theta, features, prior.has_role), 0.0)
        off = np.abs(loss - law_value(fit.theta, features, prior.has_role))
        typical = max(1.4826 * float(np.median(off)), 0.02 * spread)
        residual_sd = typical + _ROBUST_SHARE * excess
        starts = (fit.theta,)
    return fit, (EXCESS_SHARE * excess / spread) ** 2


def residual_kernel(residual: Residual) -> ScaleKernel:
    """Matern-5/2 over the unit-cube columns of the inputs."""
    dimensions = len(residual.lengthscales)
    base = MaternKernel(nu=2.5, ard_num_dims=dimensions, active_dims=tuple(range(dimensions)))
    kernel = ScaleKernel(base).double()
    kernel.outputscale = residual.variance
    base.lengthscale = torch.as_tensor(residual.lengthscales)[None]
    return kernel


def _subset(target: np.ndarray, size: int) -> np.ndarray:
    """At most `size` indices: the lowest half by loss, and an even spread of the others."""
    if len(target) <= size:
        return np.arange(len(target))
    order = np.argsort(target, kind="stable")
    best, rest = order[: size // 2], order[size // 2 :]
    spread = rest[np.linspace(0, len(rest) - 1, size - size // 2).astype(int)]
    return np.sort(np.concatenate([best, spread]))
