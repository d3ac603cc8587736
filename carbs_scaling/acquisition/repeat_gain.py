"""What it is worth to run a known point again, to tell the front from its near ties."""

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.models.deterministic import DeterministicModel
from botorch.models.model import Model
from botorch.utils.transforms import t_batch_mode_transform
from torch import Tensor

from carbs_scaling.acquisition.components import joint_moments
from carbs_scaling.acquisition.price import KnownRows

# Standard normal numbers and their probabilities: even steps, since what is averaged over them has kinks.
_NORMAL_NUMBERS = np.linspace(-5.0, 5.0, 41)
_PROBABILITIES = np.exp(-0.5 * _NORMAL_NUMBERS**2)
_PROBABILITIES /= _PROBABILITIES.sum()


class ExpectedRepeatGain(AcquisitionFunction):
    """Expected growth of the front's area by running one of n known points once more, in decades x loss.

    The front is that of the predicted losses, since what counts is which point will be used at a cost, not
    which was lucky. One more run of point i moves the prediction of every point j by cov(j, i) / sqrt(var(i)
    + noise^2) times a standard normal number: neighbours that are alike move together, and nothing is learnt
    about which is better. The area is convex in that number, so its expected growth is never below 0, and it
    is above only where the run may change which points are on the front: the knowledge gradient for
    correlated beliefs (Frazier et al. 2009).

    Args:
        model: of the loss: one outcome, less is better.
        known: the points, shape `n x d'`.
        noise_sd: standard deviation of a repeated run.
        cost_model: training FLOPs of a run, one outcome.
        reference: (log10 FLOPs, loss) of the corner that areas are measured to.
    """

    def __init__(
        self,
        model: Model,
        known: Tensor,
        noise_sd: float,
        cost_model: DeterministicModel,
        reference: tuple[float, float],
    ) -> None:
        super().__init__(model=model)
        self.known, self.cost_model = known, cost_model
        self.noise_sd, self.reference = noise_sd, reference
        self._numbers = KnownRows(known)

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: Tensor) -> Tensor:
        """Gains, shape `b`, of X, `b x 1 x d'`, whose rows are known points.

        Raises:
            ValueError: a row that is none of them.
        """
        asked = self._numbers.find(X[..., 0, :])
        with torch.no_grad():
            mean, covariance = joint_moments(self.model.posterior(self.known))
            log_cost = self.cost_model(self.known)[..., 0].log10().numpy()
        order = np.argsort(log_cost, kind="stable")
        edges = np.minimum(np.append(log_cost[order], self.reference[0]), self.reference[0])
        widths = np.diff(edges)
        spread = (covariance.diagonal() + self.noise_sd**2).clamp_min(1e-300).sqrt()
        steps = (covariance / spread[:, None])[asked.reshape(-1)].numpy()[:, order]
        loss = mean.numpy()[order]

        def area(losses: np.ndarray) -> np.ndarray:
            best = np.minimum(np.minimum.accumulate(losses, axis=-1), self.reference[1])
            return (self.reference[1] - best) @ widths

        moved = area(loss + _NORMAL_NUMBERS[:, None, None] * steps)
        gain = np.maximum(_PROBABILITIES @ moved - area(loss), 0.0)
        return torch.from_numpy(gain).reshape(asked.shape)
