# SPDX-License-Identifier: Apache-2.0
"""Which packets a rule of an acl fits, and how networks stand among 128 bit addresses."""

from ipaddress import IPv4Network, IPv6Network

from tests.support.model_packet import WITH_PORTS, Packet
from tests.support.model_scene import Network, Rule
from tests.support.packets import ICMP, ICMP6, TCP


def key_of(network: Network) -> tuple[bytes, int]:
    """Return address and length of a network among all 128 bit addresses."""
    if isinstance(network, IPv4Network):
        return bytes(10) + b"\xff\xff" + network.network_address.packed, 96 + network.prefixlen
    return network.network_address.packed, network.prefixlen


def fits(rule: Rule, packet: Packet) -> bool:
    """Return whether a rule fits; what is None in it fits everything."""
    return (
        _source_fits(rule, packet)
        and rule.family in {None, packet.family}
        and rule.protocol in {None, packet.protocol}
        and rule.fragments in {None, packet.is_fragment}
        and _within(rule.length, packet.length)
        and _ports_fit(rule, packet)
        and _flags_fit(rule, packet)
        and _icmp_fits(rule, packet)
    )


def _within(wanted: tuple[int, int] | None, value: int) -> bool:
    return wanted is None or wanted[0] <= value <= wanted[1]


def _source_fits(rule: Rule, packet: Packet) -> bool:
    if rule.source is None:
        return True
    return rule.source.version == packet.family and _covers(rule.source, packet.source_key)


def _covers(network: IPv4Network | IPv6Network, address: bytes) -> bool:
    wanted, bits = key_of(network)
    shift = 128 - bits
    return int.from_bytes(wanted, "big") >> shift == int.from_bytes(address, "big") >> shift


def _ports_fit(rule: Rule, packet: Packet) -> bool:
    if rule.source_ports is None and rule.destination_ports is None:
        return True
    if packet.is_fragment or packet.protocol not in WITH_PORTS:
        return False
    sport, dport = packet.sport, packet.dport
    return _within(rule.source_ports, sport) and _within(rule.destination_ports, dport)


def _flags_fit(rule: Rule, packet: Packet) -> bool:
    if rule.flags is None:
        return True
    mask, value = rule.flags
    is_tcp = not packet.is_fragment and packet.protocol == TCP
    return is_tcp and packet.flags & mask == value


def _icmp_fits(rule: Rule, packet: Packet) -> bool:
    if rule.icmp_type is None and rule.icmp_code is None:
        return True
    if packet.is_fragment or packet.protocol != (ICMP if packet.family == 4 else ICMP6):
        return False
    kind, code = packet.frame[packet.at : packet.at + 2]
    return _within(rule.icmp_type, kind) and _within(rule.icmp_code, code)
