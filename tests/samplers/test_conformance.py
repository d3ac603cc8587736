"""Every sampler, ours and the baselines, under one contract: the door of `samplers.sampler`."""

import random

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial, TrialState

from carbs_scaling.errors import BudgetSpent
from carbs_scaling.samplers import SAMPLERS
from carbs_scaling.samplers.sampler import build_sampler, new_study
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.projection import LegalSpace

optuna.logging.set_verbosity(optuna.logging.ERROR)
DISTRIBUTIONS = {
    "params": FloatDistribution(1e6, 1e8, log=True),
    "tokens": FloatDistribution(1e8, 1e10, log=True),
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "batch_sequences": IntDistribution(8, 1024, log=True),
    "activation": CategoricalDistribution(["gelu", "relu"]),
}
LADDER = np.geomspace(1e6, 1e8, 9)
BUDGET = 3e18
# So that each is past its start within a few trials, and fits whatever it fits.
OPTIONS = {"nsga2": {"population_size": 4}, "qlognehvi": {"startup_trials": 4}, "carbs": {"members": 8}}
# What a trial may cost: fitting two models for each proposal takes a second.
SLOW = {"optuna_gp", "qlognehvi"}
every_sampler = pytest.mark.parametrize("name", SAMPLERS.names)


def flops(point):
    return 6.0 * point["params"] * point["tokens"]


def roles(point):
    return {
        "params": point["params"],
        "tokens": point["tokens"],
        "learning_rate": point["learning_rate"],
        "batch_tokens": 1024.0 * point["batch_sequences"],
    }


def project(point):
    return {**point, "params": float(LADDER[np.argmin(np.abs(np.log(LADDER / point["params"])))])}


def loss(point):
    off = np.log(point["learning_rate"] / (2e-3 * (point["params"] / 1e7) ** -0.4))
    floor = 2 + 0.5 * (point["params"] / 1e7) ** -0.3 + 0.5 * (point["tokens"] / 1e9) ** -0.3
    return floor + 0.05 * off**2 + 0.01 * (point["activation"] == "relu")


def sampler_of(name, seed=0, budget=BUDGET, allowed=None):
    space = LegalSpace(Encoding(DISTRIBUTIONS), flops, roles, project, allowed)
    return build_sampler(name, space, budget, seed, OPTIONS.get(name))


def finish(study, trial):
    """Every fifth trial diverges, at a third of its cost."""
    if trial.number % 5 == 4:
        trial.set_user_attr("outcome", "diverged")
        trial.set_user_attr("flops", flops(trial.params) / 3)
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, [loss(trial.params), flops(trial.params)])


def searched(name, count, **arguments):
    study = new_study(sampler_of(name, **arguments))
    for _ in range(count):
        finish(study, study.ask(DISTRIBUTIONS))
    return study


def count_of(name):
    return 7 if name in SLOW else 13


@every_sampler
def test_points_are_legal_whole_and_within_the_budget(name):
    sampler = sampler_of(name)
    study = new_study(sampler)
    while sampler.affordable(study) and len(study.trials) < count_of(name):
        before = sampler.remaining_flops(study)
        trial = study.ask(DISTRIBUTIONS)
        assert set(trial.params) == set(DISTRIBUTIONS)
        assert trial.params == project(trial.params)
        assert isinstance(trial.params["batch_sequences"], int)
        for key, distribution in DISTRIBUTIONS.items():
            assert distribution._contains(distribution.to_internal_repr(trial.params[key]))
        assert flops(trial.params) <= before
        assert sampler.remaining_flops(study) == pytest.approx(before - flops(trial.params))
        finish(study, trial)
    assert len(study.trials) >= 5


@every_sampler
def test_a_proposal_depends_on_the_seed_the_number_and_the_other_trials_alone(name):
    """Two histories that came about otherwise; the sampler of one has made proposals before."""
    study = searched(name, count_of(name))
    other = new_study(sampler_of(name))
    other.add_trials(study.trials)
    if name == "nsga2":  # keeps each generation's parents in the study's attributes
        other = searched(name, count_of(name))
    first, second = (study.ask(DISTRIBUTIONS).params for study in (study, other))
    assert first == second
    assert searched(name, 3, seed=1).trials[2].params != study.trials[2].params or name == "grid"


@every_sampler
def test_a_search_that_was_killed_goes_on_as_the_unbroken_one(name):
    """Each proposal by a new sampler, after another was killed while it proposed."""
    study = new_study(sampler_of(name))
    for _ in range(count_of(name)):
        study.sampler = sampler_of(name)
        trial_id = study.ask(DISTRIBUTIONS)._trial_id
        study.sampler = sampler_of(name)
        trial = Trial(study, trial_id)
        for parameter, distribution in DISTRIBUTIONS.items():
            trial._suggest(parameter, distribution)
        finish(study, trial)
    unbroken = searched(name, count_of(name))
    assert [trial.params for trial in study.trials] == [trial.params for trial in unbroken.trials]


@every_sampler
def test_running_trials_are_paid_for_and_not_proposed_again(name):
    study = searched(name, 5)
    before = study.sampler.remaining_flops(study)
    asked = [study.ask(DISTRIBUTIONS).params for _ in range(3)]
    assert len({tuple(point.values()) for point in asked}) == 3
    assert study.sampler.remaining_flops(study) == pytest.approx(before - sum(map(flops, asked)))


@every_sampler
def test_what_the_caller_refuses_is_never_proposed(name):
    study = searched(name, count_of(name), allowed=lambda point: point["batch_sequences"] < 100)
    assert max(trial.params["batch_sequences"] for trial in study.trials) < 100


@every_sampler
def test_it_ends_when_the_budget_pays_for_no_run(name):
    sampler = sampler_of(name, budget=1.2e15)
    study = new_study(sampler)
    assert sampler.affordable(study)
    while sampler.affordable(study):
        trial = study.ask(DISTRIBUTIONS)
        study.tell(trial, [loss(trial.params), flops(trial.params)])
    assert sum(trial.values[1] for trial in study.trials) <= 1.2e15
    with pytest.raises(BudgetSpent, match="FLOPs remain"):
        study.ask(DISTRIBUTIONS)


@every_sampler
def test_global_random_state_is_neither_used_nor_touched(name):
    proposals = []
    for state in (0, 1):
        random.seed(state)
        np.random.seed(state)  # noqa: NPY002
        torch.manual_seed(state)
        before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        proposals.append([trial.params for trial in searched(name, count_of(name)).trials])
        assert random.getstate() == before[0]
        assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[2])
    assert proposals[0] == proposals[1]


@every_sampler
def test_a_study_of_other_objectives_is_refused_in_words(name):
    study = optuna.create_study(sampler=sampler_of(name), directions=["maximize", "minimize"])
    with pytest.raises(ValueError, match="two objectives, loss and training FLOPs, both minimised"):
        study.ask(DISTRIBUTIONS)
