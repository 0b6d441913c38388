# SPDX-License-Identifier: Apache-2.0
"""Raw TCP sockets that see only answers to our own SYNs."""

import ctypes
import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from hub.isn_sync.segments import ACK, RST, SYN
from hub.net import IPAddress

RECEIVE_BYTES: Final = 256 * 1024

# Python has no names for these two.
_SO_ATTACH_FILTER: Final = 26
_IP_PKTINFO: Final = 8
_LONGEST: Final = 2048
_CONTROL: Final = 128
_HEADER4: Final = 20
_V4: Final = 4
_PORTS: Final = 4

# linux/bpf_common.h: BPF_LDX|BPF_B|BPF_MSH, BPF_LD|BPF_B|BPF_IND, BPF_LD|BPF_H|BPF_IND,
# BPF_LDX|BPF_W|BPF_IMM, BPF_ALU|BPF_AND|BPF_K, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
_LDX_HEADER: Final = 0xB1
_LD_BYTE: Final = 0x50
_LD_HALF: Final = 0x48
_LDX_NUMBER: Final = 0x01
_AND: Final = 0x54
_EQUAL: Final = 0x15
_RETURN: Final = 0x06

_AT_ACK: Final = 8
_AT_FLAGS: Final = 13

# struct in_pktinfo and struct in6_pktinfo of ip(7) and ipv6(7).
_PKTINFO4: Final = struct.Struct("=I4s4s")
_PKTINFO6: Final = struct.Struct("=16sI")


@dataclass(frozen=True, slots=True)
class Datagram:
    """A TCP segment and what its IP header said."""

    source: IPAddress
    target: IPAddress
    ttl: int
    segment: bytes


def open_raw(version: int, tag: int) -> socket.socket | None:
    """Return a raw socket that does not block; None where the machine lacks the family.

    Args:
        version: 4 or 6, of IP.
        tag: high half of the acknowledgement numbers that pass.

    Raises:
        OSError: it is not permitted, or not possible.
    """
    family = socket.AF_INET if version == _V4 else socket.AF_INET6
    try:
        raw = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise
    try:
        _attach(raw, answers_only(version, tag))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        if version != _V4:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    except BaseException:
        raw.close()
        raise
    return raw


def answers_only(version: int, tag: int) -> bytes:
    """Return a classic BPF program that passes SYN-ACK and RST-ACK whose ack begins with `tag`.

    A raw socket of IPv4 shows it the IP header, one of IPv6 begins with the TCP header.
    """
    start = (_LDX_HEADER, 0, 0, 0) if version == _V4 else (_LDX_NUMBER, 0, 0, 0)
    program = (
        start,
        (_LD_HALF, 0, 0, _AT_ACK),
        (_EQUAL, 0, 5, tag),
        (_LD_BYTE, 0, 0, _AT_FLAGS),
        (_AND, 0, 0, SYN | RST | ACK),
        (_EQUAL, 1, 0, SYN | ACK),
        (_EQUAL, 0, 1, RST | ACK),
        (_RETURN, 0, 0, 0xFFFFFFFF),
        (_RETURN, 0, 0, 0),
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def send(raw: socket.socket, segment: bytes, source: IPAddress, target: IPAddress) -> None:
    """Send a segment from just that address; one that finds no room is lost like any packet.

    Raises:
        OSError: the kernel does not send it.
    """
    if isinstance(source, IPv4Address):
        info = _PKTINFO4.pack(0, source.packed, bytes(4))
        control = (socket.IPPROTO_IP, _IP_PKTINFO, info)
    else:
        info = _PKTINFO6.pack(source.packed, 0)
        control = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)
    try:
        raw.sendmsg((segment,), (control,), 0, (str(target), 0))
    except BlockingIOError:
        return
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise


def read(raw: socket.socket) -> Datagram | None:
    """Return the next datagram; None where it is malformed.

    Raises:
        BlockingIOError: there is none.
    """
    data, control, _, address = raw.recvmsg(_LONGEST, _CONTROL)
    if raw.family == socket.AF_INET:
        return _read4(data)
    ttl, target = 0, None
    for level, kind, value in control:
        if level != socket.IPPROTO_IPV6:
            continue
        if kind == socket.IPV6_HOPLIMIT:
            (ttl,) = struct.unpack("=i", value)
        elif kind == socket.IPV6_PKTINFO:
            target = IPv6Address(value[:16])
    if target is None or len(data) < _PORTS:
        return None
    return Datagram(IPv6Address(address[0].partition("%")[0]), target, ttl, data)


def _read4(data: bytes) -> Datagram | None:
    header = (data[0] & 0xF) * 4 if data else 0
    if header < _HEADER4 or len(data) < header + _PORTS:
        return None
    source, target = IPv4Address(data[12:16]), IPv4Address(data[16:20])
    return Datagram(source, target, data[8], data[header:])


def _attach(raw: socket.socket, program: bytes) -> None:
    kept = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: how many instructions, and where they are.
    length = len(program) // 8
    fprog = struct.pack("@HP", length, ctypes.addressof(kept))
    raw.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
