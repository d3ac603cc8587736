"""The step of a job: compiled, captured as a CUDA graph, over several processes, or plain."""

from typing import Any, cast

import torch
from torch import nn

from carbs_scaling.compute.flops import flops_per_token
from carbs_scaling.models.cross_entropy import is_large
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


# Compiling took 27 to 29 s on an H200 and saved 10 to 13% of a step (docs/benchmarks.md): it pays on runs of
# some minutes on a large GPU.
LEAST_COMPILED_FLOPS = 2e17


def is_compiled(job: TrainingJob, device: torch.device, ranks: Ranks) -> bool:
    """Whether the model goes through `torch.compile`: as the job says, or by itself where that pays."""
    if job.compile is not None:
        return job.compile
    step_flops = _step_flops(job)
    is_long = step_flops > MOST_GRAPHED_FLOPS and step_flops * job.recipe.steps > LEAST_COMPILED_FLOPS
    return device.type == "cuda" and ranks.size == 1 and is_long


def compiled_model(model: nn.Module, tokens: int) -> nn.Module:
    """The model compiled for this run alone; without its head where the loss is taken in parts.

    Dynamo caches by function, not by model, and gives up on a function after eight shapes: a process that has
    trained eight models would train all others uncompiled, without a warning.

    Args:
        model: of a family, on its device.
        tokens: in memory at once.
    """
    torch.compiler.reset()
    wrapped: Any = model
    if vars(model).get("has_plain_head"):
        weight = wrapped.get_output_embeddings().weight
        if is_large(tokens, len(weight), weight.device):
            return _WithCompiledBody(model)
    return cast(nn.Module, torch.compile(model, dynamic=False))


class _WithCompiledBody(nn.Module):
    """What `models.build.token_losses` reads of a model whose loss is taken in parts, its body compiled."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.has_plain_head = True
        self.config = model.config
        self.base_model = torch.compile(model.base_model, dynamic=False)
        self.get_output_embeddings = model.get_output_embeddings


def _step_flops(job: TrainingJob) -> float:
    return flops_per_token(job.recipe.shape, "6N+head") * job.recipe.batch_tokens


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
    is_short = recipe.steps < LEAST_GRAPHED_STEPS or _step_flops(job) > MOST_GRAPHED_FLOPS
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
