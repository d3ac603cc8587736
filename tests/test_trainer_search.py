"""A budgeted search over runs of the transformers `Trainer`, and a schedule by a law in it."""

import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from carbs_scaling import LawSchedule, search_trainer
from carbs_scaling.errors import ConfigError
from carbs_scaling.trainer_search import TrainerPoint
from carbs_scaling.training.law_scheduler import plan_learning_rate
from carbs_scaling.training.trainer_schedule import non_embedding_params

pytest.importorskip("accelerate", reason="the transformers Trainer needs accelerate")

LENGTH = 64
SPACE = {
    "learning_rate": FloatDistribution(1e-3, 1e-1, log=True),
    "max_steps": IntDistribution(5, 20),
    "width": CategoricalDistribution([8, 16]),
}


def model_init(trial=None):
    width = 8 if trial is None else trial.params["width"]
    return GPT2LMHeadModel(GPT2Config(n_embd=width, n_layer=1, n_head=1, vocab_size=32, n_positions=LENGTH))


@pytest.fixture
def trainer(tmp_path):
    rows = [{"input_ids": [(i + j) % 7 for j in range(LENGTH)]} for i in range(64)]
    rows = [{**row, "labels": row["input_ids"]} for row in rows]

    def make(**changes):
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=10, per_device_train_batch_size=8, use_cpu=True, report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True, learning_rate=1e-3,
        )  # fmt: skip
        given = {"model_init": model_init, **changes}
        return Trainer(args=arguments, train_dataset=rows, eval_dataset=rows[:8], **given)

    return make


def test_runs_are_bought_for_a_budget_and_give_a_front_and_a_law(trainer):
    own = trainer()
    options = {"candidates": 32, "members": 4, "startup_trials": 9}
    found = search_trainer(own, SPACE, 1e9, LENGTH, seed=0, n_trials=10, **options)
    trials = found.study.trials
    assert len(trials) == 10
    assert sum(trial.values[1] for trial in trials) <= 1e9
    for trial in trials:
        params = 12 * trial.params["width"] ** 2
        assert trial.values[1] == pytest.approx(6 * params * trial.params["max_steps"] * 8 * LENGTH)
        assert trial.user_attrs["record"]["roles"]["params"] == params
    assert len({trial.values[0] for trial in trials}) > 5
    assert [t.values[0] for t in found.front] == sorted((t.values[0] for t in found.front), reverse=True)
    assert (own.args.max_steps, own.args.learning_rate, own.hp_search_backend) == (10, 1e-3, None)
    assert "L = " in str(found.law())
    assert found.recipe(1e5, 1e6).learning_rate > 0


def test_what_a_point_means_to_a_trainer(trainer):
    own = trainer()
    read = TrainerPoint(own, LENGTH)
    point = {"learning_rate": 0.01, "max_steps": -1, "width": 16, "gradient_accumulation_steps": 2}
    assert read.arguments(point).keys() == point.keys() - {"width"}
    assert read.batch_tokens(point) == 8 * 2 * LENGTH
    assert read.tokens({**point, "num_train_epochs": 2}) == 2 * 64 * LENGTH
    assert read.params(point) == non_embedding_params(model_init(None)) * 4
    with pytest.raises(ConfigError, match="model_init"):
        search_trainer(trainer(model_init=None, model=model_init()), SPACE, 1e8, LENGTH)


def test_the_law_sets_the_rate_of_every_step_also_of_a_resumed_run(trainer, tmp_path):
    rates = []

    def train(steps, **changes):
        own = trainer(callbacks=[LawSchedule("Step Law", LENGTH, params=1e5, shape="linear")])
        own.args.save_strategy, own.args.save_steps = "steps", 4

        class Seen(type(own)):
            def training_step(self, *given, **named):
                rates.append(self.optimizer.param_groups[0]["lr"])
                return super().training_step(*given, **named)

        own.__class__ = Seen
        own.train(**changes)
        return own

    own = train(10)
    plan = plan_learning_rate(
        torch.optim.AdamW(own.model.parameters()), "Step Law", params=1e5, tokens=10 * 8 * LENGTH,
        batch_tokens=8 * LENGTH, shape="linear",
    )  # fmt: skip
    assert rates == pytest.approx([plan.peak * plan.factor(step) for step in range(10)])
    first, rates[:] = list(rates), []
    train(10, resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert rates == pytest.approx(first[4:])


def test_a_scheduler_that_is_no_function_of_the_step_is_refused(trainer):
    own = trainer(callbacks=[LawSchedule("Step Law", LENGTH)])
    own.args.lr_scheduler_type = "reduce_lr_on_plateau"
    with pytest.raises(ConfigError, match="lr_scheduler_type"):
        own.train()
