# SPDX-License-Identifier: Apache-2.0
"""CONFIG_HZ of the running kernel, which it tells nobody: from its jiffies and its clock."""

from collections.abc import Callable
from typing import Final

from hub.errors import HubError

COMMON_HZ: Final = (100, 250, 300, 1000)

Moment = tuple[int, int]
"""CLOCK_MONOTONIC in ms, and jiffies_64 at that time."""

WINDOW_MS: Final = 250
_ROUNDS: Final = 20
_LEAST_ALONE: Final = 4
_STEADY: Final = 12
"""Rounds on end that find the same: by so many the count since the boot is refuted."""
_TOLERANCE: Final = 0.04
_BEGIN: Final = 1 << 32
_BEFORE_WRAP_S: Final = 300
_BOOT_ERROR_MS: Final = 3000
_DRIFT: Final = 1000
_CLEAR: Final = 4


class WrongClockError(HubError):
    """What is at the address does not behave as jiffies do."""


def nearest_hz(ticks: int, passed_ms: int) -> int | None:
    """Return the value of CONFIG_HZ that a measurement means; None where it means none."""
    if passed_ms <= 0:
        return None
    measured = 1000 * ticks / passed_ms
    best = min(COMMON_HZ, key=lambda hz: abs(hz - measured))
    return best if abs(best - measured) <= _TOLERANCE * best else None


def hz_since_boot(moment: Moment) -> int | None:
    """Return the only HZ by which jiffies have counted since the boot; None where none stands out.

    They begin 300 s before 2^32 (INITIAL_JIFFIES), so that one moment tells. Around 300 s after the
    boot it does not: jiffies are 2^32 then whatever HZ is.
    """
    now, jiffies = moment

    def error(hz: int) -> int:
        return abs(1000 * (jiffies - _BEGIN) // hz + 1000 * _BEFORE_WRAP_S - now)

    best, second = sorted(COMMON_HZ, key=error)[:2]
    allowed = _BOOT_ERROR_MS + now // _DRIFT
    return best if error(best) <= allowed and error(second) >= _CLEAR * allowed else None


def measure_hz(look: Callable[[], Moment], wait: Callable[[int], None]) -> int:
    """Return HZ, on a machine that is busy or stands still for a while, too.

    Two findings must agree: what has been counted since the boot, and what is counted now. Where
    the first tells nothing, these must: what is counted in a second, and in a quarter more. Where
    they differ to the end, the first is believed, unless all that was counted lately is one other.

    Args:
        look: returns the present moment.
        wait: waits so many ms, or longer.

    Raises:
        WrongClockError: whatever counts there counts by no HZ.
    """
    first = look()
    told = hz_since_boot(first)
    ticks = passed = steady = 0
    before: int | None = None
    for number in range(1, _ROUNDS + 1):
        wait(WINDOW_MS)
        now = look()
        passed, ticks = now[0] - first[0], now[1] - first[1]
        found = nearest_hz(ticks, passed)
        wanted = told if told is not None else before if number > _LEAST_ALONE else None
        if found is not None and found == wanted:
            return found
        steady = steady + 1 if found == before else 1
        before = found
    if before is not None and steady >= _STEADY:
        return before
    if told is not None and ticks > 0:
        return told
    raise WrongClockError(
        f"jiffies_64 went on by {ticks} in {passed} ms, which fits no CONFIG_HZ",
        todo="start it again when the machine has less to do",
    )
