"""The recipe that a law recommends for one model: values, and draws that give any interval."""

from dataclasses import dataclass, field
from numbers import Real

import numpy as np

from carbs_scaling.laws.runs.table import LawArgumentError, LawError
from carbs_scaling.numbers import compact, scientific

FITTED = ("learning_rate", "batch_tokens", "loss")  # columns of `Recommendation.draws`


@dataclass(frozen=True)
class Recommendation:
    """A recipe for a model of N parameters and D tokens.

    Args:
        params: N.
        tokens: D.
        learning_rate: peak learning rate.
        batch_tokens: tokens a step.
        loss: expected final loss.
        draws: of (ln learning rate, ln batch tokens, loss), shape (m, 3).
        batch_exponent: of the best learning rate in the batch, away from `batch_tokens`.
        extrapolation: factors by which N and D lie beyond the runs; 1 inside.
        from_hull: factor in both N and D to the convex hull of the runs in (ln N, ln D); 1 inside.
        optimizer: the law's optimizer.
        notes: what may change a decision, one line each, gravest first.
        other: best values of further hyperparameters that the runs varied (`weight_decay`, `beta2`,
            `momentum`, `width_to_depth`), by name.
        other_draws: of each of them, shape (m,).
    """

    params: float
    tokens: float
    learning_rate: float
    batch_tokens: float
    loss: float
    draws: np.ndarray
    batch_exponent: float
    extrapolation: tuple[float, float]
    from_hull: float = 1.0
    optimizer: str = ""
    notes: tuple[str, ...] = ()
    other: dict[str, float] = field(default_factory=dict)
    other_draws: dict[str, np.ndarray] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"N {compact(self.params)}, D {compact(self.tokens)}, {scientific(self.flops)} FLOPs (6 N D)"
        ]
        for name, value in {**{name: getattr(self, name) for name in FITTED}, **self.other}.items():
            if not np.isfinite(value):
                continue  # these runs have none
            low, high = self.interval(name)
            lines.append(f"{name} {value:.4g} (90% interval {low:.4g} to {high:.4g})")
        return "\n".join((*lines, *(f"note: {text}" for text in self.notes)))

    @property
    def flops(self) -> float:
        """6 N D."""
        return 6.0 * self.params * self.tokens

    def learning_rate_at(self, batch_tokens: float) -> float:
        """Best peak at another batch, such as `batch_tokens` rounded to whole sequences."""
        return float(self.learning_rate * (batch_tokens / self.batch_tokens) ** self.batch_exponent)

    def interval(self, name: str, level: float = 0.9) -> tuple[float, float]:
        """Bounds of `learning_rate`, `batch_tokens`, `loss` or a name of `other`, with probability `level`.

        They include the uncertainty of the law and the scatter of single (N, D) around it; for the loss also
        the noise of one run.

        Raises:
            LawError: a quantity that the law does not have, or a level outside (0, 1).
        """
        if not (isinstance(level, Real) and 0 < level < 1):
            raise LawArgumentError(f"level={level!r} must lie in (0, 1)")
        bounds = [(1 - level) / 2, (1 + level) / 2]
        if name in self.other_draws:
            low, high = np.quantile(self.other_draws[name], bounds)
            return float(low), float(high)
        if name not in FITTED:
            raise LawError(
                f"there is no interval of {name!r}: these runs give {', '.join((*FITTED, *self.other))}"
            )
        low, high = np.quantile(self.draws[:, FITTED.index(name)], bounds)
        return (float(low), float(high)) if name == "loss" else (float(np.exp(low)), float(np.exp(high)))
