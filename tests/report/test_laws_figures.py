"""Pictures of a law are drawn for swept and for scattered runs."""

import numpy as np
import pandas as pd
import pytest

from carbs_scaling.laws.fit.fit_law import fit_law
from carbs_scaling.laws.runs.reading import read_runs
from carbs_scaling.laws.runs.table import REQUIRED
from carbs_scaling.report import laws_figures
from carbs_scaling.report.laws_figures import draw_law_png, draw_valleys_png, swept_cells


def table_of(swept):
    """72 runs in six cells, or each at an (N, D) of its own."""
    rng = np.random.default_rng(0)
    grid = np.array([(n, d) for n in (1e7, 3e7, 1e8) for d in (1e9, 4e9)])
    n, d = 10 ** rng.uniform(7, 8, 72), 10 ** rng.uniform(9, 9.6, 72)
    if swept:
        n, d = grid.repeat(12, axis=0).T
    u, v = rng.normal(size=(2, 72))
    v = np.where(np.arange(72) % 2, v, 0.0)
    columns = {
        "params": n,
        "tokens": d,
        "learning_rate": 1e-3 * np.exp(u),
        "batch_tokens": 1e5 * np.exp(v),
        "loss": 2 + (n / 1e7) ** -0.3 + (d / 1e9) ** -0.3 + 0.05 * u**2 + 0.02 * v**2,
    }
    return read_runs(pd.DataFrame(columns))[""]


@pytest.mark.parametrize("swept", [True, False])
def test_pictures_are_png(tmp_path, swept):
    runs = table_of(swept)
    law = fit_law(runs, check=False)
    paths = [draw_law_png(law, runs, tmp_path / "law.png", "a law")]
    if swept:
        paths.append(draw_valleys_png(law, runs, tmp_path / "valleys.png", "valleys"))
    assert bool(swept_cells(runs)) is swept
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_law_of_one_size_is_drawn_against_tokens(tmp_path, monkeypatch):
    table = table_of(swept=False)
    runs = pd.DataFrame({name: getattr(table, name) for name in REQUIRED}).assign(params=1e7)
    law, drawn = fit_law(runs, check=False), {}
    monkeypatch.setattr(laws_figures, "finish_axes", lambda axes, x, y, **more: drawn.update({x: axes}))
    draw_law_png(law, read_runs(runs)[""], tmp_path / "law.png", "a law")
    (axes,) = (drawn.pop("training tokens D"),)
    assert not drawn
    line = next(line for line in axes.lines if line.get_label() == "N = 10.0M")
    np.testing.assert_allclose(line.get_ydata(), law.loss(1e7, line.get_xdata()))
