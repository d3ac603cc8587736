"""FLOPs conventions. That the counts are those of PyTorch is in `tests/models/test_conformance.py`."""

import pytest

from carbs_scaling.compute.flops import FLOPS_CONVENTIONS, flops_by_convention, flops_per_token
from carbs_scaling.models.family import ModelShape

SHAPE = ModelShape("gpt2", width=64, depth=2, head_size=16, vocabulary_size=256, sequence_length=128)


def test_conventions_differ_by_head_and_attention():
    n = 12 * 2 * 64**2
    assert SHAPE.params == n
    head, attention = 6 * 256 * 64, 12 * 2 * 64 * 128
    expected = [6 * n, 6 * n + head, 6 * n + head + attention, 6 * n + head + attention / 2]
    assert [flops_per_token(SHAPE, convention) for convention in FLOPS_CONVENTIONS] == expected
    assert flops_by_convention(SHAPE, 10) == dict(
        zip(FLOPS_CONVENTIONS, [10 * flops for flops in expected], strict=True)
    )


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="convention"):
        flops_per_token(SHAPE, "2N")
