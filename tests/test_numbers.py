import pytest

from carbs_scaling.numbers import clock_text, compact, log_ticks, rough_duration, scientific


def test_numbers_read_as_people_write_them():
    assert [compact(v) for v in (512, 24576, 3.4e6, 999_900, 1.25e9)] == [
        "512", "24.6k", "3.40M", "1.00M", "1.25B",
    ]  # fmt: skip
    assert [scientific(v) for v in (1.23e11, 0.013, 0, 9.99e3)] == ["1.2e11", "1.3e-2", "0", "1.0e4"]
    assert [clock_text(v) for v in (42.9, 725, 12001)] == ["0:42", "12:05", "3:20:01"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4, "a few seconds"),
        (42, "about 40 s"),
        (58, "about 1 min"),
        (170, "about 3 min"),
        (9000, "about 2.5 h"),
    ],
)
def test_an_estimate_is_no_more_precise_than_it_deserves(seconds, text):
    assert rough_duration(seconds) == text


@pytest.mark.parametrize("limits", [(1e9, 1e13), (1.4, 4.4), (2.21, 2.59), (3.001, 3.004), (2e3, 9e5)])
def test_an_axis_is_neither_bare_nor_crowded(limits):
    ticks = log_ticks(*limits, most=8)
    assert len(ticks) <= 8
    assert ticks == sorted(ticks)
    assert all(limits[0] <= tick <= limits[1] for tick in ticks)
    if limits[1] / limits[0] > 1.1:
        assert len(ticks) >= 2
