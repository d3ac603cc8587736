"""A model of any family from its shape and a seed, and what it gives for a batch of tokens."""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from carbs_scaling.models.cross_entropy import is_large, linear_cross_entropy
from carbs_scaling.models.family import ModelShape
from carbs_scaling.models.parametrization import STANDARD, Parametrization, scale_initial_weights


def build_model(shape: ModelShape, seed: int, parametrization: Parametrization = STANDARD) -> nn.Module:
    """Build a model with random weights, on the CPU in float32. The global random state is left as it was.

    Args:
        shape: family and sizes.
        seed: of the initial weights.
        parametrization: how they scale with the shape.
    """
    with torch.random.fork_rng(devices=[]):
        # Not `torch.manual_seed`, which would reseed the GPUs too, and nothing would put those back.
        torch.default_generator.manual_seed(seed)
        model = shape.family.build(shape)
    plain = shape.family.has_plain_head and shape.classes is None
    model.has_plain_head = plain  # type: ignore[assignment]
    scale_initial_weights(model, shape, parametrization)
    return model


def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Scores of the next token: int64 [b, T] -> [b, T, V]."""
    scores: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
    return scores


def token_losses(
    model: nn.Module, windows: torch.Tensor, reduction: str = "mean"
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Cross-entropy of the last T ids of each window given the first T, and what is trained beside it.

    Over a large vocabulary the scores are made and differentiated a part at a time, see `cross_entropy`.

    Args:
        model: of a family, or a compiled or otherwise wrapped one.
        windows: int64 [b, T + 1].
        reduction: `mean` or `sum` over the b T tokens.

    Returns:
        The loss in nats, [], and a mixture of experts' weighted auxiliary loss, [], which training adds and
        nobody reports; None for a model without one.
    """
    tokens, targets = windows[:, :-1], windows[:, 1:].flatten()
    config: Any = getattr(model, "module", model).config  # DDP passes no attributes on
    # Read from the object itself: a wrapper passes attributes on, and its forward must not be gone around.
    if vars(model).get("has_plain_head") and is_large(len(targets), config.vocab_size, targets.device):
        body: Any = model.base_model
        with_routers = getattr(config, "output_router_logits", False)
        extra = {"output_router_logits": True} if with_routers else {}
        output = body(input_ids=tokens, use_cache=False, **extra)
        head: Any = model.get_output_embeddings()  # type: ignore[operator]
        hidden = output.last_hidden_state.flatten(0, 1)
        loss = linear_cross_entropy(hidden, head.weight, targets, reduction)
        balance = _balance(config, output.router_logits) if with_routers else None
    else:
        output = model(input_ids=tokens, use_cache=False)
        loss = cross_entropy(output.logits.flatten(0, 1), targets, reduction=reduction)
        balance = getattr(output, "aux_loss", None)
    if balance is None:
        return loss, None
    return loss, config.router_aux_loss_coef * balance


def _balance(config: Any, router_logits: Any) -> torch.Tensor:
    """The auxiliary loss of all routers, as the models of `transformers` take it from these scores."""
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

    balance = load_balancing_loss_func(router_logits, config.num_experts, config.num_experts_per_tok)
    return torch.as_tensor(balance)
