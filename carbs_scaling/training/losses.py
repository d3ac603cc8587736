"""How a batch becomes a loss: of next tokens, of the classes of texts or images, of the answers in rows.

A batch is one tensor, whose first dimension counts windows or examples.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from carbs_scaling.models.build import token_losses


class Losses(Protocol):
    """The loss of a batch."""

    def __call__(
        self, model: nn.Module, batch: torch.Tensor, reduction: str = "mean"
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The loss in nats, [], its `mean` or `sum`, and what is trained beside it and never reported."""
        ...

    def counted(self, batch: torch.Tensor) -> torch.Tensor | int:
        """What the mean of a batch is over: tokens, or examples."""
        ...


@dataclass(frozen=True)
class TokenLosses:
    """Of the last T ids of each window given those before, int64 [b, T + 1]; see `build.token_losses`."""

    def __call__(
        self, model: nn.Module, batch: torch.Tensor, reduction: str = "mean"
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Losses`."""
        return token_losses(model, batch, reduction)

    def counted(self, batch: torch.Tensor) -> int:
        """Tokens that are predicted."""
        return len(batch) * (batch.shape[1] - 1)


@dataclass(frozen=True)
class LabelLosses:
    """Of the classes of whole inputs, rows of `data.examples.Examples`.

    Args:
        channels, image_size: of images; 0 for texts.
        pad: token that fills up texts.
    """

    channels: int = 0
    image_size: int = 0
    pad: int = 0

    def scores(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Scores of the classes, [b, classes]."""
        config: Any = getattr(model, "module", model).config
        rows = batch[:, :-1]
        if self.image_size:
            pixels = rows.view(len(batch), self.channels, self.image_size, self.image_size)
            scores: torch.Tensor = model(pixel_values=pixels).logits
            return scores
        tokens, types = rows.chunk(2, dim=1)
        given: dict[str, Any] = {"input_ids": tokens}
        # With our causal attention no token sees what fills up the text behind it.
        from carbs_scaling.models.attention import ATTENTION  # imports all of `transformers`' modelling

        if getattr(config, "_attn_implementation", None) != ATTENTION:
            given["attention_mask"] = (tokens != self.pad).long()
        if getattr(config, "type_vocab_size", 0) > 1:
            given["token_type_ids"] = types
        scores = model(**given).logits
        return scores

    def __call__(
        self, model: nn.Module, batch: torch.Tensor, reduction: str = "mean"
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Losses`."""
        return cross_entropy(self.scores(model, batch), self.labels(batch), reduction=reduction), None

    def labels(self, batch: torch.Tensor) -> torch.Tensor:
        """Numbers of the classes, int64 [b]."""
        return batch[:, -1].long()

    def counted(self, batch: torch.Tensor) -> int:
        """Examples."""
        return len(batch)


@dataclass(frozen=True)
class ResponseLosses:
    """Of the tokens of responses alone: int64 [b, 2, T + 1], ids and whether each is one that is learnt."""

    def __call__(
        self, model: nn.Module, batch: torch.Tensor, reduction: str = "mean"
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Losses`."""
        ids, learnt = batch.unbind(1)
        targets = torch.where(learnt[:, 1:] > 0, ids[:, 1:], -100).flatten()
        scores: torch.Tensor = model(input_ids=ids[:, :-1], use_cache=False).logits
        return cross_entropy(scores.flatten(0, 1), targets, reduction=reduction), None

    def counted(self, batch: torch.Tensor) -> torch.Tensor:
        """Tokens of responses that are predicted, []."""
        return batch[:, 1, 1:].sum()
