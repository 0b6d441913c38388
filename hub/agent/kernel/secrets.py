# SPDX-License-Identifier: Apache-2.0
"""What every source gives: the kernel's secrets and clocks at one moment."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from hub.errors import HubError

SIZES: Final[Mapping[str, int]] = {
    "net_secret": 16,
    "syncookie_secret": 32,
    "syncookie6_secret": 32,
    "ts_secret": 16,
}
"""Bytes of each secret; SipHash keys of 16 bytes, two of them for cookies."""
NEEDED: Final = ("net_secret", "syncookie_secret")

CookieClock = Literal["jiffies", "utc"]


class SourceError(HubError):
    """A source does not work here, or not any more."""


@dataclass(frozen=True, slots=True, repr=False)
class Handed:
    """A source in the form in which another process takes it over.

    Attributes:
        about: what it takes besides, as JSON has it; holds no secret, but may hold addresses.
        files: descriptors by name; they stay the giver's, and become the taker's.
    """

    about: Mapping[str, Any]
    files: Mapping[str, int]

    def __repr__(self) -> str:
        """Return what may be seen by anybody."""
        return f"Handed({sorted(self.files)})"


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """Secrets and clocks; shown nowhere.

    Attributes:
        net: `net_secret`; every field is None where the source does not give it.
        syncookie: `syncookie_secret`.
        syncookie6: `syncookie6_secret`.
        ts: `ts_secret`, on kernels that have it.
        cookie_clock: what the minutes of cookies are counted by.
        jiffies: `jiffies_64`.
        hz: jiffies a second.
        timestamp_ms: the TCP timestamp clock without offset.
    """

    net: bytes | None
    syncookie: bytes | None
    syncookie6: bytes | None
    ts: bytes | None
    cookie_clock: CookieClock
    jiffies: int | None
    hz: int | None
    timestamp_ms: int | None

    def __repr__(self) -> str:
        """Return what may be seen by anybody."""
        return f"Secrets(hidden, cookie_clock={self.cookie_clock!r}, hz={self.hz!r})"

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of the secrets that are still all zero: not used since the boot."""
        named = {
            "net_secret": self.net,
            "syncookie_secret": self.syncookie,
            "syncookie6_secret": self.syncookie6,
            "ts_secret": self.ts,
        }
        return tuple(name for name, value in named.items() if value is not None and not any(value))


def monotonic_ms() -> int:
    """Return CLOCK_MONOTONIC, which the kernel's TCP timestamps are taken from (tcp_clock_ns)."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000
