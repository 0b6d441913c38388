# SPDX-License-Identifier: Apache-2.0
"""The only place that asks the machine what time it is."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Source of time; tests put a clock of their own in its place."""

    def time(self) -> float:
        """Return seconds since the Unix epoch, UTC; whether it may step is the clock's affair."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; never steps back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`; returns at once when that is not positive."""
        ...


class SystemClock:
    """The machine's own clock; its time steps when somebody sets it."""

    def time(self) -> float:
        """Return seconds since the Unix epoch, UTC."""
        return time.time()  # noqa: TID251 - this is that one place

    def monotonic(self) -> float:
        """Return CLOCK_MONOTONIC in seconds."""
        return time.monotonic()  # noqa: TID251 - this is that one place

    async def sleep(self, seconds: float) -> None:
        """Wait on the running event loop."""
        await asyncio.sleep(max(0.0, seconds))  # noqa: TID251 - this is that one place


@dataclass(frozen=True, slots=True)
class Anchor:
    """Ties Unix time to one boot of the machine.

    Attributes:
        boot_id: the kernel's id of this boot.
        boottime: CLOCK_BOOTTIME in seconds when the anchor was set.
        time: Unix time at that moment.
    """

    boot_id: str
    boottime: float
    time: float

    @classmethod
    def now(cls) -> "Anchor":
        """Tie the present wall time to this boot."""
        return cls(boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME), SystemClock().time())


class SteadyClock(SystemClock):
    """Unix time that does not step while the machine is up, across restarts of the hub too.

    Deadlines and lifetimes are kept in this time, so that setting the wall clock neither ends
    every protection at once nor lets one outlive its deadline.
    """

    def __init__(self, kept: Anchor | None = None) -> None:
        fresh = Anchor.now()
        self.anchor = kept if kept is not None and kept.boot_id == fresh.boot_id else fresh

    def time(self) -> float:
        """Return the anchor's time plus what has passed since."""
        passed = time.clock_gettime(time.CLOCK_BOOTTIME) - self.anchor.boottime
        return self.anchor.time + passed

    def skew(self) -> float:
        """Return how far the wall clock is ahead of this one, seconds."""
        return super().time() - self.time()


def boot_id() -> str:
    """Return the kernel's id of this boot; see random(4)."""
    return _BOOT_ID.read_text("ascii").strip()
