"""Curves from logs, and which law predicts the ones that were left out."""

import numpy as np
import pandas as pd
import pytest

from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.laws.schedules.comparison import best_law, check_laws, rank
from carbs_scaling.laws.schedules.curves import curve_of, read_curves
from carbs_scaling.laws.schedules.law import NoiseLaw, Schedule, TissueLaw

PEAK, STEPS = 3e-4, 600
TISSUE = TissueLaw(2.8, 0.2, 0.5, 60.0, 2e-2)


def schedule(kind):
    part = np.arange(STEPS) / STEPS
    shapes = {
        "constant": np.ones(STEPS),
        "cosine": 0.55 + 0.45 * np.cos(np.pi * part),
        "drop": np.where(part < 0.6, 1.0, 0.3),
        "late": np.minimum(1.0, (1 - part) / 0.2 + 0.02),
    }
    return Schedule(PEAK * shapes[kind], warmup_area=0.01)


def write(folder, kind, model):
    """A log with its warmup, every tenth step."""
    own, at = schedule(kind), np.arange(5, STEPS, 5)
    loss = TISSUE.loss(own, at) + (0.4 if model == "25M" else 0.0)
    frame = pd.DataFrame({"step": at + 20, "lr": own.learning_rates[at - 1], "loss": loss})
    frame.to_csv(folder / f"{model}_{kind}.csv", index=False)


def test_warmup_is_told_from_the_rest():
    steps = np.array([10, 20, 40, 60, 80, 100])
    curve = curve_of(steps, np.array([0.1, 0.2, 0.2, 0.2, 0.1, 0.0]), np.array([9, 5, 4, np.nan, 3, 2.5]))
    assert curve.schedule.warmup_area == pytest.approx(2.0)  # half of twenty steps at .2
    assert curve.steps.tolist() == [1, 21, 61, 81]
    assert curve.schedule.learning_rates[[0, 60]] == pytest.approx([0.2, 0.1])
    assert 0 < curve.schedule.learning_rates[-1] < 1e-4
    with pytest.raises(ValueError, match="fewer than three losses"):
        curve_of(steps, np.linspace(0.1, 0.2, 6), np.ones(6))


def test_the_law_that_made_the_curves_predicts_those_left_out_and_ranks_by_it(tmp_path):
    for model in ("25M", "100M"):
        for kind in ("constant", "cosine", "drop"):
            write(tmp_path, kind, model)
    models = read_curves(sorted(tmp_path.glob("*.csv")))
    assert {name: sorted(curves) for name, curves in models.items()} == {
        name: ["constant", "cosine", "drop"] for name in ("100M", "25M")
    }
    checks = check_laws(models, (TissueLaw, NoiseLaw))
    assert checks[TissueLaw.name].models == 2
    assert checks[TissueLaw.name].final_r_squared > 0.95
    assert best_law(checks) is TissueLaw
    kinds = ("constant", "cosine", "late")
    ranking = rank(TissueLaw, models, lambda peak: {kind: schedule(kind) for kind in kinds}, None)
    truth = {kind: TISSUE.loss(schedule(kind), np.array([STEPS]))[0] for kind in kinds}
    assert list(ranking.excess) == sorted(truth, key=truth.get)
    assert ranking.losses["cosine"]["25M"] == pytest.approx(truth["cosine"] + 0.4, abs=0.03)


def test_a_file_without_a_rate_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("step,loss\n1,2\n")
    with pytest.raises(CarbsScalingError, match=r"log\.csv has no column lr"):
        read_curves([tmp_path / "log.csv"])
