# SPDX-License-Identifier: Apache-2.0
"""Keeps listeners ready for cookies: the kernel takes one back only where it has sent some lately.

A listener refuses the ACK of a cookie unless it has itself sent a cookie within two minutes
(TCP_SYNCOOKIE_VALID). The hub's probes see to that. When the hub or the way to it is dead, a SYN
from this machine to itself does the same: its answer meets no socket, is reset, and leaves nothing.
"""

import contextlib
import ctypes
import secrets
import socket
import struct
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Self

import structlog

from hub.agent.sockets import listeners
from hub.errors import HubError

EVERY_S: Final = 30.0
_SYN: Final = 0x02
_CHECKSUM_AT: Final = 16
_OPTIONS: Final = struct.pack("!BBH", 2, 4, 1460)
_FIRST_PORT: Final = 600
_PORTS: Final = 400
"""Source ports below 1024 are given to no connection by the kernel itself."""
_SO_ATTACH_FILTER: Final = 26
_DROP_ALL: Final = struct.pack("HBBI", 0x06, 0, 0, 0)
"""Classic BPF `ret 0`: a raw socket would otherwise get a copy of all TCP of this machine."""

log = structlog.get_logger(__name__)


class Window:
    """Raw sockets of both families, opened as root and used without any privilege."""

    def __init__(self, sockets: dict[int, socket.socket]) -> None:
        self._sockets = sockets

    @classmethod
    def open(cls) -> Self:
        """Open what is permitted; needs CAP_NET_RAW, without which nothing is kept open."""
        made: dict[int, socket.socket] = {}
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            with contextlib.suppress(OSError):
                made[version] = _raw(family)
        return cls(made)

    @classmethod
    def of(cls, files: Mapping[int, int]) -> Self:
        """Return one of raw sockets that another process has opened: descriptors by IP version."""
        return cls({version: socket.socket(fileno=number) for version, number in files.items()})

    @property
    def files(self) -> dict[int, int]:
        """Return the descriptors by IP version; they stay the window's."""
        return {version: raw.fileno() for version, raw in self._sockets.items()}

    @property
    def possible(self) -> bool:
        """Return whether anything can be sent."""
        return bool(self._sockets)

    def close(self) -> None:
        """Close the sockets."""
        for raw in self._sockets.values():
            raw.close()

    def keep_open(self, ports: Collection[int]) -> int:
        """Send one SYN to each listener at one of `ports`; return how many were sent."""
        sent = 0
        try:
            found = listeners()
        except HubError as error:
            log.error(
                "keeper.listeners_unknown",
                why=error.what,
                todo="nothing while the hub lives: its probes keep the window open",
            )
            return 0
        for address, port in {(_reached_at(here), port) for here, port in found}:
            if port in ports and (raw := self._sockets.get(address.version)) is not None:
                with contextlib.suppress(OSError):
                    self._send(raw, address, port)
                    sent += 1
        return sent

    def _send(self, raw: socket.socket, address: IPv4Address | IPv6Address, port: int) -> None:
        source = _FIRST_PORT + secrets.randbelow(_PORTS)
        raw.sendto(segment(address, source, port), (str(address), 0))


def segment(address: IPv4Address | IPv6Address, source: int, port: int) -> bytes:
    """Return a SYN from `address` to itself; IPv6's checksum is left to the kernel."""
    words = 5 + len(_OPTIONS) // 4
    bare = struct.pack(
        "!HHIIBBHHH", source, port, secrets.randbits(32), 0, words << 4, _SYN, 65535, 0, 0
    )
    bare += _OPTIONS
    if address.version == 6:  # noqa: PLR2004 - the IP version
        return bare
    pseudo = address.packed * 2 + struct.pack("!HH", socket.IPPROTO_TCP, len(bare))
    check = struct.pack("!H", _checksum(pseudo + bare))
    return bare[:_CHECKSUM_AT] + check + bare[_CHECKSUM_AT + 2 :]


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _reached_at(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if not address.is_unspecified:
        return address
    return ip_address("127.0.0.1" if address.version == 4 else "::1")  # noqa: PLR2004


def _raw(family: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP)
    try:
        code = ctypes.create_string_buffer(_DROP_ALL)
        program = struct.pack("HL", 1, ctypes.addressof(code))
        made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, _CHECKSUM_AT)
        made.settimeout(0)
    except BaseException:
        made.close()
        raise
    return made
