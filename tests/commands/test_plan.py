"""`plan` as a person uses it: a golden file, a preset that the search takes, budgets that add up."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from carbs_scaling.commands import plan
from carbs_scaling.errors import ConfigError

GOLDEN = Path(__file__).parent / "golden" / "plan_8_h100_72_hours.txt"
EIGHT = ("gpus=8", "gpu=h100", "hours=72")


def planned(composed, capsys, *overrides):
    plan.run(composed(*overrides, "format=json", verb="plan"))
    return json.loads(capsys.readouterr().out)


def test_eight_gpus_for_three_days(composed, capsys):
    plan.run(composed(*EIGHT, verb="plan"))
    assert capsys.readouterr().out == GOLDEN.read_text()


def test_search_and_final_run_take_the_budget_and_the_time(composed, capsys):
    found = planned(composed, capsys, *EIGHT, "share_for_search=0.2")
    assert found["flops"] == pytest.approx(8 * 72 * 3600 * 989e12 * 0.4)
    assert found["search"]["flops"] == pytest.approx(0.2 * found["flops"])
    ladder = found["search"]["ladder"]
    spent = sum(run["runs"] * run["flops"] for run in ladder)
    assert 0.85 * found["search"]["flops"] < spent <= found["search"]["flops"]
    assert found["final"]["flops"] + found["search"]["flops"] == pytest.approx(found["flops"])
    assert found["search"]["seconds"] + found["final"]["seconds"] == pytest.approx(72 * 3600, rel=0.05)
    assert ladder[0]["params"] / ladder[-1]["params"] > 10**1.4
    for name, values in found["by_published_laws"].items():
        assert 0 < values["least"] <= values["median"] <= values["greatest"], name


def test_flops_stand_for_hours_and_what_is_known_by_itself(composed, capsys):
    """Chinchilla: 5.76e23 FLOPs (6 N D) are 70e9 parameters and 1.4e12 tokens, by the paper's own choice."""
    found = planned(composed, capsys, "flops=5.76e23", "share_for_search=0.001", "model.flops_convention=6N")
    assert 0.5 < found["final"]["params"] / 70e9 < 2
    assert 6 * found["final"]["params"] * found["final"]["tokens"] == pytest.approx(found["final"]["flops"])


@pytest.mark.parametrize("gpus", [1, 64])
def test_no_trial_takes_longer_than_the_search(composed, capsys, gpus):
    search = planned(composed, capsys, f"gpus={gpus}", "hours=10")["search"]
    assert search["ladder"][0]["seconds"] <= 0.9 * 3600


def test_the_preset_is_taken_by_a_search(tmp_path):
    """From any folder, as with a wheel: the folder is named on the command line."""

    def carbs_scaling(*arguments):
        words = [sys.executable, "-m", "carbs_scaling.cli", *arguments]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    file = tmp_path / "plans" / "experiment" / "mine.yaml"
    said = carbs_scaling("plan", *EIGHT, "model=llama", f"output={file}")
    assert said.returncode == 0, said.stderr
    taken = carbs_scaling("search", "--config-dir", "plans", "+experiment=mine", "--cfg", "job")
    assert taken.returncode == 0, taken.stderr
    for line in (
        "name: mine",
        "architecture: llama",
        "flops: 8.2e+19",
        "hours: 7.2",
        "sequence_length: 1024",
    ):
        assert line in taken.stdout
    # The whole schema takes it, up to a text that is too short.
    refused = carbs_scaling("search", "--config-dir", "plans", "+experiment=mine", "executor.device=cuda")
    assert "executor.device=cpu" in refused.stderr


def test_a_probe_measures_this_machine(composed, capsys, monkeypatch):
    from carbs_scaling.training import probe

    monkeypatch.setattr(probe, "CPU_PARAMS", (1e4, 1e5))
    monkeypatch.setattr(probe, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(probe, "TOKENS_AT_ONCE", {"cpu": 256, "cuda": 256})
    timed = []
    real = probe.step_seconds
    monkeypatch.setattr(probe, "step_seconds", lambda *args: (timed.append(args), real(*args))[1])
    small = ("model.head_size=16", "model.sequence_length=64", "vocabulary_size=256")
    found = planned(composed, capsys, "probe=true", "flops=1e13", *small)
    assert "measured" in found["throughput"]
    assert len({shape for shape, *_ in timed}) == len(timed)
    assert all(sequences <= 4 for _, sequences, _ in timed)
    assert 1e7 < found["final"]["flops"] / found["final"]["seconds"] < 1e14


def test_the_time_of_a_search_is_that_of_its_own_steps(composed, capsys, monkeypatch):
    from carbs_scaling.tasks import pretraining_time

    # A step of a millisecond and a nanosecond a token: what small batches cost is the steps.
    def taken(cases, cores):
        return [1e-3 + 1e-9 * sequences * shape.sequence_length for shape, sequences in cases]

    monkeypatch.setattr(pretraining_time, "core_seconds", taken)
    monkeypatch.setattr(pretraining_time, "CPU_TRIAL_SECONDS", 0.0)

    def seconds(search):
        found = planned(composed, capsys, f"search='{search}'")
        assert found["workers"] == 2
        return found["seconds"]

    usual = "experiment=smoke executor.device=cpu executor.workers=2 space.depth=1"
    small, large = (seconds(f"{usual} space.batch_size={size}") for size in (4, 16))
    assert small == pytest.approx(4 * large, rel=0.2)
    assert seconds(f"{usual} space.batch_size=16 budget.flops=4e10") == pytest.approx(2 / 3 * large, rel=0.1)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "hours=72"),
        (["search=default", "hours=1"], "search=default"),
        (["hours=1", "flops=1e20"], "not both"),
        (["hours=1", "gpu=abacus"], "choose from a10"),
        (["hours=1", "share_for_search=1"], "share_for_search"),
        (["hours=-1"], "hours"),
        (["hours=1", "output=mine.yaml"], "experiment/NAME.yaml"),
        (["flops=1e6"], "do not pay"),
        (["hours=1", "gpus=0"], "gpus"),
    ],
)
def test_each_mistake_is_one_line(composed, overrides, said):
    with pytest.raises(ConfigError, match=said) as error:
        plan.run(composed(*overrides, verb="plan"))
    assert "\n" not in str(error.value)
