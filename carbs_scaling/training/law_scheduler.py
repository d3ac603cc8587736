"""A learning-rate scheduler whose peak comes from a law and whose warmup and decay come from theory.

optimizer = torch.optim.AdamW(model.parameters())
scheduler = law_scheduler(optimizer, law, params=1e8, tokens=2e9, batch_tokens=2**18)

It is an ordinary `torch.optim.lr_scheduler.LambdaLR`: call `step()` after each optimizer step, or hand it to
the transformers `Trainer` as `optimizers=(optimizer, scheduler)`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from carbs_scaling.errors import ConfigError
from carbs_scaling.laws.prior.published import PublishedLaw
from carbs_scaling.laws.recommend.peak import peak_learning_rate
from carbs_scaling.laws.scaling_law import LawsByOptimizer, ScalingLaw
from carbs_scaling.laws.schedules.sde import FunctionalExponents
from carbs_scaling.training.config import ScheduleConfig
from carbs_scaling.training.schedules import learning_rate_factor

SHAPES = ("sde", "wsd", "cosine", "linear", "power", "constant")
# The values of conf/schedule/: share of the steps in which wsd decays, exponents of power decays, and where
# cosine ends, over its peak.
DECAY_FRACTION = 0.2
DECAY_EXPONENTS = {"sde": 1.5, "power": 2.0}
COSINE_FINAL_FRACTION = 0.1
# Warmup is never more of the run than this.
MAX_WARMUP_FRACTION = 0.1


@dataclass(frozen=True)
class LearningRatePlan:
    """The learning rate of every step of a run.

    Args:
        peak: learning rate after warmup.
        batch_tokens: tokens a step.
        steps: optimizer steps of the whole run: a trainer's `max_steps`.
        warmup_steps: how many of them are warmup.
        schedule: shape after warmup.
        law: name of the law that gave the peak.
    """

    peak: float
    batch_tokens: float
    steps: int
    warmup_steps: int
    schedule: ScheduleConfig
    law: str

    def factor(self, step: int) -> float:
        """The learning rate of a step, counted from 0, as a share of the peak."""
        return learning_rate_factor(self.schedule, self.warmup_steps / self.steps, step, self.steps)


def plan_learning_rate(
    optimizer: torch.optim.Optimizer,
    law: ScalingLaw | LawsByOptimizer | PublishedLaw | str | Path,
    *,
    params: float,
    tokens: float,
    batch_tokens: float | None = None,
    shape: str = "sde",
    exponents: FunctionalExponents | None = None,
    decay_fraction: float = DECAY_FRACTION,
    decay_exponent: float | None = None,
    final_fraction: float | None = None,
    warmup_steps: int | None = None,
) -> LearningRatePlan:
    """Plan a run: peak by the law, warmup and decay by theory. The optimizer is not changed.

    Args:
        optimizer: read for its class and its momenta.
        law: what `fit_law` returns, its JSON file, or a published law's name, such as "Step Law". Its peak is
            the best for schedules of the shape that its runs had.
        params: N, non-embedding.
        tokens: D; the run has tokens / batch_tokens steps.
        batch_tokens: tokens a step, over all devices and accumulation; None for the law's best.
        shape: one of `SHAPES`. `sde` is what the functional scaling law finds best (`laws/schedules/sde.py`):
            a power decay all along for an easy task, the peak and then a power decay for a hard one.
        exponents: of task and optimizer, which say whether the task is easy; None for a hard one, with the
            decay exponent that public loss curves of language models show.
        decay_fraction: share of the steps in which `wsd` and a hard `sde` decay.
        decay_exponent: of `power` and `sde`; None for the theory's where `exponents` are given, else for 2
            (`power`) and 1.5 (`sde`).
        final_fraction: learning rate at the end over the peak; None for 0, and 0.1 for cosine.
        warmup_steps: None for twice the memory of the optimizer's averages, 2 / (1 - beta2) for Adam (Ma and
            Yarats 2019, arXiv 1910.04209) and 2 / (1 - momentum) for SGD, and at most a tenth of the run.

    Raises:
        LawError: the law does not answer for this optimizer, N, D or batch.
        ConfigError: an unknown shape, numbers that no schedule can have, or no step at all.
    """
    if shape not in SHAPES:
        raise ConfigError(f"shape={shape} is not one of {', '.join(SHAPES)}")
    if exponents is not None and shape != "sde":
        raise ConfigError(f"exponents choose the shape of sde, and shape={shape} was asked for")
    # The name of PyTorch's class, such as "adamw": laws ask for its kind.
    peak = peak_learning_rate(law, params, tokens, batch_tokens, type(optimizer).__name__.lower())
    steps = round(tokens / peak.batch_tokens)
    if steps < 1:
        raise ConfigError(f"tokens={tokens:.4g} are less than one batch of {peak.batch_tokens:.4g}")
    if warmup_steps is None:
        warmup_steps = min(untuned_warmup_steps(optimizer), int(MAX_WARMUP_FRACTION * steps))
    if not 0 <= warmup_steps < steps:
        raise ConfigError(f"warmup_steps={warmup_steps} must lie in [0, {steps}), the steps of the run")
    if final_fraction is None:
        final_fraction = {"cosine": COSINE_FINAL_FRACTION, "constant": 1.0}.get(shape, 0.0)
    name, decay_shape = _resolve(shape, exponents)
    if decay_exponent is None:
        decay_exponent = DECAY_EXPONENTS.get(shape, 1.0) if exponents is None else exponents.decay_exponent
    schedule = ScheduleConfig(name, final_fraction, decay_fraction, decay_shape, decay_exponent)
    return LearningRatePlan(peak.learning_rate, peak.batch_tokens, steps, warmup_steps, schedule, peak.law)


def law_scheduler(
    optimizer: torch.optim.Optimizer,
    law: ScalingLaw | LawsByOptimizer | PublishedLaw | str | Path,
    **choices: Any,
) -> LambdaLR:
    """A scheduler by `plan_learning_rate`, which takes the same arguments and raises the same errors.

    The optimizer's learning rate is overwritten by the law's peak; groups that differ keep their ratios to
    the largest. To resume, build both again and load their `state_dict`s, as with any other scheduler.
    """
    plan = plan_learning_rate(optimizer, law, **choices)
    # An earlier scheduler has left its peak in "initial_lr", and a decayed rate in "lr".
    given = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, given, strict=True):
        group["lr"] = group["initial_lr"] = plan.peak * (rate / max(given) if max(given) > 0 else 1.0)
    # A function and not an object with fields: then the state_dict holds plain numbers alone.
    return LambdaLR(optimizer, lambda step: plan.factor(step))


def untuned_warmup_steps(optimizer: torch.optim.Optimizer) -> int:
    """Twice the memory of the slowest average that the optimizer keeps, in steps; 0 without any."""
    group = optimizer.param_groups[0]
    slowest = max(group["betas"]) if "betas" in group else group.get("momentum", 0.0)
    return round(2 / (1 - slowest)) if slowest > 0 else 0


def _resolve(shape: str, exponents: FunctionalExponents | None) -> tuple[str, str]:
    """Names of the schedule and of its decay."""
    if shape != "sde":
        return shape, "linear"
    return ("power" if exponents is not None and exponents.easy else "wsd"), "power"
