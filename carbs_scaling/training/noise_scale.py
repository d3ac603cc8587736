"""The gradient-noise scale, measured while a trial trains, from gradients that it computes anyway.

McCandlish et al. 2018 (arXiv 1812.06162), appendix A.1: the gradient of B samples has the expected square
|G|^2 + tr(Sigma) / B, so that squares at two batch sizes give both. Here the two sizes are a step's whole
batch and the parts it is computed in. The simple noise scale tr(Sigma) / |G|^2 is the batch at which noise
and signal are equal; that paper takes it as an estimate of the critical batch.

It is of the plain gradient, before clipping and before Adam's preconditioning: a check, not the last word.
Samples are sequences, since the tokens of one sequence are not independent; counts are in tokens throughout.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from carbs_scaling.training.recipe import Recipe

# Parts that a measured batch is computed in. With n parts the variance of |G|^2 under strong noise is
# n / (n - 1) times the least possible; each part is one more pass with its fixed overhead.
PARTS = 4
# Steps between two measurements: at least so many, so that what small parts cost stays small, ...
LEAST_INTERVAL = 20
# ... and for longer runs as many as give about so many measurements.
MEASUREMENTS = 50


@dataclass(frozen=True)
class GradientMoments:
    """Unbiased estimates; either may be negative by chance.

    Args:
        square: |G|^2, of the expected gradient.
        variance: tr(Sigma), summed over parameters, of the gradient of one token.
    """

    square: float
    variance: float

    @property
    def noise_scale_tokens(self) -> float | None:
        """tr(Sigma) / |G|^2 in tokens; None where chance left one of them without its sign."""
        if not (self.square > 0 and self.variance > 0):
            return None
        return self.variance / self.square


def gradient_moments(
    part_squares: Sequence[float], shares: Sequence[float], whole_square: float, batch_tokens: int
) -> GradientMoments:
    """|G|^2 and tr(Sigma) from one batch computed in n parts, which may differ in size.

    With w the shares, sum_i w_i |g_i|^2 has the mean |G|^2 + n tr(Sigma) / B, and |g|^2 the mean
    |G|^2 + tr(Sigma) / B: two equations, two unknowns.

    Args:
        part_squares: |g_i|^2 of each part's mean gradient, n of them.
        shares: each part's share of the batch, n that sum to 1.
        whole_square: |g|^2 of the whole batch's mean gradient.
        batch_tokens: B.

    Raises:
        ValueError: fewer than two parts.
    """
    parts = len(part_squares)
    if parts < 2:
        raise ValueError("one part says nothing about noise: at least two are needed")
    mean = sum(share * square for share, square in zip(shares, part_squares, strict=True))
    return GradientMoments(
        square=(parts * whole_square - mean) / (parts - 1),
        variance=batch_tokens * (mean - whole_square) / (parts - 1),
    )


def mean_moments(moments: Iterable[GradientMoments]) -> GradientMoments | None:
    """Means of both over several steps, to be divided afterwards: a mean of ratios would be biased."""
    finite = [m for m in moments if math.isfinite(m.square) and math.isfinite(m.variance)]
    if not finite:
        return None
    count = len(finite)
    return GradientMoments(sum(m.square for m in finite) / count, sum(m.variance for m in finite) / count)


class NoiseMeter:
    """Measures some steps of a run, from the gradient of each part of a batch before the parts are added.

    A measured step costs the FLOPs of any other. Where batches are computed in micro-batches, the parameters
    come out bit for bit the same. Where they are not, a measured step adds up four parts instead of one, and
    differs by the rounding of that sum.

    Args:
        parameters: those whose gradients are measured.
        recipe: of the run. A batch of one sequence cannot be split and is never measured.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], recipe: Recipe) -> None:
        self._parameters = list(parameters)
        self._recipe = recipe
        self._interval = max(LEAST_INTERVAL, recipe.steps // MEASUREMENTS)
        self._graded: list[torch.nn.Parameter] = []
        self._sum: list[torch.Tensor] = []
        self._shares: list[float] = []
        self._squares: list[torch.Tensor] = []
        # Not yet waited for: (step, squares of the parts and of the whole, shares).
        self._unread: list[tuple[int, torch.Tensor, list[float]]] = []
        self._late: list[GradientMoments] = []

    def due(self, step: int) -> bool:
        """Whether this 0-based step is measured."""
        return self._recipe.batch_size > 1 and step % self._interval == self._interval // 2

    def part_size(self, micro_batch: int) -> int:
        """Sequences in a part of a measured step: the micro-batch where there are several, else a quarter."""
        whole = self._recipe.batch_size
        return micro_batch if micro_batch < whole else -(-whole // PARTS)

    def take_part(self, share: float) -> None:
        """Take the gradient of a part, already weighted by its share of the batch, off the parameters."""
        graded, gradients = [], []
        for parameter in self._parameters:
            if parameter.grad is not None:
                graded.append(parameter)
                gradients.append(parameter.grad)
                parameter.grad = None
        self._shares.append(share)
        self._squares.append(_square(gradients) / share**2)
        if self._sum:
            torch._foreach_add_(self._sum, gradients)  # in the order in which autograd would have
        else:
            self._graded, self._sum = graded, gradients

    def drop_parts(self) -> None:
        """Forget the parts of a step that is begun again."""
        self._sum, self._shares, self._squares = [], [], []

    def end_step(self, step: int) -> None:
        """Give the parameters the gradient of the whole batch, and keep the squares."""
        for parameter, gradient in zip(self._graded, self._sum, strict=True):
            parameter.grad = gradient
        self._unread.append((step, torch.stack([*self._squares, _square(self._sum)]), self._shares))
        self.drop_parts()

    def read(self) -> dict[str, float]:
        """Means over the steps measured since the last call, as fields of a curve's point; empty for none."""
        seen = []
        for step, squares, shares in self._unread:
            *parts, whole = squares.tolist()
            moments = gradient_moments(parts, shares, whole, self._recipe.batch_tokens)
            seen.append(moments)
            if step >= self._recipe.steps // 2:
                self._late.append(moments)
        self._unread = []
        mean = mean_moments(seen)
        return {} if mean is None else {"gradient_square": mean.square, "gradient_variance": mean.variance}

    def state(self) -> dict[str, Any]:
        """What was measured, as plain JSON; waits for the GPU."""
        unread = [(step, squares.tolist(), shares) for step, squares, shares in self._unread]
        return {"unread": unread, "late": [asdict(moments) for moments in self._late]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._unread = [(step, torch.tensor(squares), shares) for step, squares, shares in state["unread"]]
        self._late = [GradientMoments(**moments) for moments in state["late"]]

    def noise_scale_tokens(self) -> float | None:
        """The noise scale over the second half of the run, as far as `read` has been called.

        None where |G|^2 is within a standard error of 0, or was measured fewer than two times.
        """
        mean = mean_moments(self._late)
        count = len(self._late)
        if mean is None or count < 2:
            return None
        spread = math.fsum((moments.square - mean.square) ** 2 for moments in self._late) / (count - 1)
        return mean.noise_scale_tokens if mean.square > math.sqrt(spread / count) else None


def _square(gradients: list[torch.Tensor]) -> torch.Tensor:
    """Summed squares over all parameters, [] on their device."""
    return torch.stack(torch._foreach_norm(gradients)).square().sum()
