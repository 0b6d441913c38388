# SPDX-License-Identifier: Apache-2.0
"""Log lines that somebody outside cannot multiply: repeats are left out, and counted."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final

import structlog
from structlog.typing import EventDict, WrappedLogger

from hub.clock import SystemClock

KEYS: Final = 1024
"""How many different lines are remembered, the newest ones."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How often the same may be said.

    Attributes:
        burst: so many times within `every`.
        every: seconds.
        same: the fields by which two lines of an event are the same; None means all that
            say who, where and why.
    """

    burst: int = 10
    every: float = 60.0
    same: tuple[str, ...] | None = None


USUAL: Final = Limit()
OF_EACH: Final = Limit(burst=300)
"""Of one event, however different its lines are: senders can make up what they like."""
LIMITS: Final[Mapping[str, Limit]] = {
    "attack.refused": Limit(burst=1, same=()),
    "api.not_ours": Limit(burst=1, same=("user", "reason")),
    "api.refused": Limit(burst=1, same=("user",)),
    "event.defect": Limit(burst=5, same=("detector",)),
    "event.not_understood": Limit(burst=5, same=("detector",)),
    "event.processed": Limit(burst=10, same=("detector", "action", "target", "outcome")),
    "intake.refused": Limit(burst=1, same=("source", "reason")),
    "mitigation.refused": Limit(burst=30, same=("guard", "rule", "kind")),
    "spool.bad": Limit(burst=5, same=()),
}
"""Where the usual will not do: what a sender writes must not make two lines different."""
ALWAYS: Final = ("attack.", "mitigation.")
"""Lines that tell of a change of an attack or a mitigation are never left out."""
_WHO: Final = (
    *("address", "agent", "detector", "engine", "file", "guard", "key", "kind", "mitigation"),
    *("path", "rule", "service", "source", "standing", "state", "table", "target", "task", "user"),
    *("verb", "via", "error", "reason", "why"),
)


@dataclass(slots=True)
class _Said:
    """What was said of one key since `began`."""

    began: float
    times: int = 0
    left_out: int = 0


@dataclass(slots=True)
class Repeats:
    """A processor of structlog that drops what was said often enough, and counts it.

    The next line of its key carries `suppressed`, how many were left out before it. It holds for
    one process and is safe in threads.

    Args:
        monotonic: seconds that never step back.
    """

    monotonic: Callable[[], float] = field(default=SystemClock().monotonic)
    _said: OrderedDict[Hashable, _Said] = field(default_factory=OrderedDict)
    _forgotten: dict[str, int] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def __call__(self, _logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        """Return the line, with what was left out before it; or drop it."""
        event = str(line.get("event", ""))
        limit = LIMITS.get(event)
        if limit is None and event.startswith(ALWAYS):
            return line
        with self._lock:
            count = self._count(event, limit or USUAL, line)
        if count is None:
            raise structlog.DropEvent
        if count:
            line["suppressed"] = count
        return line

    def _count(self, event: str, limit: Limit, line: EventDict) -> int | None:
        """Return how many were left out before this line, None where it is left out as well."""
        now = self.monotonic()
        of_key = self._of((event, *_values(limit, line)), limit, now)
        of_event = self._of(event, OF_EACH, now)
        if of_key.times >= limit.burst or of_event.times >= OF_EACH.burst:
            of_key.left_out += 1
            return None
        of_key.times += 1
        of_event.times += 1
        left_out, of_key.left_out = of_key.left_out, 0
        return left_out + self._forgotten.pop(event, 0)

    def _of(self, key: Hashable, limit: Limit, now: float) -> _Said:
        said = self._said.get(key)
        if said is None:
            said = self._said[key] = _Said(now)
            if len(self._said) > KEYS:
                self._forget()
        elif now - said.began >= limit.every:
            said.began, said.times = now, 0
        self._said.move_to_end(key)
        return said

    def _forget(self) -> None:
        """Drop what was said longest ago; what it left out is told with the event's next line."""
        key, said = self._said.popitem(last=False)
        if said.left_out:
            event = str(key[0] if isinstance(key, tuple) else key)
            self._forgotten[event] = self._forgotten.get(event, 0) + said.left_out


def _values(limit: Limit, line: Mapping[str, Any]) -> list[str]:
    names = _WHO if limit.same is None else limit.same
    return [str(line.get(name, "")) for name in names]
