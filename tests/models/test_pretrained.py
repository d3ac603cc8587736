"""A trained model goes on from its weights, and nothing but safetensors is read."""

import json
from pathlib import Path

import pytest
import torch

from carbs_scaling.errors import ConfigError
from carbs_scaling.models import pretrained
from carbs_scaling.models.build import build_model
from carbs_scaling.models.family import ModelShape
from carbs_scaling.tasks.pretraining_config import ModelConfig
from tests.small_models import trained_folder

SIZES = (16, 1, 8, 256, 32)


@pytest.fixture
def folder(tmp_path):
    return trained_folder(tmp_path, SIZES)


def model_config(path, **options):
    return ModelConfig("pretrained", 16, 32, "6N+head+attention", {"path": path, **options})


def test_its_weights_are_those_of_the_folder_whatever_the_seed(folder):
    ours = build_model(ModelShape("pretrained", 16, 1, 1, 256, 32, {"path": folder}), seed=5).state_dict()
    theirs = build_model(ModelShape("llama", *SIZES), seed=0).state_dict()
    assert theirs.keys() <= ours.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_only_rate_batch_and_tokens_are_searched(folder, pretraining):
    task = pretraining("model=pretrained", f"model.path={folder}", "model.sequence_length=32")
    assert set(task.space) == {"learning_rate", "batch_size", "tokens_per_parameter"}
    assert task.config.data.tokenizer == folder
    point = task.project({"learning_rate": 0.01, "batch_size": 2, "tokens_per_parameter": 50.0})
    details = task.details(point)
    assert (details["width"], details["depth"]) == (16, 1)
    assert details["params"] == ModelShape("llama", *SIZES).params
    assert task.identity()["model"]["weights_sha256"]


def test_another_tokenizer_is_refused(folder, search_config):
    with pytest.raises(ConfigError, match="was trained with the tokenizer"):
        search_config(
            "model=pretrained", f"model.path={folder}", "model.sequence_length=32", "data.tokenizer=gpt2"
        )


def test_a_model_may_have_room_for_more_tokens_than_its_tokenizer(tmp_path, pretraining):
    folder = trained_folder(tmp_path, (16, 1, 8, 264, 32))
    task = pretraining("model=pretrained", f"model.path={folder}", "model.sequence_length=32")
    point = task.project({"learning_rate": 0.01, "batch_size": 2, "tokens_per_parameter": 50.0})
    assert task.details(point)["vocabulary_size"] == 264


def test_pickles_are_refused_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ConfigError, match="no safetensors") as error:
        model_config(str(tmp_path))
    assert "\n" not in str(error.value)


def test_code_of_a_repository_is_not_run(folder, tmp_path):
    values = json.loads((Path(folder) / "config.json").read_text())
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "model.safetensors").write_bytes((Path(folder) / "model.safetensors").read_bytes())
    (theirs / "code.py").write_text("raise SystemExit('code of the repository ran')")
    values |= {"model_type": "theirs", "auto_map": {"AutoModelForCausalLM": "code.Model"}}
    (theirs / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="never run"):
        model_config(str(theirs))


def test_other_weights_than_those_of_a_study_are_refused(folder):
    kept = model_config(folder).plain()["weights_sha256"]
    assert model_config(folder, weights_sha256=kept) == model_config(folder)
    with pytest.raises(ConfigError, match="other weights"):
        model_config(folder, weights_sha256="0" * 64)


@pytest.mark.parametrize(("path", "said"), [("", "needs model.path"), ("no/such model", "is no folder here")])
def test_what_is_not_there_is_refused_in_one_line(path, said, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    pretrained.local_folder.cache_clear()
    with pytest.raises(ConfigError, match=said) as error:
        model_config(path)
    assert "\n" not in str(error.value)


def test_sequences_longer_than_it_takes_are_refused(folder):
    with pytest.raises(ConfigError, match="at most 32"):
        ModelConfig("pretrained", 1, 64, "6N", {"path": folder})
