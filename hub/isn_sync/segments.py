# SPDX-License-Identifier: Apache-2.0
"""The SYN of a probe, and the segments that may answer it."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from socket import IPPROTO_TCP
from typing import Final

from hub.net import IPAddress

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10
ECE: Final = 0x40
CWR: Final = 0x80
WSCALE_MOST: Final = 14
"""RFC 7323, 2.3: larger shifts are read as this one."""

_HEADER: Final = struct.Struct("!HHIIBBHHH")
_END: Final = 0
_PAD: Final = 1
_MSS: Final = 2
_WSCALE: Final = 3
_SACK: Final = 4
_TIMESTAMPS: Final = 8
_U32: Final = 0xFFFFFFFF
_WINDOW: Final = 64240


@dataclass(frozen=True, slots=True)
class Syn:
    """A SYN with every option that a cookie can keep: MSS, SACK, timestamps, window scaling.

    Attributes:
        source: the prober's address.
        target: the server's, of the same family.
        sport: the prober's port.
        dport: the server's port.
        seq: 32 bits.
        tsval: 32 bits.
        mss: octets that the prober would take in one segment.
        wscale: its shift, 0 to 14.
        ecn: whether it asks for ECN (RFC 3168, 6.1.1).
    """

    source: IPAddress
    target: IPAddress
    sport: int
    dport: int
    seq: int
    tsval: int
    mss: int
    wscale: int = 7
    ecn: bool = True


@dataclass(frozen=True, slots=True)
class SynAckSegment:
    """What a SYN-ACK says.

    Attributes:
        seq: 32 bits.
        ack: 32 bits.
        window: not scaled.
        mss: None without the option.
        wscale: None without the option.
        sack: whether SACK is permitted.
        tsval: None without timestamps.
        tsecr: None without timestamps.
        ecn: whether the server takes ECN.
        ttl: as it came in, of the IP header; 0 where nobody has filled it in.
    """

    seq: int
    ack: int
    window: int
    mss: int | None
    wscale: int | None
    sack: bool
    tsval: int | None
    tsecr: int | None
    ecn: bool
    ttl: int = 0


@dataclass(frozen=True, slots=True)
class Reset:
    """The RST of a closed port.

    Attributes:
        seq: 32 bits.
        ack: 32 bits; RFC 9293, 3.5.2: one more than the SYN's sequence number.
        ttl: as for `SynAckSegment`.
    """

    seq: int
    ack: int
    ttl: int = 0


def build(syn: Syn) -> bytes:
    """Return the TCP segment with its checksum; the options in the order that Linux has."""
    options = struct.pack(
        "!BBHBBBBIIBBBB",
        *(_MSS, 4, syn.mss),
        *(_SACK, 2),
        *(_TIMESTAMPS, 10, syn.tsval & _U32, 0),
        _PAD,
        *(_WSCALE, 3, syn.wscale),
    )
    flags = SYN | (ECE | CWR if syn.ecn else 0)
    words = (_HEADER.size + len(options)) // 4

    def header(checksum: int) -> bytes:
        ports = (syn.sport, syn.dport)
        return _HEADER.pack(*ports, syn.seq, 0, words << 4, flags, _WINDOW, checksum, 0)

    bare = header(0) + options
    pseudo = syn.source.packed + syn.target.packed + struct.pack("!II", len(bare), IPPROTO_TCP)
    return header(_checksum(pseudo + bare)) + options


def parse(segment: bytes) -> SynAckSegment | Reset | None:
    """Return what a TCP segment says; None where it answers no SYN or is malformed.

    The checksum is not looked at: what comes by a virtual link may carry an unfinished one, and a
    raw socket is handed the segment before the kernel's own check.
    """
    if len(segment) < _HEADER.size:
        return None
    _, _, seq, ack, offset, flags, window, _, _ = _HEADER.unpack_from(segment)
    length = (offset >> 4) * 4
    if not _HEADER.size <= length <= len(segment):
        return None
    kind = flags & (FIN | SYN | RST | ACK)
    if kind == RST | ACK:
        return Reset(seq, ack)
    if kind != SYN | ACK:
        return None
    options = dict(_options(segment[_HEADER.size : length]))
    tsval, tsecr = struct.unpack("!II", options[_TIMESTAMPS]) if _TIMESTAMPS in options else _NONE
    return SynAckSegment(
        seq=seq,
        ack=ack,
        window=window,
        mss=int.from_bytes(options.get(_MSS, b""), "big") or None,
        wscale=min(options[_WSCALE][0], WSCALE_MOST) if _WSCALE in options else None,
        sack=_SACK in options,
        tsval=tsval,
        tsecr=tsecr,
        ecn=flags & (ECE | CWR) == ECE,
    )


_NONE: Final = (None, None)
_LENGTHS: Final = {_MSS: 2, _WSCALE: 1, _SACK: 0, _TIMESTAMPS: 8}


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the options that are known and well formed; stop at the first that has no end."""
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        length = data[at + 1] if at + 1 < len(data) else 0
        if length < 2 or at + length > len(data):  # noqa: PLR2004 - kind and length themselves
            return
        if _LENGTHS.get(data[at]) == length - 2:
            yield data[at], data[at + 2 : at + length]
        at += length


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
