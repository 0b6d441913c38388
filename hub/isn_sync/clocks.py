# SPDX-License-Identifier: Apache-2.0
"""A clock of another machine, as it can be known from afar: never ahead of it."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

KEPT: Final = 8
MAX_AGE_S: Final = 300.0
JUMP_MS: Final = 1000
DRIFT: Final = 200e-6
"""How much faster than ours the other clock is never taken to have run since an observation."""


@dataclass(frozen=True, slots=True)
class Jump:
    """What was seen cannot be true of the clock known so far.

    Attributes:
        ms: how far the clock is from where it was thought to be; negative when behind.
    """

    ms: int


@dataclass(frozen=True, slots=True)
class _Seen:
    local_ms: float
    at_least: int

    def bound(self, local_ms: float) -> float:
        passed = local_ms - self.local_ms
        return self.at_least + passed - abs(passed) * DRIFT


class LaggingClock:
    """Keeps lower bounds of a remote clock.

    A message that took long tells only that the clock is at least so far; the best of the last
    eight is where it is taken to be. So it lags by the shortest way's delay, and never leads.

    Args:
        max_age_s: an observation older than that is not used.
    """

    def __init__(self, max_age_s: float = MAX_AGE_S) -> None:
        self._max_age_ms = max_age_s * 1000
        self._seen: deque[_Seen] = deque(maxlen=KEPT)

    def observe(self, local_ms: float, at_least: int, at_most: int | None = None) -> Jump | None:
        """Take in what the remote clock showed at one moment of ours.

        Args:
            local_ms: our monotonic clock.
            at_least: a lower bound of the remote clock at that moment.
            at_most: an upper bound, None where there is none.

        Returns:
            The jump, where it contradicts what was known; only this observation is kept then.

        Raises:
            ValueError: the bounds contradict each other.
        """
        if at_most is not None and at_most < at_least:
            msg = f"a clock cannot be at least {at_least} and at most {at_most}"
            raise ValueError(msg)
        known = self.at(local_ms)
        jump = None
        if known is not None and at_most is not None and at_most < known:
            jump = Jump(at_most - known)
        elif known is not None and at_least - known > JUMP_MS:
            jump = Jump(at_least - known)
        if jump is not None or known is None:
            self._seen.clear()
        self._seen.append(_Seen(local_ms, at_least))
        return jump

    def at(self, local_ms: float) -> int | None:
        """Return the highest lower bound at a moment of ours; None where all are too old."""
        bounds = [
            seen.bound(local_ms)
            for seen in self._seen
            if abs(local_ms - seen.local_ms) <= self._max_age_ms
        ]
        return math.floor(max(bounds)) if bounds else None

    def offset(self) -> int | None:
        """Return remote minus local ms at the latest observation; None before the first."""
        if not self._seen:
            return None
        local_ms = max(seen.local_ms for seen in self._seen)
        return math.floor(max(seen.bound(local_ms) for seen in self._seen) - local_ms)
