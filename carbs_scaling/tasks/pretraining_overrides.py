"""A recommended recipe as overrides of a pretraining search."""

from typing import Any

from carbs_scaling.config import TargetConfig
from carbs_scaling.laws.recommend.advice import Advice


def space_overrides(advice: Advice, target: TargetConfig) -> dict[str, Any]:
    """The recommendation as a preset for `carbs-scaling search`: a space with every dimension fixed.

    The learning rate is that for the batch in whole sequences.
    """
    batch_size = advice.sequences(target.sequence_length)
    space: dict[str, Any] = {
        "learning_rate": float(f"{advice.recipe.learning_rate_at(batch_size * target.sequence_length):.4g}"),
        "batch_size": batch_size,
        "tokens_per_parameter": float(f"{advice.recipe.tokens / advice.recipe.params:.4g}"),
    }
    searched = ("weight_decay", "beta2")  # the others are no dimension of the space
    space |= {k: float(f"{v:.4g}") for k, v in advice.recipe.other.items() if k in searched}
    if advice.width is not None:
        space |= {"width": advice.width, "depth": advice.depth}
    return {
        "model": {"head_size": target.head_size, "sequence_length": target.sequence_length},
        "space": space,
    }
