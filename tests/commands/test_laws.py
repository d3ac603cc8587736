"""`fit` and `recommend` as a person uses them."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from carbs_scaling.commands import fit, recommend
from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.ledger.study import Study
from carbs_scaling.verb_config import TargetConfig


@pytest.fixture
def table(tmp_path):
    """A small sweep with exact power laws."""
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(6, 8, 120), 10 ** rng.uniform(8, 9.5, 120)
    u, v = rng.normal(size=(2, 120)) * 0.7
    frame = pd.DataFrame(
        {
            "params": n,
            "tokens": d,
            "learning_rate": 2e-3 * (n / 1e7) ** -0.4 * np.exp(u),
            "batch_tokens": 6e4 * (d / 1e9) ** 0.5 * np.exp(v),
            "loss": 2 + (n / 1e7) ** -0.3 + 0.5 * (d / 1e9) ** -0.3 + 0.05 * u**2 + 0.02 * v**2,
        }
    )
    path = tmp_path / "runs.csv"
    frame.to_csv(path, index=False)
    return path


def test_fit_writes_a_law_that_recommend_reads(composed, table, tmp_path, capsys):
    law = tmp_path / "law.json"
    fit.run(composed(f"runs={table}", f"output={law}", verb="fit"))
    said = capsys.readouterr().out
    assert "lr = " in said
    assert "non-embedding" in said
    target = ("target.params=1e9", "target.tokens=2e10")
    recommend.run(composed(f"law={law}", *target, verb="recommend"))
    said = capsys.readouterr().out
    for word in ("Step Law", "90% interval", "120 runs", "beyond the runs"):
        assert word in said
    recommend.run(composed(f"law={law}", *target, "format=json", verb="recommend"))
    values = json.loads(capsys.readouterr().out)
    assert values["learning_rate"] == pytest.approx(2e-3 * 100**-0.4, rel=0.3)


def test_a_prior_and_what_else_was_varied(composed, table, tmp_path, capsys):
    frame = pd.read_csv(table)
    off = np.random.default_rng(1).normal(size=len(frame))
    frame.assign(weight_decay=0.1 * np.exp(off), loss=frame.loss + 0.05 * off**2).to_csv(table, index=False)
    law = tmp_path / "law.json"
    overrides = ("prior=[Step Law,DeepSeek]", "plots=false")
    fit.run(composed(f"runs={table}", f"output={law}", *overrides, verb="fit"))
    said = capsys.readouterr().out
    assert "Step Law, DeepSeek" in said
    assert "weight_decay = " in said
    for format, name in (("table", "weight decay"), ("training_arguments", "weight_decay")):
        recommend.run(
            composed(
                f"law={law}", "target.params=1e9", "target.tokens=2e10", f"format={format}", verb="recommend"
            )
        )
        assert name in capsys.readouterr().out
    with pytest.raises(CarbsScalingError, match="choose from Step Law"):
        fit.run(composed(f"runs={table}", "prior=Nobody", verb="fit"))


@pytest.mark.parametrize("format", ["table", "json", "yaml", "training_arguments"])
def test_a_target_out_of_reach_is_led_by_that_in_every_format(composed, table, capsys, format):
    target = ("target.params=7e12", "target.tokens=1.4e14", f"format={format}")
    with pytest.raises(SystemExit) as ended:
        recommend.run(composed(f"runs={table}", *target, verb="recommend"))
    assert ended.value.code == recommend.OUT_OF_REACH
    said = capsys.readouterr()
    first = next(line for line in said.out.splitlines() if line not in ("{", "# @package _global_"))
    assert "out of reach of these runs: 6 N D is" in first
    assert ("out of reach" in said.err) == (format != "table")


@pytest.mark.parametrize("format", ["yaml", "training_arguments", "table"])
def test_every_format_goes_to_a_file(composed, table, tmp_path, format, capsys):
    out = tmp_path / "out"
    recommend.run(
        composed(f"runs={table}", "target.flops=1e18", f"format={format}", f"output={out}", verb="recommend")
    )
    assert out.read_text(encoding="utf-8").strip()
    assert capsys.readouterr().out == f"wrote {out}\n"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["runs=nowhere.csv", "target.flops=1e18"], r"nowhere\.csv"),
        (["study.name=none", "target.flops=1e18"], "no study"),
        (["runs=nowhere.csv"], r"target\.params"),
        (["law=nowhere.json", "target.flops=1e18"], r"nowhere\.json"),
        (["runs=a.csv", "law=b.json", "target.flops=1e18"], "not both"),
        (["runs=a.csv", "target.flops=1e18", "level=90"], "level"),
        (["law=b.json", "target.flops=1e18", "prior=published"], "fitted already"),
        (["runs=a.csv", "target.flops=1e18", "format=xml"], "training_arguments"),
    ],
)
def test_each_mistake_is_one_line(composed, overrides, said):
    with pytest.raises(CarbsScalingError, match=said) as error:
        recommend.run(composed(*overrides, verb="recommend"))
    assert "\n" not in str(error.value)


def test_without_rates_and_batches_the_loss_is_recommended(composed, table, tmp_path, capsys):
    file = tmp_path / "loss_alone.csv"
    pd.read_csv(table)[["params", "tokens", "loss"]].to_csv(file, index=False)
    given = (f"runs={file}", "target.params=5e7", "target.tokens=2e9")
    recommend.run(composed(*given, verb="recommend"))
    said = capsys.readouterr().out
    assert "loss" in said
    assert "learning rate (peak)" not in said
    recommend.run(composed(*given, "format=json", verb="recommend"))
    answer = json.loads(capsys.readouterr().out)
    assert answer["loss"] == pytest.approx(2 + 5**-0.3 + 0.5 * 2**-0.3, abs=0.2)
    assert not {"learning_rate", "batch_tokens", "batch_sequences"} & set(answer)
    for format in ("yaml", "training_arguments"):
        with pytest.raises(CarbsScalingError, match="no learning_rate and no batch_tokens"):
            recommend.run(composed(*given, f"format={format}", verb="recommend"))


def test_a_table_of_two_optimizers_asks_which_and_takes_the_answer(composed, table, tmp_path, capsys):
    runs = pd.read_csv(table)
    two = tmp_path / "two.csv"
    faster = runs.assign(learning_rate=10 * runs.learning_rate, optimizer="sgd")
    pd.concat([runs.assign(optimizer="adamw"), faster]).to_csv(two, index=False)
    target = (f"runs={two}", "target.params=1e9", "target.tokens=2e10", "format=json")
    with pytest.raises(CarbsScalingError, match="adamw, sgd: say which with optimizer=NAME"):
        recommend.run(composed(*target, verb="recommend"))
    rates = []
    for name in ("adamw", "sgd"):
        recommend.run(composed(*target, f"only_optimizer={name}", verb="recommend"))
        rates.append(json.loads(capsys.readouterr().out)["learning_rate"])
    assert rates[1] == pytest.approx(10 * rates[0], rel=0.1)


def test_a_study_is_answered_in_its_own_sequences(monkeypatch):
    records = [SimpleNamespace(details={"sequence_length": 32, "head_size": 8})]
    monkeypatch.setattr(Study, "load", lambda config: SimpleNamespace(records=lambda: records))
    target = TargetConfig(4e5, 2e7, None, 2048, 64, 1, 8)
    study = StudyConfig("mine", "studies", None, 0)
    both = recommend._like_the_study(target, study, ["sequence_length", "head_size"])
    assert (both.sequence_length, both.head_size) == (32, 8)
    given = recommend._like_the_study(target, study, ["head_size"])
    assert (given.sequence_length, given.head_size) == (2048, 8)


def test_a_written_recipe_says_which_n_its_shape_has():
    shape = SimpleNamespace(params=387_072, width=48, depth=14)
    file = SimpleNamespace(recipe=SimpleNamespace(shape=shape, tokens=8_003_584))
    line = recommend._written_line("recipe.json", file, SimpleNamespace(params=4e5, tokens=8e6))
    assert line == (
        "wrote recipe.json: N = 387,072 (48 x 14; asked: 400,000), D = 8,003,584 (asked: 8,000,000)"
    )
