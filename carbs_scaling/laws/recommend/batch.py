"""From one batch to another: how a recipe changes with it, and what it costs in tokens and steps."""

from dataclasses import dataclass, replace
from math import sqrt

from carbs_scaling.laws.prior.published import CRITICAL_BATCH_SEQUENCE
from carbs_scaling.laws.runs.table import LawError


@dataclass(frozen=True)
class BatchRecipe:
    """What a batch rule moves.

    Args:
        batch_tokens: tokens a step.
        learning_rate: peak.
        beta1: decay of Adam's first moment, or SGD's momentum.
        beta2: decay of Adam's second moment; None for SGD.
        epsilon: of Adam's denominator; None for SGD.
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
    """Adam at another batch: for a factor k, lr x sqrt(k), 1 - beta x k for both betas, epsilon / sqrt(k).

    Malladi et al. 2022 (arXiv 2205.10287): runs on either side follow the same stochastic differential
    equation as long as noise dominates the gradient, so up to about the critical batch. Decoupled weight
    decay is not part of the rule: multiplied by sqrt(k), it keeps the decay a token.

    Raises:
        LawError: the batch is so much larger that a beta would fall below 0; or a recipe of SGD.
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
    """SGD at another batch: the learning rate in proportion to it, the momentum as it is.

    Goyal et al. 2017 (arXiv 1706.02677), section 2.1; it too ends at about the critical batch.
    """
    return replace(
        recipe,
        batch_tokens=batch_tokens,
        learning_rate=recipe.learning_rate * batch_tokens / recipe.batch_tokens,
    )


def tokens_to_loss(min_tokens, batch_tokens, critical_batch_tokens):
    """D = D_min (1 + B / B_crit): tokens to a loss at batch B (McCandlish et al., arXiv 1812.06162).

    Scalars or arrays that broadcast; `min_tokens` is what a batch far below the critical one needs.
    """
    return min_tokens * (1 + batch_tokens / critical_batch_tokens)


def steps_to_loss(min_tokens, batch_tokens, critical_batch_tokens):
    """S = S_min (1 + B_crit / B) with S_min = D_min / B_crit: the same law, counted in steps."""
    return min_tokens / critical_batch_tokens * (1 + critical_batch_tokens / batch_tokens)


def zhang_critical_batch(params: float, sequence_length: int = CRITICAL_BATCH_SEQUENCE) -> float:
    """93.2 (N / 1e6)^0.468 sequences, in tokens (github.com/hlzhang109/critical-batch-size).

    Args:
        params: N of a compute-optimal run; at fixed N they find that the critical batch grows with D.
        sequence_length: tokens that a sequence counts for.
    """
    return 93.2 * (params / 1e6) ** 0.468 * sequence_length


def kaplan_critical_batch(loss: float) -> float:
    """2e8 L^(-1 / 0.21) tokens, L in nats a token of their vocabulary (arXiv 2001.08361, equation 1.4)."""
    return 2e8 * loss ** (-1 / 0.21)
