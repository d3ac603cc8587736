"""The surrogate as a BoTorch model: Gaussian processes whose prior means are an ensemble of laws."""

from __future__ import annotations

from math import pi, sqrt

import torch
from botorch.exceptions import UnsupportedError
from linear_operator.utils.errors import NotPSDError
from torch import Tensor

from carbs_scaling.surrogate.law_mean import LawMean, MisfitKernel, features_of
from carbs_scaling.surrogate.posterior import LossModel, MixturePosterior

# A bound that holds with all but this probability as it is says nothing.
NOTHING_TOLD = 0.02


class LawEnsembleModel(LossModel):
    """Losses of runs by s fitted processes that differ in their prior mean, a law each, and share one kernel.

    The outcome is a loss: less is better. Inputs are rows of d unit-cube coordinates followed by the 4
    centred log features of `laws.form.law`.

    Members share the kernel, hence one Cholesky factor, by which 256 points take 13 ms where a batch of 48
    stock `SingleTaskGP`s takes 445.

    Args:
        best_law: the most probable law.
        members: the ensemble's prior means, of thetas (s, 19).
        kernel: covariance of what the laws miss.
        inputs: finished and pending runs, shape `n x (d + 4)`.
        target: their losses divided by the scale of `members`, shape `n`.
        noise: noise variance of each, in squared scales, shape `n`.
        cholesky: lower factor of the runs' covariance with noise, shape `n x n`.
        repeat_noise: variance of a repeated run near the front, in squared scales.
        member_weights: of the members, shape `s`, summing to 1.
    """

    def __init__(
        self,
        best_law: LawMean,
        members: LawMean,
        kernel: MisfitKernel,
        inputs: Tensor,
        target: Tensor,
        noise: Tensor,
        cholesky: Tensor,
        repeat_noise: float,
        member_weights: Tensor,
    ) -> None:
        super().__init__()
        self.best_law, self.members, self.kernel = best_law, members, kernel
        self.inputs, self.target, self.noise, self.cholesky = inputs, target, noise, cholesky
        self.repeat_noise, self.member_weights = repeat_noise, member_weights
        with torch.no_grad():
            residuals = target[:, None] - members(inputs).T
            # The inverse covariance times the residuals, n x s.
            self._solved = torch.cholesky_solve(residuals, cholesky)
        self._last: tuple[Tensor, int, MixturePosterior] | None = None
        self.eval()

    @property
    def scale(self) -> float:
        """Unit of the processes in losses."""
        return self.members.scale

    @property
    def noise_sd(self) -> float:
        """Standard deviation of a repeated run near the front, in losses."""
        return sqrt(self.repeat_noise) * self.scale

    def _posterior(self, X: Tensor) -> MixturePosterior:
        # Several acquisitions of one proposal ask for the same rows one after the other.
        if self._last is None or self._last[0] is not X or self._last[1] != X._version:
            self._last = X, X._version, self._predicted(X.double())
        return self._last[2]

    def _predicted(self, X: Tensor) -> MixturePosterior:
        """The kernel is wide where the most probable law has its walls.

        A member that sees a lower wall there is as sure of it as the kernel is at that height; else every
        steep wall would hide a loss below the floor, which no wall does.
        """
        rows = X.reshape(-1, X.shape[-1])
        with torch.no_grad():
            cross = self.kernel(rows, self.inputs).to_dense()
            half = torch.linalg.solve_triangular(self.cholesky, cross.T, upper=False)
            variance = (self.kernel(rows, diag=True) - half.square().sum(dim=0)).clamp_min(1e-12)
            value, floor = self.members.value_and_floor(features_of(rows))
            means = value + (cross @ self._solved).T * self.scale
            deviations = variance.sqrt() * self.kernel.relative_sd(value - floor, rows) * self.scale
        shape = (len(means), *X.shape[:-1])

        def correlation() -> Tensor:
            with torch.no_grad():
                explained = half.T.reshape(*X.shape[:-1], -1)
                own = self.kernel(X).to_dense() - explained @ explained.mT
                sd = variance.sqrt().reshape(X.shape[:-1])
                own = own / (sd[..., :, None] * sd[..., None, :])
                own.diagonal(dim1=-2, dim2=-1).fill_(1.0)
            return own

        means, deviations = means.reshape(shape), deviations.reshape(shape)
        return MixturePosterior(
            self.member_weights, means, deviations, None if X.shape[-2] == 1 else correlation
        )

    def floor(self, X: Tensor) -> Tensor:
        """Loss at the best rate and batch by the most probable law, shape `batch_shape x q`."""
        return torch.from_numpy(self.best_law.floor(features_of(X))).reshape(X.shape[:-1])

    def believe(self, X: Tensor) -> LawEnsembleModel:
        """Conditioned on m runs at X, `m x (d + 4)`, ending at the mean prediction."""
        return self.condition_on_observations(X, self.posterior(X).mean) if len(X) else self

    def at_least(self, X: Tensor, bounds: Tensor) -> LawEnsembleModel:
        """Conditioned on m runs that were stopped, whose losses would have been above `bounds`, shape `m`.

        Each is taken to have ended at the mean of what is predicted above its bound. One that was predicted
        to end above it anyway says nothing and is left out.
        """
        found = self.posterior(X[:, None])
        mean, sd = found.mean[:, 0, 0], found.variance[:, 0, 0].sqrt()
        z = (bounds.to(mean) - mean) / sd
        above = torch.special.ndtr(-z)
        told = (above < 1 - NOTHING_TOLD).nonzero()[:, 0]
        # phi(z) / (1 - Phi(z)), which is about z far in the tail.
        hazard = torch.where(z > 8, z, (-0.5 * z.square()).exp() / sqrt(2 * pi) / above.clamp_min(1e-300))
        imputed = (mean + sd * hazard)[told]
        return self.condition_on_observations(X[told], imputed[:, None]) if len(told) else self

    def condition_on_observations(self, X: Tensor, Y: Tensor, **kwargs: object) -> LawEnsembleModel:
        """The model after m more runs: members that predicted otherwise lose weight.

        Args:
            X: shape `m x (d + 4)`.
            Y: losses, shape `m x 1`.
            kwargs: none are known.

        Raises:
            UnsupportedError: the runs have a t-batch shape.
        """
        if X.dim() != 2 or Y.shape != (len(X), 1) or kwargs:
            raise UnsupportedError("the model is conditioned on m x d' inputs and m x 1 losses alone")
        n, m = len(self.inputs), len(X)
        predicted = self.posterior(X).means
        with torch.no_grad():
            cross = self.kernel(self.inputs, X).to_dense()
            half = torch.linalg.solve_triangular(self.cholesky, cross, upper=False)
            own = self.kernel(X).to_dense() + self.repeat_noise * torch.eye(m, dtype=torch.float64)
            corner = stable_cholesky(own - half.T @ half)
            cholesky = torch.zeros(n + m, n + m, dtype=torch.float64)
            cholesky[:n, :n], cholesky[n:, :n], cholesky[n:, n:] = self.cholesky, half.T, corner
            surprise = torch.linalg.solve_triangular(corner, (Y - predicted.T) / self.scale, upper=False)
            log_weights = self.member_weights.log() - 0.5 * surprise.square().sum(dim=0)
        return LawEnsembleModel(
            best_law=self.best_law,
            members=self.members,
            kernel=self.kernel,
            inputs=torch.cat([self.inputs, X]),
            target=torch.cat([self.target, Y[:, 0] / self.scale]),
            noise=torch.cat([self.noise, torch.full((m,), self.repeat_noise, dtype=torch.float64)]),
            cholesky=cholesky,
            repeat_noise=self.repeat_noise,
            member_weights=log_weights.softmax(dim=0),
        )


def stable_cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """Lower Cholesky factor of a symmetric (n, n) matrix, with as little jitter as makes it one.

    Raises:
        NotPSDError: not even a jitter of a tenth of the mean diagonal helps.
    """
    typical = float(matrix.diagonal().abs().mean())
    identity = torch.eye(len(matrix), dtype=matrix.dtype)
    for jitter in (0.0, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 0.1):
        factor, info = torch.linalg.cholesky_ex(matrix + jitter * typical * identity)
        if int(info) == 0:
            return factor
    raise NotPSDError("covariance is not positive definite")
