# SPDX-License-Identifier: Apache-2.0
"""Secrets from the memory of a stock kernel: names from /proc/kallsyms, bytes from /proc/kcore."""

import os
import select
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from hub.agent.kernel.kallsyms import find_symbols
from hub.agent.kernel.kcore import Kcore
from hub.agent.kernel.modules import nearest_hz
from hub.agent.kernel.secrets import NEEDED, SIZES, Secrets, SourceError, monotonic_ms
from hub.errors import HubError

JIFFIES: Final = "jiffies_64"
LOCKDOWN: Final = Path("/sys/kernel/security/lockdown")

_JIFFIES_SIZE: Final = 8
_MEASURE_MS: Final = 250


class MemorySource:
    """The kernel's variables themselves.

    Args:
        kcore: the open memory.
        symbols: where each variable lies.
        hz: jiffies a second.
    """

    def __init__(self, kcore: Kcore, symbols: dict[str, int], hz: int) -> None:
        self._kcore, self._symbols, self._hz = kcore, symbols, hz

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
                todo="use a distribution's kernel",
            )
        if locked_down() == "confidentiality":
            raise SourceError(
                "kernel lockdown is confidentiality: memory is hidden from root, too",
                where=str(LOCKDOWN),
                todo="boot with lockdown=integrity, or load the module isn_sync",
            )
        kcore = Kcore.open(proc / "kcore")
        try:
            return cls(kcore, symbols, _measure_hz(kcore, symbols[JIFFIES]))
        except BaseException:
            kcore.close()
            raise

    def read(self) -> Secrets:
        """Return what they hold now, the clocks last."""
        found = {
            name: self._kcore.read(self._symbols[name], size)
            for name, size in SIZES.items()
            if name in self._symbols
        }
        jiffies = _jiffies(self._kcore, self._symbols[JIFFIES])
        return Secrets(
            net=found["net_secret"],
            syncookie=found["syncookie_secret"],
            syncookie6=found.get("syncookie6_secret"),
            ts=found.get("ts_secret"),
            cookie_clock="jiffies",
            jiffies=jiffies,
            hz=self._hz,
            timestamp_ms=monotonic_ms(),
        )

    def close(self) -> None:
        """Close the memory."""
        self._kcore.close()


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


def _jiffies(kcore: Kcore, address: int) -> int:
    return int.from_bytes(kcore.read(address, _JIFFIES_SIZE), "little")


def _measure_hz(kcore: Kcore, address: int) -> int:
    begun, first = monotonic_ms(), _jiffies(kcore, address)
    # An ordinary sleep of a program that does nothing else yet; select(2) with nothing to wait for.
    _ = select.select([], [], [], _MEASURE_MS / 1000)
    passed, ticks = monotonic_ms() - begun, _jiffies(kcore, address) - first
    hz = nearest_hz(1000 * ticks / passed) if passed > 0 else None
    if hz is None:
        raise _WrongClockError(
            f"jiffies_64 went on by {ticks} in {passed} ms, which fits no CONFIG_HZ",
            todo="start it again when the machine has less to do",
        )
    return hz


class _WrongClockError(HubError):
    """What is at the address does not behave as jiffies do."""
