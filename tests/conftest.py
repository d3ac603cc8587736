"""Fixtures for every test: a composed configuration, and a cache of token files that is not the user's."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the suite shares its cores

import pytest
from hydra import compose, initialize_config_dir

from carbs_scaling.cli import configuration_folder
from carbs_scaling.config import SearchConfig, load_config


def pytest_collection_modifyitems(items):
    """Tests that this machine cannot run are skipped with their reason."""
    import torch

    no_gpu = pytest.mark.skip(reason="needs a CUDA GPU")
    no_hub = pytest.mark.skip(reason="needs the network: set CARBS_SCALING_NETWORK_TESTS=1")
    for item in items:
        if "cuda" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "network" in item.keywords and not os.environ.get("CARBS_SCALING_NETWORK_TESTS"):
            item.add_marker(no_hub)


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
    return lambda *overrides: load_config(SearchConfig, composed(*overrides))
