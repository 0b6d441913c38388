# SPDX-License-Identifier: Apache-2.0
"""Which of the captured log lines the hub would have written."""

from collections.abc import Iterable
from contextlib import suppress

from structlog import DropEvent
from structlog.typing import EventDict

from hub.repeats import Repeats


def written(lines: Iterable[EventDict], event: str) -> list[EventDict]:
    """Return the lines of one event, without the repeats that are left out."""
    repeats = Repeats()
    found: list[EventDict] = []
    for line in lines:
        if line["event"] == event:
            with suppress(DropEvent):
                found.append(repeats(None, "", {**line}))
    return found
