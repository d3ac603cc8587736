"""The learning rate over a run: a linear warmup, then one of a few shapes, as plain functions of the step."""

import math

import torch

from carbs_scaling.training.config import ScheduleConfig


def decay_factor(shape: str, progress: float, exponent: float = 1.0) -> float:
    """What is left of the learning rate in a decay from 1 to 0.

    Args:
        shape: `linear`; `cosine` (half a wave); `sqrt`, 1 - sqrt(progress), steep at first (Haegele et al.
            2024, arXiv 2405.18392); or `power`, (1 - progress)^exponent, which the SDE of SGD and Adam asks
            for (`carbs_scaling.laws.schedules.sde`).
        progress: share of the decay that is over, in [0, 1].
        exponent: read by `power` only.

    Raises:
        ValueError: there is no such shape.
    """
    if shape == "linear":
        return 1 - progress
    if shape == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if shape == "sqrt":
        return 1 - math.sqrt(progress)
    if shape == "power":
        return math.pow(1 - progress, exponent)
    raise ValueError(f"there is no decay of shape {shape!r}")


def learning_rate_factor(schedule: ScheduleConfig, warmup_fraction: float, step: int, steps: int) -> float:
    """The learning rate of a step as a share of its peak.

    Warmup rises linearly over the first `warmup_fraction` of the steps, from above 0: no step is lost.
    After it, `cosine`, `linear` and `power` fall over all that is left; `wsd` (warmup, stable, decay; Hu et
    al., arXiv 2404.06395) stays at the peak and falls in its `decay_shape` over the last `decay_fraction` of
    the steps; `constant` stays. `final_fraction` would be reached one step after the last. With
    `schedule.warmup_steps` the rise takes so many steps in runs of any length; a decay that begins before its
    end begins at the rate that was reached.

    Args:
        schedule: shape and final value.
        warmup_fraction: share of the steps in which it rises, in [0, 1).
        step: 0-based; beyond the last, where a trainer looks ahead, it stays at its end.
        steps: of the whole run.
    """
    if schedule.warmup_steps is not None:
        return _after_fixed_warmup(schedule, schedule.warmup_steps, step, steps)
    warmup = round(warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule.name == "constant":
        return 1.0
    decay, shape = steps - warmup, schedule.name
    if schedule.name == "wsd":
        decay, shape = min(decay, max(1, round(schedule.decay_fraction * steps))), schedule.decay_shape
    progress = min(1.0, max(0, step - (steps - decay)) / max(1, decay))
    fall = decay_factor(shape, progress, schedule.decay_exponent)
    return schedule.final_fraction + (1 - schedule.final_fraction) * fall


def trunk_steps(schedule: ScheduleConfig, steps: int) -> int:
    """Steps before the decay of a run of `steps`, which are the same in all longer runs of its recipe.

    Only of `wsd` with `warmup_steps`: other rates depend on the length of the run from the first step on.
    """
    if schedule.name != "wsd" or schedule.warmup_steps is None:
        return 0
    return steps - max(1, round(schedule.decay_fraction * steps))


def _after_fixed_warmup(schedule: ScheduleConfig, warmup: int, step: int, steps: int) -> float:
    """`learning_rate_factor` with a warmup of so many steps."""
    shape = schedule.name
    start = min(warmup, steps - 1)
    if shape == "constant":
        start = steps
    elif shape == "wsd":
        start, shape = trunk_steps(schedule, steps), schedule.decay_shape
    rise = min(1.0, (min(step, start) + 1) / (warmup + 1))
    if step < start or schedule.name == "constant":
        return rise
    fall = decay_factor(shape, min(1.0, (step - start) / max(1, steps - start)), schedule.decay_exponent)
    return rise * (schedule.final_fraction + (1 - schedule.final_fraction) * fall)


def build_scheduler(
    optimizer: torch.optim.Optimizer, schedule: ScheduleConfig, warmup_fraction: float, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """`learning_rate_factor` on an optimizer whose learning rate is the peak."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(schedule, warmup_fraction, step, steps)
    )


def set_scheduler_step(scheduler: torch.optim.lr_scheduler.LambdaLR, step: int) -> None:
    """Put a fresh scheduler and its optimizer where `step` calls of `scheduler.step()` would have."""
    scheduler.last_epoch = step
    scheduler._step_count = step + 1
    groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, peak, factor in groups:
        group["lr"] = peak * factor(step)
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]
