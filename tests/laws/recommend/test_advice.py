"""Advice: compute-optimal split against brute force, targets, shape, formats that other programs read."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from rich.console import Console

from carbs_scaling import fit_law
from carbs_scaling.laws.recommend.advice import advise, compute_optimal, halving_flops, shape_for
from carbs_scaling.laws.recommend.peak import peak_learning_rate
from carbs_scaling.laws.runs.table import LawError
from carbs_scaling.report.laws import advice_dict, advice_report, training_arguments
from carbs_scaling.tasks.pretraining_overrides import space_overrides
from carbs_scaling.verb_config import TargetConfig

TARGET = TargetConfig(None, None, None, sequence_length=1024, head_size=64, devices=2, sequences_per_device=4)


def test_the_split_is_near_the_true_one(law, truth):
    flops = 6 * 2e8 * 4e9
    n = np.geomspace(1e7, 1e10, 20001)
    real = n[np.argmin(truth.loss(n, flops / (6 * n)))]
    best = compute_optimal(law, flops)
    assert best.params_interval[0] < best.params < best.params_interval[1]
    assert abs(np.log(best.params / real)) < 0.7
    assert 6 * best.params * best.tokens == pytest.approx(flops)
    assert not best.at_bound
    # What counts is the loss that the choice costs.
    assert truth.loss(best.params, best.tokens) - truth.loss(real, flops / (6 * real)) < 0.01


def test_a_target_is_two_of_three(law):
    given = advise(law, params=1e9, tokens=2e10).recipe
    for advice in (advise(law, params=1e9, flops=1.2e20), advise(law, tokens=2e10, flops=1.2e20)):
        assert advice.recipe.learning_rate == pytest.approx(given.learning_rate)
    assert advise(law, flops=1.2e20).optimal is not None
    for wrong in ({}, {"params": 1e9}, {"params": 1e9, "tokens": 1e10, "flops": 1e20}, {"flops": -1.0}):
        with pytest.raises(LawError, match=r"target\."):
            advise(law, **wrong)


def test_the_shape_follows_the_runs(runs):
    depth = np.select([runs.params < 3e7, runs.params < 1e8, runs.params < 3e8], [6, 8, 12], 18)
    width = np.sqrt(runs.params / 12 / depth)
    law = fit_law(runs.assign(depth=depth, width=width), check=False)
    depth, width = shape_for(law, 2e9)
    assert width % 64 == 0
    assert 0.8 < 12 * depth * width**2 / 2e9 < 1.25
    assert 40 < width / depth < 200
    assert shape_for(fit_law(runs, check=False), 2e9) is None


def test_what_other_programs_read(law):
    advice = advise(law, params=1e9, tokens=2e10)
    as_json = json.loads(json.dumps(advice_dict(law, advice, TARGET)))
    low, high = as_json["intervals"]["learning_rate"]
    assert low < as_json["learning_rate"] < high
    assert "Step Law" in as_json["published"]
    preset = yaml.safe_load(yaml.safe_dump(space_overrides(advice, TARGET)))
    assert preset["space"]["batch_size"] * 1024 == pytest.approx(advice.recipe.batch_tokens, rel=0.01)
    arguments = training_arguments(advice, TARGET)
    total = arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] * 2
    assert total == pytest.approx(preset["space"]["batch_size"], rel=0.05)
    assert arguments["max_steps"] * preset["space"]["batch_size"] * 1024 == pytest.approx(2e10, rel=0.01)
    from transformers import TrainingArguments

    known = set(TrainingArguments.__dataclass_fields__)
    assert set(arguments) <= known


@pytest.mark.parametrize(("length", "devices"), [(2**21, 1), (1024, 96), (1024, 1)])
def test_a_batch_that_is_rounded_moves_the_rate_and_the_steps(law, length, devices):
    advice = advise(law, params=1e9, tokens=2e10)
    target = replace(TARGET, sequence_length=length, devices=devices)
    preset, arguments = space_overrides(advice, target)["space"], training_arguments(advice, target)
    by_devices = (
        arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] * devices * length
    )
    for batch_tokens, rate in (
        (preset["batch_size"] * length, preset["learning_rate"]),
        (by_devices, arguments["learning_rate"]),
    ):
        best = peak_learning_rate(law, 1e9, 2e10, batch_tokens).learning_rate
        assert rate == pytest.approx(best, rel=1e-3)
    assert arguments["max_steps"] == round(2e10 / by_devices)
    as_json = advice_dict(law, advice, target)
    assert as_json["learning_rate"] == advice.recipe.learning_rate
    assert as_json["learning_rate_at_batch_sequences"] == pytest.approx(preset["learning_rate"], rel=1e-3)
    with io.StringIO() as written:
        Console(file=written, width=200).print(advice_report(law, advice, target))
        assert ("in whole sequences" in written.getvalue()) == (length > 1024)


def test_more_runs_halve_the_part_of_the_interval_that_runs_can(law):
    known = replace(law, spread=(0.0, 0.0, 0.0))
    inside = (2e8, 4e9)
    own = known.draws(*inside, noise=False)[:, 0].var()
    assert known.draws(*inside)[:, 0].var() == pytest.approx(own)
    # A quarter of the variance: four times the runs, three times more.
    assert halving_flops(known, *inside) == pytest.approx(3 * law.support.total_flops)


def test_no_runs_like_these_halve_what_lies_far_beyond_them(law):
    assert halving_flops(law, 1e14, 1e14) is None
    assert law.scatter(1e14, 1e14)[0] > law.scatter(2e8, 4e9)[0]


def test_a_loss_far_beyond_the_runs_is_less_sure_than_the_runs_alone_say(law):
    alone, all_told = (law.draws(1e12, 1e13, noise=noise)[:, 2].std() for noise in (False, True))
    assert all_told**2 > alone**2 + 0.03**2
    assert law.scatter(1e12, 1e13)[2] > 2 * law.scatter(2e8, 4e9)[2]


def test_losses_from_tiny_models_come_with_a_word_of_warning(law):
    low, high = law.support.low, law.support.high
    tiny = replace(law, support=replace(law.support, low=(1e3, *low[1:]), high=(5e4, *high[1:])))
    assert any("extrapolate badly" in note for note in tiny.recommend(5e5, 4e9).notes)
    for calm in (tiny.recommend(5e4, 4e9), law.recommend(2e8, 4e9)):
        assert not any("extrapolate badly" in note for note in calm.notes)


def test_a_best_batch_outside_all_that_were_tried_is_said(runs):
    law = fit_law(runs, check=False)
    assert not any("outside all that were tried" in note for note in law.recommend(2e8, 4e9).notes)
    far = law.recommend(2e8, 4e12)
    assert far.batch_tokens > 2 * runs.batch_tokens.max()
    assert any("outside all that were tried" in note for note in far.notes)
