# SPDX-License-Identifier: Apache-2.0
"""SYN cookies and timestamp offsets of a Linux server, 4.13 or later, from its secrets.

Sources: net/ipv4/syncookies.c, net/ipv6/syncookies.c, net/core/secure_seq.c. The server is taken
for little-endian: there a 32 bit word of a packet is hashed as the bytes on the wire, but two ports
packed into one word change places.
"""

import struct
from ipaddress import IPv4Address
from typing import Final

from hub.isn_sync.siphash import siphash
from hub.net import IPAddress

MSS4: Final = (536, 1300, 1440, 1460)
MSS6: Final = (1220, 1420, 1440, 8940)
"""Segment sizes that a cookie can carry."""
MINUTE_MS: Final = 60_000
COOKIE_BITS: Final = 24

_U32: Final = 0xFFFFFFFF
_LOW: Final = (1 << COOKIE_BITS) - 1
_KEY: Final = 16


def index_of_mss(mss: int, *, v6: bool) -> int:
    """Return the index of the largest size not above `mss`, and 0 below all of them."""
    table = MSS6 if v6 else MSS4
    return max((index for index, size in enumerate(table) if size <= mss), default=0)


def cookie(
    secret: bytes,
    client: IPAddress,
    server: IPAddress,
    sport: int,
    dport: int,
    *,
    seq: int,
    count: int,
    mss_index: int,
) -> int:
    """Return the sequence number of the server's SYN-ACK.

    Args:
        secret: `syncookie_secret`, or `syncookie6_secret` between IPv6 addresses; 32 bytes.
        client: address of the SYN's sender.
        server: where it goes, of the same family.
        sport: the client's port.
        dport: the server's port.
        seq: of the SYN.
        count: minutes of the server's cookie clock.
        mss_index: place in the table of segment sizes.
    """
    outer = _hash(secret[:_KEY], client, server, sport, dport, count=0)
    inner = _hash(secret[_KEY:], client, server, sport, dport, count=count)
    return outer + seq + (count << COOKIE_BITS) + (inner + mss_index & _LOW) & _U32


def count_of(
    secret: bytes,
    client: IPAddress,
    server: IPAddress,
    sport: int,
    dport: int,
    *,
    seq: int,
    isn: int,
    near: int,
    within: int,
) -> tuple[int, int] | None:
    """Return the minute and the index of the segment size that a SYN-ACK's cookie carries.

    Args:
        secret: as for `cookie`, and so are the addresses, the ports and `seq`.
        client: see `cookie`.
        server: see `cookie`.
        sport: see `cookie`.
        dport: see `cookie`.
        seq: of the SYN.
        isn: sequence number of the SYN-ACK.
        near: the minute in the middle of those that are tried.
        within: how many minutes before and after it, at most 127.

    Returns:
        None where `isn` is no cookie of this secret and of these minutes.
    """
    plain = isn - seq - _hash(secret[:_KEY], client, server, sport, dport, count=0) & _U32
    # The highest byte is the minute's lowest, so only one minute in 256 has to be tried.
    distance = ((plain >> COOKIE_BITS) - near + 128 & 0xFF) - 128
    count = near + distance
    if abs(distance) > within or count < 0:
        return None
    inner = _hash(secret[_KEY:], client, server, sport, dport, count=count)
    index = plain - inner & _LOW
    return (count, index) if index < len(MSS4) else None


def ts_offset_flow(net: bytes, client: IPAddress, server: IPAddress, sport: int, dport: int) -> int:
    """Return what the server adds to its timestamp clock for one connection.

    Args:
        net: `net_secret`, 16 bytes.
        client: its address.
        server: its address.
        sport: the client's port.
        dport: the server's port.
    """
    return _of_flow(net, client, server, sport, dport) >> 32


def ts_offset_host(ts: bytes, client: IPAddress, server: IPAddress) -> int:
    """Return what the server adds for every connection of one client, on older kernels.

    Args:
        ts: `ts_secret`, 16 bytes.
        client: its address.
        server: its address.
    """
    return siphash(ts, server.packed + client.packed) & _U32


def plain_isn(
    net: bytes, client: IPAddress, server: IPAddress, sport: int, dport: int, *, utc_ns: int
) -> int:
    """Return the sequence number of a SYN-ACK that carries no cookie, at `utc_ns` over there.

    It grows by one each 64 ns. The arguments are those of `ts_offset_flow`.
    """
    return _of_flow(net, client, server, sport, dport) + (utc_ns >> 6) & _U32


def _of_flow(net: bytes, client: IPAddress, server: IPAddress, sport: int, dport: int) -> int:
    # The server looks from its own side: its address and port come first.
    pair = server.packed + client.packed
    if isinstance(client, IPv4Address):
        return siphash(net, pair + _word_of_ports(dport, sport))
    return siphash(net, pair + struct.pack("!HH", dport, sport))


def _hash(
    key: bytes, client: IPAddress, server: IPAddress, sport: int, dport: int, *, count: int
) -> int:
    pair, minute = client.packed + server.packed, struct.pack("<I", count & _U32)
    if isinstance(client, IPv4Address):
        return siphash(key, pair + _word_of_ports(sport, dport) + minute) & _U32
    return siphash(key, pair + minute + struct.pack("!HH", sport, dport)) & _U32


def _word_of_ports(high: int, low: int) -> bytes:
    # `high << 16 | low` of two numbers in network order, stored little-endian.
    return struct.pack("!HH", low, high)
