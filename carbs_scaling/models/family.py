"""What a model family is, and the shape of a model. Imports no PyTorch: the configuration is checked with it.

A family is one module of this package that holds a `FAMILY`; `model.architecture` is the module's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol

from carbs_scaling.errors import ConfigError
from carbs_scaling.registry import Registry

if TYPE_CHECKING:
    from torch import nn

FAMILIES = Registry(
    "carbs_scaling.models",
    "FAMILY",
    "model.architecture",
    shared=frozenset(
        {
            "activations", "attention", "build", "cross_entropy", "decoder", "experts", "family", "lora",
            "measured", "parametrization", "stock",
        }
    ),
)  # fmt: skip


# GPT-2's standard deviation of initial weights, .02, is for its width of 768.
REFERENCE_WIDTH, REFERENCE_SD = 768, 0.02


@dataclass(frozen=True)
class NoOptions:
    """A family without options of its own."""


@dataclass(frozen=True)
class ModelShape:
    """The shape of a transformer, in the field's usual letters: d, L, V, T.

    Args:
        architecture: name of the family, one of `FAMILIES.names`.
        width: residual width d; a multiple of `head_size`.
        depth: number of blocks L.
        head_size: width of one attention head.
        vocabulary_size: number of tokens V.
        sequence_length: tokens a sequence T.
        options: what else the family asks for, its `options_type`, or a mapping of that type's fields. None
            for its defaults.
        classes: that the head tells apart, for a whole input; None for a model of the next token.

    Raises:
        ConfigError: there is no such family, a size is not positive, `head_size` does not divide `width`, an
            option cannot be, or the family has no model of this shape.
    """

    architecture: str
    width: int
    depth: int
    head_size: int
    vocabulary_size: int
    sequence_length: int
    options: Any = None
    classes: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", checked_options(self.family, self.options))
        for name in ("width", "depth", "head_size", "vocabulary_size", "sequence_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.width % self.head_size:
            raise ConfigError(f"width {self.width} is not a multiple of the head size {self.head_size}")
        for name, value in self.family.fixed_sizes(self.options).items():
            if getattr(self, name) != value:
                raise ConfigError(
                    f"model={self.architecture} has {name}={value} by its options, not {getattr(self, name)}"
                )
        if self.classes is not None and not self.family.classifies:
            raise ConfigError(f"model={self.architecture} has no head for classes: choose another model")
        self.family.check(self)

    @property
    def scores(self) -> int:
        """Values that the head gives: one a class, or one a token of the vocabulary."""
        return self.vocabulary_size if self.classes is None else self.classes

    @property
    def family(self) -> "ModelFamily":
        """The family that this is a shape of."""
        return load_family(self.architecture)

    @property
    def heads(self) -> int:
        """Attention heads a block."""
        return self.width // self.head_size

    @property
    def initial_weight_sd(self) -> float:
        """Standard deviation of initial weights: as 1/sqrt(width), so that a block's outputs do not fade.

        With the constant .02 further blocks of a narrow model learn next to nothing in a short run
        (docs/log.md, "why were all front points one block deep?").
        """
        return REFERENCE_SD * (REFERENCE_WIDTH / self.width) ** 0.5

    @cached_property  # read thousands of times a proposal
    def params(self) -> int:
        """Non-embedding parameters N; see `ModelFamily.params`."""
        return self.family.params(self)


class ModelFamily(Protocol):
    """Everything the program knows of one kind of model. Counts are exact: a test holds them to PyTorch's.

    A subclass inherits the methods and attributes that have a default here.

    Attributes:
        name: name of the module and of the option in `conf/model/`.
        options_type: a frozen dataclass of plain JSON values with defaults and checks: what
            `conf/model/NAME.yaml` says beyond the sizes.
        has_plain_head: whether the scores are the final hidden states times one matrix and nothing else, so
            that the loss over a large vocabulary can be taken in parts (`models.cross_entropy`).
        has_parametrizations: whether `models.parametrization` knows its parameters.
        inputs: `tokens` or `images`.
        classifies: whether it also comes with a head for classes, `ModelShape.classes`.
    """

    name: str
    options_type: type = NoOptions
    has_plain_head: bool = False
    has_parametrizations: bool = True
    inputs: str = "tokens"
    classifies: bool = False

    def fixed_sizes(self, options: Any) -> dict[str, int]:
        """Sizes of `ModelShape` that the options decide, by name; a search cannot vary them.

        Raises:
            ConfigError: what the options name cannot be read.
        """
        return {}

    def width_step(self, options: Any, head_size: int) -> int:
        """What widths are multiples of."""
        return head_size

    def tokenizer(self, options: Any) -> str | None:
        """The only tokenizer that the model can be trained with, as in `data.tokenizer`; None for any."""
        return None

    def check(self, shape: ModelShape) -> None:
        """Refuses a shape that the family does not have, beyond what `ModelShape` checks.

        Raises:
            ConfigError: one line that names the option to change.
        """
        return None

    def params(self, shape: ModelShape) -> int:
        """Non-embedding parameters N: the weights of the blocks' matrices that one token is multiplied by.

        Biases, norms, embeddings and the output head are left out, as in Kaplan et al. (arXiv 2001.08361,
        table 1). In a mixture of experts these are the active ones: the router and the chosen experts.
        """
        ...

    def block_params(self, shape: ModelShape) -> int:
        """All weights of the blocks' matrices: N, and the experts that a token does not visit."""
        return self.params(shape)

    def stacked_params(self, shape: ModelShape) -> int:
        """Those of `block_params` in tensors of more than two dimensions, such as all experts of a block."""
        return 0

    def total_params(self, shape: ModelShape) -> int:
        """All trained parameters, with embeddings, biases and norms; a tied head counts once."""
        ...

    def trained_params(self, shape: ModelShape) -> int:
        """Those of `total_params` that are trained: all, but with adapters beside frozen weights."""
        return self.total_params(shape)

    def head_params(self, shape: ModelShape) -> int:
        """Weights that the output head multiplies by, V d, tied to the embedding or not."""
        return shape.scores * shape.width

    def scored_positions(self, shape: ModelShape) -> int:
        """Positions of a sequence that the head scores: T, or 1 where a whole input gets one label."""
        return shape.sequence_length

    def attention_flops_per_token(self, shape: ModelShape) -> float:
        """Training FLOPs a token of attention scores and sums over the whole T x T square.

        Scores and sums are a multiply-add each for T positions of d channels, forward and twice back.
        """
        return 12.0 * shape.depth * shape.width * shape.sequence_length

    def matrix_flops_per_token(self, shape: ModelShape) -> float:
        """Training FLOPs a token of the matrices of N."""
        return 6.0 * shape.params

    def head_flops_per_token(self, shape: ModelShape) -> float:
        """Training FLOPs a token of the output head."""
        return 6.0 * self.head_params(shape) * self.scored_positions(shape) / shape.sequence_length

    def embedding_flops_per_token(self, shape: ModelShape) -> float:
        """Training FLOPs a token of an input layer that multiplies, as that of patches does."""
        return 0.0

    def cast_params(self, shape: ModelShape) -> int:
        """Weights that autocast keeps a second time in 2 bytes: all matrices that it multiplies by."""
        return self.block_params(shape) + self.head_params(shape)

    def activation_bytes(self, shape: ModelShape, sequences: int, bytes_per_activation: int) -> int:
        """Bytes that blocks and final norm keep for the backward pass, without cast copies of the matrices.

        Args:
            shape: the model.
            sequences: those in memory at once.
            bytes_per_activation: 4 in float32; 2 under bfloat16 autocast, where norms and the residual stream
                stay in 4.
        """
        ...

    def block_gradient_bytes(self, shape: ModelShape, tokens: int, bytes_per_activation: int) -> int:
        """Bytes of the gradients that `tokens` tokens have at once in the backward pass of one block."""
        ...

    def build(self, shape: ModelShape) -> "nn.Module":
        """A model on the CPU in float32, with weights drawn from PyTorch's global generator.

        Call `models.build.build_model`, which seeds that generator and puts it back.
        """
        ...


def checked_options(family: ModelFamily, options: Any) -> Any:
    """A family's options as its `options_type`, from that, from a mapping of its fields, or from None.

    Raises:
        ConfigError: an option that the family does not have, or a value that cannot be.
    """
    kind = family.options_type
    if isinstance(options, kind):
        return options
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(f"{type(options).__name__} are no options of model.architecture={family.name}")
    try:
        return kind(**(options or {}))
    except TypeError as error:
        known = ", ".join(signature(kind).parameters) or "none"
        raise ConfigError(f"model.architecture={family.name} has the options {known}: {error}") from error


@cache
def load_family(name: str) -> ModelFamily:
    """The family called `name`; kept, because a proposal prices thousands of shapes.

    Raises:
        ConfigError: there is none of this name.
    """
    family: ModelFamily = FAMILIES.load(name)
    return family
