"""Our loop against the `Trainer` of transformers: same seed, order, optimizer and schedule, same loss."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from carbs_scaling.data.windows import (
    training_order,
    training_windows,
    validation_indices,
    validation_windows,
)
from carbs_scaling.models.build import build_model
from carbs_scaling.training.evaluation import evaluate
from carbs_scaling.training.loop import train
from carbs_scaling.training.schedules import learning_rate_factor
from tests.small_models import small_shape

STEPS = 60


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "qwen3_moe"])
def test_both_end_at_the_same_loss(family, changed, tmp_path):
    pytest.importorskip("accelerate", reason="the transformers Trainer needs accelerate")
    from transformers import Trainer, TrainingArguments

    job = changed(steps=STEPS, shape=small_shape(family, tmp_path, 32, 2, 16, 256, 32))
    job = replace(job, objective=replace(job.objective, validation_tokens=4096))
    recipe, length = job.recipe, job.recipe.shape.sequence_length
    windows = training_windows(job.text, length)
    order = training_order(len(windows), recipe.batch_size, recipe.steps, recipe.seed)
    ids = torch.cat([windows.read(indices) for indices in order])

    class Ordered(Trainer):
        def get_train_dataloader(self):
            # T tokens and their T targets, which are shifted here.
            rows = [{"input_ids": w[:-1], "labels": w[:-1], "shift_labels": w[1:]} for w in ids]
            return DataLoader(rows, batch_size=recipe.batch_size, shuffle=False)

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
    held_out = validation_windows(job.text, length)
    indices = validation_indices(len(held_out), length, 4096)
    theirs = evaluate(model, held_out, indices, torch.device("cpu"))
    assert train(job).loss == pytest.approx(theirs, abs=1e-3)
