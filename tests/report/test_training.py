"""What a training run shows: the real loss beside the predicted one, in lines and as a picture."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from carbs_scaling.laws.recommend.predicted_curve import PredictedCurve
from carbs_scaling.report.training import LINE_SECONDS, TrainingDisplay
from carbs_scaling.report.training_figure import draw_curve_png
from carbs_scaling.training.recipe_file import Prediction

CURVE = PredictedCurve((0.1, 0.9), (4.0, 3.0), (3.5, 2.5), (4.5, 3.5), 7)
PREDICTION = Prediction(2.9, (2.5, 3.3), 0.9, 1e4, 1e4, (), CURVE)


@pytest.mark.parametrize("predicted", [PREDICTION, replace(PREDICTION, curve=None), None])
def test_lines_have_the_predicted_loss_where_there_is_one(predicted):
    now, out = [0.0], io.StringIO()
    console = Console(file=out, width=200)
    with TrainingDisplay("mine", 100, 10, 1e9, predicted, console, clock=lambda: now[0]) as display:
        for step in (1, 50):
            display.step_done(step, 1.0 + step, 3.6)
            now[0] += 2 * LINE_SECONDS
    early, late = (line for line in out.getvalue().splitlines() if "training loss" in line)
    assert "predicted" not in early  # before the first point of the curve
    has_curve = predicted is not None and predicted.curve is not None
    assert ("predicted 3.500, 3.000 to 4.000" in late) == has_curve


@pytest.mark.parametrize(
    ("predicted", "count"), [(PREDICTION, 100), (replace(PREDICTION, curve=None), 3), (None, 1)]
)
def test_a_run_of_any_length_can_be_drawn(tmp_path, predicted, count):
    points = [{"tokens": 10 * i, "train_loss": 3 + 2 / i} for i in range(1, count + 1)]
    points.append({"tokens": 10 * count, "validation_loss": 3.1})
    path = draw_curve_png(points, tmp_path / "curve.png", "mine", predicted, 0.7)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
