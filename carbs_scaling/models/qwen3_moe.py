"""Qwen3's mixture of experts: each token goes through a few of many small MLPs, which a router chooses.

Yang et al. 2025 (arXiv 2505.09388, section 2). N of a law is the active one: attention, router, and the
experts that a token visits. The router is trained by an auxiliary loss too (Fedus et al., arXiv 2101.03961,
equation 4), which is part of no reported loss.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from carbs_scaling.errors import ConfigError
from carbs_scaling.models.activations import FLOAT32_BYTES, rms_norm_bytes
from carbs_scaling.models.decoder import Decoder, DecoderOptions, with_our_attention
from carbs_scaling.models.family import ModelFamily, ModelShape

if TYPE_CHECKING:
    from torch import nn

INT64_BYTES = 8


@dataclass(frozen=True)
class MixtureOptions(DecoderOptions):
    """What may be chosen of a mixture of experts.

    Args:
        mlp_ratio: width of one expert over d. Two experts of 4/3 d are as many active weights as Llama's MLP.
        experts: of a block.
        experts_per_token: that a token visits.
        router_loss_weight: of the auxiliary loss that spreads the tokens over the experts, in the loss that
            is differentiated.
    """

    queries_per_key_value: int = 2
    mlp_ratio: float = 4 / 3
    experts: int = 8
    experts_per_token: int = 2
    router_loss_weight: float = 0.01  # Fedus et al. swept powers of 10: balanced, and the loss not hurt

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.experts_per_token <= self.experts:
            raise ConfigError(
                f"model.experts_per_token={self.experts_per_token} must lie between 1 and "
                f"model.experts={self.experts}"
            )
        if not 0 <= self.router_loss_weight < float("inf"):
            raise ConfigError(f"model.router_loss_weight={self.router_loss_weight} must not be negative")


class Qwen3Mixture(Decoder):
    """See `ModelFamily`."""

    name = "qwen3_moe"
    options_type = MixtureOptions
    norms_heads = True

    def params(self, shape: ModelShape) -> int:
        """Active: attention, router, and the three matrices of each expert that a token visits."""
        return self._with_experts(shape, shape.options.experts_per_token)

    def block_params(self, shape: ModelShape) -> int:
        """Attention, router, and the three matrices of every expert."""
        return self._with_experts(shape, shape.options.experts)

    def stacked_params(self, shape: ModelShape) -> int:
        """The experts."""
        return self.block_params(shape) - self._with_experts(shape, 0)

    def _with_experts(self, shape: ModelShape, experts: int) -> int:
        router = shape.width * shape.options.experts
        expert = 3 * shape.width * self.intermediate_size(shape)
        return int(shape.depth * (self.attention_params(shape) + router + experts * expert))

    def cast_params(self, shape: ModelShape) -> int:
        """Attention, router and all experts (`autocast_experts`)."""
        return self.block_params(shape) + self.head_params(shape)

    def mlp_bytes(self, shape: ModelShape, bytes_per_activation: int) -> int:
        """Norm, router with its auxiliary loss, and the visits to experts."""
        options = shape.options
        # A softmax, the auxiliary loss's own in the precision of the scores, and the sum of those chosen.
        router = (FLOAT32_BYTES + bytes_per_activation) * options.experts + FLOAT32_BYTES
        visits = options.experts_per_token * visit_bytes(
            shape.width, self.intermediate_size(shape), bytes_per_activation
        )
        return rms_norm_bytes(shape.width, bytes_per_activation, readers=1) + router + visits

    def block_gradient_bytes(self, shape: ModelShape, tokens: int, bytes_per_activation: int) -> int:
        """The residual stream, and for each visit the MLP's gate, up and product; or the experts' matrices.

        Gate and up of all experts have a gradient at once, before it is added to that of earlier
        micro-batches; under autocast there is a copy in float32 too. By then the four inner tensors of each
        visit are gone, and two are back.
        """
        inner = self.intermediate_size(shape)
        visits = bytes_per_activation * tokens * shape.options.experts_per_token * inner
        copies = FLOAT32_BYTES + (bytes_per_activation if bytes_per_activation < FLOAT32_BYTES else 0)
        matrices = copies * 2 * shape.options.experts * shape.width * inner
        return FLOAT32_BYTES * tokens * shape.width + max(3 * visits, matrices - 2 * visits)

    def build(self, shape: ModelShape) -> "nn.Module":
        """A `Qwen3MoeForCausalLM` whose output holds the auxiliary loss."""
        from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
        from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeForCausalLM

        from carbs_scaling.models.experts import EXPERTS

        options = shape.options
        config = Qwen3MoeConfig(
            **self.settings(shape),
            moe_intermediate_size=self.intermediate_size(shape),
            num_experts=options.experts,
            num_experts_per_tok=options.experts_per_token,
            norm_topk_prob=True,
            output_router_logits=True,
            router_aux_loss_coef=options.router_loss_weight,
        )
        model = Qwen3MoeForCausalLM(with_our_attention(config))
        model.config._experts_implementation = EXPERTS
        return model


def visit_bytes(width: int, intermediate_size: int, bytes_per_activation: int) -> int:
    """Bytes that one visit of a token to an expert keeps.

    The token, gate and up, SiLU, product and output. Then the expert's weight in the sum, twice. Then five
    positions: the expert's number for router and auxiliary loss, the order of the visits and back.
    """
    values = bytes_per_activation * (2 * width + 4 * intermediate_size)
    return values + FLOAT32_BYTES + bytes_per_activation + 5 * INT64_BYTES


FAMILY: ModelFamily = Qwen3Mixture()
