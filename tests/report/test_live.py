import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from carbs_scaling.report.live import SearchDisplay, bar, curve
from carbs_scaling.report.terminal import ERRORS, ready_streams
from carbs_scaling.trial import Status


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def make_display(clock, plain, budget_flops=1e12, width=80, height=24):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=not plain)
    return SearchDisplay("tiny", budget_flops, console=console, clock=clock)


def as_running(record):
    return replace(record, outcome=None)


def test_plain_lines_say_spent_recipe_and_ending(make_record, clock):
    display = make_display(clock, plain=True)
    assert display.plain
    good, worse = make_record(16, loss=1.9, flops=1.2e11), make_record(17, loss=2.5, flops=2e11)
    diverged = make_record(18, flops=1e10, status=Status.DIVERGED, message="training loss is NaN at step 3")
    with display:
        for record in (good, worse, diverged):
            display.trial_started(as_running(record), worker=0)
            clock.seconds += 21
            display.trial_ended(record)
        display.note("done")
    recipe = "N 24.6k  D 102k  lr 1.3e-2  batch 1024"
    assert display.console.file.getvalue().splitlines() == [
        f"[ 12%  1.2e11/1.0e12 FLOPs  0:21] trial 16  {recipe}  loss 1.900  (front)",
        f"[ 32%  3.2e11/1.0e12 FLOPs  0:42] trial 17  {recipe}  loss 2.500",
        f"[ 33%  3.3e11/1.0e12 FLOPs  1:03] trial 18  {recipe}  diverged: training loss is NaN at step 3",
        "[ 33%  3.3e11/1.0e12 FLOPs  1:03] done",
    ]


def test_a_long_silence_is_broken_by_what_is_running(make_record, clock):
    display = make_display(clock, plain=True)
    with display:
        display.trial_started(make_record(3, status=None, flops=1e11))
        for _ in range(61):
            clock.seconds += 1
            display.trial_progress(3, clock.seconds / 100, train_loss=3.0)
            display.refresh()
    (line,) = display.console.file.getvalue().splitlines()
    assert line.endswith("running: trial 3 60% train loss 3.000  (about 16 min left)")


def test_a_resumed_study_counts_what_the_ledger_holds(make_record, clock):
    display = make_display(clock, plain=True)
    done, cut_short = make_record(0, loss=2.0, flops=3e11), make_record(1, status=None, flops=5e11)
    with display:
        display.start([done, cut_short])
    assert display.progress.spent_flops == 3e11
    assert "resumed after 1 trial and 3.0e11 FLOPs" in display.console.file.getvalue()


def test_time_left_follows_the_measured_speed(make_record, clock):
    display = make_display(clock, plain=True, budget_flops=1000)
    display.start([make_record(0, loss=2.0, flops=400)])
    display.trial_started(make_record(1, status=None, flops=100))
    assert display.progress.seconds_left is None
    for _ in range(10):  # 5 FLOPs a second
        clock.seconds += 1
        display.trial_progress(1, clock.seconds / 20)
        display.refresh()
    assert display.progress.flops_per_second == pytest.approx(5)
    assert display.progress.seconds_left == pytest.approx((1000 - 450) / 5)


def screen(display, width=80):
    console = Console(file=io.StringIO(), width=width, height=display.console.height)
    console.print(display.render())
    return console.file.getvalue()


@pytest.mark.parametrize("running", [0, 2, 16])
@pytest.mark.parametrize("count", [0, 5, 150])
def test_the_screen_fits_a_small_terminal(random_records, make_record, clock, running, count):
    display = make_display(clock, plain=False, budget_flops=1e14)
    display.start(random_records(count))
    for number in range(1000, 1000 + running):
        display.trial_started(make_record(number, status=None, flops=1e11))
        display.trial_progress(number, 0.37, 2.113)
    text = screen(display)
    assert len(text.splitlines()) <= 23
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    assert ("37%" in text and "2.113" in text) == (running > 0)
    assert ("no completed run yet" in text) == (count == 0)


def test_the_screen_counts_every_ending(make_record, clock):
    display = make_display(clock, plain=False)
    for number, status in enumerate([Status.DIVERGED, Status.DIVERGED, Status.OUT_OF_MEMORY, Status.MACHINE]):
        display.trial_ended(make_record(number, status=status, flops=1e9))
    display.trial_ended(make_record(9, loss=2.0, flops=2e10))
    assert "1 completed   2 diverged   1 out of memory   1 failed" in screen(display)
    assert "1e10-3e10" in screen(display)


@pytest.mark.parametrize("width", [120, 80, 60])
def test_units_and_loss_stay_on_a_narrow_screen(make_record, clock, width):
    display = make_display(clock, plain=False, width=width)
    display.metric = "nats/token"
    display.trial_ended(make_record(1, loss=2.125, flops=2e10))
    display.trial_started(make_record(2, status=None), "design run 3 of 8")
    display.trial_progress(2, 0.5, 2.75)
    lines = [line.rstrip() for line in screen(display, width).splitlines()]
    assert max(map(len, lines)) <= width
    assert "trial 2: design run 3 of 8" in lines
    assert any(line.endswith("2.750") for line in lines)
    assert any(line.endswith("2.125") for line in lines)
    below = next(line for line in lines if line.endswith(" nats"))
    assert "params tokens" in below


def test_the_best_of_each_half_decade_by_brute_force(random_records, clock):
    display = make_display(clock, plain=False)
    records = random_records(80)
    display.start(records)
    bins = display.progress.best_by_compute(2)
    for lower, upper, best in bins:
        inside = [r.loss for r in records if r.completed and lower <= r.flops < upper]
        assert best.loss == min(inside)
    assert sum(lower <= r.flops < upper for r in records if r.completed for lower, upper, _ in bins) == sum(
        r.completed for r in records
    )


def test_the_live_screen_is_drawn_at_most_four_times_a_second(make_record, clock, monkeypatch):
    display = make_display(clock, plain=False)
    drawn = []
    monkeypatch.setattr(display, "render", lambda: drawn.append(clock.seconds) or "")
    with display:
        for _ in range(1000):
            clock.seconds += 0.01
            display.refresh()
        assert 10 <= len(drawn) <= 41  # fewer where a frame is slow, but one a second


def test_a_bar_is_never_longer_than_its_width():
    assert bar([(0.5, "green"), (0.9, "blue")], 10).plain == "━" * 10
    assert bar([(0.25, "green"), (0.25, "blue")], 8).plain == "━━━━────"


def test_a_running_trial_shows_its_loss_curve(make_record, clock):
    display = make_display(clock, plain=False)
    display.trial_started(make_record(2, status=None))
    running = display.progress.running[2]
    display.trial_progress(2, 0.5)
    assert curve(running).plain == "━" * 7 + "─" * 7  # a program that says nothing of its loss
    for fraction, loss in ((0.52, 8.0), (0.58, math.nan), (0.72, 4.0), (0.8, 1.0)):
        display.trial_progress(2, fraction, loss)
    assert curve(running).plain == "━" * 7 + "█" * 3 + "▄" + "───"
    ready_streams()  # knows the look-alikes
    assert curve(running).plain.encode("ascii", ERRORS).decode() == "=" * 7 + "#" * 3 + "=" + "---"
    display.trial_progress(2, 1.0, 1.0)
    assert curve(running).plain == "━" * 7 + "█" * 3 + "▄▁▁▁"
