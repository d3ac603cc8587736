"""Mistakes that a program which calls the sampler can make: learnt from, ended quietly, or warned of once."""

import inspect
import math
import time
import warnings

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

import carbs_scaling
from carbs_scaling.errors import BudgetSpent
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.options import SamplerOptions
from carbs_scaling.samplers.sampler import new_study
from carbs_scaling.space.conditions import Conditions
from carbs_scaling.space.encoding import Encoding

optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = {
    "width": IntDistribution(32, 512, log=True),
    "tokens": FloatDistribution(1e6, 1e8, log=True),
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
}
OF_SGD = {"optimizer": CategoricalDistribution(["adam", "sgd"]), "momentum": FloatDistribution(0.0, 0.99)}
QUICK = {"candidates": 32, "members": 4}


def params(point):
    return 48.0 * point["width"] ** 2


def flops(point):
    return 6.0 * params(point) * point["tokens"]


def roles(point):
    return {"params": params(point), "tokens": point["tokens"], "learning_rate": point["lr"]}


def loss(point):
    off = math.log(point["lr"] / (3e-3 * (params(point) / 1e6) ** -0.3))
    floor = 1.8 + 2 * (params(point) / 1e6) ** -0.35 + 1.5 * (point["tokens"] / 1e7) ** -0.36
    return floor + 0.04 * off**2


def suggest(trial):
    return {
        "width": trial.suggest_int("width", 32, 512, log=True),
        "tokens": trial.suggest_float("tokens", 1e6, 1e8, log=True),
        "lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True),
    }


def sampler(space=SPACE, **options):
    given = {"budget_flops": 3e17, "seed": 0, **QUICK, **options}
    return CarbsSampler(space, flops, given.pop("roles", roles), **given)


def finished(own, objective, n_trials=6, **options):
    study = new_study(own)
    study.optimize(objective, n_trials=n_trials, **options)
    return study


def test_a_parameter_that_is_suggested_for_one_choice_alone_is_learnt_from():
    own = sampler({**SPACE, **OF_SGD})

    def objective(trial):
        point, kind = suggest(trial), trial.suggest_categorical("optimizer", ["adam", "sgd"])
        if kind == "sgd":
            return loss(point) + 0.3 - 0.2 * trial.suggest_float("momentum", 0.0, 0.99), flops(point)
        return loss(point), flops(point)

    study = finished(own, objective, 16)
    history = own.read(study)
    assert len(history.points) == 16
    assert {p["momentum"] for p in history.points if p["optimizer"] == "adam"} == {0.495}
    assert len({p["momentum"] for p in history.points if p["optimizer"] == "sgd"}) > 1
    assert own.space.legal({**history.points[0], "optimizer": "adam", "momentum": 0.9})["momentum"] == 0.495
    law = own.law(study)
    assert law.loss(1e6, 1e7) > 1.8
    assert "L = " in str(law)
    assert "learning_rate " in str(law.recommend(1e7, 1e8))


def test_conditions_within_conditions():
    space = {
        "a": CategoricalDistribution([1, True]),
        "b": CategoricalDistribution(["x", "y"]),
        "c": FloatDistribution(0.0, 1.0),
    }
    encoding = Encoding(space)
    seen = [{"a": 1}, {"a": True, "b": "x"}, {"a": True, "b": "y", "c": 0.2}]
    learnt = Conditions.learnt(seen, encoding)
    assert learnt.completed({"a": 1}, encoding) == {"a": 1, "b": "y", "c": 0.5}
    assert learnt.completed({"a": True, "b": "x"}, encoding) == {"a": True, "b": "x", "c": 0.5}
    assert learnt.completed({"a": True, "b": "y"}, encoding) is None
    assert Conditions.learnt(seen[2:], encoding) == Conditions()


def test_a_parameter_that_comes_and_goes_for_no_reason_is_named():
    def objective(trial):
        point = {"width": 64, "lr": 1e-3, "tokens": trial.suggest_float("tokens", 1e6, 1e8, log=True)}
        if trial.number % 2:
            point = suggest(trial)
        return loss(point), flops(point)

    with pytest.warns(UserWarning, match="are not learnt from: width was not suggested"):
        finished(sampler(), objective)


@pytest.mark.parametrize("jobs", [1, 2, 4])
@pytest.mark.parametrize("limit", [{"budget_flops": 4e12}, {"n_trials": 5}])
def test_optimize_ends_quietly_when_budget_or_trials_do(jobs, limit):
    own = sampler(startup_trials=100, **limit)

    def objective(trial):
        point = suggest(trial)
        time.sleep(0.01 * (1 + point["width"] / 128))
        return loss(point), flops(point)

    study = finished(own, objective, 100, n_jobs=jobs)
    states = [trial.state for trial in study.trials]
    assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert own.read(study).remaining_flops(own.budget_flops) >= 0
    if "n_trials" in limit:
        assert states.count(TrialState.COMPLETE) == 5
    assert not own.affordable(study)
    with pytest.raises(BudgetSpent):
        study.ask(SPACE)


def test_a_limited_number_of_trials_spends_more_a_trial():
    def spent(**limit):
        own = sampler(budget_flops=3e15, max_trial_flops=4.5e14, startup_trials=4, **limit)
        study = finished(own, lambda trial: (loss(p := suggest(trial)), flops(p)), 20)
        return sum(trial.values[1] for trial in study.trials)

    assert spent(n_trials=20) > 2 * spent()


def wrong_order(trial):
    point = suggest(trial)
    return flops(point), loss(point)


def other_flops(trial):
    point = suggest(trial)
    return loss(point), 1000 * flops(point)


def wider_range(trial):
    point = {
        "width": trial.suggest_int("width", 32, 512, log=True),
        "tokens": trial.suggest_float("tokens", 1e6, 1e8, log=True),
        "lr": trial.suggest_float("lr", 1e-4, 1.0, log=True),
    }
    return loss(point), flops(point)


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (wrong_order, "return the loss first"),
        (other_flops, "where flops.point. said"),
        (wider_range, "lr is suggested as .* and declared as"),
    ],
)
def test_one_warning_once(objective, said):
    with pytest.warns(UserWarning, match=said) as caught:
        finished(sampler(budget_flops=None, startup_trials=100), objective, 3)
    assert len(caught) == 1


@pytest.mark.parametrize("said_nothing", [lambda point: {}, lambda point: {"params": 5.0}])
def test_roles_that_say_nothing_are_warned_of(said_nothing):
    with pytest.warns(UserWarning, match="roles.point. says nothing"):
        sampler(roles=said_nothing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not any(sampler(roles=None).space.has_role)


def test_runs_that_are_finished_already_are_learnt_from():
    rows = [{"width": 32 * i, "tokens": 1e7, "lr": 1e-3 * i} for i in range(1, 9)]
    rows = [{**row, "loss": loss(row)} for row in rows]
    own = sampler(startup_trials=8)
    study = new_study(own)
    with pytest.warns(UserWarning, match="1 of 9 runs are left out"):
        assert own.add_runs(study, [*rows, {"width": 32}]) == 8
    assert own.add_runs(study, rows) == 0
    history = own.read(study)
    assert (len(history.points), history.spent_flops, history.begun) == (8, 0.0, 0)
    assert not own._designs(history)
    assert own.law(study).loss(48 * 64**2, 1e7) < rows[0]["loss"]


def test_options_and_public_names_are_seen():
    names = inspect.signature(CarbsSampler).parameters
    for option in SamplerOptions.__dataclass_fields__:
        assert option in names
        assert f"        {option}: " in CarbsSampler.__doc__
    assert {"CarbsSampler", "fit_law", "law_scheduler"} <= set(dir(carbs_scaling))
