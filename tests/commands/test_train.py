"""`train` as a person uses it: a model that plain `transformers` loads; mistakes leave nothing behind."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from carbs_scaling.commands import train
from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.training import checkpoint, learning, loop
from carbs_scaling.training.model_card import RECORD
from carbs_scaling.training.recipe_file import Prediction, RecipeFile
from carbs_scaling.training.saved_model import load_tokenizer
from tests.conftest import counting_text

FIXED = (
    "space.width=32", "space.depth=1", "space.learning_rate=0.01", "space.batch_size=8",
    "space.tokens_per_parameter=2", "model.sequence_length=32", "objective.validation_tokens=1024",
)  # fmt: skip
# What anybody does with the folder, with nothing of this program.
LOAD = """
import sys, torch
import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, tokens, length = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = AutoModelForCausalLM.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = np.fromfile(tokens, dtype=np.uint8).astype(np.int64)
count = (len(ids) - 1) // length
wanted = min(count, max(1, int(sys.argv[4]) // length))
windows = [ids[i * length : (i + 1) * length + 1] for i in np.arange(wanted) * count // wanted]
batch = torch.tensor(np.array(windows))
with torch.no_grad():
    scores = model(batch[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten()).item()
text = "12 and 12 make 24."
assert tokenizer(text)["input_ids"] == list(text.encode())
assert tokenizer.decode(list(range(32, 127))) == bytes(range(32, 127)).decode()
prompt = tokenizer(text, return_tensors="pt")
more = model.generate(**prompt, max_new_tokens=5, do_sample=False)
assert more.shape[1] <= prompt["input_ids"].shape[1] + 5
assert "carbs_scaling" not in sys.modules
print(loss)
"""


@pytest.fixture
def text(tmp_path):
    """Overrides for a small text."""
    (tmp_path / "sums.txt").write_text(counting_text(3000))
    return (
        "data=files",
        f"data.paths=[{tmp_path / 'sums.txt'}]",
        f"data.cache_directory={tmp_path / 'cache'}",
    )


@pytest.fixture
def run(composed, text, tmp_path):
    """Runs the verb in `tmp_path`; gives the folder of models."""

    def call(*overrides, about=text):
        given = [*about, f"train.directory={tmp_path / 'trained'}", "train.device=cpu", *overrides]
        train.run(composed(*given, verb="train"), given)
        return tmp_path / "trained"

    return call


def stock_loss(folder):
    """What plain `transformers` gives in a process of its own."""
    recipe = json.loads((folder / "recipe.json").read_text())
    record = json.loads((folder / RECORD).read_text())
    cache = next(folder.parents[1].glob(f"cache/{recipe['data']['sha256']}"))
    length = recipe["model"]["sequence_length_tokens"]
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), str(cache / "validation.bin"), str(length),
         str(record["validation_tokens"])],
        capture_output=True, text=True, timeout=300,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return float(result.stdout)


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_plain_transformers_gives_the_recorded_loss(run, model, capsys):
    folder = run(*FIXED, f"model={model}", "train.name=mine") / "mine"
    record = json.loads((folder / RECORD).read_text())
    assert stock_loss(folder) == pytest.approx(record["loss"], abs=1e-4)
    assert record["tokens"] == pytest.approx(
        2 * json.loads((folder / "recipe.json").read_text())["params"], rel=0.05
    )
    config = json.loads((folder / "config.json").read_text())
    assert "carbs_scaling" not in json.dumps(config)
    card = (folder / "README.md").read_text()
    assert f"{record['energy']['source']})" in card
    assert record["energy"]["joules"] > 0
    assert "float32; recomputed: none" in card
    assert f"{record['loss']:.4f}" in card
    assert record["data_sha256"] in card
    said = capsys.readouterr().out
    assert "tokens/s" in said
    assert "FLOP/s" in said
    assert not (folder / "checkpoints").exists()


def test_a_recipe_is_trained_as_it_stands_and_compared_with_its_prediction(run, tmp_path, capsys):
    first = run(*FIXED, "schedule=wsd", "space.beta1=0.8", "train.name=first", "train.seed=5") / "first"
    written = RecipeFile.load(first / "recipe.json")
    assert written.schedule.name == "wsd"
    predicted = Prediction(3.0, (0.1, 9.0), 0.9, 1e4, 2e4, ("far away",))
    values = {**written.to_dict(), "name": "again"}
    values["prediction"] = {**vars(predicted), "interval": list(predicted.interval)}
    (tmp_path / "recipe.json").write_text(json.dumps(values))
    # Neither data nor sizes are given: all of it is in the recipe.
    again = (
        run(f"recipe={tmp_path / 'recipe.json'}", about=(f"data.cache_directory={tmp_path / 'cache'}",))
        / "again"
    )
    records = [json.loads((folder / RECORD).read_text()) for folder in (first, again)]
    assert records[0]["loss"] == records[1]["loss"]
    assert records[1]["prediction"]["loss"] == 3.0
    assert "inside its interval" in capsys.readouterr().out
    assert "far away" in (again / "README.md").read_text()
    # An override wins, and the law's word is no longer for this run.
    other = (
        run(f"recipe={tmp_path / 'recipe.json'}", "space.learning_rate=0.02", "train.name=other") / "other"
    )
    changed = RecipeFile.load(other / "recipe.json")
    assert changed.recipe.learning_rate == 0.02
    assert (changed.schedule, changed.optimizer, changed.recipe.seed) == (
        written.schedule,
        written.optimizer,
        5,
    )
    assert changed.prediction is None
    for override in ("space.beta1=0.7", "schedule=cosine", "objective.validation_tokens=512"):
        folder = run(f"recipe={tmp_path / 'recipe.json'}", override, "train.name=third")
        assert RecipeFile.load(folder / "third" / "recipe.json").prediction is None
        shutil.rmtree(folder / "third")


def test_one_process_at_a_time_trains_a_folder(run, tmp_path):
    (tmp_path / "trained").mkdir()
    with filelock.FileLock(tmp_path / "trained" / ".mine.lock"):
        with pytest.raises(CarbsScalingError, match="by another process"):
            run(*FIXED, "train.name=mine")
        assert not (tmp_path / "trained" / "mine").exists()
    run(*FIXED, "train.name=mine")
    assert [path.name for path in (tmp_path / "trained").iterdir()] == ["mine"]


def test_a_tokenizer_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(CarbsScalingError, match=r"data.tokenizer=.* cannot be loaded") as error:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_cannot_be_saved_is_told_before_the_first_step(run, tmp_path, monkeypatch):
    def gone():
        raise OSError("no such tokenizer")

    monkeypatch.setattr(learning, "load_tokenizer", lambda name: gone())
    monkeypatch.setattr(loop, "build_model", None)
    with pytest.raises(OSError, match="no such tokenizer"):
        run(*FIXED)
    assert not (tmp_path / "trained").exists()


def files(folder: Path):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "cache" not in path.parts)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), "space.width is a range"),
        ((*FIXED[1:],), "space.width is a range"),
        (("recipe=nowhere.json",), "nowhere.json"),
        (("recipe=a.json", "trial=3"), "not both"),
        (("trial=3", "study.name=none"), "no study"),
        ((*FIXED, "train.name=a/b"), "train.name"),
        ((*FIXED, "train.device=cuda:9"), "CUDA"),
        ((*FIXED, "train.device=mps"), "train.device=mps is not one of"),
        ((*FIXED, "training.checkpoint_minutes=-1"), "checkpoint_minutes"),
        ((*FIXED, "model.sequence_length=100000"), "too few"),
        ((*FIXED, "space.learning_rate=1e4", "space.tokens_per_parameter=30"), "without a model"),
    ],
)
def test_a_refused_command_leaves_nothing_behind(run, tmp_path, monkeypatch, overrides, said):
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    with pytest.raises(CarbsScalingError, match=said) as error:
        run(*overrides)
    assert "\n" not in str(error.value)
    assert files(tmp_path) == before


def test_no_space_for_the_first_checkpoint_leaves_nothing_behind(run, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.safetensors.torch, "save_file", fails)
    with pytest.raises(CarbsScalingError, match="cannot write a checkpoint"):
        run(*FIXED, "training.checkpoint_minutes=0", "space.tokens_per_parameter=20")
    assert not (tmp_path / "trained").exists()


def test_a_finished_model_and_a_changed_text_are_refused(run, tmp_path):
    folder = run(*FIXED, "train.name=mine") / "mine"
    before = files(tmp_path)
    with pytest.raises(CarbsScalingError, match="holds a trained model"):
        run(*FIXED, "train.name=mine")
    (tmp_path / "sums.txt").write_text(counting_text(3001))
    recipe = f"recipe={folder / 'recipe.json'}"
    with pytest.raises(CarbsScalingError, match="another text"):
        run(recipe, "train.name=other")
    assert files(tmp_path) == before
    run(recipe, "train.name=other", "train.any_text=true")


@pytest.mark.slow
def test_killed_and_started_again_it_ends_as_the_unbroken_run(run, text, tmp_path):
    long = (*FIXED, "space.tokens_per_parameter=20", "training.checkpoint_minutes=0")
    unbroken = json.loads((run(*long, "train.name=unbroken") / "unbroken" / RECORD).read_text())
    command = [sys.executable, "-m", "carbs_scaling.cli", "train", *text, *long, "train.name=broken",
               f"train.directory={tmp_path / 'trained'}", "train.device=cpu"]  # fmt: skip
    folder = tmp_path / "trained" / "broken"
    seen = 0
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            steps = [int(path.stem) for path in (folder / "checkpoints").glob("*.json")]
            if max(steps, default=0) > seen + 60:
                seen = max(steps)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        process.wait()
    assert not (folder / RECORD).exists()
    with pytest.raises(CarbsScalingError, match="another recipe"):
        run(*FIXED, "train.name=broken")
    subprocess.run(command, check=True, capture_output=True)
    record = json.loads((folder / RECORD).read_text())
    assert seen > 100
    assert record["loss"] == pytest.approx(unbroken["loss"], abs=1e-4)
    assert record["flops"] == unbroken["flops"]
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n", "not text"),
        (b"{", "is not a recipe"),
        (b'{"kind": "carbs_scaling recipe", "format": 99}', "has recipe format 99"),
    ],
)
def test_what_is_no_recipe_of_this_format_leaves_nothing_behind(run, tmp_path, content, said):
    (tmp_path / "recipe.json").write_bytes(content)
    before = files(tmp_path)
    with pytest.raises(CarbsScalingError, match=said) as error:
        run(f"recipe={tmp_path / 'recipe.json'}")
    assert "\n" not in str(error.value)
    assert files(tmp_path) == before


def test_no_space_for_a_later_checkpoint_keeps_the_earlier_one(run, tmp_path, monkeypatch):
    """A real refusal of the system: the process may write no file as large as a checkpoint."""
    real = checkpoint.safetensors.torch.save_file

    def limited(tensors, file):
        if any((tmp_path / "trained" / "mine" / "checkpoints").glob("*.json")):
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        real(tensors, file)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    long = (*FIXED, "training.checkpoint_minutes=0", "space.tokens_per_parameter=4", "train.name=mine")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.safetensors.torch, "save_file", limited)
        try:
            with pytest.raises(CarbsScalingError, match="cannot write a checkpoint") as error:
                run(*long)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    kept = sorted(path.name for path in (tmp_path / "trained" / "mine" / "checkpoints").iterdir())
    assert len(kept) == 2
    # With space again it goes on from there.
    folder = run(*long) / "mine"
    assert (folder / RECORD).exists()
    assert (folder / "curve.png").exists()
    assert "![loss along the run](curve.png)" in (folder / "README.md").read_text()
    assert not (folder / "checkpoints").exists()
