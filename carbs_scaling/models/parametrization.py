"""Parametrizations: how initial weights and learning rates change with the shape. Imports no PyTorch.

`standard` draws all weights as 1 / sqrt(width) and has one rate. `mup` (Yang et al. 2022, arXiv 2203.03466,
table 8) keeps the size of activations and of their changes at any width, `completep` (Dey et al. 2025, arXiv
2505.01618, table 1) at any depth too, so that a learning rate that was found for one shape serves others. At
the base shape both are as standard.

With m = width / base width, and l = depth / base depth for `completep` and 1 for `mup`, by Adam's rule:

    parameters          initial deviation  learning rate  epsilon    multiplier in the forward pass
    embeddings          1                  1              1 / m
    matrices of blocks  m^-1/2             1 / m          1 / (m l)  1 / l where a residual branch ends
    gains and biases    1                  1              1 / (m l)  the same
    final norm          1                  1              1 / m
    output head         1                  1              1 / m      1 / m
    router of experts   1                  1              1 / (m l)  1 / m

A router is as a head: its outputs are the experts, whose number does not grow with the width. Weight decay is
1 / its learning rate, so that their product is the same for all matrices. An orthogonal step (`muon`) of
entries as large as Adam's has a spectral norm smaller by m^1/2, so matrices of blocks get the rate m^-1/2; a
step in proportion to the gradient (`sgd`) gets l at the matrices, m at the output head and at the embeddings,
and m l at the routers and at the gains and biases of the blocks.

No multiplier is left in the forward pass: a saved model is one that `transformers` loads. The parameter w of
a multiplier c becomes w c, trained as before: its initial weights are c times as large, its rate c times
(`sgd`: c^2), epsilon and weight decay 1 / c. The head's multiplier goes into its own weights, or, where they
are tied to the embedding, into gain and bias of the final norm before it. That is exact, but that a limit on
the norm of the gradient sees the gradients of w c.

The scale of attention is not changed: heads have one size in all shapes of a study, and more of them make a
model wider.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carbs_scaling.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from carbs_scaling.models.family import ModelFamily, ModelShape

PARAMETRIZATIONS = ("standard", "mup", "completep")
# Names of the modules and parameters that end a residual branch.
RESIDUAL = frozenset({"c_proj", "o_proj", "out_proj", "down_proj", "dense_4h_to_h", "fc2"})
# `transformers` draws the ends of these families' branches with 1 / sqrt(2 depth) already.
DRAWN_BY_DEPTH = frozenset({"gpt2"})
# All weights are drawn with 1 / sqrt(width) already (`ModelShape.initial_weight_sd`), as is right for the
# matrices of blocks; for these it is taken back.
DRAWN_BY_WIDTH = frozenset({"embedding", "head", "router"})
ROUTER = "mlp.gate."


@dataclass(frozen=True)
class Parametrization:
    """One of `PARAMETRIZATIONS`, and the shape at which it is as `standard`.

    Args:
        name: which.
        base_width: width at which rates and weights are those given.
        base_depth: the same for the depth; read by `completep`.

    Raises:
        ConfigError: there is no such parametrization, or a base that is not positive.
    """

    name: str = "standard"
    base_width: int = 64
    base_depth: int = 2

    def __post_init__(self) -> None:
        if self.name not in PARAMETRIZATIONS:
            raise ConfigError(
                f"model.parametrization={self.name} is not one of {', '.join(PARAMETRIZATIONS)}"
            )
        for key in ("base_width", "base_depth"):
            value = getattr(self, key)
            if not (isinstance(value, int) and value >= 1):
                raise ConfigError(f"model.{key}={value} must be a whole number, at least 1")

    @property
    def is_standard(self) -> bool:
        """Whether nothing changes with the shape."""
        return self.name == "standard"

    def check(self, family: "ModelFamily") -> None:
        """Refuses a family whose parameters it does not know.

        Raises:
            ConfigError: one line that says what to change.
        """
        if not (self.is_standard or family.has_parametrizations):
            raise ConfigError(
                f"model.parametrization={self.name} does not know the parameters of model={family.name}: use "
                "standard"
            )

    @property
    def description(self) -> str:
        """For people."""
        if self.is_standard:
            return self.name
        depth = f", depth {self.base_depth}" if self.name == "completep" else ""
        return f"{self.name} from width {self.base_width}{depth}"

    def factors(self, shape: "ModelShape") -> tuple[float, float]:
        """m and l of the table above."""
        depth = shape.depth / self.base_depth if self.name == "completep" else 1.0
        return (1.0, 1.0) if self.is_standard else (shape.width / self.base_width, depth)


STANDARD = Parametrization()


@dataclass(frozen=True)
class _Place:
    """What a parameter is in a model.

    Args:
        kind: `embedding`, `matrix`, `vector`, `norm` (the final one), `head`, or `router` of experts.
        ends_branch: whether its output is added to the residual stream.
        folded: its multiplier in the forward pass, which its weights take up.
    """

    kind: str
    ends_branch: bool
    folded: float


def scale_initial_weights(model: "nn.Module", shape: "ModelShape", parametrization: Parametrization) -> None:
    """Change freshly drawn weights in place.

    Args:
        model: of the family of `shape`.
        shape: its sizes.
        parametrization: what to do; nothing if it is standard.

    Raises:
        ConfigError: a model whose residual branches are not known.
    """
    if parametrization.is_standard:
        return
    import torch

    width, depth = parametrization.factors(shape)
    drawn_by_depth = getattr(model.config, "model_type", "") in DRAWN_BY_DEPTH
    with torch.no_grad():
        for parameter, place in _places(model, width, depth):
            factor = place.folded
            if place.kind in DRAWN_BY_WIDTH:
                factor *= width**0.5
            if place.kind == "matrix" and place.ends_branch and drawn_by_depth:
                factor *= depth**0.5
            parameter.mul_(factor)


def parameter_multipliers(
    model: "nn.Module",
    shape: "ModelShape",
    parametrization: Parametrization,
    rule: str,
    hidden_rule: str,
) -> "Mapping[nn.Parameter, tuple[float, float, float]]":
    """Factors of learning rate, weight decay and epsilon of each parameter; empty if all are 1.

    Args:
        model: with weights of `scale_initial_weights`.
        shape: its sizes.
        parametrization: what to do.
        rule: how steps scale with gradients: `adam` or `sgd`.
        hidden_rule: the same for the matrices of the blocks; also `muon`.
    """
    if parametrization.is_standard:
        return {}
    width, depth = parametrization.factors(shape)
    found: dict[nn.Parameter, tuple[float, float, float]] = {}
    for parameter, place in _places(model, width, depth):
        is_hidden = place.kind in ("matrix", "router") and parameter.ndim == 2
        own = hidden_rule if is_hidden else rule
        rate = _rates(own, width, depth)[place.kind] * place.folded ** (2 if own == "sgd" else 1)
        in_block = place.kind in ("matrix", "vector", "router")
        epsilon = 1 / (width * (depth if in_block else 1.0)) / place.folded
        found[parameter] = (rate, 1 / rate, epsilon)
    return found


def _rates(rule: str, width: float, depth: float) -> dict[str, float]:
    """Factors of the learning rate by the kind of parameter, before folding."""
    if rule == "sgd":
        outer = {"embedding": width, "norm": width, "head": width}
        return {**outer, "matrix": depth, "vector": width * depth, "router": width * depth}
    matrix = width**-0.5 if rule == "muon" else 1 / width
    return {"embedding": 1.0, "norm": 1.0, "head": 1.0, "router": 1.0, "vector": 1.0, "matrix": matrix}


def _places(model: Any, width: float, depth: float) -> "Iterator[tuple[nn.Parameter, _Place]]":
    """Every parameter of the model with its place."""
    from torch import nn

    embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    head = set(model.get_output_embeddings().parameters()) - embeddings
    in_blocks = re.compile(r"(^|\.)\d+\.")
    ends = 0
    for name, parameter in model.named_parameters():
        if parameter in embeddings:
            place = _Place("embedding", False, 1.0)
        elif parameter in head:
            place = _Place("head", False, 1 / width)
        elif in_blocks.search(name) is None:
            place = _Place("norm", False, 1.0 if head else 1 / width)
        elif ROUTER in name:
            place = _Place("router", False, 1 / width)
        else:
            ends_branch = not RESIDUAL.isdisjoint(name.split("."))
            ends += ends_branch
            kind = "matrix" if parameter.ndim >= 2 else "vector"
            place = _Place(kind, ends_branch, 1 / depth if ends_branch else 1.0)
        yield parameter, place
    if depth != 1 and not ends:
        raise ConfigError(
            f"model.parametrization=completep does not know where the residual branches of "
            f"{type(model).__name__} end: use mup"
        )
