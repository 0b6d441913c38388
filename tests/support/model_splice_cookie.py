# SPDX-License-Identifier: Apache-2.0
"""Cookies of the translating mode, from their description: what they carry, and to whom they bind.

A cookie carries eight bits. With timestamps all of them are the client's largest segment, and the
other options lie in the low bits of the TSval; without, three are the segment and five the rest.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.support.model_cookie import (
    MINUTE_MS,
    VALID_MINUTES,
    Key,
    cookie_hash,
    cookie_timestamp,
    timestamp_offset_host,
)
from tests.support.model_packet import Packet
from tests.support.model_scene import Tcp
from tests.support.model_siphash import siphash

SIZES3: Final = (216, 536, 1024, 1220, 1300, 1380, 1440, 1460)
SIZES8: Final = (
    216,
    *range(536, 1461, 4),
    *(1460 + 350 * more for more in range(1, 22)),
    8940,
    8960,
)
KEPT_MS: Final = 122_880

_U32: Final = 0xFFFFFFFF
_U64: Final = 0xFFFFFFFFFFFFFFFF
_LOW24: Final = 0xFFFFFF
_WITH_TIMESTAMPS: Final = 0x80000000
_NO_SCALE: Final = 15


@dataclass(slots=True)
class Agreed:
    """What a client is told, and what its ACK brings back."""

    mss: int
    wscale: int | None
    sack: bool
    timestamps: bool
    ecn: bool = False

    def data(self) -> int:
        """Return the eight bits of the sequence number."""
        if self.timestamps:
            return _highest(SIZES8, self.mss)
        scale = _NO_SCALE if self.wscale is None else self.wscale
        return _highest(SIZES3, self.mss) << 5 | self.sack << 4 | scale


def _highest(sizes: Sequence[int], most: int) -> int:
    return max((at for at, size in enumerate(sizes) if size <= most and size != 216), default=0)


def minute(tcp: Tcp, now_ms: int) -> int:
    """Return the minute of the clock that cookies are dated by."""
    return (now_ms + tcp.cookie_offset & _U64) // MINUTE_MS & _U32


def _keys(tcp: Tcp, packet: Packet) -> Sequence[Key]:
    return tcp.keys.cookie if packet.family == 4 else tcp.keys.cookie6


def bound_hash(key: Key, packet: Packet, count: int, isn: int) -> int:
    """Return 32 bits over the 4-tuple, the minute and the client's first sequence number."""
    source, destination, ports = packet.source, packet.destination, packet.ports
    if packet.family == 4:
        named = int.from_bytes(ports[:2], "little") << 16 | int.from_bytes(ports[2:], "little")
        message = source + destination + struct.pack("<III", named, count & _U32, isn & _U32)
    else:
        message = source + destination + struct.pack("<I", count & _U32) + ports
        message += struct.pack("<I", isn & _U32)
    return siphash(key, message) & _U32


def make(tcp: Tcp, packet: Packet, agreed: Agreed, now_ms: int, *, isn: int, age: int = 0) -> int:
    """Return the sequence number of the SYN-ACK to a client whose first is `isn`."""
    keys = _keys(tcp, packet)
    count = minute(tcp, now_ms) - age | (_WITH_TIMESTAMPS if agreed.timestamps else 0)
    base = cookie_hash(keys[0], packet.source, packet.destination, packet.ports, 0)
    hidden = bound_hash(keys[1], packet, count, isn) + agreed.data() & _LOW24
    return isn + base + (count << 24) + hidden & _U32


def offset(tcp: Tcp, packet: Packet) -> int:
    """Return what is added to the timestamps that this client is told."""
    return timestamp_offset_host(tcp.keys.timestamp, packet.source, packet.destination)


def tsval(tcp: Tcp, packet: Packet, agreed: Agreed, now_ms: int) -> int:
    """Return the TSval of the SYN-ACK."""
    stamped = cookie_timestamp(now_ms, scale=agreed.wscale, sack=agreed.sack, ecn=agreed.ecn)
    return stamped + offset(tcp, packet) & _U32


def read(tcp: Tcp, packet: Packet, now_ms: int, tsecr: int | None) -> Agreed | None:
    """Return what the cookie of an ACK carries; None where it has no good one.

    `tsecr` is None where the segment has no timestamps.
    """
    keys = _keys(tcp, packet)
    isn = packet.seq - 1 & _U32
    base = cookie_hash(keys[0], packet.source, packet.destination, packet.ports, 0)
    plain = packet.ack - 1 - isn - base & _U32
    now = minute(tcp, now_ms)
    age = now - (plain >> 24) & 0xFF
    if age >= VALID_MINUTES:
        return None
    count = (now | (0 if tsecr is None else _WITH_TIMESTAMPS)) - age
    data = plain - bound_hash(keys[1], packet, count, isn) & _LOW24
    if data > 0xFF:
        return None
    if tsecr is None:
        scale = data & 15
        return Agreed(
            SIZES3[data >> 5],
            None if scale == _NO_SCALE else scale,
            sack=bool(data & 16),
            timestamps=False,
        )
    echoed = tsecr - offset(tcp, packet) & _U32
    if now_ms - echoed & _U32 > KEPT_MS:
        return None
    scale = echoed & 15
    return Agreed(
        SIZES8[data],
        None if scale == _NO_SCALE else scale,
        sack=bool(echoed & 16),
        timestamps=True,
        ecn=bool(echoed & 32),
    )
