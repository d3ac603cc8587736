"""Fixtures for every test: a composed configuration, and a cache of token files that is not the user's."""

import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the suite shares its cores

from dataclasses import replace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from carbs_scaling.cli import configuration_folder
from carbs_scaling.commands.search import load_search
from carbs_scaling.data.config import DataConfig
from carbs_scaling.data.prepared import PreparedText
from carbs_scaling.data.token_files import prepare_text
from carbs_scaling.models.family import ModelShape
from carbs_scaling.tasks.pretraining import Pretraining
from carbs_scaling.training.config import ObjectiveConfig, OptimizerConfig, ScheduleConfig
from carbs_scaling.training.job import TrainingJob
from carbs_scaling.training.recipe import Recipe


def pytest_collection_modifyitems(items):
    """Long files first, so that no process ends alone; what cannot run here is skipped with its reason."""
    import torch

    long = {item.path for item in items if "slow" in item.keywords}
    items.sort(key=lambda item: item.path not in long)

    no_gpu = pytest.mark.skip(reason="needs a CUDA GPU")
    no_hub = pytest.mark.skip(reason="needs the network: set CARBS_SCALING_NETWORK_TESTS=1")
    for item in items:
        if "cuda" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "network" in item.keywords and not os.environ.get("CARBS_SCALING_NETWORK_TESTS"):
            item.add_marker(no_hub)


@pytest.fixture(autouse=True)
def own_logging():
    """Loggers as a program finds them: a command that ran in this process may have muted them."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "carbs_scaling"]
    for logger in map(logging.getLogger, ["carbs_scaling", *names]):
        logger.disabled, logger.propagate = False, True


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Token files go to a folder of the test session."""
    monkeypatch.setenv("CARBS_SCALING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def composed():
    """Composes a verb's configuration with overrides, as the command line does."""

    def compose_verb(*overrides, verb="search"):
        with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
            return compose(verb, list(overrides))

    return compose_verb


@pytest.fixture
def search_config(composed):
    """A checked `SearchConfig` from overrides."""
    return lambda *overrides: load_search(composed(*overrides))[0]


@pytest.fixture
def random_text(tmp_path):
    """Makes token files of random ids: vocabulary size, number of tokens."""

    def make(vocabulary_size=256, tokens=20_000) -> PreparedText:
        dtype = np.uint8 if vocabulary_size <= 256 else np.uint16
        # Of a sixteenth of the vocabulary, which is soon learnt.
        ids = np.random.default_rng(0).integers(vocabulary_size // 16, size=tokens, dtype=dtype)
        paths = [str(tmp_path / f"{split}_{vocabulary_size}.bin") for split in ("train", "validation")]
        for path in paths:
            ids.tofile(path)
        return PreparedText(*paths, vocabulary_size, tokens, tokens, 1.0, "0" * 64, "random ids")

    return make


@pytest.fixture
def pretraining(composed, random_text):
    """The pretraining task of some overrides, on random tokens."""

    from carbs_scaling.search import trial_limits  # with all samplers, which other tests do not need

    def build(*overrides, vocabulary_size=256, may_be_fixed=False) -> Pretraining:
        config, task_config = load_search(composed(*overrides))
        text = random_text(vocabulary_size)
        return Pretraining(task_config, text, trial_limits(config), may_be_fixed)

    return build


@pytest.fixture
def data_config(tmp_path):
    """Builds a `DataConfig` for files below `tmp_path`, with the cache there too."""

    def build(**changes) -> DataConfig:
        fields = {
            "source": "files",
            "paths": [str(tmp_path / "text")],
            "validation_paths": [],
            "name": None,
            "subset": None,
            "split": "train",
            "validation_split": None,
            "hub_files": {},
            "revision": None,
            "text_column": "text",
            "streaming": False,
            "block_tokens": 4096,
            "cached_blocks": None,
            "max_bytes": None,
            "max_validation_bytes": None,
            "tokenizer": "bytes",
            "vocabulary_size": None,
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
        optimizer=OptimizerConfig(
            name="adamw", nesterov=False, decoupled_weight_decay=True, gradient_clip_norm=1.0
        ),
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
