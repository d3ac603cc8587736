"""What a model family is, and the shape of a model. Imports no PyTorch: the configuration is checked with it.

A family is one module of this package that holds a `FAMILY`; `model.architecture` is the module's name.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Protocol

from carbs_scaling.errors import ConfigError
from carbs_scaling.registry import Registry

if TYPE_CHECKING:
    from torch import nn

FAMILIES = Registry(
    "carbs_scaling.models",
    "FAMILY",
    "model.architecture",
    shared=frozenset({"activations", "attention", "build", "family", "parametrization"}),
)


@dataclass(frozen=True)
class ModelShape:
    """The shape of a decoder-only transformer, in the field's usual letters: d, L, V, T.

    Args:
        architecture: name of the family, one of `FAMILIES.names`.
        width: residual width d; a multiple of `head_size`.
        depth: number of blocks L.
        head_size: width of one attention head.
        vocabulary_size: number of tokens V.
        sequence_length: tokens a sequence T.

    Raises:
        ConfigError: there is no such family, a size is not positive, `head_size` does not divide `width`, or
            the family has no model of this shape.
    """

    architecture: str
    width: int
    depth: int
    head_size: int
    vocabulary_size: int
    sequence_length: int

    def __post_init__(self) -> None:
        for name in ("width", "depth", "head_size", "vocabulary_size", "sequence_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.width % self.head_size:
            raise ConfigError(f"width {self.width} is not a multiple of the head size {self.head_size}")
        self.family.check(self)

    @property
    def family(self) -> "ModelFamily":
        """The family that this is a shape of."""
        return load_family(self.architecture)

    @property
    def heads(self) -> int:
        """Attention heads a block."""
        return self.width // self.head_size

    @cached_property  # read thousands of times a proposal
    def params(self) -> int:
        """Non-embedding parameters N; see `ModelFamily.params`."""
        return self.family.params(self)


class ModelFamily(Protocol):
    """Everything the program knows of one kind of model. Counts are exact: a test holds them to PyTorch's.

    `name` is the name of the module and of the option in `conf/model/`.
    """

    name: str

    def check(self, shape: ModelShape) -> None:
        """Refuses a shape that the family does not have, beyond what `ModelShape` checks.

        Raises:
            ConfigError: one line that names the option to change.
        """
        ...

    def params(self, shape: ModelShape) -> int:
        """Non-embedding parameters N: the weight matrices of the blocks.

        Biases, norms, embeddings and the output head are left out, as in Kaplan et al. (arXiv 2001.08361,
        table 1).
        """
        ...

    def total_params(self, shape: ModelShape) -> int:
        """All trained parameters, with embeddings, biases and norms; a tied head counts once."""
        ...

    def intermediate_size(self, shape: ModelShape) -> int:
        """Width of the MLP inside a block."""
        ...

    def head_params(self, shape: ModelShape) -> int:
        """Weights that the output head multiplies by, V d, tied to the embedding or not."""
        ...

    def attention_flops_per_token(self, shape: ModelShape) -> float:
        """Training FLOPs a token of attention scores and sums over the whole T x T square."""
        ...

    def activation_bytes(self, shape: ModelShape, sequences: int, bytes_per_activation: int) -> int:
        """Bytes that blocks and final norm keep for the backward pass, without cast copies of the matrices.

        Args:
            shape: the model.
            sequences: those in memory at once.
            bytes_per_activation: 4 in float32; 2 under bfloat16 autocast, where norms and the residual stream
                stay in 4.
        """
        ...

    def block_gradient_bytes(self, shape: ModelShape, bytes_per_activation: int) -> int:
        """Bytes a token of the gradients that live together in the backward pass of one block."""
        ...

    def build(self, shape: ModelShape) -> "nn.Module":
        """A model on the CPU in float32, with weights drawn from PyTorch's global generator.

        Call `models.build.build_model`, which seeds that generator and puts it back.
        """
        ...


@cache
def load_family(name: str) -> ModelFamily:
    """The family called `name`; kept, because a proposal prices thousands of shapes.

    Raises:
        ConfigError: there is none of this name.
    """
    family: ModelFamily = FAMILIES.load(name)
    return family
