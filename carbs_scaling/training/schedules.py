"""The learning rate over a run: a linear warmup, then one of four shapes."""

import math

import torch

from carbs_scaling.config import ScheduleConfig


def learning_rate_factor(schedule: ScheduleConfig, warmup_fraction: float, step: int, steps: int) -> float:
    """The learning rate of a step as a share of its peak.

    Warmup rises linearly over the first `warmup_fraction` of the steps, from above 0: no step is lost.
    After it, `cosine` and `linear` fall over all that is left; `wsd` (warmup, stable, decay; Hu et al.,
    arXiv 2404.06395) stays at the peak and falls linearly over the last `decay_fraction` of the steps;
    `constant` stays. `final_fraction` would be reached one step after the last.

    Args:
        schedule: shape and final value.
        warmup_fraction: share of the steps in which it rises, in [0, 1).
        step: 0-based.
        steps: of the whole run.
    """
    warmup = round(warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule.name == "constant":
        return 1.0
    decay = steps - warmup
    if schedule.name == "wsd":
        decay = min(decay, max(1, round(schedule.decay_fraction * steps)))
    progress = max(0, step - (steps - decay)) / max(1, decay)
    fall = (1 + math.cos(math.pi * progress)) / 2 if schedule.name == "cosine" else 1 - progress
    return schedule.final_fraction + (1 - schedule.final_fraction) * fall


def build_scheduler(
    optimizer: torch.optim.Optimizer, schedule: ScheduleConfig, warmup_fraction: float, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """`learning_rate_factor` on an optimizer whose learning rate is the peak."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(schedule, warmup_fraction, step, steps)
    )
