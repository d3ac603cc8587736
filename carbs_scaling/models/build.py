"""GPT-2 and Llama from their `transformers` configurations, with random weights.

`transformers` takes seconds to import, so each family is imported when the first model of it is built.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from carbs_scaling.compute.flops import ModelShape

# The name under which `transformers` knows the attention below.
ATTENTION = "carbs_scaling_packed_causal"


def packed_causal_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_,
) -> tuple[torch.Tensor, None]:
    """SDPA over whole windows, each token seeing those before it.

    `transformers` prepares a mask for its own SDPA at every call, and waits for the GPU to see that none is
    needed; for a registered attention of another name it prepares none.

    Args:
        module: the attention layer, which is not needed.
        query, key, value: [b, heads, T, head_size].
        attention_mask: None.
        scaling: of the scores; None for 1 / sqrt(head_size).

    Returns:
        [b, T, heads, head_size], and None in place of the weights.
    """
    if attention_mask is not None:
        raise ValueError("packed windows have no padding: pass no attention_mask")
    mixed = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    return mixed.transpose(1, 2), None


def build_model(shape: ModelShape, seed: int) -> nn.Module:
    """A `GPT2LMHeadModel` or `LlamaForCausalLM` of this shape, on the CPU in float32.

    The output head is tied to the embedding in both families: at these sizes an own head would hold most of
    the weights (as in GPT-2, and in Llama 3.2 at 1B). No dropout: runs of about one epoch do not need it.
    The global random state is left as it was.

    Args:
        shape: sizes.
        seed: of the initial weights.
    """
    build = _build_gpt2 if shape.architecture == "gpt2" else _build_llama
    with torch.random.fork_rng(devices=[]):
        # Not `torch.manual_seed`, which would reseed the GPUs too, and which no one would put back.
        torch.default_generator.manual_seed(seed)
        return build(shape)


def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Scores of the next token: int64 [b, T] -> [b, T, V]."""
    return model(input_ids=tokens, use_cache=False).logits


def _build_gpt2(shape: ModelShape) -> nn.Module:
    from transformers.modeling_utils import AttentionInterface
    from transformers.models.gpt2.configuration_gpt2 import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel

    AttentionInterface.register(ATTENTION, packed_causal_attention)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocabulary_size,
            n_positions=shape.sequence_length,
            n_embd=shape.width,
            n_layer=shape.depth,
            n_head=shape.heads,
            n_inner=shape.intermediate_size,
            # The same function as GPT-2's `gelu_new`, in one kernel instead of eight.
            activation_function="gelu_pytorch_tanh",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
            tie_word_embeddings=True,
            attn_implementation=ATTENTION,
        )
    )


def _build_llama(shape: ModelShape) -> nn.Module:
    from transformers.modeling_utils import AttentionInterface
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    AttentionInterface.register(ATTENTION, packed_causal_attention)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocabulary_size,
            hidden_size=shape.width,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.depth,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            head_dim=shape.head_size,
            max_position_embeddings=shape.sequence_length,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            tie_word_embeddings=True,
            attn_implementation=ATTENTION,
        )
    )
