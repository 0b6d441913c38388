# SPDX-License-Identifier: Apache-2.0
"""Limits that hold on every listener, and log lines that a hostile sender cannot multiply."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import structlog

from hub.clock import Clock

log = structlog.get_logger(__name__)

_LOG_EVERY: Final = 60.0
_LOG_KEYS: Final = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener grants to those it does not know.

    Attributes:
        head: seconds for a whole request head, and for an idle connection.
        body: seconds for a whole request body.
        handshake: seconds for a TLS handshake.
        connections: connections of the TCP listener at a time.
        per_source: of these, how many one source address may hold.
        backlog: connections that the kernel keeps waiting while we are busy: a detector
            that reports a burst opens one for each call.
    """

    head: float = 10.0
    body: float = 15.0
    handshake: float = 5.0
    connections: int = 512
    per_source: int = 256
    backlog: int = 4096


class Seldom:
    """Says of each thing once a minute; remembers the newest 1024 things."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def due(self, key: tuple[str, str]) -> int | None:
        """Return how often it was left out since it was said last; None when it is not due."""
        now = self._clock.monotonic()
        last, left_out = self._seen.pop(key, (None, 0))
        if last is not None and now - last < _LOG_EVERY:
            self._seen[key] = (last, left_out + 1)
            return None
        self._seen[key] = (now, 0)
        if len(self._seen) > _LOG_KEYS:
            self._seen.popitem(last=False)
        return left_out


class RefusalLog:
    """Warnings about refused requests: one line a minute for each source and reason.

    The next line of a key says how many were left out.
    """

    def __init__(self, clock: Clock) -> None:
        self._seldom = Seldom(clock)

    def refused(self, *, source: str, reason: str, via: str, detail: str = "") -> None:
        """Log `intake.refused` unless the same was logged within the last minute.

        Args:
            source: address or user id of the sender.
            reason: from a small fixed set.
            via: the listener.
            detail: more for the operator.
        """
        left_out = self._seldom.due((source, reason))
        if left_out is None:
            return
        log.warning(
            "intake.refused",
            source=source,
            reason=reason,
            via=via,
            detail=detail,
            left_out=left_out,
        )
