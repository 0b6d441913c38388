# SPDX-License-Identifier: Apache-2.0
"""What FastNetMon Community would write of such an attack: the text that a drill hands in."""

from collections.abc import Mapping
from typing import Final

from hub.net import IPAddress

_PACKET_BYTES: Final = 64
_SHARES: Final[Mapping[str, tuple[str, ...]]] = {
    "syn": ("tcp", "syn tcp"),
    "tcp": ("tcp",),
    "udp": ("udp",),
    "icmp": ("icmp",),
    "fragments": ("udp", "ip fragmented"),
}
_TYPES: Final = {
    "syn": ("syn_flood", "tcp"),
    "tcp": ("unknown", "tcp"),
    "udp": ("udp_flood", "udp"),
    "icmp": ("icmp_flood", "icmp"),
    "fragments": ("ip_fragmentation", "udp"),
}
_LABELS: Final = ("ip fragmented", "dropped", "tcp", "syn tcp", "udp", "icmp")


def arguments(target: IPAddress, pps: int, action: str) -> list[str]:
    """Return the four arguments of FastNetMon's call."""
    return [str(target), "incoming", str(pps), action]


def report_text(kind: str, target: IPAddress, pps: int) -> str:
    """Return the report on standard input, in the form of releases from 1.2.6 on.

    Args:
        kind: one of `hub.drills.model.KINDS`.
        target: the address under attack.
        pps: packets per second, all of them incoming and of that kind.
    """
    attack_type, protocol = _TYPES[kind]
    lines = [
        f"IP: {target}",
        f"Attack type: {attack_type}",
        f"Initial attack power: {pps} packets per second",
        f"Peak attack power: {pps} packets per second",
        "Attack direction: incoming",
        f"Attack protocol: {protocol}",
        *_rows("Total ", "", pps),
        "Total incoming flows: 0 flows per second",
        "Total outgoing flows: 0 flows per second",
    ]
    for label in _LABELS:
        share = pps if label in _SHARES[kind] else 0
        lines += [line[:1].upper() + line[1:] for line in _rows("", f"{label} ", share)]
    return "\n".join(lines) + "\n\n\n\nAttack traffic dump\n\n\n\nFlow dump\n\n"


def _rows(before: str, label: str, pps: int) -> list[str]:
    mbps = pps * _PACKET_BYTES * 8 // 1_000_000
    return [
        f"{before}incoming {label}traffic: {mbps} mbps",
        f"{before}outgoing {label}traffic: 0 mbps",
        f"{before}incoming {label}pps: {pps} packets per second",
        f"{before}outgoing {label}pps: 0 packets per second",
    ]
