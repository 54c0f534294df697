"""Where a phase's seconds go."""

import pytest

from experiments import clock as clocks
from experiments.clock import Clock


@pytest.fixture
def sleep(monkeypatch):
    """`sleep(seconds)` passes time for clocks."""
    now = [100.0]
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: now[0])

    def pass_time(seconds):
        now[0] += seconds

    return pass_time


def _idle():
    return False


def _wait(clock, sleep, seconds, busy=_idle):
    with clock.wait(busy):
        sleep(seconds)


def _lap(clock, sleep, waited, stepped):
    clock.start_lap()
    _wait(clock, sleep, waited)
    sleep(stepped)
    return clock.end_lap(30)


def test_no_second_is_counted_twice(sleep):
    clock = Clock()
    _wait(clock, sleep, 50.0)  # Before the first lap: the step is compiled.
    speed = _lap(clock, sleep, 2.0, 4.0)
    with clock.spend("evaluation"):
        sleep(8.0)
    assert clock.parts == {"steps": 4.0, "data": 2.0, "evaluation": 8.0}
    assert clock.seconds == 50.0 + sum(clock.parts.values())
    # The throughput is what the run has, waits included.
    assert speed == clock.images_per_second == 30 / 6


def test_devices_that_are_busy_do_not_wait(sleep):
    clock = Clock()
    clock.start_lap()
    _wait(clock, sleep, 2.0, busy=lambda: True)
    _wait(clock, sleep, 1.0)
    clock.end_lap(1)
    assert clock.parts == {"steps": 2.0, "data": 1.0}


def test_an_interruption_changes_no_part(sleep):
    whole, first = Clock(), Clock()
    _lap(first, sleep, 2.0, 4.0)
    saved = first.saved()
    sleep(1000.0)
    resumed = Clock(**saved)
    _lap(resumed, sleep, 1.0, 3.0)
    for waited, stepped in ((2.0, 4.0), (1.0, 3.0)):
        _lap(whole, sleep, waited, stepped)
    assert resumed.parts == whole.parts == {"steps": 7.0, "data": 3.0}
    # A checkpoint of before has no waits.
    del saved["waited"]
    assert Clock(**saved).parts == {"steps": 6.0, "data": 0.0}


def test_members_share_the_wait(sleep):
    clock = Clock(2)
    _lap(clock, sleep, 2.0, 4.0)
    assert clock.parts == pytest.approx({"steps": 2.0, "data": 1.0})
