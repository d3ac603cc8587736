"""What a run learns from, how a batch becomes a loss, and what is measured of the trained model."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from carbs_scaling.data.examples import Examples, LabelledExamples
from carbs_scaling.data.prepared import PreparedText
from carbs_scaling.data.rows import PreparedRows, RowWindows
from carbs_scaling.data.windows import Indices, Windows, training_windows, validation_windows
from carbs_scaling.training.config import SCORES
from carbs_scaling.training.evaluation import confusion
from carbs_scaling.training.losses import LabelLosses, Losses, ResponseLosses
from carbs_scaling.training.saved_model import load_tokenizer, save_classifier, save_model
from carbs_scaling.training.step import TOKEN_LOSSES

# Where a run's data is; each kind of it is learnt in its own way.
Material = PreparedText | LabelledExamples | PreparedRows


class HeldOut(Windows, Protocol):
    """Windows whose number is known."""

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Learning:
    """Examples, their loss, and what a loss means.

    Args:
        train, held_out: what is trained on, and scored.
        losses: of a batch.
        unit: of the loss, a key of the metrics.
        most_loss: a larger held-out loss counts as divergence: that of one who knows nothing.
        material: where all of it is.
    """

    train: Windows
    held_out: HeldOut
    losses: Losses
    unit: str
    most_loss: float
    material: Material

    def measured(
        self, loss: float, model: nn.Module, indices: Indices, device: torch.device
    ) -> dict[str, float]:
        """All metrics of a model whose mean loss on the held-out windows `indices`, [n], is known."""
        if isinstance(self.losses, LabelLosses):
            return {self.unit: loss, **scores(confusion(model, self.held_out, indices, device, self.losses))}
        found = {self.unit: loss}
        if isinstance(self.material, PreparedText) and self.material.bytes_per_token is not None:
            found["bits_per_byte"] = bits_per_byte(loss, self.material.bytes_per_token)
        return found

    def fit(self, model: nn.Module) -> nn.Module:
        """The model, told which token fills up a text."""
        if isinstance(self.material, LabelledExamples) and not self.material.form.of_images:
            whole: Any = model
            whole.config.pad_token_id = self.material.pad
            # GPT-2 warns of padding without a mask, which causal attention never sees, and waits for the GPU.
            getattr(whole, "base_model", whole).warn_if_padding_and_no_attention_mask = _no_warning
        return model

    def saver(self, tokenizer_name: str) -> "Saver":
        """What saves the model; a tokenizer that cannot be loaded is reported here.

        Raises:
            ConfigError: it cannot be loaded.
        """
        return Saver(self.material, load_tokenizer(tokenizer_name))


@dataclass(frozen=True)
class Saver:
    """Saves trained models as `transformers` loads them.

    Args:
        material: that they were trained on.
        tokenizer: of their texts; None for images, and where it is not known.
    """

    material: Material
    tokenizer: Any

    def __call__(self, model: nn.Module, folder: str | Path) -> None:
        """Writes a model, which is for nothing else after that."""
        if isinstance(self.material, LabelledExamples):
            save_classifier(model, self.tokenizer, folder, self.material.classes)
        else:
            save_model(model, self.tokenizer, folder)


def learning(material: Material, sequence_length: int) -> Learning:
    """What is learnt from some material.

    Raises:
        DataError: it is too short for one window.
    """
    if isinstance(material, LabelledExamples):
        form = material.form
        return Learning(
            train=Examples(material, "train"),
            held_out=Examples(material, "validation"),
            losses=LabelLosses(form.channels, form.image_size, material.pad),
            unit="nats_per_label",
            most_loss=math.inf,  # one who has learnt the examples by heart may be sure, and wrong
            material=material,
        )
    if isinstance(material, PreparedRows):
        return Learning(
            train=RowWindows(material, "train"),
            held_out=RowWindows(material, "validation"),
            losses=ResponseLosses(),
            unit="nats_per_token",
            most_loss=math.log(material.vocabulary_size),
            material=material,
        )
    return Learning(
        train=training_windows(material, sequence_length),
        held_out=validation_windows(material, sequence_length),
        losses=TOKEN_LOSSES,
        unit="nats_per_token",
        most_loss=math.log(material.vocabulary_size),
        material=material,
    )


def _no_warning(*arguments: Any) -> None:
    """Stands in for a check of each batch."""


def objective_value(metric: str, measured: dict[str, float]) -> float:
    """What a search minimises: a loss, or what a share of right answers lacks of 1."""
    return 1 - measured[metric] if metric in SCORES else measured[metric]


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Cross-entropy in bits a byte of text, which compares across vocabularies."""
    return nats_per_token / math.log(2) / bytes_per_token


def scores(counts: npt.NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, F1 and Matthews' correlation of a confusion matrix, int64 [true class, predicted class].

    F1 is that of class 1 where there are two classes, as GLUE has it, else the mean over classes. Matthews'
    correlation of several classes is Gorodkin's (2004, doi 10.1016/j.compbiolchem.2004.09.006); 0 where
    all predictions, or all labels, are of one class.
    """
    matrix = counts.astype(np.float64)
    total, right = matrix.sum(), np.diag(matrix)
    true, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    f1 = np.divide(2 * right, true + predicted, out=np.zeros(len(right)), where=true + predicted > 0)
    spread = np.sqrt((total**2 - (predicted**2).sum()) * (total**2 - (true**2).sum()))
    covariance = right.sum() * total - (true * predicted).sum()
    return {
        "accuracy": float(right.sum() / total),
        "f1": float(f1[1] if len(f1) == 2 else f1.mean()),
        "matthews": float(covariance / spread) if spread > 0 else 0.0,
    }
