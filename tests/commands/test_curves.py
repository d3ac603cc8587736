"""`curves` as a person uses it, on a ledger whose trials left curves of a known form."""

import json

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from optuna.samplers import RandomSampler

from carbs_scaling.cli import configuration_folder
from carbs_scaling.commands import curves
from carbs_scaling.config import SearchConfig, load_config
from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.ledger.curves import curve_path
from carbs_scaling.ledger.study import Study
from carbs_scaling.search import build_space
from carbs_scaling.trial import Status, TrialOutcome

CRITICAL_BATCH = 2000


def leave_curve(path, recipe, rng):
    """A constant rate, and a loss that falls with the tokens that batch and rate leave effective."""
    steps = np.unique(np.linspace(1, recipe.steps, 100).astype(int))
    tokens = steps * recipe.batch_tokens
    # A point is the mean over the steps since the one before, each scored before its update.
    middle = np.maximum((np.concatenate([[0], steps[:-1]]) + steps - 1) / 2, 0.1) * recipe.batch_tokens
    valley = 0.3 * np.log(recipe.learning_rate / 0.01) ** 2
    effective = middle / (1 + recipe.batch_tokens / CRITICAL_BATCH) * (recipe.params / 1e4) ** 0.3
    effective *= np.exp(-valley)
    loss = 1 + 40 * effective**-0.3 + 0.01 * rng.standard_normal(len(steps))
    points = [
        {"step": int(s), "tokens": int(t), "train_loss": x, "learning_rate": recipe.learning_rate}
        for s, t, x in zip(steps, tokens, loss, strict=True)
    ]
    path.write_text("\n".join(map(json.dumps, points)))
    return TrialOutcome(Status.COMPLETED, recipe.steps, recipe.tokens, 1.0, "cpu", loss[-1], loss[-1])


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with the studies `many` and `few`."""
    folder = tmp_path_factory.mktemp("curves")
    rng = np.random.default_rng(0)
    for name, trials in (("many", 24), ("few", 1)):
        overrides = [f"study.directory={folder}", f"study.name={name}", "budget.flops=1e15"]
        overrides += ["model.head_size=1"]  # so that every width that is drawn is legal
        with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
            config = load_config(SearchConfig, compose("search", overrides))
        space = build_space(config, vocabulary_size=256)
        identity = {"budget": {"convention": "6N"}, "objective": {"metric": "nats_per_token"}}
        (config.study.folder / "curves").mkdir(parents=True)
        ledger = Study.begin(config.study, identity, 1e15, RandomSampler(seed=0))
        for _ in range(trials):
            record = ledger.ask(space, 0, {})
            path = curve_path(config.study.folder / "curves", record.number)
            ledger.tell(record.number, leave_curve(path, record.recipe, rng))
    return folder


def test_it_writes_a_table_a_picture_and_values(composed, study, capsys):
    named = (f"study.directory={study}", "study.name=many", "draws=20")
    curves.run(composed(*named, verb="curves"))
    said = capsys.readouterr().out
    assert "critical" in said
    assert "beyond the largest N" in said
    values = json.loads((study / "many" / "convergence.json").read_text())
    assert (study / "many" / "convergence.png").exists()
    for level in values["levels"]:
        assert level["tokens_exponent"]["value"] == pytest.approx(-0.3, abs=0.1)
        assert level["critical_batch_tokens"]["value"] == pytest.approx(CRITICAL_BATCH, rel=0.5)
    curves.run(composed(*named, "format=json", "plots=false", f"output={study}/x.json", verb="curves"))
    assert json.loads(capsys.readouterr().out) == values
    assert not (study / "x.png").exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["study.name=none"], "no study"),
        (["study.name=few"], "1 runs of 1 sizes"),
        (["levels=[0.01]"], r"loss 0\.01 is left out"),
        (["levels=[a]"], "levels"),
        (["levels=2.5"], "levels"),
        (["rate_share=1.5"], "rate_share"),
        (["draws=2"], "draws"),
        (["format=xml"], "table, json"),
    ],
)
def test_each_mistake_is_one_line(composed, study, overrides, said):
    config = composed(f"study.directory={study}", "study.name=many", *overrides, verb="curves")
    with pytest.raises(CarbsScalingError, match=said) as error:
        curves.run(config)
    assert "\n" not in str(error.value)
