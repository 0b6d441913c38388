# SPDX-License-Identifier: Apache-2.0
"""Settings of a scene, written into the rows that the program reads."""

from ipaddress import IPv4Network
from typing import Any, Final

from tests.support import bpf_abi as abi
from tests.support.model_rules import key_of
from tests.support.model_scene import Rate, Rule, Sorb, Tcp

_HOST_BITS: Final = 128


def tcp_flags(tcp: Tcp) -> int:
    """Return what the server takes, as the flags of a slot."""
    return (
        abi.TCP_SACK * tcp.has_sack
        | abi.TCP_WSCALE * tcp.has_wscale
        | abi.TCP_TIMESTAMPS * tcp.has_timestamps
        | abi.TCP_ECN * tcp.has_ecn
        | abi.TCP_TS_PER_FLOW * (tcp.scheme == "flow")
        | abi.TCP_TS_NO_OFFSET * (tcp.scheme == "none")
    )


def write_rate(row: Any, rate: Rate) -> None:
    """Write a rate."""
    row.interval, row.burst, row.tat = rate.interval, rate.burst, rate.tat


def write_tcp(row: Any, tcp: Tcp) -> None:
    """Write the settings of a tcp slot."""
    for name, keys in (("cookie_key", tcp.keys.cookie), ("cookie6_key", tcp.keys.cookie6)):
        for which in (0, 1):
            for word in (0, 1):
                getattr(row, name)[which][word] = keys[which][word]
    row.ts_key[0], row.ts_key[1] = tcp.keys.timestamp
    for name in ("cookie_offset", "ts_offset", "mss4", "mss6", "window", "wscale", "ttl"):
        setattr(row, name, getattr(tcp, name))
    row.grace_until = tcp.grace_until
    for name in ("grace", "unknown", "learned", "syn_ack_in", "icmp"):
        write_rate(getattr(row, name), getattr(tcp, name))
    row.source_interval, row.source_burst = tcp.source.interval, tcp.source.burst
    row.ceiling_interval, row.ceiling_burst = tcp.ceiling.interval, tcp.ceiling.burst


def write_sorb(row: Any, sorb: Sorb) -> None:
    """Write the settings of a sorb slot."""
    row.pps_interval, row.pps_burst = sorb.pps.interval, sorb.pps.burst
    row.bps_interval, row.bps_burst = sorb.bps.interval, sorb.bps.burst
    row.block_ms = sorb.block_ms


def words(data: bytes) -> list[int]:
    """Return an address as words."""
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, 16, 4)]


def write_rule(row: Any, rule: Rule) -> None:
    """Write a rule of a filter."""
    matched = []
    if rule.source is not None:
        address, bits = key_of(rule.source)
        mask = ((1 << bits) - 1) << (_HOST_BITS - bits)
        row.source[:] = words(address)
        row.source_mask[:] = words(mask.to_bytes(16, "big"))
        matched.append("source")
        matched.append("ipv4" if isinstance(rule.source, IPv4Network) else "ipv6")
    ranges = {
        "source_ports": (row.sport, rule.source_ports),
        "destination_ports": (row.dport, rule.destination_ports),
        "length": (row.length, rule.length),
        "icmp_type": (row.icmp_type, rule.icmp_type),
        "icmp_code": (row.icmp_code, rule.icmp_code),
    }
    for name, (field, wanted) in ranges.items():
        if wanted is not None:
            field[:] = wanted
            matched.append(name)
    if rule.protocol is not None:
        row.protocol = rule.protocol
        matched.append("protocol")
    if rule.flags is not None:
        row.flags_mask, row.flags_value = rule.flags
        matched.append("flags")
    if rule.fragments is not None:
        matched.append("fragment" if rule.fragments else "not_fragment")
    if rule.family is not None:
        matched.append(f"ipv{rule.family}")
    row.match = sum({abi.MATCH[name] for name in matched})
    row.action = abi.ACTIONS[rule.action]
