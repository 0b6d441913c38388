# SPDX-License-Identifier: Apache-2.0
"""Files as below /proc of a server, with made-up secrets: kallsyms, kcore, those of modules."""

import ctypes
import os
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self, TypeVar

from hub.agent.kernel.secrets import SIZES, monotonic_ms
from hub.agent.privileges import _set_capabilities

T = TypeVar("T")

DATA: Final = Path(__file__).parents[1] / "data" / "isn_sync"
BASE: Final = 0xFFFFFFFFA0400000
PAGE: Final = 4096
SECRETS: Final[Mapping[str, bytes]] = {
    name: bytes((17 * number + at) & 0xFF for at in range(size))
    for number, (name, size) in enumerate(SIZES.items(), start=3)
}
PLACES: Final[Mapping[str, int]] = {
    name: BASE + 64 * number for number, name in enumerate((*SECRETS, "jiffies_64"), start=1)
}
SYSCTLS: Final = {
    "tcp_ecn": 2,
    "tcp_sack": 1,
    "tcp_timestamps": 1,
    "tcp_window_scaling": 0,
    "tcp_syncookies": 1,
}
BOOT_ID: Final = "0f8b3f7e-5f0e-4f7b-9d0c-3c1f6f1f2a11"

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_NOTE: Final = (4, 4, 512, 0, 0, 8, 0, 0)


def core(memory: Sequence[tuple[int, bytes]], spare: int = 0) -> bytes:
    """Return an ELF core file of pieces of memory.

    Args:
        memory: address and content of each.
        spare: further segments that hold nothing.
    """
    count = 1 + len(memory) + spare
    at = -(-(_HEADER.size + _SEGMENT.size * count) // PAGE) * PAGE
    table, data = _SEGMENT.pack(*_NOTE), b""
    for address, content in memory:
        table += _SEGMENT.pack(1, 7, at + len(data), address, 0, len(content), len(content), PAGE)
        data += content
    table += _SEGMENT.pack(1, 7, at, 0x1000, 0, 0, 0, PAGE) * spare
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = _HEADER.pack(ident, 4, 62, 1, 0, 64, 0, 0, 64, _SEGMENT.size, count, 0, 0, 0)
    return (head + table).ljust(at, b"\0") + data


def memory(secrets: Mapping[str, bytes], jiffies: int) -> bytes:
    """Return the page of memory in which the variables lie."""
    page = bytearray(PAGE)
    for name, value in {**secrets, "jiffies_64": jiffies.to_bytes(8, "little")}.items():
        at = PLACES[name] - BASE
        page[at : at + len(value)] = value
    return bytes(page)


def kallsyms(places: Mapping[str, int] = PLACES) -> str:
    """Return the text of /proc/kallsyms with these variables among others."""
    lines = ["0000000000000000 A fixed_percpu_data", "ffffffff9e000000 T _stext"]
    lines += [f"{address:016x} d {name}" for name, address in places.items()]
    lines += ["ffffffff9e0000f0 d ipv6_hash_secret.4", "ffffffffc0305000 t virtnet\t[virtio_net]"]
    return "\n".join(lines) + "\n"


def settings(proc: Path) -> None:
    """Write what /proc/sys has."""
    folder = proc / "sys/net/ipv4"
    folder.mkdir(parents=True)
    for name, value in SYSCTLS.items():
        (folder / name).write_text(f"{value}\n")
    boot_id = proc / "sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text(f"{BOOT_ID}\n")


class Memory:
    """A kernel's memory in a file, whose jiffies go on as those of a running one.

    Args:
        proc: folder for kallsyms and kcore.
        secrets: what the variables hold.
        hz: jiffies a second.
    """

    def __init__(self, proc: Path, secrets: Mapping[str, bytes] = SECRETS, hz: int = 250) -> None:
        self._kcore, self._hz = proc / "kcore", hz
        self.secrets = secrets
        (proc / "kallsyms").write_text(kallsyms({**{n: PLACES[n] for n in secrets}, **_JIFFIES}))
        self.write()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._count, name="jiffies")

    def write(self, spare: int = 0) -> None:
        """Write the file as it is when memory of so many more pieces is plugged in."""
        content = core([(BASE, memory(self.secrets, self.jiffies()))], spare)
        self._at = len(content) - PAGE + PLACES["jiffies_64"] - BASE
        self._kcore.write_bytes(content)

    def jiffies(self) -> int:
        """Return what jiffies_64 is now."""
        return (1 << 32) + self._hz * (monotonic_ms() - 300_000) // 1000

    def __enter__(self) -> Self:
        """Let time go on."""
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        """Stop it."""
        self._over.set()
        self._thread.join()

    def _count(self) -> None:
        descriptor = os.open(self._kcore, os.O_WRONLY)
        try:
            while not self._over.wait(0.001):
                os.pwrite(descriptor, self.jiffies().to_bytes(8, "little"), self._at)
        finally:
            os.close(descriptor)


_JIFFIES: Final = {"jiffies_64": PLACES["jiffies_64"]}


def without_capabilities(work: Callable[[], T]) -> T:
    """Return what `work` returns in a thread of root that may read only what modes allow it."""
    result: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            _set_capabilities(ctypes.CDLL(None, use_errno=True), ())
            result.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=enter, name="without-capabilities")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return result[0]
