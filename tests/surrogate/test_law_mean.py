"""The law as mean and kernel of a process."""

import numpy as np
import pytest
import torch

from carbs_scaling.laws.form.law import INDEX
from carbs_scaling.surrogate.law_mean import LawMean, features_of


def test_the_kernel_is_the_same_by_diagonal_by_batch_and_by_pair(law_runs):
    kernel = law_runs.fitted(20, members=1, floor_field=law_runs.FIELD).kernel
    left, right = (law_runs.inputs_of(*law_runs.drawn_runs(5, seed=seed)[:2]) for seed in (7, 8))
    with torch.no_grad():
        pairs = kernel(left, right).to_dense()
        torch.testing.assert_close(kernel(left, right, diag=True), pairs.diagonal())
        batch = kernel(torch.stack([right, left]), torch.stack([left, right])).to_dense()
    torch.testing.assert_close(batch[1], pairs)
    torch.testing.assert_close(batch[0], pairs.T)


def test_a_law_with_lower_walls_is_surer_of_what_they_hide(law_runs):
    """Else one flat law in an ensemble of steep ones hopes for losses below the floor far up the walls."""
    surrogate = law_runs.fitted(20, members=4)
    theta = surrogate.kernel.law.thetas
    flat = theta.copy()
    flat[INDEX["ln_k_e"]] -= np.log(8)
    far, near = np.array([[0.0, 0.0, 2.4, 0.0]]), np.array([[0.0, 0.0, 0.0, 0.0]])
    inputs = law_runs.inputs_of(np.full((2, 4), 0.5), np.concatenate([far, near]))
    laws = LawMean(np.stack([theta, flat]), law_runs.ALL, surrogate.scale)
    value, floor = laws.value_and_floor(features_of(inputs))
    relative = surrogate.kernel.relative_sd(value - floor, inputs).numpy()
    np.testing.assert_allclose(relative[0], 1.0)
    assert relative[1, 0] < 0.8
    assert relative[1, 1] == pytest.approx(1.0, abs=0.05)
