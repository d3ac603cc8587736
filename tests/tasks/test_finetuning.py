"""Fine-tuning on rows, whole and by LoRA: the loss that is learnt, searches, models on disk, refusals."""

import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer

from carbs_scaling.commands import recommend as recommend_verb
from carbs_scaling.commands import train as train_verb
from carbs_scaling.commands.search import build_task, load_search
from carbs_scaling.compute.flops import training_flops
from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.laws.prior.rates import rate_prior
from carbs_scaling.models.build import build_model
from carbs_scaling.task import TrialContext
from carbs_scaling.tasks.pretraining_recipe import trial_recipe
from carbs_scaling.training import loop
from carbs_scaling.training.learning import learning
from carbs_scaling.training.losses import ResponseLosses
from carbs_scaling.training.recipe_file import RecipeFile
from carbs_scaling.training.step import accumulate_gradients
from carbs_scaling.trial import Completed, Diverged
from tests.small_models import sums, trained_folder
from tests.tasks.test_classification import searched

SIZES = (16, 2, 16, 256, 48)
TINY = (
    "executor=in_process", "budget.max_trial_fraction=0.5", "budget.trials=3", "sampler=random",
    "space.epochs={low: 1, high: 3}", "space.batch_size={low: 4, high: 8}", "budget.flops=4e9",
    "space.learning_rate={low: 1e-3, high: 1e-2, log: true}", "model.sequence_length=32",
)  # fmt: skip


@pytest.fixture
def given(tmp_path):
    return (f"model.path={trained_folder(tmp_path, SIZES)}", f"data.paths=[{sums(tmp_path)}]")


def test_the_loss_is_that_of_the_responses_alone(composed, given):
    task = build_task(*load_search(composed("task=finetuning", *TINY, *given)))
    learnt = learning(task.text, 32)
    batch = learnt.train.read(np.arange(6))
    tokenizer = AutoTokenizer.from_pretrained(task.text.tokenizer)
    ids, marks = batch[0]
    said = tokenizer.decode(ids[marks > 0])
    assert said.startswith("make")
    assert ids[marks > 0][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[: int(marks.argmax())]).endswith("\n")
    point = task.project({name: dimension.low for name, dimension in task.space.items()})
    model = build_model(task.legal.recipe(point, 0).shape, 0)
    labels = torch.where(batch[:, 1] > 0, batch[:, 0], -100)
    theirs = model(input_ids=batch[:, 0], labels=labels).loss
    torch.testing.assert_close(ResponseLosses()(model, batch)[0], theirs)
    # Pieces of a batch have as many answers as they have, and together the gradient of the whole.
    whole, parts = (gradient(model, batch, size) for size in (6, 4))
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)


def gradient(model, batch, micro_batch):
    model.zero_grad()
    accumulate_gradients(model, batch, micro_batch, losses=ResponseLosses())
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(("architecture", "status"), [("pretrained", Completed), ("gpt2", Diverged)])
def test_a_trained_model_that_knows_less_than_a_uniform_guess_has_not_diverged(
    architecture, status, composed, given, monkeypatch
):
    def demanding(*arguments):
        return replace(learning(*arguments), most_loss=0.01)

    monkeypatch.setattr(loop, "learning", demanding)
    finetuned = architecture == "pretrained"
    overrides = ("task=finetuning", *TINY, *given) if finetuned else (
        *TINY[:4], "space.width=16", "space.depth=1", "model.sequence_length=32", "budget.flops=4e9"
    )  # fmt: skip
    task = build_task(*load_search(composed(*overrides)))
    point = task.project({name: dimension.low for name, dimension in task.space.items()})
    assert isinstance(loop.train(task.job(point, TrialContext(0, 0))), status)


@pytest.mark.parametrize("name", ["finetune", "lora"])
def test_a_preset_searches_and_its_trial_is_trained_again(name, composed, given, tmp_path, monkeypatch):
    if name == "lora":
        pytest.importorskip("peft", reason="LoRA needs peft")
    task, study = searched(composed, tmp_path, f"+experiment={name}", *TINY, *given)
    done = next(record for record in study.records() if record.completed)
    shape = task.legal.recipe(done.point, 0).shape
    # The search, and later the law of its study, begin with the rates of fine-tuning.
    expected = rate_prior("adamw", finetuned_width=SIZES[0], adapters=name == "lora")
    assert task.rates == rate_prior(**study.identity["rates"]) == expected
    if name == "lora":
        # N is what is trained.
        assert done.roles["params"] == done.details["trained_params"] < shape.family.total_params(shape) / 2
        assert done.details["lora_rank"] == done.point["lora_rank"]
    model = build_model(shape, seed=0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == shape.family.trained_params(shape)
    batch = learning(task.text, 32).train.read(np.arange(3))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        accumulate_gradients(model, batch, 3, losses=ResponseLosses())
    assert counter.get_total_flops() == pytest.approx(
        training_flops(shape, 96, "6N+head+attention"), rel=0.01
    )
    file = trial_recipe(done, study.identity, study.name)
    assert RecipeFile.from_dict(json.loads(file.to_json()), "here") == file
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.json").write_bytes(file.to_json())
    overrides = ["task=finetuning", "recipe=recipe.json", "train.name=again", given[0]]
    train_verb.run(composed(*overrides, verb="train"), overrides)
    record = json.loads((tmp_path / "trained" / "again" / "training.json").read_text())
    assert record["loss"] == pytest.approx(done.loss, abs=1e-6)
    # A plain model, adapters merged, whose loss on the same rows is the same.
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "trained" / "again")
    assert sum(p.numel() for p in loaded.parameters()) == sum(
        p.numel() for n, p in model.named_parameters() if "lora_" not in n
    )
    rows = learning(task.text, 32).held_out
    batch = rows.read(np.arange(len(rows)))
    with torch.no_grad():
        assert ResponseLosses()(loaded, batch)[0].item() == pytest.approx(record["loss"], abs=1e-4)


@pytest.mark.parametrize(
    ("content", "overrides", "said"),
    [
        ('{"prompt": "a", "answer": "b"}', (), "data.response_column=response: no such column; there are"),
        ('{"prompt": "a", "response": 3}', (), "holds int, not text"),
        ('{"prompt": "a", "response": ', (), "cannot read"),
        ('{"prompt": "a long prompt that fills all", "response": "b"}', (), "no row is left to train on"),
        ('{"prompt": "a", "response": "b"}', ("model=gpt2",), "goes on from a trained model"),
        ('{"prompt": "a", "response": "b"}', ("space.lora_alpha=8",), "lora_alpha needs adapters"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(content, overrides, said, composed, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{content}\n")
    path = () if "model=gpt2" in overrides else (f"model.path={trained_folder(tmp_path, SIZES)}",)
    words = ("task=finetuning", "model.sequence_length=16", f"data.paths=[{file}]", *path, *overrides)
    if "space.lora_alpha=8" in overrides:
        words = (*words, f"data.validation_paths=[{file}]")
    with pytest.raises(CarbsScalingError) as error:
        build_task(*load_search(composed(*words)))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_law_over_the_rank_gives_a_recipe_that_is_trained(composed, given, tmp_path, monkeypatch):
    pytest.importorskip("peft", reason="LoRA needs peft")
    words = (
        "+experiment=lora",
        *TINY,
        *given,
        "budget.trials=14",
        "budget.flops=4e10",
        "space.lora_rank={low: 1, high: 32}",
    )
    _, study = searched(composed, tmp_path, *words)
    ranks = {record.details["lora_rank"]: record.roles["params"] for record in study.records()}
    asked = float(ranks[max(ranks)] + 3)
    where = (f"study.name={study.name}", f"study.directory={tmp_path}/studies")
    file = tmp_path / "recipe.json"
    target = f"target.params={asked}", "target.tokens=20000", "format=recipe", f"output={file}"
    # So few runs may not reach the target; the recipe is written all the same, with that said in it.
    with suppress(SystemExit):
        recommend_verb.run(composed(*where, *target, verb="recommend"))
    recipe = RecipeFile.from_dict(json.loads(file.read_text()), "here").recipe
    assert recipe.shape.options.lora_rank == max(ranks)
    assert recipe.shape.params == ranks[max(ranks)]
    monkeypatch.chdir(tmp_path)
    overrides = ["task=finetuning", "recipe=recipe.json", "train.name=advised", given[0]]
    train_verb.run(composed(*overrides, verb="train"), overrides)
    assert (tmp_path / "trained" / "advised" / "model.safetensors").exists()
