"""Models with a head for classes: ViT, and the families of language models."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from carbs_scaling.compute.flops import training_flops
from carbs_scaling.errors import ConfigError
from carbs_scaling.models.build import build_model
from carbs_scaling.models.family import ModelShape
from carbs_scaling.training.losses import LabelLosses
from carbs_scaling.training.saved_model import byte_tokenizer, save_classifier
from carbs_scaling.training.step import accumulate_gradients
from tests.small_models import batch_of, losses_of, small_shape

CLASSIFIERS = ("vit", "gpt2-classes", "llama-classes", "qwen3-classes", "auto-classes", "pretrained-classes")
# (width, depth, head size, vocabulary, sequence length); in the last, attention is most of the FLOPs.
SIZES = [(32, 1, 16, 256, 64), (16, 2, 8, 256, 400)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CLASSIFIERS)
def test_parameters_and_flops_are_those_that_pytorch_counts(case, size, tmp_path):
    shape = small_shape(case, tmp_path, *size)
    model = build_model(shape, seed=0)
    assert shape.family.total_params(shape) == sum(p.numel() for p in model.parameters())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        accumulate_gradients(model, batch_of(shape, 3), micro_batch=3, losses=losses_of(shape))
    predicted = training_flops(shape, 3 * shape.sequence_length, "6N+head+attention")
    assert counter.get_total_flops() == pytest.approx(predicted, rel=0.01)


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_a_saved_classifier_is_one_of_transformers_with_the_same_loss(case, tmp_path):
    shape = small_shape(case, tmp_path, *SIZES[0])
    model = build_model(shape, seed=3).eval()
    assert not any(p.dtype != torch.float32 for p in model.parameters())
    batch = batch_of(shape, 4)
    ours, _ = losses_of(shape)(model, batch)
    names = [f"class {number}" for number in range(shape.classes)]
    of_images = case == "vit"
    save_classifier(model, None if of_images else byte_tokenizer(), tmp_path / "saved", names)
    kind = AutoModelForImageClassification if of_images else AutoModelForSequenceClassification
    loaded = kind.from_pretrained(tmp_path / "saved")
    assert loaded.config.id2label[1] == "class 1"
    if of_images:
        pixels = batch[:, :-1].view(4, 3, shape.options.image_size, -1)
        theirs = loaded(pixel_values=pixels, labels=batch[:, -1].long())
    else:
        tokens = batch[:, : shape.sequence_length]
        theirs = loaded(input_ids=tokens, attention_mask=(tokens != 0).long(), labels=batch[:, -1])
    torch.testing.assert_close(theirs.loss, ours)


def test_what_fills_up_a_text_does_not_change_its_scores(tmp_path):
    for case in ("gpt2-classes", "llama-classes"):
        shape = small_shape(case, tmp_path, *SIZES[0])
        model = build_model(shape, seed=3).eval()
        batch = batch_of(shape, 2)
        batch[:, 20:64] = 0
        short = torch.cat([batch[:, :20], batch[:, 64:84], batch[:, -1:]], dim=1)
        torch.testing.assert_close(LabelLosses().scores(model, batch), LabelLosses().scores(model, short))


@pytest.mark.parametrize(
    ("options", "classes", "message"),
    [
        ({"image_size": 8, "patch_size": 3}, 10, "patch_size=3 must divide"),
        ({"channels": 2}, 10, "channels=2 must be 1"),
        ({}, 10, "sequence_length=17 by its options"),
    ],
)
def test_impossible_images_are_refused_in_one_line(options, classes, message):
    with pytest.raises(ConfigError, match=message):
        ModelShape("vit", 32, 1, 16, 1, 64, options, classes)


def test_a_mixture_of_experts_has_no_classes():
    with pytest.raises(ConfigError, match="no head for classes"):
        ModelShape("qwen3_moe", 32, 1, 16, 256, 64, None, 3)
