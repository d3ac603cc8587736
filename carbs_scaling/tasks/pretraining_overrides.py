"""A recommended recipe as a preset for `train`, and a plan as one for `search`, of pretraining."""

import math
from dataclasses import asdict
from typing import Any

from carbs_scaling.compute.plan import Plan
from carbs_scaling.laws.prior.published import LAWS
from carbs_scaling.laws.recommend.advice import Advice
from carbs_scaling.laws.runs.reading import ALSO_CALLED
from carbs_scaling.verb_config import TargetConfig

OVERHEAD_SECONDS = 10.0  # of a trial beside its training, as in conf/budget/gpu_day.yaml
WIDER = 3.0  # the preset's rates and batches reach so far beyond what published laws say
TOKENS_WIDER = 4.0


def space_overrides(advice: Advice, target: TargetConfig) -> dict[str, Any]:
    """The recommendation as a preset for `carbs-scaling train`: a space with every dimension fixed.

    The learning rate is that for the batch in whole sequences.
    """
    batch_size = advice.sequences(target.sequence_length)
    space: dict[str, Any] = {
        "learning_rate": float(f"{advice.recipe.learning_rate_at(batch_size * target.sequence_length):.4g}"),
        "batch_size": batch_size,
        "tokens_per_parameter": float(f"{advice.recipe.tokens / advice.recipe.params:.4g}"),
    }
    for name, value in advice.recipe.other.items():
        if name != "width_to_depth":  # which width and depth say
            space[ALSO_CALLED.get(name, name)] = float(f"{value:.4g}")
    if advice.width is not None:
        space |= {"width": advice.width, "depth": advice.depth}
    return {
        "model": {"head_size": target.head_size, "sequence_length": target.sequence_length},
        "space": space,
    }


def search_preset(plan: Plan, name: str, hours: float | None) -> dict[str, Any]:
    """Overrides that make `search` run the plan's ladder: the space around it, and the budget.

    Args:
        plan: the plan.
        name: of the study.
        hours: wall time of the search; None for no limit.
    """
    shapes = [run.shape for run in plan.ladder]
    shape, smallest, largest = shapes[0], shapes[-1], shapes[0]
    head = shape.head_size
    at_ends = [
        law.recipe(run.shape.params, run.tokens) for law in LAWS for run in (plan.ladder[0], plan.ladder[-1])
    ]
    rates = [recipe.learning_rate for recipe in at_ends if recipe.learning_rate is not None]
    batches = [r.batch_tokens / shape.sequence_length for r in at_ends if r.batch_tokens is not None]
    ratios = [run.tokens / run.shape.params for run in plan.ladder]
    speed = plan.throughput.at(largest.params)
    return {
        "defaults": [{"override /model": shape.architecture}, {"override /space": "language_model"}],
        "study": {"name": name},
        "model": {
            "head_size": head,
            "sequence_length": shape.sequence_length,
            **asdict(shape.options),
        },
        "space": {
            "width": {
                "low": max(head, smallest.width // (2 * head) * head),
                "high": math.ceil(1.5 * largest.width / head) * head,
            },
            "depth": {"low": max(1, smallest.depth // 2), "high": 2 * largest.depth},
            "learning_rate": _rounded(min(rates) / WIDER, max(rates) * WIDER),
            "batch_size": {"low": max(1, int(min(batches) / WIDER)), "high": math.ceil(max(batches) * WIDER)},
            "tokens_per_parameter": _rounded(min(ratios) / TOKENS_WIDER, max(ratios) * TOKENS_WIDER),
        },
        "budget": {
            "flops": _round(plan.search_flops),
            "max_trial_fraction": _round(plan.max_trial_fraction),
            "min_trial_fraction": _round(plan.ladder[-1].flops / plan.search_flops),
            "trial_overhead_flops": _round(OVERHEAD_SECONDS * speed),
            "hours": None if hours is None else _round(hours),
        },
    }


def _rounded(low: float, high: float) -> dict[str, float]:
    return {"low": _round(low), "high": _round(high)}


def _round(value: float) -> float:
    return float(f"{value:.3g}")
