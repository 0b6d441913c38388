# SPDX-License-Identifier: Apache-2.0
"""Who keeps the kernel on SYN cookies, until when, and what stands there afterwards (pure)."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Self

from hub.errors import HubError

ALWAYS: Final = 2
"""net.ipv4.tcp_syncookies: a cookie for every SYN, see ip-sysctl."""
SHORTEST_S: Final = 10
LONGEST_S: Final = 86400
MOST_HOLDERS: Final = 64
MOST_PORTS: Final = 64
_LONGEST_HOLDER: Final = 256
_LARGEST_PORT: Final = 65535
_VALUES: Final = (0, 1, 2)


class LeaseError(HubError):
    """A lease cannot be given."""


@dataclass(frozen=True, slots=True)
class Change:
    """What has to happen to the sysctl.

    Attributes:
        write: the value to write; None: leave it.
        foreign: a value that somebody else has written meanwhile; None: nobody has.
    """

    write: int | None = None
    foreign: int | None = None


@dataclass(slots=True)
class Leases:
    """The leases of one boot.

    Attributes:
        boot_id: the kernel's id of this boot; leases of another boot mean nothing.
        old: the value to put back; None while nobody holds.
        until: deadline of each holder, CLOCK_BOOTTIME in seconds.
        ports: whose listeners each holder wants to be kept ready.
    """

    boot_id: str
    old: int | None = None
    until: dict[str, float] = field(default_factory=dict)
    ports: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def engage(
        self, holder: str, deadline: float, current: int, ports: Iterable[int] = ()
    ) -> Change:
        """Give or renew a lease; `current` is the sysctl's value now.

        Raises:
            LeaseError: too many hold already, or the holder or its ports are none.
        """
        _check_wish(holder, wanted := tuple(sorted(set(ports))))
        if holder not in self.until and len(self.until) >= MOST_HOLDERS:
            raise LeaseError(
                f"{MOST_HOLDERS} keys hold it already", todo="release with keys no longer in use"
            )
        foreign = None
        if not self.until:
            self.old = current
        elif current != ALWAYS:
            # Whoever wrote it wants this value, so it is also what they get back.
            self.old = foreign = current
        self.until[holder] = deadline
        self.ports[holder] = wanted
        return Change(None if current == ALWAYS else ALWAYS, foreign)

    def release(self, holder: str, current: int) -> Change:
        """End a lease; without one nothing happens."""
        if self.until.pop(holder, None) is None:
            return Change()
        return self._ended(current)

    def expire(self, now: float, current: int) -> Change:
        """End every lease whose time is over."""
        over = [holder for holder, deadline in self.until.items() if deadline <= now]
        if not over:
            return Change()
        for holder in over:
            del self.until[holder]
        return self._ended(current)

    def forget(self, current: int) -> Change:
        """End every lease."""
        if not self.until:
            return Change()
        self.until.clear()
        return self._ended(current)

    def wanted(self) -> frozenset[int]:
        """Return the ports that any holder wants to be kept ready."""
        return frozenset(port for holder in self.until for port in self.ports.get(holder, ()))

    def next_end(self) -> float | None:
        """Return the earliest deadline, None when nobody holds."""
        return min(self.until.values(), default=None)

    def left(self, holder: str, now: float) -> int:
        """Return for how many seconds a holder still keeps it, 0 when not."""
        return max(0, math.ceil(self.until.get(holder, now) - now))

    def _ended(self, current: int) -> Change:
        self.ports = {holder: self.ports[holder] for holder in self.until if holder in self.ports}
        if self.until:
            return Change()
        old, self.old = self.old, None
        if current != ALWAYS:
            return Change(foreign=current)
        return Change(None if old in (None, ALWAYS) else old)

    def copy(self) -> "Leases":
        """Return leases that can be changed without changing these."""
        return Leases(self.boot_id, self.old, dict(self.until), dict(self.ports))

    def dump(self) -> str:
        """Return the leases as one JSON document."""
        return json.dumps(
            {
                "version": 1,
                "boot_id": self.boot_id,
                "old": self.old,
                "until": self.until,
                "ports": self.ports,
            },
            sort_keys=True,
        )

    @classmethod
    def load(cls, text: str, boot_id: str, now: float) -> Self:
        """Return the leases of a document; none when it belongs to another boot.

        A deadline that no lease could have is cut to the longest possible one. So whoever wrote
        the document, it can hold 2 for as long as a lease may, and put back 0, 1 or 2.

        Raises:
            LeaseError: the document is damaged.
        """
        try:
            document: Any = json.loads(text)
            if document["boot_id"] != boot_id:
                return cls(boot_id)
            old = document["old"]
            until = {
                holder: min(float(deadline), now + LONGEST_S)
                for holder, deadline in document["until"].items()
            }
            ports = {
                holder: tuple(int(port) for port in document["ports"].get(holder, ()))
                for holder in until
            }
            for holder, wanted in ports.items():
                _check_wish(holder, wanted)
        except (
            *(ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError),
            LeaseError,
        ) as error:
            raise LeaseError("the leases cannot be read") from error
        known = old is None or (type(old) is int and old in _VALUES)
        if not known or (until and old is None) or len(until) > MOST_HOLDERS:
            raise LeaseError("the leases make no sense")
        if any(math.isnan(deadline) for deadline in until.values()):
            raise LeaseError("the leases make no sense")
        return cls(boot_id, old if until else None, until, ports)


def _check_wish(holder: str, ports: tuple[int, ...]) -> None:
    if not 0 < len(holder) <= _LONGEST_HOLDER:
        raise LeaseError("that is no holder", todo="name the holder in 1 to 256 characters")
    if len(ports) > MOST_PORTS or not all(0 < port <= _LARGEST_PORT for port in ports):
        raise LeaseError("those are no ports", todo=f"name up to {MOST_PORTS} ports")
