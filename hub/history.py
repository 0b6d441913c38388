# SPDX-License-Identifier: Apache-2.0
"""How many packets engines judged lately, and how: a short past, in memory, of their counters."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

VERDICTS: Final = ("pass", "answer", "drop")
"""What becomes of a packet: it goes on, is answered in the target's place, or goes nowhere."""
SPAN: Final = 900.0
"""Seconds that are remembered."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was counted between two looks at an engine.

    Attributes:
        time: of the second look, Unix seconds.
        seconds: between the two.
        packets: by counter; without those of which nothing came.
    """

    time: float
    seconds: float
    packets: Mapping[str, int]


@dataclass(slots=True)
class _Engine:
    looked_at: float
    counters: Mapping[str, int]
    samples: deque[Sample] = field(default_factory=deque)


class History:
    """Remembers samples of engines; what is not a count of packets by verdict is left out.

    Args:
        verdict: tells which of `VERDICTS` a counter counts, None where it counts something else.
        span: seconds that are remembered.
    """

    def __init__(self, verdict: Callable[[str], str | None], span: float = SPAN) -> None:
        self._verdict, self._span = verdict, span
        self._engines: dict[str, _Engine] = {}

    def take(self, engine: str, counters: Mapping[str, int], now: float) -> None:
        """Take in what an engine has counted since its tables were made; asked every few seconds.

        The first look at an engine shows nothing yet: how old its counts are is not known.
        A counter below the last look has begun anew, and shows what came since then.

        Args:
            engine: its name.
            counters: packets by counter, as `telemetry` gives them.
            now: Unix seconds.
        """
        packets = {name: count for name, count in counters.items() if self._verdict(name)}
        known = self._engines.get(engine)
        if known is None:
            if packets:
                self._engines[engine] = _Engine(now, packets)
            return
        if now <= known.looked_at:
            return
        came = {name: _since(known.counters.get(name, 0), count) for name, count in packets.items()}
        grown = {name: count for name, count in came.items() if count}
        known.samples.append(Sample(now, now - known.looked_at, grown))
        known.looked_at, known.counters = now, packets
        while known.samples and known.samples[0].time <= now - self._span:
            known.samples.popleft()

    def view(self, now: float) -> dict[str, Any]:
        """Return the past up to `now`: `{span, engines}`, lists by time, oldest first."""
        engines = [
            self._engine(name, [one for one in known.samples if one.time > now - self._span])
            for name, known in self._engines.items()
        ]
        return {"span": self._span, "engines": engines}

    def _engine(self, name: str, samples: list[Sample]) -> dict[str, Any]:
        counters = sorted({counter for sample in samples for counter in sample.packets})
        return {
            "name": name,
            "time": [sample.time for sample in samples],
            "seconds": [sample.seconds for sample in samples],
            **{verdict: [self._sum(sample, verdict) for sample in samples] for verdict in VERDICTS},
            "packets": {
                counter: [sample.packets.get(counter, 0) for sample in samples]
                for counter in counters
            },
        }

    def _sum(self, sample: Sample, verdict: str) -> int:
        return sum(n for name, n in sample.packets.items() if self._verdict(name) == verdict)


def _since(before: int, now: int) -> int:
    return now - before if now >= before else now
