"""Recipes from laws and trials: N and D as asked, the constants of the study, and the way back to a run."""

import numpy as np
import pandas as pd
import pytest

from carbs_scaling.errors import ConfigError
from carbs_scaling.laws.fit.fit_law import fit_law
from carbs_scaling.laws.recommend.advice import advise
from carbs_scaling.ledger.identity import study_identity
from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.task import TrialContext
from carbs_scaling.tasks.pretraining import Pretraining
from carbs_scaling.tasks.pretraining_recipe import advised_recipe, best_run, recipe_sections, trial_recipe
from carbs_scaling.training.recipe_file import RecipeFile
from carbs_scaling.trial import Completed


@pytest.fixture
def law():
    """Of exact power laws, on models twice as wide as a head size a layer."""
    rng = np.random.default_rng(0)
    width, depth = 16 * rng.integers(1, 8, 80), rng.integers(1, 4, 80)
    n, d = 12.0 * depth * width**2, 10 ** rng.uniform(5, 7, 80)
    u, v = rng.normal(size=(2, 80)) * 0.7
    return fit_law(
        pd.DataFrame(
            {
                "params": n,
                "tokens": d,
                "width": width,
                "depth": depth,
                "learning_rate": 1e-2 * (n / 1e4) ** -0.4 * np.exp(u),
                "batch_tokens": 2048 * (d / 1e6) ** 0.5 * np.exp(v),
                "loss": 1 + (n / 1e4) ** -0.3 + 0.5 * (d / 1e6) ** -0.3 + 0.05 * u**2 + 0.02 * v**2,
            }
        ),
        check=False,
    )


@pytest.fixture
def study(pretraining):
    """A task and the record of one of its trials."""
    task = pretraining("schedule=wsd", "model.sequence_length=32", "space.beta2=0.97")
    point = task.project({name: distribution.low for name, distribution in task.space.items()})
    record = TrialRecord(
        3, point, task.roles(point), task.details(point), task.flops(point), 77, Completed(loss=3.0),
        dict(task.provenance()),
    )  # fmt: skip
    return task, record


def test_a_trial_is_trained_again_as_it_was(study):
    task, record = study
    file = trial_recipe(record, study_identity(task, 0), "mine")
    job = task.job(record.point, TrialContext(3, 77))
    assert file.recipe == job.recipe
    assert file.flops == record.flops
    assert (file.optimizer, file.objective) == (job.optimizer, job.objective)
    assert {name: getattr(file.schedule, name) for name in job.schedule.read} == {
        name: getattr(job.schedule, name) for name in job.schedule.read
    }
    assert file.data_sha256 == task.text.sha256
    assert RecipeFile.from_dict(file.to_dict(), "it") == file


@pytest.mark.parametrize("params", [4e4, 1.1e6])
def test_a_law_gives_n_and_d_as_asked_with_the_constants_of_the_study(law, study, params):
    task, record = study
    identity = study_identity(task, 5)
    advice = advise(law, params, 2e6, head_size=8)
    file = advised_recipe(law, advice, record, identity, "mine")
    recipe = file.recipe
    assert recipe.params == pytest.approx(params, rel=0.1)
    assert recipe.tokens == pytest.approx(2e6, rel=0.01)
    assert (recipe.beta2, recipe.seed, file.schedule.name) == (0.97, 5, "wsd")
    assert recipe.shape.head_size == 8
    low, high = file.prediction.interval
    assert low < law.loss(recipe.params, 2e6) < high
    assert file.prediction.asked_params == params
    again = law.recommend(recipe.params, 2e6).learning_rate_at(recipe.batch_tokens)
    assert recipe.learning_rate == pytest.approx(again, rel=1e-5)


def test_sections_build_the_same_recipe(law, study, pretraining):
    task, record = study
    file = advised_recipe(law, advise(law, 1e5, 3e6, head_size=8), record, study_identity(task, 0), "mine")
    sections = recipe_sections(file)
    overrides = [
        f"{group}.{name}={'null' if value is None else value}"
        for group in ("space", "model", "optimizer", "schedule", "objective")
        for name, value in sections[group].items()
    ]
    fixed = pretraining(*overrides, "budget.flops=1e15", may_be_fixed=True)
    assert fixed.space == {}
    job = fixed.job({}, TrialContext(0, file.recipe.seed))
    assert (job.recipe, job.optimizer, job.schedule) == (file.recipe, file.optimizer, file.schedule)


def test_other_tasks_and_empty_studies_are_refused():
    with pytest.raises(ConfigError, match="task=toy"):
        best_run([], {"task": "toy"}, "mine")
    with pytest.raises(ConfigError, match="no completed run"):
        best_run([], {"task": Pretraining.name, "model": {}}, "mine")
