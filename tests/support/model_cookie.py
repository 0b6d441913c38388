# SPDX-License-Identifier: Apache-2.0
"""Linux SYN cookies and their timestamps, from the description of the algorithms.

Addresses and ports are the bytes of the packet. A number that the kernel makes of raw network
bytes on a little-endian machine is made so here on any machine.
"""

import struct
from collections.abc import Sequence
from typing import Final

from tests.support.model_siphash import siphash

Key = Sequence[int]

MSS4: Final = (536, 1300, 1440, 1460)
MSS6: Final = (1220, 1420, 1440, 8940)
MINUTE_MS: Final = 60_000
VALID_MINUTES: Final = 2

_U32: Final = 0xFFFFFFFF
_LOW24: Final = 0xFFFFFF


def mss_index(table: Sequence[int], offered: int) -> int:
    """Return the index of the largest entry that is not larger than `offered`, else 0."""
    return max((at for at, size in enumerate(table) if size <= offered), default=0)


def _packed_ports(first: bytes, second: bytes) -> int:
    return (int.from_bytes(first, "little") << 16 | int.from_bytes(second, "little")) & _U32


def cookie_hash(key: Key, source: bytes, destination: bytes, ports: bytes, count: int) -> int:
    """Return 32 bits over the 4-tuple, in the direction of the client's packet, and `count`."""
    if len(source) == 4:
        middle = struct.pack("<II", _packed_ports(ports[:2], ports[2:]), count & _U32)
        return siphash(key, source + destination + middle) & _U32
    block = source + destination + struct.pack("<I", count & _U32) + ports
    return siphash(key, block) & _U32


def cookie(
    keys: Sequence[Key],
    source: bytes,
    destination: bytes,
    ports: bytes,
    *,
    client_seq: int,
    count: int,
    index: int,
) -> int:
    """Return the sequence number of the SYN-ACK to a SYN with `client_seq`."""
    base = cookie_hash(keys[0], source, destination, ports, 0)
    hidden = cookie_hash(keys[1], source, destination, ports, count) + index & _LOW24
    return base + client_seq + (count << 24) + hidden & _U32


def cookie_index(
    keys: Sequence[Key],
    source: bytes,
    destination: bytes,
    ports: bytes,
    *,
    seq: int,
    ack: int,
    count: int,
) -> int | None:
    """Return the index of the MSS that an ACK's cookie carries; None when it is not valid."""
    plain = ack - 1 - (seq - 1) - cookie_hash(keys[0], source, destination, ports, 0) & _U32
    age = count - (plain >> 24) & 0xFF
    if age >= VALID_MINUTES:
        return None
    hidden = cookie_hash(keys[1], source, destination, ports, count - age)
    index = plain - hidden & _LOW24
    return index if index < len(MSS4) else None


def timestamp_offset(key: Key, source: bytes, destination: bytes, ports: bytes) -> int:
    """Return the offset by 4-tuple, which the server computes from its own side (165573e41f2f)."""
    if len(source) == 4:
        tail = struct.pack("<I", _packed_ports(ports[2:], ports[:2]))
    else:
        tail = ports[2:] + ports[:2]
    return siphash(key, destination + source + tail) >> 32


def timestamp_offset_host(key: Key, source: bytes, destination: bytes) -> int:
    """Return the offset by pair of hosts, as kernels before that change compute it."""
    return siphash(key, destination + source) & _U32


def cookie_timestamp(now: int, *, scale: int | None, sack: bool, ecn: bool) -> int:
    """Return the server's clock with the options in its low six bits, never ahead of `now`."""
    options = (0xF if scale is None else scale) | sack << 4 | ecn << 5
    stamped = now & ~0x3F | options
    return stamped - 64 if stamped > now else stamped
