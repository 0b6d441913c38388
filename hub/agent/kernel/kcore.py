# SPDX-License-Identifier: Apache-2.0
"""Memory of the running kernel from /proc/kcore, an ELF core file (elf(5), proc(5))."""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from hub.errors import HubError

Span = tuple[int, int]
"""Address and size of a piece of memory."""

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_ELF64_LITTLE: Final = b"\x7fELF\x02\x01"
_CORE: Final = 4
_LOAD: Final = 1
_UNCOUNTED: Final = 0xFFFF
"""PN_XNUM: the count stands in a section header, of which this file has none."""
_TOP: Final = 1 << 64
_TRIES: Final = 5


class KcoreError(HubError):
    """The kernel's memory cannot be read."""


@dataclass(frozen=True, slots=True)
class _Segment:
    address: int
    size: int
    offset: int


class Kcore:
    """An open core file; holds nothing but the descriptor and where segments lie.

    Args:
        descriptor: of the file; closed by `close`.
        where: its path, for errors.
    """

    def __init__(self, descriptor: int, where: str) -> None:
        self._descriptor, self._where = descriptor, where
        self._seen = b""
        self._segments: tuple[_Segment, ...] = ()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open it; only this needs CAP_SYS_RAWIO.

        Raises:
            KcoreError: it is not there, not permitted, or not as expected.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise KcoreError(
                "does not exist: the kernel was built without CONFIG_PROC_KCORE, or a container "
                "hides it",
                where=str(path),
                todo="in a container: install the agent on the host itself",
            ) from None
        except OSError as error:
            raise KcoreError(
                f"may not be opened: {error.strerror}",
                where=str(path),
                todo="start it as root with CAP_SYS_RAWIO; see /sys/kernel/security/lockdown",
            ) from error
        made = cls(descriptor, str(path))
        try:
            made._look()
        except BaseException:
            made.close()
            raise
        return made

    @classmethod
    def of(cls, descriptor: int, where: str) -> Self:
        """Return the one that another process has opened.

        Raises:
            KcoreError: it is none; `descriptor` stays the caller's then.
        """
        made = cls(descriptor, where)
        made._look()
        return made

    @property
    def descriptor(self) -> int:
        """Return the open file; it stays this one's."""
        return self._descriptor

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """Return the kernel's memory at each of `spans`, read in their order.

        Where memory is plugged in, all positions in the file move: its headers are the same before
        and after, or it is read again.

        Raises:
            KcoreError: no segment holds a span, or it cannot be read.
        """
        _ = self._look()
        for _ in range(_TRIES):
            found = [self._exactly(size, self._place(address, size)) for address, size in spans]
            if not self._look():
                return found
        raise KcoreError("changes all the time", where=self._where)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)

    def _place(self, address: int, size: int) -> int:
        places = {
            one.offset + address - one.address
            for one in self._segments
            if one.address <= address and address + size <= one.address + one.size
        }
        if not places:
            raise KcoreError("has no segment with that variable", where=self._where)
        if len(places) > 1:
            raise KcoreError("has that variable at two places", where=self._where)
        return places.pop()

    def _look(self) -> bool:
        """Read the headers; return whether they are others than before."""
        header = self._exactly(_HEADER.size, 0)
        (ident, kind, _, _, _, table, _, _, _, entry, count, *_) = _HEADER.unpack(header)
        if not ident.startswith(_ELF64_LITTLE) or kind != _CORE:
            raise KcoreError("is no 64 bit little-endian ELF core file", where=self._where)
        if entry != _SEGMENT.size or not 0 < count < _UNCOUNTED:
            raise KcoreError("has program headers of another shape", where=self._where)
        seen = header + self._exactly(_SEGMENT.size * count, table)
        if seen == self._seen:
            return False
        self._segments = tuple(_segments(seen[_HEADER.size :]))
        if not self._segments:
            raise KcoreError("holds no memory", where=self._where)
        self._seen = seen
        return True

    def _exactly(self, size: int, offset: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = os.pread(self._descriptor, size - len(data), offset + len(data))
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or "its headers lie out of reach"
                raise KcoreError(f"cannot be read: {reason}", where=self._where) from error
            if not more:
                break
            data += more
        if len(data) == size:
            return data
        if not data and not offset:
            raise KcoreError(
                "is empty: a container hides it",
                where=self._where,
                todo="install the agent on the host itself",
            )
        raise KcoreError("ends too early", where=self._where)


def _segments(table: bytes) -> list[_Segment]:
    found: list[_Segment] = []
    for sort, _, offset, address, _, in_file, size, _ in _SEGMENT.iter_unpack(table):
        length = min(in_file, size)
        if sort == _LOAD and length and address + length <= _TOP and offset + length < _TOP >> 1:
            found.append(_Segment(address, length, offset))
    return found
