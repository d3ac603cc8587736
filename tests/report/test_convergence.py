"""Convergence as a table, as values and as a picture; curves of trials as the law takes them."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from carbs_scaling.laws.convergence.fit import fit_convergence
from carbs_scaling.laws.convergence.loss_curves import RunCurve
from carbs_scaling.ledger.curves import curve_path, held_out_gap, run_curves
from carbs_scaling.report.convergence import convergence_dict, convergence_report, draw_convergence_png
from carbs_scaling.trial import Status


@pytest.fixture(scope="module")
def curves():
    rng = np.random.default_rng(0)
    found = []
    for params in (1e4, 3e4, 1.2e5) * 6:
        batch, tokens = 2 ** rng.uniform(8, 13), np.linspace(0, 2e6, 120)
        effective = tokens / (1 + batch / 1500) * (params / 3e4) ** 0.4
        loss = 1 + 40 * np.maximum(effective, 1.0) ** -0.28 + 0.01 * rng.standard_normal(120)
        measured = np.where(np.arange(120) % 10 == 0, 1.0, np.nan)
        rate = np.full(120, 0.01)
        found.append(RunCurve(params, batch, 0.01, 8 * params, tokens, loss, rate, measured, 1500 * measured))
    return found


@pytest.fixture(scope="module")
def fit(curves):
    return fit_convergence(curves, draws=20)


def test_the_report_marks_what_lies_beyond_the_runs(fit):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(convergence_report(fit, "mine", "6N", 0.02))
    said = console.export_text()
    assert "…" not in said  # fits a terminal of 80 columns
    assert "\\" not in said  # a bracket needs no mark before it
    for words in ("critical", "360k*", "1.20M*", "beyond the largest N", "6N", "+0.020", "Kaplan", "Zhang"):
        assert words in said
    assert "1.5k" in said  # the measured noise scale
    assert "120k*" not in said


def test_values_are_plain_and_marked(fit):
    values = json.loads(json.dumps(convergence_dict(fit, "6N", None)))
    level = values["levels"][-1]
    assert level["noise_scale_tokens"] == pytest.approx(1500)
    assert [row["extrapolated"] for row in level["sizes_shown"]] == [False, False, False, True, True]
    for row in level["sizes_shown"]:
        low, high = row["min_tokens"]["interval"]
        assert 0 < low < high


def test_picture_is_png(fit, curves, tmp_path):
    path = draw_convergence_png(fit, curves, tmp_path / "convergence.png", "a study", 0.5)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_curves_of_completed_trials(make_record, tmp_path):
    records = [make_record(0, loss=2.0), make_record(1, status=Status.DIVERGED), make_record(2, status=None)]
    records.append(make_record(3, loss=2.0))  # its curve is gone
    batch = records[0].roles["batch_tokens"]
    points = [
        {"step": 1, "train_loss": 5.0, "learning_rate": 0.001},
        {
            "step": 3,
            "train_loss": 4.0,
            "learning_rate": 0.002,
            "gradient_square": 1.0,
            "gradient_variance": 9.0,
        },
        {"step": 3, "tokens": 3 * batch, "validation_loss": 4.5},
    ]
    for number in range(3):
        curve_path(tmp_path, number).write_text("\n".join(map(json.dumps, points)))
    (curve,) = run_curves(records, tmp_path)
    # A step is scored before its update: the first has seen nothing, steps 2 and 3 one and two batches.
    assert curve.tokens.tolist() == [0.0, 1.5 * batch]
    assert curve.loss.tolist() == [5.0, 4.0]
    assert curve.gradient_variance[1] == 9.0
    assert np.isnan(curve.gradient_square[0])
    assert curve.flops_per_token == records[0].flops / records[0].roles["tokens"]
    assert held_out_gap(records, tmp_path) == pytest.approx(4.5 - 4.0)
    assert held_out_gap([], tmp_path) is None
