"""The step of a job: compiled, captured as a CUDA graph, over several processes, or plain."""

from typing import cast

import torch
from torch import nn

from carbs_scaling.compute.flops import flops_per_token
from carbs_scaling.optimizers.optimizer import load_optimizer
from carbs_scaling.training.distributed import Ranks
from carbs_scaling.training.job import TrainingJob, micro_batch_size
from carbs_scaling.training.losses import Losses
from carbs_scaling.training.noise_scale import NoiseMeter
from carbs_scaling.training.step import GraphedStep, TrainingStep, accumulate_gradients

# A shorter run is not worth a CUDA graph: the capture takes as long as some steps.
LEAST_GRAPHED_STEPS = 20
# Above so many FLOPs a step takes longer to run than to launch: 15 to 27 ms of an H100.
MOST_GRAPHED_FLOPS = 5e12


def compiled(model: nn.Module) -> nn.Module:
    """The model compiled for this trial alone.

    Dynamo caches by function, not by model, and gives up on a function after eight shapes: a process that has
    trained eight models would train all others uncompiled, without a warning.
    """
    torch.compiler.reset()
    return cast(nn.Module, torch.compile(model, dynamic=False))


def build_step(
    forward: nn.Module,
    optimizer: torch.optim.Optimizer,
    job: TrainingJob,
    device: torch.device,
    ranks: Ranks,
    losses: Losses,
) -> TrainingStep:
    """A step of the job; on one device as a CUDA graph where launching takes longer than running."""
    recipe = job.recipe
    micro_batch = micro_batch_size(recipe, job.micro_batch_tokens)
    if ranks.size > 1:
        clip_norm = job.optimizer.gradient_clip_norm
        return ranks.step(forward, optimizer, recipe.batch_size, micro_batch, clip_norm, losses)
    step_flops = flops_per_token(recipe.shape, "6N+head") * recipe.batch_tokens
    is_short = recipe.steps < LEAST_GRAPHED_STEPS or step_flops > MOST_GRAPHED_FLOPS
    capturable = load_optimizer(job.optimizer.name).capturable
    replays = job.cuda_graph and capturable and not is_short and not job.objective.gradient_noise_scale
    kind = GraphedStep if device.type == "cuda" and replays else TrainingStep
    return kind(forward, optimizer, micro_batch, job.optimizer.gradient_clip_norm, losses)


def measured_step(step: TrainingStep, noise: NoiseMeter, batch: torch.Tensor, number: int) -> torch.Tensor:
    """One step in parts, whose gradients the noise meter sees; returns its mean loss, [] on the device."""

    def passes() -> torch.Tensor:
        step.optimizer.zero_grad(set_to_none=True)
        noise.drop_parts()
        return accumulate_gradients(
            step.model, batch, noise.part_size(step.micro_batch), noise.take_part, step.losses
        )

    loss = step.fitting(passes)
    noise.end_step(number)
    step.update()
    return loss
