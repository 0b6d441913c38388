# SPDX-License-Identifier: Apache-2.0
"""Listeners and open connections of this network namespace, by sock_diag(7); needs no privilege."""

import os
import re
import socket
import struct
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final, Literal

from hub.errors import HubError

MOST_FLOWS: Final = 200_000

IPAddress = IPv4Address | IPv6Address
Listener = tuple[IPAddress, int]
Flow = tuple[IPAddress, int, IPAddress, int]
"""Client, its port, the address here, its port."""

_NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_REQUEST_DUMP: Final = 0x301
_ERROR: Final = 2
_DONE: Final = 3
_ESTABLISHED: Final = 1
_LISTEN: Final = 10
_SKV6ONLY: Final = 11
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBBxI")
_ID: Final = struct.Struct("!HH16s16s")
_ID_SIZE: Final = 48
_MESSAGE_SIZE: Final = 72
_ATTRIBUTE: Final = struct.Struct("=HH")
_BUFFER: Final = 1 << 18
_SECONDS: Final = 10.0
_NET: Final = Path("/proc/self/net")
_ROW: Final = re.compile(
    rb"\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) "
    rb"([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) ([0-9A-F]{2}) "
)
_ANY4: Final = IPv4Address(0)
_ANY6: Final = IPv6Address(0)


class SocketsError(HubError):
    """The kernel does not tell."""


@dataclass(frozen=True, slots=True)
class Name:
    """Listeners that are asked for: a port on one address, or on every one."""

    port: int
    address: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class _Socket:
    here: IPAddress
    port: int
    there: IPAddress
    there_port: int
    only6: bool


def listeners() -> list[Listener]:
    """Return where this machine listens, sorted; a socket for both families stands for two.

    Raises:
        SocketsError: the kernel does not tell.
    """
    found: set[Listener] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for one in _dump(family, _LISTEN, 0):
            found.add((one.here, one.port))
            if one.here == _ANY6 and not one.only6:
                found.add((_ANY4, one.port))
    return sorted(found, key=lambda one: (one[0].version, one[0].packed, one[1]))


def flows(names: Sequence[Name]) -> tuple[list[Flow], bool]:
    """Return established connections to `names`, and whether there were more than are shown.

    Raises:
        SocketsError: the kernel does not tell.
    """
    ports: dict[int, set[IPAddress | None]] = {}
    for name in names:
        ports.setdefault(name.port, set()).add(name.address)
    only = next(iter(ports)) if len(ports) == 1 else 0
    found: list[Flow] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for one in _dump(family, _ESTABLISHED, only):
            at = ports.get(one.port)
            if at is None or not (None in at or one.here in at):
                continue
            if len(found) == MOST_FLOWS:
                return found, True
            found.append((one.there, one.there_port, one.here, one.port))
    return found, False


def _dump(family: int, state: int, port: int) -> Iterator[_Socket]:
    try:
        yield from _ask(family, state, port)
    except FileNotFoundError:
        # Its kernel module can neither be found nor loaded; nothing has been yielded yet.
        yield from read_table(family, state, port)
    except OSError as error:
        raise SocketsError(
            f"sock_diag does not answer: {error.strerror or 'in time'}",
            todo="allow AF_NETLINK; the kernel needs CONFIG_INET_DIAG",
        ) from error


def _ask(family: int, state: int, port: int) -> Iterator[_Socket]:
    ident = struct.pack("!HH", port, 0) + bytes(_ID_SIZE - 4)
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << state) + ident
    header = _HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _REQUEST_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as link:
        link.settimeout(_SECONDS)
        link.sendto(header + body, (0, 0))
        while True:
            done = yield from _messages(link.recv(_BUFFER))
            if done:
                return


def read_table(family: int, state: int, port: int, net: Path = _NET) -> Iterator[_Socket]:
    """Yield the sockets in one state from /proc/net/tcp or tcp6, slower than sock_diag.

    Args:
        family: AF_INET or AF_INET6.
        state: as the kernel numbers it.
        port: here; 0 is any.
        net: where the two files are.

    Raises:
        SocketsError: the file cannot be read.
    """
    path = net / ("tcp" if family == socket.AF_INET else "tcp6")
    try:
        with path.open("rb") as file:
            for line in file:
                match = _ROW.match(line)
                if match is None or int(match[5], 16) != state:
                    continue
                here = int(match[2], 16)
                if port in (0, here):
                    there = int(match[4], 16)
                    yield _Socket(_hex(match[1]), here, _hex(match[3]), there, only6=False)
    except FileNotFoundError:
        return  # the machine has no such family
    except OSError as error:
        raise SocketsError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _hex(text: bytes) -> IPAddress:
    """Return an address from words that were printed as numbers of this machine."""
    words = bytes.fromhex(text.decode("ascii"))
    order: Literal["little", "big"] = sys.byteorder
    parts = (words[at : at + 4] for at in range(0, len(words), 4))
    return _plain(b"".join(int.from_bytes(one, "big").to_bytes(4, order) for one in parts))


def _messages(data: bytes) -> Generator[_Socket, None, bool]:
    """Yield the sockets in one datagram; return whether it was the last."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            raise SocketsError("sock_diag answers something else")
        message = data[at + _HEADER.size : at + length]
        if kind == _DONE:
            return True
        if kind == _ERROR:
            number = -int.from_bytes(message[:4], "little", signed=True)
            raise OSError(number, os.strerror(number))
        if kind == _BY_FAMILY and len(message) >= _MESSAGE_SIZE:
            yield _socket(message)
        at += (length + 3) & ~3
    return False


def _socket(message: bytes) -> _Socket:
    sport, dport, source, destination = _ID.unpack_from(message, 4)
    size = 4 if message[0] == socket.AF_INET else 16
    return _Socket(
        _plain(source[:size]),
        sport,
        _plain(destination[:size]),
        dport,
        _attribute(message[_MESSAGE_SIZE:], _SKV6ONLY) == b"\1",
    )


def _plain(packed: bytes) -> IPAddress:
    address = ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


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
