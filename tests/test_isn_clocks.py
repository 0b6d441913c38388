# SPDX-License-Identifier: Apache-2.0
"""A remote clock as known from afar: never ahead, never stale, and honest about jumps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.isn_sync.clocks import DRIFT, KEPT, Jump, LaggingClock

OFFSET = 4_000_000_000


def test_at_when_nothing_was_seen_then_none() -> None:
    """Without an observation there is no clock."""
    clock = LaggingClock()
    assert (clock.at(0), clock.offset()) == (None, None)


def test_at_when_one_was_slow_then_the_best_counts() -> None:
    """A slow way only loosens the bound, and does not take back a better one."""
    clock = LaggingClock()
    assert clock.observe(1000, 5000) is None
    assert clock.observe(2000, 5100, 6500) is None
    assert clock.offset() == 3999
    assert clock.at(2000) == 5999
    assert clock.at(1000) == 5000


def test_at_when_best_is_the_ninth_ago_then_forgotten() -> None:
    """Only the last eight observations count."""
    clock = LaggingClock()
    clock.observe(0, 1000)
    for number in range(1, KEPT):
        clock.observe(number, 900 + number)
    assert clock.at(KEPT) == 1000 + KEPT - 1
    clock.observe(KEPT, 900 + KEPT)
    assert clock.at(KEPT) == 900 + KEPT


def test_at_when_all_are_old_then_none() -> None:
    """After five minutes without news nothing is said."""
    clock = LaggingClock()
    clock.observe(0, 1000)
    assert clock.at(300_000) == 301_000 - int(300_000 * DRIFT)
    assert clock.at(300_001) is None
    assert LaggingClock(max_age_s=1).at(0) is None


def test_observe_when_far_ahead_then_jump() -> None:
    """A clock more than a second ahead of the estimate was set, or was wrong."""
    clock = LaggingClock()
    assert clock.observe(0, 10_000) is None
    assert clock.observe(0, 11_000) is None
    assert clock.observe(0, 12_001) == Jump(1001)
    assert clock.at(0) == 12_001


def test_observe_when_behind_then_jump_back() -> None:
    """An upper bound below the estimate takes it back at once, by however little."""
    clock = LaggingClock()
    clock.observe(0, 10_000, 10_000)
    assert clock.observe(0, 9_000, 10_000) is None
    assert clock.observe(0, 9_000, 9_999) == Jump(-1)
    assert clock.at(0) == 9_000


def test_observe_when_known_is_too_old_then_no_jump() -> None:
    """What is not known any more cannot be contradicted."""
    clock = LaggingClock()
    clock.observe(0, 10_000)
    assert clock.observe(400_000, 5, 6) is None
    assert clock.at(400_000) == 5


def test_observe_when_bounds_cross_then_refused() -> None:
    """Bounds that contradict each other are the caller's mistake."""
    with pytest.raises(ValueError, match="at least 2 and at most 1"):
        LaggingClock().observe(0, 2, 1)


@given(
    st.lists(st.tuples(st.floats(0, 30_000), st.floats(0, 500), st.floats(0, 500)), min_size=1),
    st.floats(-100e-6, 100e-6),
)
def test_at_when_clock_drifts_then_never_ahead_and_no_jump(
    steps: list[tuple[float, float, float]], drift: float
) -> None:
    """With any delays, and a rate that differs by 100 ppm, it never leads and never jumps."""
    clock, now = LaggingClock(), 0.0

    def remote(local: float) -> float:
        return OFFSET + local * (1 + drift)

    for pause, out, back in steps:
        sent = now + pause
        read, now = sent + out, sent + out + back
        seen = int(remote(read))
        # Rounded up, and the two clocks differ in rate on the way.
        assert clock.observe(now, seen, seen + int(out + back) + 3) is None
        for later in (0, 1000, 60_000):
            known = clock.at(now + later)
            assert known is not None
            assert known <= remote(now + later)
        known = clock.at(now)
        assert known is not None
        assert known >= remote(now) - back - 2
