# SPDX-License-Identifier: Apache-2.0
"""Memory of the running kernel from /proc/kcore, an ELF core file (elf(5), proc(5))."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from hub.errors import HubError

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_ELF64_LITTLE: Final = b"\x7fELF\x02\x01"
_CORE: Final = 4
_LOAD: Final = 1
_MOST_SEGMENTS: Final = 4096
_TOP: Final = 1 << 64


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
        segments: that can be read.
        where: its path, for errors.
    """

    def __init__(self, descriptor: int, segments: tuple[_Segment, ...], where: str) -> None:
        self._descriptor, self._segments, self._where = descriptor, segments, where

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open it; only this needs CAP_SYS_RAWIO.

        Raises:
            KcoreError: it is not there, not permitted, or not as expected.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise KcoreError(
                "does not exist: the kernel was built without CONFIG_PROC_KCORE", where=str(path)
            ) from None
        except OSError as error:
            raise KcoreError(
                f"may not be opened: {error.strerror}",
                where=str(path),
                todo="start it as root with CAP_SYS_RAWIO; see /sys/kernel/security/lockdown",
            ) from error
        try:
            return cls(descriptor, _segments(descriptor, str(path)), str(path))
        except BaseException:
            os.close(descriptor)
            raise

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes of the kernel's memory.

        Raises:
            KcoreError: no segment holds them, or they cannot be read.
        """
        for one in self._segments:
            if one.address <= address and address + size <= one.address + one.size:
                try:
                    data = os.pread(self._descriptor, size, one.offset + address - one.address)
                except OSError as error:
                    raise KcoreError(
                        f"cannot be read: {error.strerror}", where=self._where
                    ) from error
                if len(data) == size:
                    return data
                raise KcoreError("ends too early", where=self._where)
        raise KcoreError("has no segment with that variable", where=self._where)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


def _segments(descriptor: int, where: str) -> tuple[_Segment, ...]:
    header = _exactly(descriptor, _HEADER.size, 0, where)
    (ident, kind, _, _, _, table, _, _, _, entry, count, *_) = _HEADER.unpack(header)
    if not ident.startswith(_ELF64_LITTLE) or kind != _CORE:
        raise KcoreError("is no 64 bit little-endian ELF core file", where=where)
    if entry != _SEGMENT.size or not 0 < count <= _MOST_SEGMENTS:
        raise KcoreError("has program headers of another shape", where=where)
    data = _exactly(descriptor, _SEGMENT.size * count, table, where)
    found: list[_Segment] = []
    for sort, _, offset, address, _, in_file, size, _ in _SEGMENT.iter_unpack(data):
        length = min(in_file, size)
        if sort == _LOAD and length and address + length <= _TOP and offset + length < _TOP >> 1:
            found.append(_Segment(address, length, offset))
    if not found:
        raise KcoreError("holds no memory", where=where)
    return tuple(found)


def _exactly(descriptor: int, size: int, offset: int, where: str) -> bytes:
    try:
        data = os.pread(descriptor, size, offset)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "its headers lie out of reach"
        raise KcoreError(f"cannot be read: {reason}", where=where) from error
    if len(data) != size:
        raise KcoreError("is cut off", where=where)
    return data
