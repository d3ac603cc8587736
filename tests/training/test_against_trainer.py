"""Our loop against the `Trainer` of transformers: same seed, order, optimizer and schedule, same loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from carbs_scaling.data.example_encoding import InputForm
from carbs_scaling.data.examples import LabelledExamples
from carbs_scaling.data.rows import RowsConfig, prepare_rows
from carbs_scaling.data.windows import validation_indices
from carbs_scaling.models.build import build_model
from carbs_scaling.training.config import ObjectiveConfig
from carbs_scaling.training.evaluation import evaluate
from carbs_scaling.training.learning import learning
from carbs_scaling.training.loop import train
from carbs_scaling.training.schedules import learning_rate_factor
from tests.small_models import small_shape, sums

STEPS = 60


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "qwen3_moe"])
def test_both_end_at_the_same_loss(family, changed, tmp_path):
    job = changed(steps=STEPS, shape=small_shape(family, tmp_path, 32, 2, 16, 256, 32))
    job = replace(job, objective=replace(job.objective, validation_tokens=4096))

    def row(window):
        # T tokens and their T targets, which are shifted here.
        return {"input_ids": window[:-1], "labels": window[:-1], "shift_labels": window[1:]}

    compare(job, row, tmp_path)


@pytest.mark.parametrize("family", ["vit", "gpt2-classes"])
def test_classifiers_end_at_the_same_loss(family, changed, tmp_path):
    shape = small_shape(family, tmp_path, 32, 2, 16, 256, 36 if family == "vit" else 48)
    job = changed(steps=STEPS, shape=shape)
    job = replace(job, text=made_examples(shape, tmp_path), objective=labels_objective())

    def row(example):
        if family == "vit":
            side = shape.options.image_size
            return {"pixel_values": example[:-1].view(3, side, side), "labels": example[-1].long()}
        return {"input_ids": example[: shape.sequence_length], "labels": example[-1]}

    compare(job, row, tmp_path)


def test_adapters_end_at_the_same_loss(changed, tmp_path):
    pytest.importorskip("peft", reason="LoRA needs peft")
    shape = small_shape("pretrained", tmp_path, 32, 2, 16, 256, 32)
    shape = replace(shape, options=replace(shape.options, lora_rank=4))
    job = changed(steps=STEPS, shape=shape)
    config = RowsConfig(
        source="files", paths=[sums(tmp_path)], validation_paths=[], name=None, subset=None, split="train",
        validation_split=None, revision=None, prompt_column="prompt", response_column="response",
        separator="\n", tokenizer=shape.options.path, validation_fraction=0.2, cache_directory=None,
    )  # fmt: skip
    job = replace(job, text=prepare_rows(config, 32))

    def row(window):
        return {"input_ids": window[0], "labels": torch.where(window[1] > 0, window[0], -100)}

    compare(job, row, tmp_path)


def labels_objective():
    return ObjectiveConfig(metric="nats_per_label", validation_tokens=10**9, gradient_noise_scale=False)


def made_examples(shape, folder):
    """Inputs whose class can be read off them."""
    generator = np.random.default_rng(0)
    classes = shape.classes
    for split, count in (("train", 300), ("validation", 64)):
        labels = generator.integers(classes, size=count)
        if shape.family.inputs == "images":
            size = shape.options.channels * shape.options.image_size**2
            inputs = generator.integers(100, size=(count, size)) + 15 * labels[:, None]
            inputs = inputs.astype(np.uint8)
        else:
            length = shape.sequence_length
            inputs = generator.integers(1, 200, size=(count, 2 * length)).astype(np.uint32)
            inputs[:, length - 1], inputs[:, length:] = 200 + labels, 0
        np.save(folder / f"{split}_inputs.npy", inputs)
        np.save(folder / f"{split}_labels.npy", labels)
    form = InputForm(shape.sequence_length)
    if shape.family.inputs == "images":
        form = InputForm(shape.sequence_length, shape.options.image_size, shape.options.channels)
    return LabelledExamples(
        folder=str(folder), form=form, classes=tuple(map(str, range(classes))), pad=0, sha256="0" * 64,
        vocabulary_size=shape.vocabulary_size, train_examples=300, validation_examples=64,
        majority_share=0.2, description="made up", tokenizer="bytes",
    )  # fmt: skip


def compare(job, row, tmp_path):
    """Trains by both, with rows of the Trainer made of ours, and compares the held-out losses."""
    pytest.importorskip("accelerate", reason="the transformers Trainer needs accelerate")
    from transformers import Trainer, TrainingArguments

    recipe, length = job.recipe, job.recipe.shape.sequence_length
    learnt = learning(job.text, length)
    order = learnt.train.order(recipe.batch_size, recipe.steps, recipe.seed)
    ids = torch.cat([learnt.train.read(indices) for indices in order])

    class Ordered(Trainer):
        def get_train_dataloader(self):
            return DataLoader([row(w) for w in ids], batch_size=recipe.batch_size, shuffle=False)

    model = build_model(recipe.shape, recipe.seed)
    matrices, rest = (
        [p for p in model.parameters() if (p.ndim >= 2) == is_matrix] for is_matrix in (True, False)
    )
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.epsilon,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(job.schedule, recipe.warmup_fraction, step, recipe.steps)
    )
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "theirs"), max_steps=STEPS, max_grad_norm=job.optimizer.gradient_clip_norm,
        per_device_train_batch_size=recipe.batch_size, remove_unused_columns=False, report_to=[],
        save_strategy="no", logging_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    Ordered(model, arguments, train_dataset=[0], optimizers=(optimizer, scheduler)).train()
    held_out = learnt.held_out
    indices = validation_indices(len(held_out), length, job.objective.validation_tokens)
    theirs = evaluate(model, held_out, indices, torch.device("cpu"), losses=learnt.losses)
    assert train(job).loss == pytest.approx(theirs, abs=1e-3)
