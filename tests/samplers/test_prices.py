"""A sampler that knows what runs really cost now weighs gains against that, and is charged that."""

import numpy as np
import optuna
import pytest

from carbs_scaling.ledger.history import History
from carbs_scaling.samplers.candidates import Limit, continuations
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.sampler import new_study
from tests.samplers.test_stopping import DISTRIBUTIONS, flops, loss

optuna.logging.set_verbosity(optuna.logging.ERROR)


def price(point, completed):
    """Of a run that goes on from the longest shorter one of its model and rate."""
    done = [
        other["tokens"]
        for other in completed.values()
        if other["params"] == point["params"]
        and np.isclose(other["learning_rate"], point["learning_rate"], rtol=1e-9)
        and other["tokens"] < point["tokens"]
    ]
    return flops(point) * (1 - max(done, default=0.0) / point["tokens"])


def bought(trials, **options):
    """A study of some trials, with the sampler."""
    own = CarbsSampler(DISTRIBUTIONS, flops, dict, budget_flops=3e18, seed=0, members=8, **options)
    study = new_study(own)
    for _ in range(trials):
        trial = study.ask(DISTRIBUTIONS)
        study.tell(trial, [loss(trial.params), flops(trial.params)])
    return study, own


def test_full_prices_change_nothing():
    without, _ = bought(10)
    full, _ = bought(10, price=lambda point, completed: flops(point))
    assert [trial.params for trial in full.trials] == [trial.params for trial in without.trials]


def test_continuations_are_bought_and_charged_at_their_price():
    study, own = bought(16, price=price)
    history = own.read(study)
    points = history.continuable
    paid = [price(points[i], {j: points[j] for j in range(i)}) for i in range(16)]
    whole = [flops(points[i]) for i in range(16)]
    assert sum(p < 0.99 * w for p, w in zip(paid, whole, strict=True)) >= 2
    assert history.spent_flops == pytest.approx(sum(paid))
    running = study.ask(DISTRIBUTIONS)
    committed = own.read(study).committed_flops
    assert committed == pytest.approx(price(running.params, points))
    assert history.flops == pytest.approx(whole)  # their place on the front


def test_candidates_hold_longer_runs_of_what_is_there_alone():
    own = CarbsSampler(DISTRIBUTIONS, flops, dict, budget_flops=3e18, seed=0, price=price)
    assert own.space.length_names == ["tokens"]
    point = {"params": 10**7, "tokens": 1e9, "learning_rate": 2e-3}
    history = History([point], [3.0], [flops(point)], [], [], 0.0, 0.0, continuable={4: point})
    limit = Limit(own.space, 4e17, float("inf"), history.continuable)
    found = continuations(own.space, history, own.space.describe([]), limit)
    assert len(found) >= 4
    assert all((p["params"], p["learning_rate"]) == (10**7, 2e-3) and p["tokens"] > 1e9 for p in found.points)
    assert (limit.prices(found) <= 4e17).all()
    assert found.flops.max() > 4e17  # its price counts against what is left, not the whole run
    cut = Limit(own.space, 4e17, 2e17, history.continuable)
    assert continuations(own.space, history, own.space.describe([]), cut).flops.max() <= 2e17


def test_a_price_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="no number of FLOPs"):
        bought(9, price=lambda point, completed: float("nan"))
