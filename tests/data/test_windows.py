"""Packing: every id is predicted once, in an order that (seed, epoch) fixes."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from carbs_scaling.data.windows import (
    TokenWindows,
    training_order,
    training_windows,
    validation_indices,
    validation_windows,
)
from carbs_scaling.errors import DataError

IDS = np.arange(100, dtype=np.uint16)


@pytest.mark.parametrize("sequence_length", [1, 7, 9, 33, 99])
def test_windows_pack_all_ids_but_the_rest(sequence_length):
    windows = TokenWindows(IDS, vocabulary_size=1000, sequence_length=sequence_length)
    assert len(windows) == 99 // sequence_length
    batch = windows.read(np.arange(len(windows)))
    assert batch.shape == (len(windows), sequence_length + 1)
    targets = batch[:, 1:].flatten().tolist()
    assert targets == list(range(1, len(windows) * sequence_length + 1))


def test_text_shorter_than_a_window_is_refused(job):
    with pytest.raises(DataError, match="the training text has 100 tokens, too few for a sequence of 100"):
        TokenWindows(IDS, vocabulary_size=1000, sequence_length=100)
    with pytest.raises(DataError, match="the validation text has"):
        validation_windows(job.text, job.text.validation_tokens)
    with pytest.raises(DataError, match="the training text has"):
        training_windows(job.text, job.text.train_tokens)


def test_each_epoch_is_another_permutation():
    drawn = np.concatenate(list(training_order(windows=10, batch_size=4, steps=5, seed=3)))
    first, second = drawn[:10], drawn[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()


def test_order_is_fixed_by_the_seed_and_not_by_the_batch():
    by_four = np.concatenate(list(training_order(10, 4, 30, seed=3)))
    by_thirty = np.concatenate(list(training_order(10, 30, 4, seed=3)))
    other = np.concatenate(list(training_order(10, 4, 30, seed=4)))
    assert by_four.tolist() == by_thirty.tolist()
    assert by_four.tolist() != other.tolist()


def test_a_shorter_run_sees_the_start_of_a_longer_one():
    long = training_order(50, 8, 20, seed=0)
    short = training_order(50, 8, 5, seed=0)
    assert all((a == b).all() for a, b in zip(short, islice(long, 5), strict=True))


def test_validation_is_evenly_spread_and_capped(job):
    assert validation_indices(windows=100, sequence_length=8, validation_tokens=80).tolist() == list(
        range(0, 100, 10)
    )
    assert len(validation_indices(windows=7, sequence_length=8, validation_tokens=10**9)) == 7
    assert len(validation_indices(windows=7, sequence_length=8, validation_tokens=1)) == 1
    windows = validation_windows(job.text, 32)
    indices = validation_indices(len(windows), 32, 1024)
    assert len(set(indices.tolist())) == 32
    assert indices.max() < len(windows)


def test_large_vocabularies_have_wider_ids(tmp_path, job):
    for vocabulary, dtype in ((256, np.uint8), (257, np.uint16), (1 << 16, np.uint16), (70_000, np.uint32)):
        path = tmp_path / f"{vocabulary}.bin"
        np.full(20, vocabulary - 1, dtype=dtype).tofile(path)
        text = replace(job.text, train_path=str(path), train_tokens=20, vocabulary_size=vocabulary)
        assert (training_windows(text, 4).read(np.array([0, 3])) == vocabulary - 1).all()
