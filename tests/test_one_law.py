"""One study has one law: every way to ask for a recipe gives the same answer."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from carbs_scaling import CarbsSampler, fit_law
from carbs_scaling.commands import fit, recommend
from carbs_scaling.commands.front import law_lines
from carbs_scaling.task import Point, TrialContext
from carbs_scaling.trial import Completed, Diverged, TrialOutcome
from tests.laws.test_formula import by_hand
from tests.toy_task import ToyTask, search, toy_config

TARGETS = [(4e6, 1.5e8), (2e7, 5e8)]


@dataclass
class LawfulTask(ToyTask):
    """Losses of a law, with a valley in rate and batch; far too high a rate diverges."""

    space: dict[str, BaseDistribution] = field(
        default_factory=lambda: {
            "width": IntDistribution(64, 512, log=True),
            "tokens": FloatDistribution(1e8, 1e10, log=True),
            "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
            "batch_tokens": FloatDistribution(1e4, 1e6, log=True),
        }
    )

    def flops(self, point: Point) -> float:
        return 6.0 * self.roles(point)["params"] * point["tokens"]

    def roles(self, point: Point) -> dict[str, float]:
        return {"params": 96.0 * point["width"] ** 2, **{k: v for k, v in point.items() if k != "width"}}

    def details(self, point: Point) -> dict[str, object]:
        return {}

    def run(self, point: Point, context: TrialContext) -> TrialOutcome:
        roles = LawfulTask.roles(self, point)
        n, d = np.log(roles["params"] / 1e7), np.log(roles["tokens"] / 1e9)
        batch = np.log(roles["batch_tokens"] / 1e5) - 0.5 * d
        rate = np.log(roles["learning_rate"] / 3e-3) + 0.5 * n - 0.2 * d - 0.4 * batch
        if rate > 2.5:
            return Diverged(progress=0.5)
        noise = 0.003 * np.random.default_rng(context.seed).standard_normal()
        floor = 1.7 + 0.9 * np.exp(-0.34 * n) + 0.6 * np.exp(-0.3 * d)
        return Completed(loss=floor + 0.04 * rate**2 + 0.02 * batch**2 + noise)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    return folder, search(toy_config(folder, "lawful", "in_process", flops=4e16, members=4), LawfulTask())


def test_every_way_to_ask_gives_one_answer(study, composed, capsys):
    folder, ledger = study
    assert sum(record.completed for record in ledger.records()) >= 20
    task = LawfulTask()
    sampler = CarbsSampler(task.space, task.flops, task.roles, budget_flops=4e16, seed=5)
    place = (f"study.directory={folder}", "study.name=lawful")
    fit.run(composed(*place, "format=json", "plots=false", verb="fit"))
    printed = json.loads(capsys.readouterr().out)
    law, of_sampler = fit_law(ledger), sampler.law(ledger.optuna_study)
    np.testing.assert_allclose(of_sampler.theta, law.theta, rtol=1e-9)
    np.testing.assert_allclose(printed["theta"], law.theta, rtol=1e-9)
    np.testing.assert_allclose(printed["bend"], law.bend, rtol=1e-9, atol=1e-12)
    for params, tokens in TARGETS:
        asked = (f"target.params={params}", f"target.tokens={tokens}", "format=json")
        recommend.run(composed(*place, *asked, verb="recommend"))
        told = json.loads(capsys.readouterr().out)
        recipe = law.recommend(params, tokens)
        best = sampler.best_recipe(ledger.optuna_study, params, tokens)
        hand = by_hand(law_lines(ledger), params, tokens)
        for name in ("learning_rate", "batch_tokens", "loss"):
            value = getattr(recipe, name)
            assert getattr(best, name) == pytest.approx(value, rel=1e-6)
            assert told[name] == pytest.approx(value, rel=1e-6)
            # The formula is printed with five decimals of its exponents.
            assert hand[name] == pytest.approx(value, rel=3e-4)
            assert best.interval(name) == pytest.approx(recipe.interval(name), rel=1e-6)


def test_a_study_without_a_batch_has_a_law_without_one(tmp_path):
    """An absent role is no reason to refuse, and nothing is recommended for it."""

    class Unbatched(LawfulTask):
        def run(self, point, context):
            return super().run({**point, "batch_tokens": 1e5}, context)

    without_batch = Unbatched()
    del without_batch.space["batch_tokens"]
    study = search(toy_config(tmp_path, "unbatched", "in_process", flops=2e16, members=4), without_batch)
    law = fit_law(study, check=False)
    recipe = law.recommend(2e7, 8e8)
    assert np.isnan(recipe.batch_tokens)
    assert recipe.learning_rate > 0
    assert not any(line.startswith("B =") for line in law.formulas())
    assert any("batch_tokens" in note for note in recipe.notes)
