"""The sampler: legal, affordable, reproducible, and better than chance where the law is known."""

import logging

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from carbs_scaling.errors import BudgetSpent
from carbs_scaling.frontier import hypervolume
from carbs_scaling.ledger.history import read_history
from carbs_scaling.samplers import carbs
from carbs_scaling.samplers.candidates import design_point
from carbs_scaling.samplers.carbs import CarbsSampler

optuna.logging.set_verbosity(optuna.logging.ERROR)

DISTRIBUTIONS = {
    "width": IntDistribution(128, 1024, log=True),
    "depth": IntDistribution(2, 16),
    "tokens_per_param": FloatDistribution(2.0, 80.0, log=True),
    "learning_rate": FloatDistribution(1e-4, 3e-2, log=True),
    "batch_sequences": IntDistribution(4, 512, log=True),
    "activation": CategoricalDistribution(["gelu", "swiglu"]),
}
BUDGET = 1e17


def params(point):
    return 12.0 * point["depth"] * point["width"] ** 2


def flops(point):
    return 6.0 * params(point) ** 2 * point["tokens_per_param"]


def roles(point):
    return {
        "params": params(point),
        "tokens": params(point) * point["tokens_per_param"],
        "learning_rate": point["learning_rate"],
        "batch_tokens": 128.0 * point["batch_sequences"],
    }


def project(point):
    return {**point, "width": 64 * max(1, round(point["width"] / 64))}


def loss(point, noise=0.0):
    r = roles(point)
    best = 3e-3 * (r["params"] / 1e7) ** -0.4 * (r["batch_tokens"] / 1e4) ** 0.4
    batch = 1e4 * (r["tokens"] / 1e8) ** 0.5
    return (
        1.7
        + 400 * r["params"] ** -0.34
        + 900 * r["tokens"] ** -0.33
        + 0.06 * np.log(r["learning_rate"] / best) ** 2
        + 0.03 * np.log(r["batch_tokens"] / batch) ** 2
        + (0.02 if point["activation"] == "gelu" else 0.0)
        + noise
    )


def sampler(seed=0, **arguments):
    arguments = {"budget_flops": BUDGET, **arguments}
    return CarbsSampler(DISTRIBUTIONS, flops, roles, project, seed=seed, **arguments)


def study_of(sampler, **arguments):
    return optuna.create_study(sampler=sampler, directions=["minimize", "minimize"], **arguments)


def step(study):
    trial = study.ask(DISTRIBUTIONS)
    study.tell(trial, [loss(trial.params), flops(trial.params)])
    return trial.params


def finish(study, count):
    return [step(study) for _ in range(count)]


def test_proposals_are_projected_inside_the_distributions_and_within_the_budget():
    own = sampler()
    study = study_of(own)
    while own.affordable(study) and len(study.trials) < 25:
        before = own.remaining_flops(study)
        trial = study.ask(DISTRIBUTIONS)
        assert trial.params == project(trial.params)
        assert flops(trial.params) <= before
        assert own.remaining_flops(study) == pytest.approx(before - flops(trial.params))
        study.tell(trial, [loss(trial.params), flops(trial.params)])
    for trial in study.trials:
        for name, distribution in DISTRIBUTIONS.items():
            assert distribution._contains(distribution.to_internal_repr(trial.params[name]))
        assert isinstance(trial.params["width"], int)


def test_suggest_and_optimize_get_the_same_points_as_ask_and_stop_when_the_budget_is_spent():
    asked = finish(study_of(sampler(seed=5)), 9)

    def objective(trial):
        point = {
            "width": trial.suggest_int("width", 128, 1024, log=True),
            "depth": trial.suggest_int("depth", 2, 16),
            "tokens_per_param": trial.suggest_float("tokens_per_param", 2.0, 80.0, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-2, log=True),
            "batch_sequences": trial.suggest_int("batch_sequences", 4, 512, log=True),
            "activation": trial.suggest_categorical("activation", ["gelu", "swiglu"]),
        }
        return loss(point), flops(point)

    study = study_of(sampler(seed=5))
    study.optimize(objective, n_trials=9)
    assert [trial.params for trial in study.trials] == asked

    small = CarbsSampler(DISTRIBUTIONS, flops, roles, project, budget_flops=2e13, seed=0)
    study = study_of(small)
    study.optimize(objective, n_trials=300)
    assert 1 < len(study.trials) < 300
    assert sum(trial.values[1] for trial in study.trials) <= 2e13
    assert not small.affordable(study)
    with pytest.raises(BudgetSpent, match="remain of 2e\\+13"):
        study.ask(DISTRIBUTIONS)


def test_the_same_trials_give_the_same_proposal_after_a_restart_and_for_a_half_created_trial(tmp_path):
    unbroken = finish(study_of(sampler(seed=3)), 12)
    url = f"sqlite:///{tmp_path}/study.db"
    broken = finish(study_of(sampler(seed=3), storage=url, study_name="s"), 10)
    again = optuna.load_study(study_name="s", storage=url, sampler=sampler(seed=3))
    # A crash between the trial's creation and its parameters leaves a running trial without any.
    trial_id = again._storage.create_new_trial(again._study_id)
    trial = optuna.trial.Trial(again, trial_id)
    for name, distribution in DISTRIBUTIONS.items():
        trial._suggest(name, distribution)
    again.tell(trial, [loss(trial.params), flops(trial.params)])
    assert [*broken, trial.params, step(again)] == unbroken


def test_failed_trials_are_charged_by_their_outcome():
    own = sampler()
    study = study_of(own)
    charges = {"diverged": None, "out_of_memory": 123.0, "machine": None}
    expected = 0.0
    for outcome, charged in charges.items():
        trial = study.ask(DISTRIBUTIONS)
        trial.set_user_attr("outcome", outcome)
        if charged is not None:
            trial.set_user_attr("flops", charged)
        study.tell(trial, state=TrialState.FAIL)
        expected += (
            charged if charged is not None else (flops(trial.params) if outcome == "diverged" else 0.0)
        )
    assert own.remaining_flops(study) == pytest.approx(BUDGET - expected)


def test_it_beats_random_search_on_a_known_law_by_a_wide_margin():
    corner = (np.log10(BUDGET), 12.0)

    def area(study):
        finished = [t for t in study.trials if t.state is TrialState.COMPLETE]
        return hypervolume([t.values[1] for t in finished], [t.values[0] for t in finished], corner)

    own = sampler(seed=1, overhead_flops=BUDGET / 300)
    ours = study_of(own)
    while own.affordable(ours) and len(ours.trials) < 36:
        step(ours)
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(5):
        spent, costs, losses = 0.0, [], []
        while True:
            point = project(own.space.encoding.point(rng.random(len(DISTRIBUTIONS))))
            if spent + flops(point) > BUDGET:
                break
            spent += flops(point)
            costs.append(flops(point))
            losses.append(loss(point))
        areas.append(hypervolume(costs, losses, corner))
    assert area(ours) > max(areas)


def test_the_fitted_law_extrapolates_within_a_few_percent():
    own = sampler(seed=2)
    study = study_of(own)
    finish(study, 30)
    law = own.law(study)
    assert law.formula().startswith("L = ")
    best = {"params": 2e7, "tokens": 5e8}
    truth = 1.7 + 400 * best["params"] ** -0.34 + 900 * best["tokens"] ** -0.33
    assert float(law.loss(**best)) == pytest.approx(truth, rel=0.04)
    recipe = own.best_recipe(study, **best)
    assert recipe.loss == float(law.loss(**best))
    assert recipe.learning_rate == float(law.learning_rate(**best))


def test_a_budget_that_pays_only_for_cheap_runs_still_begins_with_different_points():
    """A search of a few dozen runs: `startup_fraction` of its budget is less than the cheapest run costs."""
    budget_flops = 60 * sampler().space.lowest_flops
    own = CarbsSampler(DISTRIBUTIONS, flops, roles, project, budget_flops=budget_flops, seed=0)
    study = study_of(own)
    for _ in range(8):
        step(study)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 8
    assert not own.fallbacks


@st.composite
def histories(draw):
    """Trials of any kind: duplicates, failures, running ones, losses of any size or not a number."""
    count = draw(st.integers(0, 14))
    pool = draw(st.integers(1, 10))
    scale = draw(st.sampled_from([1e-12, 1.0, 1e6, 1e30]))
    kinds = st.sampled_from(
        ["complete", "complete", "complete", "nan", "diverged", "out_of_memory", "machine", "running"]
    )
    return [
        (draw(st.integers(0, pool)), draw(kinds), scale * draw(st.floats(-1, 100, allow_nan=False)))
        for _ in range(count)
    ]


@pytest.mark.filterwarnings("ignore:The value nan is not acceptable:UserWarning")  # of Optuna, for a NaN loss
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    history=histories(),
    seed=st.integers(0, 3),
    budget=st.sampled_from([2e13, BUDGET, None]),
    target=st.sampled_from([None, None, (1e9, 2e10)]),
)
def test_any_history_gives_a_legal_affordable_point_or_says_that_the_budget_is_spent(
    history, seed, budget, target
):
    logging.disable(logging.WARNING)
    own = CarbsSampler(DISTRIBUTIONS, flops, roles, project, budget, target=target, seed=seed)
    study = study_of(own)
    rng = np.random.default_rng(0)
    points = [project(own.space.encoding.point(rng.random(len(DISTRIBUTIONS)))) for _ in range(12)]
    for index, kind, value in history:
        study.enqueue_trial(points[index])
        trial = study.ask(DISTRIBUTIONS)
        if kind == "complete":
            study.tell(trial, [value, flops(trial.params)])
        elif kind == "nan":
            study.tell(trial, [float("nan"), flops(trial.params)], skip_if_finished=True)
        elif kind != "running":
            trial.set_user_attr("outcome", kind)
            study.tell(trial, state=TrialState.FAIL)
    remaining = own.remaining_flops(study)
    if own.affordable(study):
        trial = study.ask(DISTRIBUTIONS)
        assert trial.params == own.space.legal(project(trial.params))
        assert flops(trial.params) <= remaining
    else:
        with pytest.raises(BudgetSpent):
            study.ask(DISTRIBUTIONS)
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("roles_given", [(), ("params",), ("learning_rate", "tokens"), ("batch_tokens",)])
def test_it_uses_the_roles_that_there_are(roles_given):
    own = CarbsSampler(
        DISTRIBUTIONS,
        flops,
        (lambda point: {name: value for name, value in roles(point).items() if name in roles_given})
        if roles_given
        else None,
        project,
        budget_flops=BUDGET,
        seed=0,
        startup_trials=4,
    )
    study = study_of(own)
    finish(study, 8)
    assert own.affordable(study)


@pytest.mark.parametrize(
    "options",
    [{"law_mean": False}, {"members": 1}, {"learning": 0.0}, {"candidates": 32}],
)
def test_every_ablation_proposes_legal_points(options):
    own = sampler(startup_trials=4, **options)
    study = study_of(own)
    finish(study, 7)
    for trial in study.trials:
        assert trial.params == project(trial.params)


def test_it_keeps_away_from_where_runs_diverge():
    own = sampler(seed=4)
    study = study_of(own)
    diverged = []
    for _ in range(30):
        trial = study.ask(DISTRIBUTIONS)
        best = 3e-3 * (params(trial.params) / 1e7) ** -0.4
        if trial.params["learning_rate"] > 1.2 * best:
            trial.set_user_attr("outcome", "diverged")
            study.tell(trial, state=TrialState.FAIL)
            diverged.append(trial.number)
        else:
            study.tell(trial, [loss(trial.params), flops(trial.params)])
    assert sum(number >= 15 for number in diverged) <= 5


def test_the_recipe_for_a_target_beyond_the_search_is_near_the_truth():
    own = sampler(seed=0, target=(1e8, 2e9))
    study = study_of(own)
    finish(study, 30)
    recipe = own.best_recipe(study, 1e8, 2e9)
    batch = 1e4 * (2e9 / 1e8) ** 0.5
    rate = 3e-3 * 10**-0.4 * (recipe.batch_tokens / 1e4) ** 0.4
    assert abs(np.log(recipe.learning_rate / rate)) < 0.5
    assert abs(np.log(recipe.batch_tokens / batch)) < 0.8


def test_when_every_point_is_known_those_of_the_front_are_run_again_in_turn():
    sizes = {"width": IntDistribution(1, 4), "kind": CategoricalDistribution(["a", "b"])}
    own = CarbsSampler(sizes, lambda p: 1e3 * p["width"], lambda p: {"params": p["width"]}, seed=0)
    study = study_of(own)
    for _ in range(12):
        trial = study.ask(sizes)
        study.tell(trial, [5 - trial.params["width"], 1e3 * trial.params["width"]])
    assert len({tuple(trial.params.items()) for trial in study.trials[:8]}) == 8
    assert {trial.params["width"] for trial in study.trials[8:]} == {1, 2, 3, 4}
    assert not own.fallbacks


def test_what_the_caller_refuses_is_never_proposed():
    def narrow_or_shallow(point):
        return point["width"] * point["depth"] <= 1024

    own = sampler(seed=0, allowed=narrow_or_shallow)
    refused_by_cost_alone = own.space.legal({**own.space.dearest, "width": 1024, "depth": 16})
    assert not own.space.permits(refused_by_cost_alone)
    assert own.space.highest_flops < own.space.cost(refused_by_cost_alone)
    study = study_of(own)
    proposed = [step(study) for _ in range(20)]
    assert not own._designs(read_history(study, own.space))
    assert all(narrow_or_shallow(point) for point in proposed)
    assert max(point["width"] * point["depth"] for point in proposed) > 512


def test_where_published_rates_diverge_the_design_goes_down_until_runs_end():
    wide = {**DISTRIBUTIONS, "learning_rate": FloatDistribution(1e-8, 1e-1, log=True)}
    own = CarbsSampler(wide, flops, roles, project, budget_flops=BUDGET, seed=0)
    study = optuna.create_study(sampler=own, directions=["minimize", "minimize"])
    ended = 0
    for _ in range(16):
        trial = study.ask(wide)
        if trial.params["learning_rate"] > 1e-5:
            trial.set_user_attr("outcome", "diverged")
            study.tell(trial, state=TrialState.FAIL)
        else:
            ended += 1
            study.tell(trial, [loss(trial.params), flops(trial.params)])
    assert ended >= 4


def test_a_small_grid_is_searched_before_its_points_are_repeated():
    few = {"size": IntDistribution(0, 3), "learning_rate": CategoricalDistribution([1e-3, 2e-3, 4e-3, 8e-3])}

    def cost(point):
        return 1e12 * 4.0 ** point["size"]

    own = CarbsSampler(few, cost, lambda p: {"learning_rate": p["learning_rate"]}, budget_flops=1e15, seed=0)
    study = optuna.create_study(sampler=own, directions=["minimize", "minimize"])
    for _ in range(30):
        trial = study.ask(few)
        study.tell(trial, [3.0 - 0.3 * trial.params["size"], cost(trial.params)])
    assert len({tuple(sorted(t.params.items())) for t in study.trials}) == 16


def test_threads_do_not_overrun_the_budget():
    own = sampler(budget_flops=3e15)
    study = study_of(own)

    def objective(trial):
        point = {
            name: trial._suggest(name, distribution)
            for name, distribution in own.space.encoding.distributions.items()
        }
        return loss(point), flops(point)

    study.optimize(objective, n_trials=40, n_jobs=4)
    spent = sum(t.values[1] for t in study.trials if t.state is TrialState.COMPLETE)
    assert 0 < spent <= 3e15
    assert {t.state for t in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_workers_that_are_free_together_share_one_fit_and_each_gets_another_point(monkeypatch):
    fits = []
    original = CarbsSampler._fit
    monkeypatch.setattr(CarbsSampler, "_fit", lambda *a: (fits.append(1), original(*a))[1])
    study = study_of(sampler(startup_trials=4))
    for _ in range(4):
        trial = study.ask(DISTRIBUTIONS)
        study.tell(trial, [loss(trial.params), flops(trial.params)])
    trials = [study.ask(DISTRIBUTIONS) for _ in range(3)]
    assert len(fits) == 1
    assert len({tuple(trial.params.values()) for trial in trials}) == 3
    study.tell(trials[0], [loss(trials[0].params), flops(trials[0].params)])
    study.ask(DISTRIBUTIONS)
    assert len(fits) == 2  # what has ended since is learnt from


def lowest_loss(goal, seed):
    """After a search of few runs, each of at most a fifth of the budget."""
    own = sampler(seed, goal=goal, max_trial_flops=0.2 * BUDGET, n_trials=14)
    study = study_of(own)
    points = []
    while own.affordable(study):
        points.append(step(study))
    return min(loss(point) for point in points), points


def test_for_the_lowest_loss_few_runs_go_lower_than_those_for_the_front():
    pairs = [[lowest_loss(goal, seed)[0] for goal in ("best", "front")] for seed in range(3)]
    assert np.mean([best - front for best, front in pairs]) < -0.005


def test_the_design_for_the_lowest_loss_has_dear_runs_and_keeps_to_its_share():
    _, points = lowest_loss("best", 0)
    design = [flops(point) for point in points[:3]]  # a fifth of 14 trials
    assert max(design) <= 0.2 * BUDGET / 6 * (1 + 1e-9)
    assert max(design) > 10 * 0.0005 * BUDGET  # the most that one run of the front's design may cost


def test_a_longer_design_for_the_lowest_loss_keeps_to_the_same_share():
    study = study_of(sampler(goal="best", startup_trials=20))
    assert sum(flops(step(study)) for _ in range(20)) <= 0.2 * BUDGET * (1 + 1e-9)


@pytest.mark.parametrize("goal", ["front", "best"])
def test_a_design_whose_share_pays_for_no_run_may_still_choose(goal, monkeypatch):
    """With the cheapest shape alone, rounding may leave one point, which was then run again and again."""
    caps = []

    def seen(space, history, rng, cap):
        caps.append(cap / space.lowest_flops)
        return design_point(space, history, rng, cap)

    monkeypatch.setattr(carbs, "design_point", seen)
    study = study_of(sampler(goal=goal, budget_flops=20 * sampler().space.lowest_flops))
    step(study)
    assert min(caps) >= 2.5
