"""A short soak: coordinator, worker and database killed once at each point, and nothing lost."""

import importlib.util
import sys
from pathlib import Path

import pytest

PLACE = Path(__file__).parent.parent / "benchmarks" / "soak.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_kills_at_every_point_lose_nothing_and_count_nothing_twice(tmp_path):
    spec = importlib.util.spec_from_file_location("soak", PLACE)
    soak = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = soak
    spec.loader.exec_module(soak)
    result = soak.soak(tmp_path, kills=len(soak.POINTS) + 3, trials_a_kill=4)
    assert result["faults"] == []
    assert result["same_ledger"]
    assert result["passed"]
    assert set(soak.POINTS) <= set(result["at"])
