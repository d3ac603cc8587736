"""What the sampler takes a finished trial for."""

import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from carbs_scaling.ledger.history import SeenPoints, essential, read_history, without_collapsed
from carbs_scaling.samplers.candidates import tried
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.sampler import new_study
from carbs_scaling.space.projection import point_key

DISTRIBUTIONS = {
    "params": FloatDistribution(1e6, 1e8, log=True),
    "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
}


def sampler(with_sizes=True):
    def roles(point):
        sizes = {"params": point["params"], "tokens": 20 * point["params"]} if with_sizes else {}
        return {**sizes, "learning_rate": point["learning_rate"]}

    return CarbsSampler(DISTRIBUTIONS, lambda p: 120 * p["params"] ** 2, roles, budget_flops=1e19, seed=0)


@pytest.mark.parametrize("loss", [1e60, -1e60])
def test_a_loss_that_overflows_is_of_a_run_that_diverged(loss):
    carbs = sampler()
    study = new_study(carbs)
    point = {"params": 1e7, "learning_rate": 0.01}
    study.add_trial(create_trial(values=[loss, 1e16], params=point, distributions=DISTRIBUTIONS))
    assert carbs.read(study).failed == [point]


def study_of(carbs, typed):
    """Twelve runs, the one of the highest rate broken: with a loss of 7.4, or typed as diverged."""
    study = new_study(carbs)
    rng = np.random.default_rng(1)
    for number in range(12):
        params, rate = 10 ** rng.uniform(6, 7.5), 10 ** rng.uniform(-3.5, -1.5)
        loss = 2.5 + 0.6 * (params / 1e7) ** -0.3 + 0.05 * np.log(rate / 3e-3) ** 2
        if number == 7:
            params, rate, loss = 2e7, 0.08, 7.4
        point = {"params": params, "learning_rate": rate}
        common = {"params": point, "distributions": DISTRIBUTIONS}
        flops = 120 * params**2
        if number == 7 and typed:
            state, attrs = TrialState.FAIL, {"outcome": "diverged", "flops": flops}
            study.add_trial(create_trial(state=state, user_attrs=attrs, **common))
        else:
            study.add_trial(create_trial(values=[loss, flops], **common))
    return study


def test_a_run_that_collapsed_counts_as_diverged_and_is_charged():
    carbs = sampler()
    study = study_of(carbs, typed=False)
    read = read_history(study, carbs.space)
    history = without_collapsed(read, carbs.space)
    assert (len(read.points), len(history.points), len(history.failed)) == (12, 11, 1)
    assert max(history.loss) < 7
    assert len(history.loss) == len(history.flops) == 11
    assert history.spent_flops == read.spent_flops


def test_the_next_proposal_is_the_one_after_a_typed_divergence():
    proposals = []
    for typed in (False, True):
        carbs = sampler()
        proposals.append(study_of(carbs, typed).ask(DISTRIBUTIONS).params)
    assert proposals[0] == proposals[1]


def test_without_parameters_and_tokens_a_high_loss_is_just_that():
    carbs = sampler(with_sizes=False)
    history = read_history(study_of(carbs, typed=False), carbs.space)
    assert without_collapsed(history, carbs.space) is history


def read_after(state, values=None, outcome=None):
    carbs = sampler()
    study = new_study(carbs)
    point = {"params": 1e7, "learning_rate": 1e-3}
    attrs = {} if outcome is None else {"outcome": outcome}
    common = {"params": point, "distributions": DISTRIBUTIONS, "user_attrs": attrs}
    study.add_trial(create_trial(state=state, values=values, **common))
    return read_history(study, carbs.space), 120 * 1e7**2


@pytest.mark.parametrize(
    ("state", "outcome", "broke"),
    [
        (TrialState.FAIL, None, True),  # what Optuna makes of NaN, and of an exception that it was to catch
        (TrialState.FAIL, "diverged", True),
        (TrialState.FAIL, "machine", False),
        (TrialState.PRUNED, None, True),
    ],
)
def test_a_trial_that_did_not_complete_is_charged_and_learnt_from_unless_the_machine_did_it(
    state, outcome, broke
):
    history, cost = read_after(state, outcome=outcome)
    assert len(history.failed) == broke
    assert history.spent_flops == (cost if broke else 0.0)


def test_a_running_trial_whose_parameters_are_not_stored_yet_is_committed_to_its_proposal():
    carbs = sampler()
    study = new_study(carbs)
    study.add_trial(create_trial(state=TrialState.RUNNING, params={}, distributions={}))
    point = {"params": 1e7, "learning_rate": 1e-3}
    assert read_history(study, carbs.space).committed_flops == 0.0
    history = read_history(study, carbs.space, proposed={0: point})
    assert history.pending == [point]
    assert history.committed_flops == 120 * 1e7**2


def test_what_was_read_once_is_what_a_new_reading_says():
    """A trial that ends, one that is added and another space are seen by a sampler that has read before."""
    carbs = sampler()
    study = study_of(carbs, typed=False)
    running = study.ask(DISTRIBUTIONS)
    seen = SeenPoints()
    for change in ("nothing", "it ends", "another is added", "another space"):
        if change == "it ends":
            study.tell(running, [3.0, 120 * running.params["params"] ** 2])
        elif change == "another is added":
            point = {"params": 2e6, "learning_rate": 0.01}
            study.add_trial(create_trial(values=[2.9, 4.8e14], params=point, distributions=DISTRIBUTIONS))
        space = sampler(with_sizes=False).space if change == "another space" else carbs.space
        again = read_history(study, space, seen=seen)
        assert again == read_history(study, space)
        assert (seen.features(again.points, space) == space.features(again.points)).all()
        assert [seen.key(point) for point in again.points] == [point_key(point) for point in again.points]
        kept = essential(again, 5, seen.key)
        assert kept == essential(again, 5)
        assert 0 < len(kept.left_out) == len(again.points) - len(kept.points)
        assert tried(kept) == tried(again)  # what is left out is not proposed as if it were new
