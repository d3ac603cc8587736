"""A run that is broken off and started again ends as the unbroken one, also with a damaged checkpoint."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.training import step, step_building
from carbs_scaling.training.checkpoint import CheckpointPlan, load_checkpoint
from carbs_scaling.training.curve import LossCurve
from carbs_scaling.training.loop import train
from carbs_scaling.training.step import accumulate_gradients
from carbs_scaling.trial import Completed


class Killed(Exception):
    """What a test raises in the place of kill -9."""


def kept(job, tmp_path, **changes):
    """The job with a checkpoint at every reading of the loss."""
    plan = CheckpointPlan(str(tmp_path / "checkpoints"), 0, "this run")
    return replace(job, checkpoints=plan, curve_path=str(tmp_path / "curve.jsonl"), **changes)


def broken_off(job, step_of_death, monkeypatch):
    """Runs the job until it dies before a step."""

    def dies(steps, seconds, loss):
        if steps >= step_of_death:
            raise Killed

    with pytest.raises(Killed):
        train(job, dies)
    return sorted(path.name for path in Path(job.checkpoints.folder).iterdir())


def whole_curve(path):
    points = [json.loads(line) for line in Path(path).read_text().splitlines()]
    for point in points:
        point.pop("seconds", None)
    return points


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("noise", [False, True])
def test_a_broken_run_ends_as_the_unbroken_one(changed, tmp_path, monkeypatch, optimizer, noise):
    job = changed(steps=120)
    job = replace(
        job,
        optimizer=replace(job.optimizer, name=optimizer),
        objective=replace(job.objective, gradient_noise_scale=noise),
    )
    (tmp_path / "a").mkdir()
    unbroken = train(replace(job, curve_path=str(tmp_path / "a" / "curve.jsonl")))
    again = kept(job, tmp_path)
    assert len(broken_off(again, 50, monkeypatch)) == 4  # two checkpoints of two files
    broken_off(again, 90, monkeypatch)
    outcome = train(again)
    assert outcome.loss == pytest.approx(unbroken.loss, abs=1e-6)
    assert outcome.progress == 1
    assert outcome.metrics == pytest.approx(unbroken.metrics, rel=1e-5)
    assert whole_curve(again.curve_path) == whole_curve(tmp_path / "a" / "curve.jsonl")


def test_it_goes_on_and_does_not_begin_anew(changed, tmp_path, monkeypatch):
    job = kept(changed(steps=120), tmp_path)
    broken_off(job, 90, monkeypatch)
    taken = []
    real = accumulate_gradients
    monkeypatch.setattr(step, "accumulate_gradients", lambda *args: (taken.append(1), real(*args))[1])
    seen = []
    train(job, lambda steps, seconds, loss: seen.append((steps, seconds)))
    assert len(taken) < 35
    assert seen[0][0] > 88
    assert seen[0][1] > 0


def test_a_smaller_micro_batch_than_the_checkpoints_holds(changed, tmp_path, monkeypatch):
    job = kept(changed(steps=120), tmp_path)
    broken_off(job, 90, monkeypatch)
    sizes = set()
    real = accumulate_gradients
    monkeypatch.setattr(step, "accumulate_gradients", lambda *args: (sizes.add(args[2]), real(*args))[1])
    train(replace(job, micro_batch_tokens=2 * job.recipe.shape.sequence_length))
    assert sizes == {2}


@pytest.mark.parametrize("damage", ["cut short", "garbled", "json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(changed, tmp_path, monkeypatch, caplog, damage):
    job = kept(changed(steps=120), tmp_path)
    unbroken = train(replace(job, checkpoints=None, curve_path=None))
    broken_off(job, 90, monkeypatch)
    folder = Path(job.checkpoints.folder)
    before, last = sorted(folder.glob("*.safetensors"))
    content = last.read_bytes()
    if damage == "cut short":
        last.write_bytes(content[: len(content) // 2])
    elif damage == "garbled":
        last.write_bytes(content[:-100] + bytes(100))
    else:
        last.with_suffix(".json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(job.checkpoints).step == int(before.stem)
    assert len(caplog.messages) == 1
    assert last.stem in caplog.messages[0]
    assert train(job).loss == pytest.approx(unbroken.loss, abs=1e-6)


def test_a_checkpoint_of_another_run_is_not_used(changed, tmp_path, monkeypatch):
    job = kept(changed(steps=120), tmp_path)
    broken_off(job, 90, monkeypatch)
    assert load_checkpoint(replace(job.checkpoints, run="another")) is None
    assert load_checkpoint(replace(job.checkpoints, folder=str(tmp_path / "nowhere"))) is None


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_no_space_is_one_line_and_leaves_no_half_of_a_checkpoint(changed, tmp_path, monkeypatch, error):
    def fails(tensors, file):
        Path(file).write_bytes(b"half")
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", fails)
    with pytest.raises(CarbsScalingError, match="No space left") as said:
        train(kept(changed(steps=120), tmp_path))
    assert "\n" not in str(said.value)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_nothing_is_pickled(changed, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", lambda *_: pytest.fail("torch.save is pickle"))
    assert isinstance(train(kept(changed(steps=60), tmp_path)), Completed)
    for file in (tmp_path / "checkpoints").iterdir():
        assert file.suffix in (".json", ".safetensors")


def test_a_curve_keeps_what_the_checkpoint_has_seen(tmp_path):
    path = tmp_path / "curve.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    with LossCurve(str(path), 2) as curve:
        curve.add(step=3.0)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("noise", [False, True])
def test_out_of_memory_halves_the_micro_batch_and_trains_the_same_model(job, monkeypatch, noise):
    job = replace(job, objective=replace(job.objective, gradient_noise_scale=noise))
    expected = train(job)
    real = step_building.accumulate_gradients
    sizes = []

    def fits_three(model, batch, micro_batch, *after):
        sizes.append(micro_batch)
        if micro_batch > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, batch, micro_batch, *after)

    monkeypatch.setattr(step, "accumulate_gradients", fits_three)
    monkeypatch.setattr(step_building, "accumulate_gradients", fits_three)
    outcome = train(job)
    assert isinstance(outcome, Completed)
    assert outcome.loss == pytest.approx(expected.loss, abs=1e-3)
    assert outcome.progress == 1
    assert sizes[:3] == [8, 4, 2]
    assert set(sizes[3:]) == {2}
    assert math.isfinite(outcome.loss)
