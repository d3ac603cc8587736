"""Rules that move a recipe to another batch, and the tokens and steps to a loss at each batch."""

from dataclasses import dataclass, replace
from math import sqrt

from carbs_scaling.laws.prior.published import (
    CRITICAL_BATCH_SEQUENCE,
    KAPLAN_CRITICAL_BATCH,
    ZHANG_CRITICAL_BATCH,
)
from carbs_scaling.laws.runs.table import LawError


@dataclass(frozen=True)
class BatchRecipe:
    """The parts of a recipe that depend on the batch.

    Args:
        batch_tokens: tokens a step.
        learning_rate: peak.
        beta1: decay of Adam's first moment, or SGD's momentum.
        beta2: decay of Adam's second moment; None for SGD.
        epsilon: of Adam's denominator; None for SGD.

    Raises:
        LawError: a batch or learning rate that is not positive, or a beta outside [0, 1).
    """

    batch_tokens: float
    learning_rate: float
    beta1: float
    beta2: float | None = None
    epsilon: float | None = None

    def __post_init__(self) -> None:
        if not (self.batch_tokens > 0 and self.learning_rate > 0):
            raise LawError(
                f"batch_tokens={self.batch_tokens} and learning_rate={self.learning_rate} must be positive"
            )
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise LawError(f"{name}={value} must lie in [0, 1)")


def adam_square_root_rule(recipe: BatchRecipe, batch_tokens: float) -> BatchRecipe:
    """Move a recipe of Adam to a batch k times larger.

    The learning rate grows by sqrt(k), 1 - beta by k for both betas, and epsilon falls by sqrt(k) (Malladi et
    al. 2022, arXiv 2205.10287). Both runs then follow the same stochastic differential equation as long as
    noise dominates the gradient: up to about the critical batch. Decoupled weight decay is not part of the
    rule; multiplied by sqrt(k), it keeps the decay a token.

    Raises:
        LawError: a beta would fall below 0, or the recipe is one of SGD.
    """
    if recipe.beta2 is None or recipe.epsilon is None:
        raise LawError("the square-root rule is Adam's: it needs beta2 and epsilon")
    k = batch_tokens / recipe.batch_tokens
    moved = {name: 1 - (1 - getattr(recipe, name)) * k for name in ("beta1", "beta2")}
    for name, value in moved.items():
        if value < 0:
            limit = recipe.batch_tokens / (1 - getattr(recipe, name))
            raise LawError(
                f"the square-root rule ends at {limit:.4g} tokens a step, where {name} would reach 0, "
                f"below the {batch_tokens:.4g} asked for"
            )
    return replace(
        recipe,
        batch_tokens=batch_tokens,
        learning_rate=recipe.learning_rate * sqrt(k),
        epsilon=recipe.epsilon / sqrt(k),
        **moved,
    )


def sgd_linear_rule(recipe: BatchRecipe, batch_tokens: float) -> BatchRecipe:
    """Move a recipe of SGD to another batch: the learning rate is proportional to it, the momentum is kept.

    Goyal et al. 2017 (arXiv 1706.02677), section 2.1. It too holds up to about the critical batch.
    """
    return replace(
        recipe,
        batch_tokens=batch_tokens,
        learning_rate=recipe.learning_rate * batch_tokens / recipe.batch_tokens,
    )


def tokens_to_loss(min_tokens: float, batch_tokens: float, critical_batch_tokens: float) -> float:
    """D = D_min (1 + B / B_crit): tokens to a loss at batch B (McCandlish et al., arXiv 1812.06162).

    Args:
        min_tokens: D_min, tokens at a batch far below the critical one.
        batch_tokens: B.
        critical_batch_tokens: B_crit.
    """
    return min_tokens * (1 + batch_tokens / critical_batch_tokens)


def steps_to_loss(min_tokens: float, batch_tokens: float, critical_batch_tokens: float) -> float:
    """S = S_min (1 + B_crit / B) with S_min = D_min / B_crit: the same law in steps."""
    return min_tokens / critical_batch_tokens * (1 + critical_batch_tokens / batch_tokens)


def zhang_critical_batch(params: float, sequence_length: int = CRITICAL_BATCH_SEQUENCE) -> float:
    """93.2 (N / 1e6)^0.468 sequences, in tokens (github.com/hlzhang109/critical-batch-size).

    Args:
        params: N of a compute-optimal run; at fixed N the authors find that the critical batch grows with D.
        sequence_length: tokens in a sequence.
    """
    level, exponent = ZHANG_CRITICAL_BATCH
    return float(level * (params / 1e6) ** exponent * sequence_length)


def kaplan_critical_batch(loss: float) -> float:
    """2e8 L^(-1 / 0.21) tokens, L in nats a token of their vocabulary (arXiv 2001.08361, equation 1.4)."""
    level, exponent = KAPLAN_CRITICAL_BATCH
    return float(level * loss ** (-1 / exponent))
