# SPDX-License-Identifier: Apache-2.0
"""Packets a second by verdict, from the totals that the daemon shows, with a short memory."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

MEMORY: Final = 120
"""Looks that are remembered; at one a second, two minutes."""


@dataclass(slots=True)
class Series:
    """One counter of one engine.

    Attributes:
        engine: name of the engine.
        name: what it counts.
        rates: packets a second, oldest first, at most `MEMORY`.
    """

    engine: str
    name: str
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=MEMORY))

    @property
    def now(self) -> float:
        """Packets a second at the last look."""
        return self.rates[-1] if self.rates else 0.0


class Rates:
    """Turns totals into rates; a total that shrinks is one that began anew."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], Series] = {}
        self._totals: dict[tuple[str, str], int] = {}
        self._at = 0.0

    def look(self, status: Mapping[str, Any]) -> None:
        """Take in one answer of `/v1/status`; without a later `now` it says nothing new."""
        now = float(status["now"])
        span = now - self._at
        if span <= 0:
            return
        self._at = now
        totals = {
            (str(engine["name"]), str(name)): int(count)
            for engine in status["engines"]
            for name, count in engine.get("telemetry", {}).items()
            if "." not in name  # those of one interface or one service, part of a sum
        }
        for key, total in totals.items():
            series = self._series.setdefault(key, Series(*key))
            before = self._totals.get(key)
            new = 0 if before is None else total - before if total >= before else total
            series.rates.append(new / span)
        for key in self._series.keys() - totals.keys():
            self._series[key].rates.append(0.0)
        self._totals = totals

    def busiest(self, limit: int) -> Sequence[Series]:
        """Return the series that have seen most lately; none that has seen nothing."""
        seen = [(sum(one.rates), one) for one in self._series.values()]
        ranked = sorted(seen, key=lambda item: (-item[0], item[1].engine, item[1].name))
        return [one for total, one in ranked[:limit] if total]
