# SPDX-License-Identifier: Apache-2.0
"""The SYN-ACK and the RST that the model expects, byte by byte."""

import struct
from dataclasses import dataclass

from tests.support.model_cookie import (
    MINUTE_MS,
    MSS4,
    MSS6,
    Key,
    cookie,
    cookie_index,
    cookie_timestamp,
    mss_index,
    timestamp_offset,
    timestamp_offset_host,
)
from tests.support.model_packet import Packet
from tests.support.model_scene import Tcp
from tests.support.packets import ACK, CWR, ECE, RST, SMALLEST, SYN, TCP, checksum, pseudo_header

_U64 = (1 << 64) - 1
_U32 = (1 << 32) - 1
_NOTHING_OFFERED = 536
_LARGEST_SHIFT = 14


@dataclass(slots=True)
class Offered:
    """What the options of a SYN offer."""

    mss: int = _NOTHING_OFFERED
    wscale: int | None = None
    sack: bool = False
    tsval: int | None = None
    tsecr: int = 0


def read_options(options: bytes, mss: int = _NOTHING_OFFERED) -> Offered:
    """Read options as Linux does: stop at what is broken, the last of several wins.

    Without the option for it, the largest segment is `mss`.
    """
    found = Offered(mss)
    at = 0
    while at < len(options):
        kind = options[at]
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        if at + 1 >= len(options):
            break
        size = options[at + 1]
        if size < 2 or at + size > len(options):
            break
        body = options[at + 2 : at + size]
        if kind == 2 and size == 4 and body != b"\0\0":
            found.mss = int.from_bytes(body, "big")
        elif kind == 3 and size == 3:
            found.wscale = min(body[0], _LARGEST_SHIFT)
        elif kind == 4 and size == 2:
            found.sack = True
        elif kind == 8 and size == 10:
            found.tsval = int.from_bytes(body[:4], "big")
            found.tsecr = int.from_bytes(body[4:], "big")
        at += size
    return found


def _cookie_keys(tcp: Tcp, packet: Packet) -> tuple[Key, Key]:
    return tcp.keys.cookie if packet.family == 4 else tcp.keys.cookie6


def _minute(tcp: Tcp, now_ms: int) -> int:
    return (now_ms + tcp.cookie_offset & _U64) // MINUTE_MS & _U32


def cookie_valid(tcp: Tcp, packet: Packet, now_ms: int) -> bool:
    """Return whether the segment acknowledges a cookie of this or the last minute."""
    index = cookie_index(
        _cookie_keys(tcp, packet),
        packet.source,
        packet.destination,
        packet.ports,
        seq=packet.seq,
        ack=packet.ack,
        count=_minute(tcp, now_ms),
    )
    return index is not None


def syn_ack(tcp: Tcp, packet: Packet, now_ms: int) -> bytes:
    """Return the frame that answers a SYN."""
    offered = read_options(packet.options)
    carries = tcp.mode == "isn-sync" and tcp.has_timestamps and offered.tsval is not None
    flags = SYN | ACK
    options = struct.pack("!BBH", 2, 4, tcp.mss4 if packet.family == 4 else tcp.mss6)
    if carries:
        scale = offered.wscale if tcp.has_wscale else None
        sack = offered.sack and tcp.has_sack
        ecn = tcp.has_ecn and asks_ecn(packet)
        flags |= ECE if ecn else 0
        tsval = _tsval(tcp, packet, now_ms, scale=scale, sack=sack, ecn=ecn)
        options += (b"\4\2" if sack else b"\1\1") + b"\x08\x0a"
        options += struct.pack("!II", tsval, offered.tsval)
        if scale is not None:
            options += bytes([1, 3, 3, tcp.wscale])
    table = MSS4 if packet.family == 4 else MSS6
    seq = cookie(
        _cookie_keys(tcp, packet),
        packet.source,
        packet.destination,
        packet.ports,
        client_seq=packet.seq,
        count=_minute(tcp, now_ms),
        index=mss_index(table, offered.mss),
    )
    options = options.ljust(packet.header - 20, b"\0")
    return answer(
        tcp.ttl,
        packet,
        seq=seq,
        ack=packet.seq + 1,
        flags=flags,
        window=tcp.window,
        options=options,
    )


def reset(tcp: Tcp, packet: Packet) -> bytes:
    """Return the frame that makes a proven client connect again."""
    return answer(tcp.ttl, packet, seq=packet.ack, flags=RST)


def asks_ecn(packet: Packet) -> bool:
    """Return whether a SYN asks for ECN as a stack does (RFC 3168 section 6.1.1)."""
    accurate = packet.frame[packet.at + 12] & 1 != 0
    asked = packet.flags & (ECE | CWR) == ECE | CWR
    return asked and (packet.ecn == 0 or accurate)


def _tsval(
    tcp: Tcp, packet: Packet, now_ms: int, *, scale: int | None, sack: bool, ecn: bool
) -> int:
    now = now_ms + tcp.ts_offset & _U32
    offset = 0
    if tcp.scheme == "flow":
        offset = timestamp_offset(
            tcp.keys.timestamp, packet.source, packet.destination, packet.ports
        )
    elif tcp.scheme == "host":
        offset = timestamp_offset_host(tcp.keys.timestamp, packet.source, packet.destination)
    return cookie_timestamp(now, scale=scale, sack=sack, ecn=ecn) + offset & _U32


def answer(
    ttl: int,
    packet: Packet,
    *,
    seq: int,
    flags: int,
    ack: int = 0,
    window: int = 0,
    options: bytes = b"",
) -> bytes:
    """Return the frame that answers a segment."""
    frame, start = packet.frame, packet.start
    sport, dport = packet.ports[2:], packet.ports[:2]
    segment = struct.pack(
        "!2s2sIIBBHHH",
        sport,
        dport,
        seq & _U32,
        ack & _U32,
        5 + len(options) // 4 << 4,
        flags,
        window,
        0,
        0,
    )
    segment += options
    pseudo = pseudo_header(packet.destination, packet.source, TCP, len(segment))
    segment = segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]
    if packet.family == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0x4000, ttl, TCP, 0)
        head += packet.destination + packet.source
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    else:
        head = struct.pack("!IHBB", 6 << 28, len(segment), TCP, ttl)
        head += packet.destination + packet.source
    made = frame[6:12] + frame[:6] + frame[12:start] + head + segment
    # What a minimal frame has behind the packet is what was there.
    return made + frame[len(made) : max(len(made), SMALLEST)]
