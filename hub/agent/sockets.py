# SPDX-License-Identifier: Apache-2.0
"""Listeners and open connections of this network namespace, by sock_diag(7); needs no privilege."""

import errno
import os
import re
import socket
import struct
import sys
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final, Literal, NamedTuple

from hub.errors import HubError

MOST_FLOWS: Final = 200_000

IPAddress = IPv4Address | IPv6Address
Listener = tuple[IPAddress, int]
Flow = tuple[str, int, str, int]
"""Client, its port, the address here, its port."""
Row = tuple[bytes, int, bytes, int, bool]
"""Address here and its port, the other's, and whether it refuses IPv4; addresses packed."""

LISTENING: Final = 1 << 10
OPEN: Final = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11
"""ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING: one side at least may still
send, and so the other acknowledge."""

_NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_REQUEST_DUMP: Final = 0x301
_ERROR: Final = 2
_DONE: Final = 3
_INTERRUPTED: Final = 0x10
_SKV6ONLY: Final = 11
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBBxI")
_ID: Final = struct.Struct("!BxxxHH16s16s")
_ID_SIZE: Final = 48
_MESSAGE_SIZE: Final = 72
_ATTRIBUTE: Final = struct.Struct("=HH")
_NUMBER: Final = struct.Struct("=i")
_LAST_ERROR: Final = 4095
_BUFFER: Final = 1 << 16
_SECONDS: Final = 10.0
_TRIES: Final = 3
_NET: Final = Path("/proc/thread-self/net")
_ROW: Final = re.compile(
    rb"\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) "
    rb"([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) (0[0-9A-F]) "
)
_LONGEST_ROW: Final = 1024
_MAPPED: Final = bytes(10) + b"\xff\xff"
_ANY4: Final = bytes(4)
_ANY6: Final = bytes(16)
_NO_DIAG: Final = frozenset(
    {errno.ENOENT, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP}
)
"""Its kernel modules can neither be found nor loaded, or a sandbox forbids netlink."""


class SocketsError(HubError):
    """The kernel does not tell."""


class Told(NamedTuple):
    """What one datagram of sock_diag says.

    Attributes:
        rows: sockets.
        done: it was the last.
        missing: the kernel's table changed so that some may be missing.
    """

    rows: list[Row]
    done: bool
    missing: bool


@dataclass(frozen=True, slots=True)
class Name:
    """Listeners that are asked for: a port on one address, or on every one."""

    port: int
    address: IPAddress | None = None


def listeners() -> list[Listener]:
    """Return where this machine listens, sorted; a socket for both families stands for two.

    Raises:
        SocketsError: the kernel does not tell.
    """
    found: set[tuple[bytes, int]] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for here, port, _, _, only6 in _dump(family, LISTENING):
            found.add((here, port))
            if here == _ANY6 and not only6:
                found.add((_ANY4, port))
    return [(ip_address(here), port) for here, port in sorted(found, key=_order)]


def flows(names: Sequence[Name]) -> tuple[list[Flow], bool]:
    """Return open connections to `names`, and whether there were more than are shown.

    Raises:
        SocketsError: the kernel does not tell.
    """
    ports: dict[int, set[bytes | None]] = {}
    for name in names:
        packed = None if name.address is None else _plain(name.address.packed)
        ports.setdefault(name.port, set()).add(packed)
    found: dict[tuple[bytes, int, bytes, int], None] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for here, port, there, there_port, _ in _dump(family, OPEN, ports):
            at = ports[port]
            if None not in at and here not in at:
                continue
            if len(found) == MOST_FLOWS:
                return _shown(found), True
            found[there, there_port, here, port] = None
    return _shown(found), False


def _order(one: tuple[bytes, int]) -> tuple[int, bytes, int]:
    return len(one[0]), *one


def _shown(found: Collection[tuple[bytes, int, bytes, int]]) -> list[Flow]:
    return [(_text(there), port, _text(here), at) for there, port, here, at in found]


def _text(packed: bytes) -> str:
    return socket.inet_ntop(
        socket.AF_INET if len(packed) == len(_ANY4) else socket.AF_INET6, packed
    )


def _dump(family: int, states: int, ports: Collection[int] = ()) -> Iterator[Row]:
    """Yield the sockets in `states` with one of `ports` here, or any; some of them twice."""
    try:
        for _ in range(_TRIES):
            missing = yield from _ask(family, states, ports)
            if not missing:
                return
    except OSError as error:
        if error.errno not in _NO_DIAG:
            raise SocketsError(
                f"sock_diag does not answer: {error.strerror or 'in time'}",
                todo="the kernel needs CONFIG_INET_DIAG; see its log",
            ) from error
        yield from read_table(family, states, ports)


def _ask(family: int, states: int, ports: Collection[int]) -> Generator[Row, None, bool]:
    """Yield what one dump has; return whether some may be missing."""
    # The kernel can look for one port by itself.
    only = next(iter(ports)) if len(ports) == 1 else 0
    ident = struct.pack("!HH", only, 0) + bytes(_ID_SIZE - 4)
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, states) + ident
    header = _HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _REQUEST_DUMP, 1, 0)
    buffer = bytearray(_BUFFER)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as link:
        link.settimeout(_SECONDS)
        link.connect((0, 0))  # nobody but the kernel may send
        link.send(header + body)
        missing = False
        while True:
            size = link.recv_into(buffer, 0, socket.MSG_TRUNC)
            if not 0 < size <= len(buffer):
                raise SocketsError(f"sock_diag answers with {size} bytes at once")
            told = read_messages(bytes(memoryview(buffer)[:size]), ports)
            yield from told.rows
            missing |= told.missing
            if told.done:
                return missing


def read_messages(data: bytes, ports: Collection[int] = ()) -> Told:
    """Return what is in one datagram of sock_diag.

    Args:
        data: all of it.
        ports: here; none stands for any.

    Raises:
        OSError: the kernel says that it cannot.
        SocketsError: it is no such datagram.
    """
    found: list[Row] = []
    missing = False
    at, end = 0, len(data)
    while at + _HEADER.size <= end:
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= end - at:
            raise SocketsError("sock_diag answers something else")
        missing |= bool(flags & _INTERRUPTED)
        body = data[at + _HEADER.size : at + length]
        if kind == _BY_FAMILY and len(body) >= _MESSAGE_SIZE:
            family, port, there_port, here, there = _ID.unpack_from(body)
            if not ports or port in ports:
                four = family == socket.AF_INET
                only6 = not four and _attribute(body[_MESSAGE_SIZE:], _SKV6ONLY) == b"\1"
                here, there = (here[:4], there[:4]) if four else (_plain(here), _plain(there))
                found.append((here, port, there, there_port, only6))
        elif kind in (_DONE, _ERROR):
            # Where the module for TCP is missing, it is the end of the answer that says so.
            number = -_NUMBER.unpack_from(body)[0] if len(body) >= _NUMBER.size else 0
            if number > _LAST_ERROR:
                raise SocketsError("sock_diag answers something else")
            if number > 0:
                raise OSError(number, os.strerror(number))
            if kind == _DONE:
                return Told(found, done=True, missing=missing)
        at += (length + 3) & ~3
    return Told(found, done=False, missing=missing)


def read_table(
    family: int, states: int, ports: Collection[int] = (), net: Path = _NET
) -> Iterator[Row]:
    """Yield sockets from /proc/net/tcp or tcp6, slower than sock_diag; who refuses IPv4 is unknown.

    Args:
        family: AF_INET or AF_INET6.
        states: a bit for each, by the kernel's numbers.
        ports: here; none stands for any.
        net: where the two files are.

    Raises:
        SocketsError: the file cannot be read.
    """
    path = net / ("tcp" if family == socket.AF_INET else "tcp6")
    try:
        with path.open("rb") as file:
            while line := file.readline(_LONGEST_ROW):
                match = _ROW.match(line)
                if match is None or not states >> int(match[5], 16) & 1:
                    continue
                port = int(match[2], 16)
                if not ports or port in ports:
                    there_port = int(match[4], 16)
                    yield words(match[1]), port, words(match[3]), there_port, False
    except FileNotFoundError:
        return  # the machine has no such family
    except OSError as error:
        raise SocketsError(f"cannot be read: {error.strerror}", where=str(path)) from error


def words(text: bytes, order: Literal["little", "big"] = sys.byteorder) -> bytes:
    """Return an address from its words in /proc/net/tcp, printed as numbers of that byte order."""
    printed = bytes.fromhex(text.decode("ascii"))
    parts = (printed[at : at + 4] for at in range(0, len(printed), 4))
    return _plain(b"".join(one if order == "big" else one[::-1] for one in parts))


def _plain(packed: bytes) -> bytes:
    return packed[12:] if packed.startswith(_MAPPED) and len(packed) == len(_ANY6) else packed


def _attribute(data: bytes, wanted: int) -> bytes:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        if kind == wanted:
            return data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return b""
