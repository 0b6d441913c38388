# SPDX-License-Identifier: Apache-2.0
"""Secrets from the memory of a stock kernel: names from /proc/kallsyms, bytes from /proc/kcore."""

import os
import select
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from hub.agent.kernel.hz import Moment, measure_hz
from hub.agent.kernel.kallsyms import find_symbols
from hub.agent.kernel.kcore import Kcore
from hub.agent.kernel.secrets import (
    NEEDED,
    SIZES,
    Handed,
    Secrets,
    SourceError,
    monotonic_ms,
)

JIFFIES: Final = "jiffies_64"
LOCKDOWN: Final = Path("/sys/kernel/security/lockdown")
OTHER_CLOCK: Final = "isn_sync_net_secret"
"""File below /proc that is there while the module isn_sync is loaded, in its later forms."""

_JIFFIES_SIZE: Final = 8
_TRIES: Final = 5


class MemorySource:
    """The kernel's variables themselves.

    Args:
        kcore: the open memory.
        symbols: where each variable lies.
        hz: jiffies a second.
        other_clock: while this file is there, cookies are counted by another clock.
    """

    def __init__(self, kcore: Kcore, symbols: dict[str, int], hz: int, other_clock: Path) -> None:
        self._kcore, self._hz, self._other_clock = kcore, hz, other_clock
        self._symbols = symbols
        self._names = tuple(name for name in SIZES if name in symbols)
        spans = [(symbols[name], SIZES[name]) for name in self._names]
        self._spans = (*spans, (symbols[JIFFIES], _JIFFIES_SIZE))

    @classmethod
    def open(cls, proc: Path) -> Self:
        """Find the variables and open the memory; takes a quarter of a second to measure HZ.

        Raises:
            HubError: something of that is not possible here; the text says what.
        """
        symbols = find_symbols(proc / "kallsyms", (*SIZES, JIFFIES))
        lacking = [name for name in (*NEEDED, JIFFIES) if name not in symbols]
        if lacking:
            raise SourceError(
                f"lists no {' and no '.join(lacking)}: the kernel was built without "
                "CONFIG_KALLSYMS_ALL, or without SYN cookies",
                where=str(proc / "kallsyms"),
                todo="use a distribution's kernel, 4.13 or newer",
            )
        if locked_down() == "confidentiality":
            raise SourceError(
                "kernel lockdown is confidentiality: memory is hidden from root, too",
                where=str(LOCKDOWN),
                todo="boot with lockdown=integrity, or load the module isn_sync",
            )
        kcore = Kcore.open(proc / "kcore")
        try:
            return cls(kcore, symbols, _hz(kcore, symbols[JIFFIES]), proc / OTHER_CLOCK)
        except BaseException:
            kcore.close()
            raise

    def handed(self) -> Handed:
        """Return what another process needs to go on; needs no privilege there."""
        about = {"symbols": self._symbols, "hz": self._hz, "other_clock": str(self._other_clock)}
        return Handed(about, {"kcore": self._kcore.descriptor})

    @classmethod
    def take(cls, handed: Handed) -> Self:
        """Return the source that another process has opened.

        Raises:
            HubError, KeyError, TypeError, ValueError: that is none.
        """
        about, (hz, symbols) = handed.about, (handed.about["hz"], handed.about["symbols"])
        places = {name: symbols[name] for name in (*SIZES, JIFFIES) if name in symbols}
        if not all(type(one) is int and one >= 0 for one in (hz, *places.values())):
            raise TypeError
        kcore = Kcore.of(handed.files["kcore"], "/proc/kcore")
        return cls(kcore, places, hz, Path(about["other_clock"]))

    def read(self) -> Secrets:
        """Return what they hold now, the clocks last."""
        if self._other_clock.exists():
            raise SourceError(
                "the module isn_sync is loaded, which counts the minutes of cookies by UTC",
                where=str(self._other_clock),
                todo="start the agent again, to read the module's files; or rmmod isn_sync",
            )
        *secrets, jiffies = self._steady()
        found = dict(zip(self._names, secrets, strict=True))
        return Secrets(
            net=found["net_secret"],
            syncookie=found["syncookie_secret"],
            syncookie6=found.get("syncookie6_secret"),
            ts=found.get("ts_secret"),
            cookie_clock="jiffies",
            jiffies=int.from_bytes(jiffies, "little"),
            hz=self._hz,
            timestamp_ms=monotonic_ms(),
        )

    def close(self) -> None:
        """Close the memory."""
        self._kcore.close()

    def _steady(self) -> list[bytes]:
        """Read until no secret is one that the kernel was just making."""
        before: list[bytes] = []
        for _ in range(_TRIES):
            found = self._kcore.read(self._spans)
            if found[:-1] == before:
                return found
            before = found[:-1]
        raise SourceError("the secrets change all the time", todo="report this as a defect")


def locked_down() -> str:
    """Return the kernel's lockdown mode, empty where it has none (kernel_lockdown(7))."""
    with suppress(OSError, ValueError):
        descriptor = os.open(LOCKDOWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(descriptor, 256).decode("ascii", "replace")
        finally:
            os.close(descriptor)
        return text.partition("[")[2].partition("]")[0]
    return ""


def _hz(kcore: Kcore, address: int) -> int:
    def look() -> Moment:
        begun = monotonic_ms()
        (jiffies,) = kcore.read([(address, _JIFFIES_SIZE)])
        return (begun + monotonic_ms()) // 2, int.from_bytes(jiffies, "little")

    def wait(ms: int) -> None:
        # An ordinary sleep of a program that does nothing else yet.
        _ = select.select([], [], [], ms / 1000)

    return measure_hz(look, wait)
