"""Step Law's table of runs as columns of `fit_law`, and what a recommendation costs in one of its cells."""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from _replay_table import MISSING, SEQUENCE_LENGTH
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

from carbs_scaling.laws.fit import swept_loss

FIT_MAX_PARAMS = 4.3e8
TARGET_MIN_PARAMS = 1.0e9


def arguments(description: str, data: str) -> argparse.ArgumentParser:
    """A parser with --data and --output."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--data", default=data)
    parser.add_argument("--output", help="JSON file for the figures")
    return parser


def write(output: str | None, figures: dict) -> None:
    """Writes the figures as JSON, where a file is asked for."""
    if output:
        Path(output).write_text(json.dumps(figures, indent=1) + "\n")


def step_law_runs(path: str) -> pd.DataFrame:
    """Columns params, tokens, learning_rate, batch_tokens, loss.

    Raises:
        SystemExit: the file is absent; one line says what it is.
    """
    if not Path(path).exists():
        raise SystemExit(MISSING.format(path=path))
    runs = pd.read_csv(path).rename(columns={"params_non_embedding": "params"})
    runs["batch_tokens"] = runs.batch_size_sequences * SEQUENCE_LENGTH
    return runs


class Target:
    """One swept cell, as a judge of recommendations."""

    def __init__(self, params: float, tokens: float, runs: pd.DataFrame) -> None:
        self.params, self.tokens = params, tokens
        self.points = np.log(runs[["learning_rate", "batch_tokens"]].to_numpy())
        self.losses = runs.loss.to_numpy()
        best = runs.loc[runs.loss.idxmin()]
        self.best_loss, self.best_rate, self.best_batch = best.loss, best.learning_rate, best.batch_tokens
        self._linear = LinearNDInterpolator(self.points, self.losses, rescale=True)
        self._nearest = NearestNDInterpolator(self.points, self.losses, rescale=True)

    def regret(self, recipe) -> float:
        """Loss of the recommendation less the cell's best run."""
        return (
            swept_loss(
                self.points,
                self.losses,
                recipe,
                lambda *_, **__: self._linear,
                lambda *_, **__: self._nearest,
            )
            - self.best_loss
        )


def targets(runs: pd.DataFrame) -> list[Target]:
    """Every (N, D) of the runs."""
    return [Target(n, d, cell) for (n, d), cell in runs.groupby(["params", "tokens"])]
