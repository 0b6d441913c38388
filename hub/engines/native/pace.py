# SPDX-License-Identifier: Apache-2.0
"""How fast synproxyd's counters of single reasons grow, from one look at its list to the next."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hub.clock import Clock

_SHORTEST: Final = 0.2
"""Seconds between two looks of which a rate can be told."""

Paces = Mapping[str, Mapping[str, int]]
"""Packets a second by mitigation id and reason."""


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    packets: dict[str, int]
    paces: dict[str, int]


class Pace:
    """Remembers the counters of the look before.

    Args:
        clock: the machine's time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looks: dict[str, _Look] = {}

    def look(self, answer: Mapping[str, Any]) -> Paces:
        """Return how fast each counter has grown; what is new, since it began."""
        now = self._clock.monotonic()
        found = answer.get("mitigations", ())
        self._looks = {str(one["id"]): self._next(one, now) for one in found}
        return {name: one.paces for name, one in self._looks.items()}

    def _next(self, one: Mapping[str, Any], now: float) -> _Look:
        packets = {str(reason): int(count) for reason, count in one.get("packets", {}).items()}
        before = self._looks.get(str(one["id"]))
        if before is None:
            before = _Look(now - one.get("age_ms", 0) / 1000, {}, {})
        passed = now - before.at
        if passed < _SHORTEST:
            return before
        grown = {reason: count - before.packets.get(reason, 0) for reason, count in packets.items()}
        # Counters that were made anew count from 0.
        paces = {reason: round(max(0, more) / passed) for reason, more in grown.items()}
        return _Look(now, packets, paces)
