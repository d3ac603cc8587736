"""`schedules` as a person uses it: from logs to a schedule that `train` and `law_scheduler` take."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from carbs_scaling import law_scheduler
from carbs_scaling.commands import schedules
from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.laws.schedules.law import Schedule, TissueLaw
from carbs_scaling.training.config import ScheduleConfig
from carbs_scaling.training.schedules import learning_rate_factor

STEPS = 400


@pytest.fixture
def logs(tmp_path):
    law, at = TissueLaw(2.8, 0.2, 0.5, 60.0, 2e-2), np.arange(5, STEPS, 5)
    for name, end in (("flat", 1.0), ("down", 0.1)):
        rates = 3e-4 * np.linspace(1.0, end, STEPS)
        loss = law.loss(Schedule(rates, 0.01), at)
        frame = pd.DataFrame({"step": at + 10, "lr": rates[at - 1], "loss": loss})
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path / "*.csv"


def test_the_best_schedule_is_written_for_train_and_for_law_scheduler(composed, logs, tmp_path, capsys):
    out = tmp_path / "plans"
    overrides = (f"curves=['{logs}']", "target.steps=300", "law=tissue", f"output={out}")
    schedules.run(composed(*overrides, verb="schedules"))
    said = capsys.readouterr().out
    for word in (
        "sde (derived from the SDE)",
        "no law was checked",
        "best, for train and search: schedule.name=",
    ):
        assert word in said
    written = OmegaConf.to_container(OmegaConf.load(out / "schedule" / "best.yaml"))
    best = ScheduleConfig(**written)
    assert best.name != "constant"
    choices = json.loads((out / "law_scheduler.json").read_text())
    parameter = torch.nn.Parameter(torch.zeros(1))
    built = law_scheduler(
        torch.optim.AdamW([parameter]), "Step Law", params=1e8, tokens=3e8, batch_tokens=1e6, **choices
    )
    peak = built.base_lrs[0]
    for step in (100, 250, 299):
        warmup = next(s for s in range(300) if built.lr_lambdas[0](s) >= 1) / 300
        assert built.lr_lambdas[0](step) == pytest.approx(
            learning_rate_factor(best, warmup, step, 300), abs=1e-3
        )
    assert peak > 0


def test_every_candidate_is_a_schedule_of_ours(composed):
    for schedule, choices in schedules.candidates(None).values():
        rates = schedules.as_schedule(schedule, 1e-3, 100, 0.05).learning_rates
        assert len(rates) == 95
        assert rates.max() == pytest.approx(1e-3)
        assert choices["shape"] in ("constant", "linear", "cosine", "power", "wsd", "sde")


def test_a_file_that_is_not_there_is_one_line(composed, tmp_path):
    with pytest.raises(CarbsScalingError, match="no such file"):
        schedules.run(composed(f"curves=['{tmp_path}/*.csv']", verb="schedules"))


def test_one_file_stands_for_a_list_of_it(composed, tmp_path):
    with pytest.raises(CarbsScalingError, match=r"none\.csv is not a file: .* with step, lr, loss"):
        schedules.run(composed(f"curves={tmp_path}/none.csv", verb="schedules"))
