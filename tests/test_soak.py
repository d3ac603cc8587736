"""A short soak: coordinator, worker and database killed once at each point, and nothing lost."""

import os

import pytest

from benchmarks import soak


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills_at_every_point_lose_nothing_and_count_nothing_twice(tmp_path):
    result = soak.soak(tmp_path, kills=len(soak.POINTS) + 3, trials_a_kill=5)
    assert result["faults"] == []
    assert result["same_ledger"]
    assert result["passed"]
    assert set(soak.POINTS) <= set(result["at"])
