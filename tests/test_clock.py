# SPDX-License-Identifier: Apache-2.0
"""Time: the steady clock does not follow a wall clock that somebody sets."""

import time

import pytest

from hub.clock import Anchor, SteadyClock, boot_id


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_steady_clock_when_the_wall_is_set_then_goes_on(
    monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """A step of the wall clock moves no deadline, and is seen as skew."""
    clock = SteadyClock()
    before = clock.time()
    real = time.time  # noqa: TID251 - the function under the step
    monkeypatch.setattr(time, "time", lambda: real() + step)
    assert 0 <= clock.time() - before < 60
    assert clock.skew() == pytest.approx(step, abs=1.0)


def test_steady_clock_when_hub_restarts_in_the_same_boot_then_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The anchor outlives the process: a step while the hub was down changes nothing either."""
    first = SteadyClock()
    real = time.time  # noqa: TID251 - the function under the step
    monkeypatch.setattr(time, "time", lambda: real() + 86400)
    second = SteadyClock(first.anchor)
    assert second.time() == pytest.approx(first.time(), abs=1.0)


def test_steady_clock_when_the_boot_is_another_then_begins_anew() -> None:
    """After a reboot the old anchor says nothing."""
    old = Anchor("another boot", 0.0, 1.0)
    clock = SteadyClock(old)
    assert clock.anchor.boot_id == boot_id()
    assert clock.skew() == pytest.approx(0.0, abs=1.0)
