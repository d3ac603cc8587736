"""What stands beside a trained model: a model card for people, the recipe, and the record of its training."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from carbs_scaling import __version__
from carbs_scaling.files import write_atomically
from carbs_scaling.models.family import ModelShape
from carbs_scaling.numbers import compact
from carbs_scaling.training.recipe_file import RecipeFile
from carbs_scaling.trial import Completed, Energy

RECORD_FORMAT = 1
# Task on the hub, and the classes of `transformers` that load a model and what it reads by.
KINDS = {
    "text": ("text-generation", "AutoModelForCausalLM", "AutoTokenizer"),
    "tokens": ("text-classification", "AutoModelForSequenceClassification", "AutoTokenizer"),
    "images": ("image-classification", "AutoModelForImageClassification", "AutoImageProcessor"),
}
# The record is written last: it says that the model is whole.
RECORD, RECIPE, CARD = "training.json", "recipe.json", "README.md"
# What is said of the tokenizer, by `data.tokenizer`.
TOKENIZERS = {
    "bytes": "\nEach UTF-8 byte is a token, with the byte's value as its id; byte 0 ends a text.\n",
    "bpe": "\nThe tokenizer is a byte-level BPE that was made from the training text.\n",
    "none": "\nThe text was tokenized elsewhere: the tokenizer is not in this folder.\n",
}
PICTURE = "curve.png"  # of the losses; `train` draws it, a search does not


def write_card(folder: Path, recipe: RecipeFile, outcome: Completed, text: str) -> None:
    """Write README.md, recipe.json and training.json beside a saved model.

    Args:
        folder: of the model.
        recipe: what was trained.
        outcome: of the training.
        text: one line on the data.

    Raises:
        CarbsScalingError: a file cannot be written.
    """
    write_atomically(folder / RECIPE, recipe.to_json())
    picture = f"\n![loss along the run]({PICTURE})\n" if (folder / PICTURE).exists() else ""
    write_atomically(folder / CARD, f"{_card(recipe, outcome, text)}{picture}".encode())
    record = json.dumps(training_record(recipe, outcome, text), indent=1)
    write_atomically(folder / RECORD, f"{record}\n".encode())


def training_record(recipe: RecipeFile, outcome: Completed, text: str) -> dict[str, Any]:
    """The run in figures, as plain JSON types."""
    tokens = recipe.recipe.tokens
    return {
        "format": RECORD_FORMAT,
        "name": recipe.name,
        "carbs_scaling": __version__,
        "loss": outcome.loss,
        "metric": recipe.objective.metric,
        "losses": outcome.metrics,
        "validation_tokens": recipe.objective.validation_tokens,
        "data_sha256": recipe.data_sha256,
        "data": text,
        "tokens": tokens,
        "flops": recipe.flops,
        "flops_convention": recipe.flops_convention,
        "seconds": outcome.seconds,
        "tokens_per_second": tokens / outcome.seconds if outcome.seconds > 0 else None,
        "flops_per_second": recipe.flops / outcome.seconds if outcome.seconds > 0 else None,
        "device": outcome.device,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "energy": None if outcome.energy is None else asdict(outcome.energy),
        "precision": outcome.precision,
        "recomputation": outcome.recomputation,
        "prediction": recipe.to_dict()["prediction"],
    }


def _params(shape: ModelShape) -> str:
    """N; of a mixture of experts the active and the whole one."""
    whole = shape.family.block_params(shape)
    return f"{shape.params:,}" + ("" if whole == shape.params else f" active, {whole:,} with all experts")


def _energy(energy: Energy) -> str:
    return f"{compact(energy.joules)} J, {energy.co2_grams:.3g} g CO2 ({energy.source})"


def _card(file: RecipeFile, outcome: Completed, text: str) -> str:
    recipe, shape, prediction = file.recipe, file.recipe.shape, file.prediction
    unit = file.objective.metric.replace("_", " ")
    predicted = "no law was asked"
    if prediction is not None:
        low, high = prediction.interval
        predicted = f"{prediction.loss:.4f} ({prediction.level:.0%} interval {low:.4f} to {high:.4f})"
    if shape.classes is None:
        scored = f"{outcome.loss:.4f} {unit}, {file.objective.validation_tokens:,} tokens"
    else:
        scored = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in outcome.metrics.items())
    rows = {
        "held-out loss": scored,
        "predicted loss": predicted,
        "parameters N (non-embedding)": _params(shape),
        "all parameters": f"{shape.family.total_params(shape):,}",
        "shape": f"{shape.architecture}, {shape.width} x {shape.depth}, heads of {shape.head_size}",
        "vocabulary, sequence length": f"{shape.vocabulary_size:,}, {shape.sequence_length:,} tokens",
        "training tokens D": f"{recipe.tokens:,} in {recipe.steps:,} steps of {recipe.batch_tokens:,}",
        "epochs": f"{outcome.metrics.get('epochs', 1.0):.3g} (how often it saw each token that it saw)",
        "training FLOPs": f"{file.flops:.4g} ({file.flops_convention})",
        "peak learning rate": f"{recipe.learning_rate:.4g}, warmup {recipe.warmup_fraction:.1%} of the steps",
        "schedule": ", ".join(
            [file.schedule.name]
            + [
                f"{n.replace('_', ' ')} {getattr(file.schedule, n)}"
                for n in file.schedule.read
                if n != "name"
            ]
        ),
        "optimizer": f"{file.optimizer.name}, beta1 {recipe.beta1}, beta2 {recipe.beta2}, epsilon "
        f"{recipe.epsilon}, weight decay {recipe.weight_decay}, clip {file.optimizer.gradient_clip_norm}",
        "parametrization": recipe.parametrization.description,
        "seed": str(recipe.seed),
        "data": text,
        "data sha256": f"`{file.data_sha256}`",
        "recipe from": file.source,
        "time": f"{outcome.seconds:,.0f} s on {outcome.device}",
        "precision": f"{outcome.precision}; recomputed: {outcome.recomputation}",
    }
    if outcome.energy is not None:
        rows["energy"] = _energy(outcome.energy)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    warnings = [] if prediction is None else [f"- {warning}" for warning in prediction.warnings]
    said = "\n## Warnings of the law\n\n" + "\n".join(warnings) + "\n" if warnings else ""
    tokenizer = TOKENIZERS.get(file.data["tokenizer"], "") if shape.family.inputs == "tokens" else ""
    tag, kind, reader = KINDS[shape.family.inputs if shape.classes is not None else "text"]
    how = "Trained from scratch" if shape.architecture != "pretrained" else "Trained further"
    return f"""---
library_name: transformers
pipeline_tag: {tag}
---

# {file.name}

{how} by carbs_scaling {__version__}.

```python
from transformers import {kind}, {reader}

model, {reader[4:].lower()} = (kind.from_pretrained("FOLDER") for kind in ({kind}, {reader}))
```
{tokenizer}
| | |
|---|---|
{table}
{said}"""
