"""Runs drawn from a law, and surrogates fitted to them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from carbs_scaling.space.floor_field import FloorField
from carbs_scaling.surrogate.fit import SurrogateFitter

ALL = (True, True, True, True)
CENTRE = (np.log(1e8), np.log(5e9), np.log(2e-3), np.log(2e5))
HALF = np.array([2.5, 2.0, 2.5, 2.5])


def drawn_runs(count, seed=0, noise=0.003):
    rng = np.random.default_rng(seed)
    cube = rng.random((count, 4))
    features = (2 * cube - 1) * HALF
    n, d, e, b = features.T
    loss = (
        1.8
        + 0.7 * np.exp(-0.35 * n)
        + 0.6 * np.exp(-0.36 * d)
        + 0.03 * (e + 0.4 * n - 0.4 * b) ** 2
        + 0.02 * (b - 0.5 * d) ** 2
    )
    return cube, features, loss + noise * rng.normal(size=count)


def fitted(count, seed=0, **options):
    cube, features, loss = drawn_runs(count, seed)
    return SurrogateFitter(CENTRE, ALL, **options).fit(cube, features, loss, np.random.default_rng(seed))


# Of a space whose cube is its features: the first two columns are N and D, and no shape is left.
FIELD = FloorField(np.array([0, 1]), np.diag(1 / (2 * HALF[:2])))


def inputs_of(cube, features):
    return torch.from_numpy(np.column_stack([cube, features]))


@pytest.fixture
def law_runs():
    """`drawn_runs`, `fitted`, `inputs_of`, `ALL`, `CENTRE` and `FIELD`."""
    return SimpleNamespace(
        drawn_runs=drawn_runs, fitted=fitted, inputs_of=inputs_of, ALL=ALL, CENTRE=CENTRE, FIELD=FIELD
    )
