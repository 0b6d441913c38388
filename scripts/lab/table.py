# SPDX-License-Identifier: Apache-2.0
"""The demo's last page: one column an attack."""

from collections.abc import Callable, Sequence
from typing import Final

from scripts.lab.counters import Count
from scripts.lab.story import Outcome
from scripts.lab.visits import Served

_LABEL: Final = 32
_COLUMN: Final = 16


def _number(text: str, value: float | None) -> str:
    return "-" if value is None else text.format(value)


def _packets(count: Count | None, way: str) -> str:
    return "-" if count is None else f"{getattr(count, way):,}"


def _served(served: Served | None) -> str:
    return "-" if served is None else f"{served.percent:.1f} %"


def _retried(served: Served | None) -> str:
    return "-" if served is None else f"{served.retried}"


def _times(served: Served | None) -> str:
    return "-" if served is None else f"{served.median_ms:.1f} / {served.worst_ms:.0f} ms"


def _result(outcome: Outcome) -> str:
    if outcome.broken:
        return "FAILED"
    return "ok" if outcome.finished else "not finished"


_ROWS: Final[tuple[tuple[str, Callable[[Outcome], str]], ...]] = (
    ("countermeasure", lambda o: o.flood.countermeasure),
    ("detected after", lambda o: _number("{:.1f} s", o.detected_s)),
    ("notify to active", lambda o: _number("{:.0f} ms", o.notify_to_active_ms)),
    ("attack packets up to then", lambda o: _packets(o.unprotected, "sent")),
    ("  of them reached the server", lambda o: _packets(o.unprotected, "arrived")),
    ("attack packets from then on", lambda o: _packets(o.protected, "sent")),
    ("  of them reached the server", lambda o: _packets(o.protected, "arrived")),
    ("client served before", lambda o: _served(o.before)),
    ("client served during", lambda o: _served(o.during)),
    ("  of them at the second try", lambda o: _retried(o.during)),
    ("client served after", lambda o: _served(o.after)),
    ("page median / worst before", lambda o: _times(o.before)),
    ("page median / worst during", lambda o: _times(o.during)),
    ("unban after the flood's end", lambda o: _number("{:.1f} s", o.unban_s)),
    ("all off after both", lambda o: _number("{:.1f} s", o.off_s)),
    ("result", _result),
)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the table as text of at most 80 columns for three attacks."""
    heads = "".join(f"{outcome.flood.title:>{_COLUMN}}" for outcome in outcomes)
    lines = [" " * _LABEL + heads]
    for label, cell in _ROWS:
        cells = "".join(f"{cell(outcome):>{_COLUMN}}" for outcome in outcomes)
        lines.append(f"{label:<{_LABEL}}{cells}")
    return "\n".join(lines)


def verdicts(outcomes: Sequence[Outcome]) -> str:
    """Return which share of its packets each countermeasure gave which verdict, a line a flood."""
    lines: list[str] = []
    for outcome in outcomes:
        whole = sum(outcome.verdicts.values())
        ranked = sorted(outcome.verdicts.items(), key=lambda item: -item[1])
        parts = [f"{reason} {100 * count / whole:.2f} %" for reason, count in ranked if count]
        if parts:
            lines.append(f"{outcome.flood.title}, {whole:,} packets judged: {', '.join(parts)}")
    return "\n".join(lines)
