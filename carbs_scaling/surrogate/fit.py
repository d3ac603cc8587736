"""Fits the surrogate: from finished runs to a `LawEnsembleModel`.

In stages: the law, by the fit that every other answer comes from (`laws.fit.law_fit`), without bends, which
are left to the process; scale, lengthscales, noise and the floor's field (`floor_field`) of what it misses,
through the marginal likelihood with the law integrated out (`hyperparameters`); the law again under those
correlated errors; and an ensemble of laws from its posterior (`ensemble`). Losses are divided by their robust
spread, so the same priors serve any unit.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from gpytorch.kernels import MaternKernel, ScaleKernel
from numpy.linalg import LinAlgError

from carbs_scaling.laws.fit.law_fit import PlainFit, fit_plain_law, refit_under
from carbs_scaling.laws.fit.least_squares import CorrelatedErrors
from carbs_scaling.laws.form.law import floor, reducible, value, value_and_slopes
from carbs_scaling.laws.form.valley import Array
from carbs_scaling.laws.prior.prior import LawPrior, law_prior
from carbs_scaling.laws.prior.rates import ADAMW, RatePrior
from carbs_scaling.space.floor_field import FloorField, field_correlation
from carbs_scaling.surrogate.ensemble import sample_laws
from carbs_scaling.surrogate.hyperparameters import LEAST_NOISE, Residual, ResidualPrior, fit_residual
from carbs_scaling.surrogate.law_mean import LawMean, MisfitKernel
from carbs_scaling.surrogate.model import LawEnsembleModel, stable_cholesky

logger = logging.getLogger(__name__)

# Hyperparameters are fitted to at most this many runs; all runs are conditioned on.
_MAX_FITTED = 200
# A run far above the law's floor is known to this share of its excess: it says "bad", not how bad to a
# decimal.
EXCESS_SHARE = 0.05
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
        rates: what is known of the best learning rate before any run.
        fallbacks: reasons, counted.
    """

    centre: tuple[float, float, float, float]
    has_role: tuple[bool, bool, bool, bool]
    rate_range: tuple[float, float] | None = None
    batch_range: tuple[float, float] | None = None
    members: int = 48
    floor_field: FloorField | None = None
    rates: RatePrior = ADAMW
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
        offset, level, spread = loss_scale(loss[np.unique(cube, axis=0, return_index=True)[1]])
        ranges = self.rate_range, self.batch_range
        prior = law_prior(level, self.centre, self.has_role, *ranges, self.rates)
        # A loss far beyond the rest is an outlier of one run, not news about the scale of all.
        loss = np.minimum(loss, np.median(loss) + 10 * spread) - offset
        rough = fit_plain_law(features, loss, prior)
        vague = _vague(rough, features, loss, spread)
        residual = self._residual(cube, features, loss / spread, vague, rough, prior, spread)
        inputs = torch.from_numpy(np.column_stack([cube, features]))
        kernel = MisfitKernel(
            residual_kernel(residual),
            LawMean(rough.theta, self.has_role, spread, offset),
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
        return LawEnsembleModel(
            best_law=LawMean(fit.theta, self.has_role, spread, offset),
            members=LawMean(thetas, self.has_role, spread, offset),
            kernel=kernel,
            inputs=inputs,
            target=torch.from_numpy((loss + offset) / spread),
            noise=noise,
            cholesky=cholesky,
            repeat_noise=residual.noise,
            member_weights=torch.full((len(thetas),), 1.0 / len(thetas), dtype=torch.float64),
        )

    def _residual(
        self,
        cube: Array,
        features: Array,
        target: Array,
        vague: Array,
        fit: PlainFit,
        prior: LawPrior,
        spread: float,
    ) -> Residual:
        """Hyperparameters with the law, linear around its most probable parameters, integrated out."""
        chosen = _subset(target, _MAX_FITTED)
        expected, height, slopes = value_and_slopes(fit.theta, features[chosen])
        centred = (expected + slopes @ (prior.mean - fit.theta)) / spread
        basis = slopes @ prior.root / spread
        walls = WALL_SHARE * height / spread
        hyperprior = ResidualPrior(cube.shape[1])
        floors = np.zeros((len(chosen), len(chosen)))
        if self.floor_field is not None:
            places = self.floor_field.places(cube[chosen], features[chosen])
            above = reducible(fit.theta, features[chosen, 0], features[chosen, 1]) / spread
            floors = np.outer(above, above) * field_correlation(places, places)
        surprise, law = target[chosen] - centred, basis @ basis.T
        try:
            return fit_residual(cube[chosen], surprise, law, floors, vague[chosen], walls, hyperprior)
        except LinAlgError as error:
            self._fall_back("hyperparameters kept at their prior", error)
            return hyperprior.unpack(hyperprior.mean)

    def _law_under_residual(
        self, features: Array, loss: Array, whitener: Array, prior: LawPrior, rough: PlainFit
    ) -> PlainFit:
        try:
            return refit_under(CorrelatedErrors(whitener), features, loss, prior, rough.theta)
        except LinAlgError as error:
            self._fall_back("law kept at its robust fit", error)
            return rough

    def _ensemble(
        self,
        features: Array,
        loss: Array,
        whitener: Array,
        prior: LawPrior,
        fit: PlainFit,
        rng: np.random.Generator,
    ) -> Array:
        if self.members == 1:
            return fit.theta[None]
        chol = torch.from_numpy(whitener)

        def log_density(thetas: np.ndarray) -> np.ndarray:
            off = torch.from_numpy(loss - value(thetas, features))
            z = torch.linalg.solve_triangular(chol, off.T, upper=False)
            return -0.5 * z.square().sum(dim=0).numpy() - prior.half_squares(thetas)

        try:
            return sample_laws(fit.theta, fit.covariance, log_density, self.members, rng)
        except LinAlgError as error:
            self._fall_back("the most probable law alone", error)
            return fit.theta[None]

    def _fall_back(self, what: str, error: Exception) -> None:
        reason = f"{what}: {type(error).__name__}"
        self.fallbacks[reason] += 1
        logger.warning("%s (%s)", reason, str(error).splitlines()[0] if str(error) else "no message")


def loss_scale(loss: Array) -> tuple[float, float, float]:
    """(offset, level, spread) of some losses: what the law is fitted less of, their low end, their deviation.

    The law is of positive losses: the offset is 0 unless some are not. The spread is robust, and at least a
    hundredth of the level, so that equal losses do no harm.

    Args:
        loss: shape (n,).
    """
    low = float(np.min(loss))
    quartiles = np.quantile(loss, [0.25, 0.75])
    within = 0.5 * float(np.median(np.abs(loss - np.median(loss))))
    spread = max(float(quartiles[1] - quartiles[0]) / 1.349, within)
    # A loss that is hardly above 0 beside the others is no level to count them in.
    positive = low > 1e-3 * spread
    level = low if positive else max(abs(low), spread, 1e-9)
    return (0.0 if positive else low - level), level, max(spread, 1e-2 * level)


def _vague(law: PlainFit, features: Array, loss: Array, spread: float) -> Array:
    """Extra noise variance of runs far above the law's floor, in squared spreads, shape (n,)."""
    excess = np.maximum(loss - floor(law.theta, features[:, 0], features[:, 1]), 0.0)
    return np.square(EXCESS_SHARE * excess / spread)


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
