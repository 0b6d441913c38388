# SPDX-License-Identifier: Apache-2.0
"""What the visitor noted, counted over spans of time."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, slots=True)
class Visit:
    """One fetch of the page.

    Attributes:
        at: when it began, Unix seconds.
        ms: how long it took.
        error: what went wrong, None when the page came whole.
        retried: its first connection was reset.
    """

    at: float
    ms: float
    error: str | None
    retried: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """How the visitor fared over a span of time.

    Attributes:
        asked: visits begun.
        answered: visits whose page came whole.
        median_ms: of the answered ones, 0 without any.
        worst_ms: of the answered ones, 0 without any.
        retried: visits whose first connection was reset.
    """

    asked: int
    answered: int
    median_ms: float
    worst_ms: float
    retried: int = 0

    @property
    def percent(self) -> float:
        """Answered of asked, 0 when nothing was asked."""
        return 100 * self.answered / self.asked if self.asked else 0.0

    def __str__(self) -> str:
        """Say it in words."""
        again = f" ({self.retried} at the second try, after a reset)" if self.retried else ""
        return (
            f"{self.answered} of {self.asked} pages came{again}, "
            f"median {self.median_ms:.1f} ms, worst {self.worst_ms:.0f} ms"
        )


class Visits:
    """The visitor's notes in `path`, read as they grow."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._visits: list[Visit] = []

    def between(self, start: float, end: float) -> Served:
        """Count the visits that began from `start` up to before `end`, Unix seconds."""
        self._read()
        span = [visit for visit in self._visits if start <= visit.at < end]
        times = [visit.ms for visit in span if visit.error is None]
        return Served(
            asked=len(span),
            answered=len(times),
            median_ms=median(times) if times else 0.0,
            worst_ms=max(times, default=0.0),
            retried=sum(visit.retried for visit in span),
        )

    def errors(self, start: float, end: float) -> list[Visit]:
        """Return the visits of that span that went wrong."""
        self._read()
        return [visit for visit in self._visits if start <= visit.at < end and visit.error]

    def _read(self) -> None:
        with self._path.open("rb") as notes:
            notes.seek(self._offset)
            fresh = notes.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._visits += [Visit(**json.loads(line)) for line in whole.splitlines()]
