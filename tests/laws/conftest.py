"""Tables of runs drawn from a law that is known."""

import numpy as np
import pandas as pd
import pytest

TRUTH = {"a_N": -0.5, "a_D": 0.15, "b_D": 0.5, "alpha": 0.33, "beta": 0.3}


def draw_runs(sizes=(2e7, 6e7, 2e8, 6e8), tokens=(1e9, 4e9, 1.6e10), seed=0, noise=0.003):
    """A 5 x 4 sweep in every cell: Hoffmann's law, parabolic valleys, seed noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in sizes:
        for d in tokens:
            for step in range(5):
                for batch_step in range(4):
                    rate = best_rate(n, d) * 2.0 ** (step - 2 + rng.uniform(-0.4, 0.4))
                    batch = best_batch(d) * 2.0 ** (batch_step - 1.5)
                    rows.append((n, d, rate, batch, true_loss(n, d, rate, batch) + noise * rng.normal()))
    frame = pd.DataFrame(rows, columns=["params", "tokens", "learning_rate", "batch_tokens", "loss"])
    return frame


def search_runs(seed=0, runs=40):
    """Scattered runs, most of them near the best rate and some up to e^3 above it; noise of tiny models."""
    rng = np.random.default_rng(seed)
    n, d = np.exp(rng.uniform(np.log([[2e7], [1e9]]), np.log([[6e8], [1.6e10]]), (2, runs)))
    off = np.where(np.arange(runs) % 6, 0.3 * rng.normal(size=runs), rng.uniform(1, 3, runs))
    rate, batch = best_rate(n, d) * np.exp(off), best_batch(d) * np.exp(0.8 * rng.normal(size=runs))
    loss = (
        best_loss(n, d) + 0.05 * off**2 * np.exp(0.3 * rng.normal(size=runs)) + 0.01 * rng.normal(size=runs)
    )
    return pd.DataFrame(
        {"params": n, "tokens": d, "learning_rate": rate, "batch_tokens": batch, "loss": loss}
    )


def best_rate(n, d):
    return 2e-3 * (n / 1e8) ** TRUTH["a_N"] * (d / 4e9) ** TRUTH["a_D"]


def best_batch(d):
    return 2e5 * (d / 4e9) ** TRUTH["b_D"]


def best_loss(n, d):
    return 1.7 + 0.9 * (n / 1e8) ** -TRUTH["alpha"] + 0.6 * (d / 4e9) ** -TRUTH["beta"]


def true_loss(n, d, rate, batch):
    u, v = np.log(rate / best_rate(n, d)), np.log(batch / best_batch(d))
    return best_loss(n, d) + 0.05 * (u - 0.4 * v) ** 2 + 0.02 * v**2


class Truth:
    """The law that `runs` are drawn from."""

    draw = staticmethod(draw_runs)
    search = staticmethod(search_runs)
    rate = staticmethod(best_rate)
    batch = staticmethod(best_batch)
    loss = staticmethod(best_loss)
    values = TRUTH


@pytest.fixture(scope="session")
def truth():
    return Truth


@pytest.fixture(scope="session")
def runs():
    return draw_runs()


@pytest.fixture(scope="session")
def law(runs):
    from carbs_scaling import fit_law

    return fit_law(runs)
