# SPDX-License-Identifier: Apache-2.0
"""Packets of spliced flows as they must look: every checksum summed up anew over the whole."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.support.model_packet import Packet
from tests.support.packets import SMALLEST, TCP, pseudo_header

_U16: Final = 0xFFFF
_U32: Final = 0xFFFFFFFF
_SACK: Final = 5
_TIMESTAMPS: Final = 8
_AT_CHECK: Final = 16


def _sum(data: bytes) -> int:
    return int.from_bytes(data if len(data) % 2 == 0 else data + b"\0", "big") % _U16


def error_of(covered: bytes) -> int:
    """Return by how much the checksum in `covered` is wrong; 0 where it is right."""
    return _sum(covered)


def right(covered: bytes, error: int = 0) -> int:
    """Return the checksum of what has 0 in its place, as wrong as it was before."""
    return (error - _sum(covered)) % _U16


@dataclass(frozen=True, slots=True)
class Shift:
    """By how much the words of options are moved."""

    tsval: int = 0
    tsecr: int = 0
    edges: int = 0


def each_option(options: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield kind, place and length of each option, up to the end or to what is broken."""
    at = 0
    while at < len(options) and options[at]:
        if options[at] == 1:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2 or at + size > len(options):
            return
        yield options[at], at, size
        at += size


def moved_options(options: bytes, shift: Shift) -> bytes:
    """Return options in the other side's numbers."""
    made = bytearray(options)

    def move(at: int, by: int) -> None:
        value = int.from_bytes(made[at : at + 4], "big") + by & _U32
        made[at : at + 4] = value.to_bytes(4, "big")

    for kind, at, size in each_option(options):
        if kind == _TIMESTAMPS and size == 10:
            move(at + 2, shift.tsval)
            move(at + 6, shift.tsecr)
        elif kind == _SACK:
            for edge in range(at + 2, at + 2 + (min(size, 34) - 2) // 4 * 4, 4):
                move(edge, shift.edges)
    return bytes(made)


def scaled(window: int, by: int) -> int:
    """Return a window shifted right by `by`, at most what the field holds."""
    return min(window >> by if by > 0 else window << -by, _U16)


def segment_error(packet: Packet, data: bytes | None = None) -> int:
    """Return by how much a segment's checksum is wrong, if it carried `data`."""
    segment = packet.frame[packet.at : packet.end]
    if data is not None:
        segment = segment[: packet.header] + data
    pseudo = pseudo_header(packet.source, packet.destination, TCP, len(segment))
    return error_of(pseudo + segment)


def with_checksum(source: bytes, destination: bytes, segment: bytes, error: int) -> bytes:
    """Return a segment with its checksum."""
    head, tail = segment[:_AT_CHECK], segment[_AT_CHECK + 2 :]
    pseudo = pseudo_header(source, destination, TCP, len(segment))
    return head + right(pseudo + head + b"\0\0" + tail, error).to_bytes(2, "big") + tail


def moved(packet: Packet, *, seq: int = 0, ack: int = 0, window: int = 0, shift: Shift) -> bytes:
    """Return the frame with its numbers moved; what it carries stays."""
    frame, at = packet.frame, packet.at
    words = list(struct.unpack_from("!HHIIBBHHH", frame, at))
    words[2] = words[2] + seq & _U32
    words[3] = words[3] + ack & _U32
    words[6] = scaled(words[6], window)
    segment = struct.pack("!HHIIBBHHH", *words)
    segment += moved_options(packet.options, shift) + frame[at + packet.header : packet.end]
    made = with_checksum(packet.source, packet.destination, segment, segment_error(packet))
    return frame[:at] + made + frame[packet.end :]


def _stretched(packet: Packet, head: bytes, length: int, error: int | None = None) -> bytes:
    """Return an IP header, with what belongs to it, that has so many bytes behind it.

    The checksum is as wrong as before, or by `error`.
    """
    if packet.family == 6:
        return head[:4] + (len(head) - 40 + length).to_bytes(2, "big") + head[6:]
    error = error_of(head) if error is None else error
    made = head[:2] + (len(head) + length).to_bytes(2, "big") + head[4:10] + b"\0\0" + head[12:]
    return made[:10] + right(made, error).to_bytes(2, "big") + made[12:]


def _segment(ports: bytes, *, seq: int, ack: int, flags: int, window: int, options: bytes) -> bytes:
    words = 5 + len(options) // 4
    return ports + struct.pack(
        "!IIBBHHH", seq & _U32, ack & _U32, words << 4, flags, window, 0, 0
    ) + options  # fmt: skip


def opening(packet: Packet, *, seq: int, flags: int, window: int, options: bytes) -> bytes:
    """Return the frame that asks the server, made of a segment of the client."""
    segment = _segment(packet.ports, seq=seq, ack=0, flags=flags, window=window, options=options)
    segment = with_checksum(packet.source, packet.destination, segment, 0)
    # A SYN is not marked, whatever the segment was (RFC 3168 section 6.1.1).
    bare = bytearray(packet.frame[packet.start : packet.at])
    bare[1] &= 0xFC if packet.family == 4 else 0xCF
    head = packet.frame[packet.start : packet.at]
    head = _stretched(packet, bytes(bare), len(segment), error_of(head))
    made = packet.frame[: packet.start] + head + segment
    return made + packet.frame[len(made) : max(len(made), SMALLEST)]


def reply(
    packet: Packet,
    *,
    seq: int,
    ack: int,
    flags: int,
    window: int = 0,
    options: bytes = b"",
    data: bytes = b"",
) -> bytes:
    """Return the frame that a client would answer a segment of the server with."""
    frame, start, at = packet.frame, packet.start, packet.at
    ports = packet.ports[2:] + packet.ports[:2]
    segment = _segment(ports, seq=seq, ack=ack, flags=flags, window=window, options=options)
    segment += data
    error = segment_error(packet)
    segment = with_checksum(packet.destination, packet.source, segment, error)
    head = _stretched(packet, frame[start:at], len(segment))
    places = (12, 16, 20) if packet.family == 4 else (8, 24, 40)
    first, second = head[places[0] : places[1]], head[places[1] : places[2]]
    head = head[: places[0]] + second + first + head[places[2] :]
    return frame[6:12] + frame[:6] + frame[12:start] + head + segment


def reset_answer(packet: Packet, *, seq: int) -> bytes:
    """Return the frame of a server's RST with another sequence number."""
    return moved(packet, seq=seq - packet.seq, shift=Shift())


@dataclass(frozen=True, slots=True)
class Quoted:
    """The head of a packet within an ICMP error."""

    source: bytes
    destination: bytes
    ports: bytes
    at: int
    """Where its TCP header begins."""

    @property
    def flow(self) -> bytes:
        """Return what tells its flow, in its own direction."""
        return self.source + self.destination + self.ports

    @property
    def turned(self) -> bytes:
        """Return what tells its flow, from the other side."""
        return self.destination + self.source + self.ports[2:] + self.ports[:2]


def quoted(packet: Packet) -> Quoted | None:
    """Return what an ICMP error quotes of a TCP segment, if that is told by it."""
    frame, at = packet.frame, packet.at + 8
    if packet.family == 4:
        if at + 20 > len(frame) or frame[at + 9] != TCP or (frame[at] & 15) < 5:
            return None
        if int.from_bytes(frame[at + 6 : at + 8], "big") & 0x1FFF:
            return None
        mapped = bytes(10) + b"\xff\xff"
        source, destination = mapped + frame[at + 12 : at + 16], mapped + frame[at + 16 : at + 20]
        tcp = at + (frame[at] & 15) * 4
    else:
        if at + 40 > len(frame) or frame[at + 6] != TCP:
            return None
        source, destination = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
        tcp = at + 40
    if tcp + 8 > packet.end:
        return None
    return Quoted(source, destination, frame[tcp : tcp + 4], tcp)


def moved_quotation(packet: Packet, at: int, by: int) -> bytes:
    """Return the frame of an ICMP error with one word of its quotation moved."""
    frame = bytearray(packet.frame)
    covered = bytes(frame[packet.at : packet.end])
    if packet.family == 6:
        pseudo = pseudo_header(packet.source, packet.destination, packet.protocol, len(covered))
    else:
        pseudo = b""
    error = error_of(pseudo + covered)
    value = int.from_bytes(frame[at : at + 4], "big") + by & _U32
    frame[at : at + 4] = value.to_bytes(4, "big")
    frame[packet.at + 2 : packet.at + 4] = b"\0\0"
    fresh = right(pseudo + bytes(frame[packet.at : packet.end]), error)
    frame[packet.at + 2 : packet.at + 4] = fresh.to_bytes(2, "big")
    return bytes(frame)
