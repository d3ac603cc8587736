"""`curves` as a person uses it, on a ledger whose trials left curves of a known form."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler

from carbs_scaling.commands import curves
from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.ledger.curves import curve_path
from carbs_scaling.ledger.study import Study
from carbs_scaling.trial import Completed
from tests.toy_task import ToyTask

CRITICAL_BATCH = 2000


@dataclass
class Sized(ToyTask):
    """Runs of known N, D, batch and rate."""

    flops_convention: str = "6N"
    space: dict = field(
        default_factory=lambda: {
            "params": IntDistribution(3_000, 1_000_000, log=True),
            "tokens": IntDistribution(1_000_000, 30_000_000, log=True),
            "batch_tokens": IntDistribution(256, 8192, log=True),
            "learning_rate": FloatDistribution(1e-3, 1e-1, log=True),
        }
    )

    def flops(self, point):
        return 6.0 * point["params"] * point["tokens"]

    def roles(self, point):
        return dict(point)

    def details(self, point):
        return {}


def leave_curve(path, point, rng):
    """A constant rate, and a loss that falls with the tokens that batch and rate leave effective."""
    batch_tokens, rate = point["batch_tokens"], point["learning_rate"]
    steps = np.unique(np.linspace(1, point["tokens"] // batch_tokens, 100).astype(int))
    # A point is the mean over the steps since the one before, each scored before its update.
    middle = np.maximum((np.concatenate([[0], steps[:-1]]) + steps - 1) / 2, 0.1) * batch_tokens
    valley = 0.3 * np.log(rate / 0.01) ** 2
    effective = middle / (1 + batch_tokens / CRITICAL_BATCH) * (point["params"] / 1e4) ** 0.3
    effective *= np.exp(-valley)
    loss = 1 + 40 * effective**-0.3 + 0.01 * rng.standard_normal(len(steps))
    points = [
        {"step": int(s), "train_loss": x, "learning_rate": rate} for s, x in zip(steps, loss, strict=True)
    ]
    path.write_text("\n".join(map(json.dumps, points)))
    return Completed(loss=float(loss[-1]))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with the studies `many` and `few`."""
    folder = tmp_path_factory.mktemp("curves")
    rng = np.random.default_rng(0)
    task = Sized()
    for name, trials in (("many", 24), ("few", 1)):
        place = StudyConfig(name, str(folder), None, 0)
        (place.folder / "curves").mkdir(parents=True)
        ledger = Study.begin(place, task, 1e15, RandomSampler(seed=0))
        for _ in range(trials):
            record = ledger.ask(task, {})
            path = curve_path(place.folder / "curves", record.number)
            ledger.tell(record.number, leave_curve(path, record.point, rng))
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
