"""A small text and a small job, which tests change one field at a time."""

from dataclasses import replace

import pytest

from carbs_scaling.compute.flops import ModelShape
from carbs_scaling.config import DataConfig, ObjectiveConfig, OptimizerConfig, ScheduleConfig
from carbs_scaling.training.data import prepare_text
from carbs_scaling.training.loop import TrainingJob
from carbs_scaling.training.outcome import Recipe


@pytest.fixture
def data_config(tmp_path):
    """Builds a `DataConfig` for files below `tmp_path`, with the cache there too."""

    def build(**changes) -> DataConfig:
        fields = {
            "source": "files",
            "paths": [str(tmp_path / "text")],
            "name": None,
            "subset": None,
            "split": "train",
            "text_column": "text",
            "streaming": False,
            "max_bytes": None,
            "tokenizer": "bytes",
            "validation_fraction": 0.1,
            "cache_directory": str(tmp_path / "cache"),
        }
        return DataConfig(**{**fields, **changes})

    return build


def counting_text(count: int) -> str:
    """Lines that a small model learns within some tens of steps, each of them different."""
    return "".join(f"{i} and {i} make {2 * i}.\n" + "\n" * (i % 5 == 0) for i in range(count))


@pytest.fixture
def job(tmp_path, data_config) -> TrainingJob:
    """A run of about a second."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "sums.txt").write_text(counting_text(3000))
    text = prepare_text(data_config())
    shape = ModelShape("gpt2", width=32, depth=1, head_size=16, vocabulary_size=256, sequence_length=32)
    recipe = Recipe(
        shape=shape,
        learning_rate=1e-2,
        batch_size=8,
        steps=40,
        weight_decay=0.1,
        beta2=0.95,
        warmup_fraction=0.1,
        seed=1,
    )
    return TrainingJob(
        recipe=recipe,
        text=text,
        optimizer=OptimizerConfig(name="adamw", beta1=0.9, epsilon=1e-8, gradient_clip_norm=1.0),
        schedule=ScheduleConfig(name="cosine", final_fraction=0.1, decay_fraction=0.2),
        objective=ObjectiveConfig(
            metric="nats_per_token", validation_tokens=1024, gradient_noise_scale=False
        ),
        device="cpu",
        compile=False,
        micro_batch_tokens=None,
        curve_path=None,
    )


@pytest.fixture
def changed(job):
    """Builds the job with some fields of its recipe changed."""

    def build(**changes) -> TrainingJob:
        return replace(job, recipe=replace(job.recipe, **changes))

    return build
