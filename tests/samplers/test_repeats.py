"""Repeats: near ties of the front are told apart, within the limits that any proposal has."""

from collections import Counter
from dataclasses import replace

import numpy as np
from optuna.distributions import CategoricalDistribution, IntDistribution

from carbs_scaling.ledger.history import read_history
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.sampler import new_study

SIZES = {"width": IntDistribution(1, 4), "kind": CategoricalDistribution(["a", "b"])}


def sized(**options):
    return CarbsSampler(
        SIZES, lambda p: 1e3 * p["width"], lambda p: {"params": p["width"]}, seed=0, **options
    )


def noisy_loss(rng, point):
    """Two kinds at each width; noise hides which is better at width 4, at the other widths it is plain."""
    gap = 0.01 if point["width"] == 4 else 0.5
    return 5 - point["width"] + gap * (point["kind"] == "b") + 0.03 * rng.normal()


def test_near_ties_of_the_front_are_run_again_and_clear_cases_are_not():
    study, rng = new_study(sized()), np.random.default_rng(0)
    for _ in range(14):
        trial = study.ask(SIZES)
        study.tell(trial, [noisy_loss(rng, trial.params), 1e3 * trial.params["width"]])
    runs = Counter((trial.params["width"], trial.params["kind"]) for trial in study.trials)
    again = Counter(tuple(t.params.values()) for t in study.trials[8:] if t.params["width"] == 4)
    assert len(runs) == 8
    assert sum(again.values()) >= 3
    assert max(runs[width, "b"] for width in (2, 3)) == 1


def test_a_repeat_keeps_to_the_budget_to_what_is_allowed_and_to_what_has_not_failed():
    rng = np.random.default_rng(0)
    study = new_study(sized())
    for _ in range(9):
        trial = study.ask(SIZES)
        study.tell(trial, [noisy_loss(rng, trial.params), 1e3 * trial.params["width"]])
    refusing = sized(allowed=lambda point: point["kind"] == "a")
    poor = sized(budget_flops=sum(trial.values[1] for trial in study.trials) + 2.5e3)
    history = read_history(study, refusing.space)
    for number in range(9, 15):
        assert refusing.propose(history, number)["kind"] == "a"
        assert poor.propose(history, number)["width"] <= 2
    failed = [{"width": 4, "kind": kind} for kind in "ab"]
    assert sized().propose(replace(history, failed=failed), 9)["width"] != 4


def test_a_parameter_of_the_callers_own_does_not_disturb():
    own, rng = sized(), np.random.default_rng(0)
    study = new_study(own)
    for _ in range(12):
        trial = study.ask(SIZES)
        trial.suggest_float("dropout", 0, 1)
        study.tell(trial, [noisy_loss(rng, trial.params), 1e3 * trial.params["width"]])
    assert len({(t.params["width"], t.params["kind"]) for t in study.trials}) == 8
