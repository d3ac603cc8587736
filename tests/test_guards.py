"""Ideas that could be switched off without any other test noticing: each has a test here that then fails."""

import numpy as np
import pytest
import torch
from botorch.models.deterministic import GenericDeterministicModel

from carbs_scaling import fit_law
from carbs_scaling.acquisition.lesson import LessonGain, ValleySpread
from carbs_scaling.acquisition.price import LogGainPerCost, known_costs, per_flop
from carbs_scaling.laws.fit import noise
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.sampler import new_study
from tests.samplers.test_front_search import DISTRIBUTIONS, begun, flops, loss


def test_a_gain_is_divided_by_its_cost():
    """Two runs of the same gain: the cheaper one scores higher, by the logarithm of the ratio of costs."""
    rows = torch.tensor([[0.1], [0.9]], dtype=torch.float64)
    costs = known_costs(rows, torch.tensor([1e15, 1e17], dtype=torch.float64))

    class EvenGain(torch.nn.Module):
        model = GenericDeterministicModel(lambda X: X)

        def forward(self, X):
            return torch.ones(len(X), dtype=torch.float64)

    scores = LogGainPerCost([EvenGain()], per_flop(costs, 0.0), None)(rows[:, None])
    assert float(scores[0] - scores[1]) == pytest.approx(np.log(100))


def test_a_search_that_divides_by_cost_makes_many_cheap_runs():
    """Without the division the budget goes into a few of the dearest runs."""
    own = CarbsSampler(DISTRIBUTIONS, flops, dict, budget_flops=3e19, seed=0, members=4)
    study = new_study(own)
    for _ in range(25):
        trial = study.ask(DISTRIBUTIONS)
        study.tell(trial, [loss(trial.params), flops(trial.params)])
    spent = np.cumsum([trial.values[1] for trial in study.trials])
    assert spent[19] < 0.2 * 3e19


def test_lessons_count_early_and_fade():
    """What a run teaches about the valley is part of its worth while little is known, and less and less."""
    study = begun()
    own = study.sampler
    history = own.read(study)
    model = own.model_of(history, np.random.default_rng(0))
    search = own.front_search(history)
    state = search._state(history, history, own.space.describe(history.points), model)
    pool = own.space.candidates(np.random.default_rng(1).random((200, 3)))
    found = search._lesson(state, pool, 1e18)
    assert found is not None
    spread, share = found
    assert isinstance(spread, ValleySpread)
    assert 0.5 < share < 1.0
    gain = LessonGain(state.model, spread, share)(pool.rows[:, None])
    assert float(gain.max()) > 0
    # A run at the floor of the valley, where all laws agree on its loss, teaches less than one on its wall.
    assert float(gain.max()) > 3 * float(gain.median())


def test_a_dozen_runs_do_not_claim_to_have_no_noise(truth, monkeypatch):
    """A law of nineteen parameters goes through a dozen runs; published runs repeat to some permille."""

    def seed_noise():
        runs = truth.draw(noise=0.006).sample(12, random_state=5)
        return fit_law(runs, check=False).seed_sd / runs.loss.min()

    with_prior = seed_noise()
    monkeypatch.setattr(noise, "SEED_NOISE_RUNS", 0.0)
    assert seed_noise() < 0.5 * with_prior
    assert 0.001 < with_prior < 0.01


def test_what_the_law_missed_on_held_out_sizes_widens_its_interval(truth):
    """Losses that leave the law's form with size: the drift of the held-out sizes is part of the interval."""
    runs = truth.draw(sizes=(1e7, 2e7, 4e7, 8e7, 1.6e8, 3.2e8, 6.4e8))
    n = np.log(runs.params / 1e7)
    runs = runs.assign(loss=runs.loss + 0.02 * np.sin(1.6 * n))
    checked, unchecked = fit_law(runs), fit_law(runs, check=False)
    assert checked.drift > 0
    assert unchecked.drift == 0
    at = {"params": 5e9, "tokens": 1e11}
    widths = [np.subtract(*law.recommend(**at).interval("loss")[::-1]) for law in (checked, unchecked)]
    assert widths[0] > widths[1]


@pytest.fixture(scope="session")
def truth():
    from tests.laws.conftest import Truth

    return Truth
