"""One legal training run of a language model, as plain values."""

from dataclasses import asdict, dataclass
from typing import Any

from carbs_scaling.models.family import ModelShape
from carbs_scaling.models.parametrization import STANDARD, Parametrization

# What a recipe says of its optimizer, beside learning rate and warmup.
OPTIMIZER_VALUES = ("weight_decay", "beta1", "beta2", "epsilon", "adamw_rate_ratio")


@dataclass(frozen=True)
class Recipe:
    """One legal training run: everything that is proposed for it, nothing about where it runs.

    Args:
        shape: the model.
        learning_rate: peak learning rate.
        batch_size: sequences a step; `batch_tokens` is this times the sequence length.
        steps: optimizer steps; `tokens` is this times `batch_tokens`.
        weight_decay: of the weight matrices, as the optimizer does it.
        beta2: decay of Adam's second moment.
        warmup_fraction: share of the steps in which the learning rate rises from 0, in [0, 1).
        seed: of the initial weights and the order of the training windows.
        beta1: decay of Adam's first moment; momentum of SGD and Muon, in [0, 1).
        epsilon: of Adam's denominator.
        adamw_rate_ratio: rate of what Muon leaves to AdamW over the learning rate.
        parametrization: how initial weights and rates change with the shape.
    """

    shape: ModelShape
    learning_rate: float
    batch_size: int
    steps: int
    weight_decay: float
    beta2: float
    warmup_fraction: float
    seed: int
    beta1: float = 0.9
    epsilon: float = 1e-8
    adamw_rate_ratio: float = 1.0
    parametrization: Parametrization = STANDARD

    def __post_init__(self) -> None:
        self.parametrization.check(self.shape.family)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        if self.batch_size < 1 or self.steps < 1:
            raise ValueError(f"batch_size and steps must be at least 1, not {self.batch_size}, {self.steps}")
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(f"warmup_fraction must lie in [0, 1), not {self.warmup_fraction}")
        if not 0 < self.beta2 < 1:
            raise ValueError(f"beta2 must lie in (0, 1), not {self.beta2}")
        if not 0 <= self.beta1 < 1:
            raise ValueError(f"beta1 must lie in [0, 1), not {self.beta1}")
        for name in ("epsilon", "adamw_rate_ratio"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, not {self.weight_decay}")

    @property
    def params(self) -> int:
        """Non-embedding parameters N."""
        return self.shape.params

    @property
    def batch_tokens(self) -> int:
        """Tokens a step B."""
        return self.batch_size * self.shape.sequence_length

    @property
    def tokens(self) -> int:
        """Training tokens D."""
        return self.steps * self.batch_tokens

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> "Recipe":
        """The inverse of `to_dict`."""
        shape = ModelShape(**fields["shape"])
        parametrization = Parametrization(**fields["parametrization"])
        return Recipe(**{**fields, "shape": shape, "parametrization": parametrization})
