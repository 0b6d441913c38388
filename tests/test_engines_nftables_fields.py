# SPDX-License-Identifier: Apache-2.0
"""Filter lines on TCP flags and ICMP types, on real packets through nftables."""

import socket
import struct
from collections.abc import Iterator

import pytest

from hub.rules.actions import AclRule
from tests.support.netns import (
    ACK,
    CLIENT4,
    CLIENT6,
    FIN,
    SERVER,
    SERVER4,
    SERVER6,
    SYN,
    Lab,
    ip_packet,
    tcp_packet,
)
from tests.support.nftables import acl, engine_on, mitigation

FAMILIES = pytest.mark.parametrize(
    ("client", "server"), [(CLIENT4, SERVER4), (CLIENT6, SERVER6)], ids=["v4", "v6"]
)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Return a lab of its own for each test."""
    with Lab() as made:
        yield made


async def arriving(lab: Lab, rule: AclRule, packets: list[bytes], target: str) -> list[bytes]:
    """Return which of the packets come to the server while `rule` is in force."""
    engine = engine_on(lab)
    await engine.start()
    await engine.apply(mitigation(acl(rule), target))
    async with lab.capture(SERVER, "eth0") as capture:
        await lab.send(packets, target)
    await engine.close()
    came = capture.packets(incoming=True)
    # The gateway takes one off the time to live, and the IPv4 checksum with it.
    start = 20 if "." in target else 40
    return [packet for packet in packets if any(packet[start:] == one[start:] for one in came)]


@FAMILIES
async def test_flags_when_some_must_be_set_and_some_not_then_only_these(
    lab: Lab, client: str, server: str
) -> None:
    """`syn,!ack`: a SYN, whatever else it has set, but no SYN-ACK."""
    rule = AclRule(action="drop", protocol="tcp", flags="syn,!ack")
    packets = [
        tcp_packet(client, server, 1000 + flags, 80, flags)
        for flags in (SYN, SYN | FIN, SYN | ACK, ACK, FIN | ACK)
    ]
    assert await arriving(lab, rule, packets, server) == packets[2:]


@FAMILIES
async def test_flags_when_only_absent_ones_are_named_then_no_bit_may_be_set(
    lab: Lab, client: str, server: str
) -> None:
    """`!syn,!ack` alone."""
    rule = AclRule(action="drop", protocol="tcp", flags="!syn,!ack")
    packets = [tcp_packet(client, server, 1000 + flags, 80, flags) for flags in (FIN, 0, SYN, ACK)]
    assert await arriving(lab, rule, packets, server) == packets[2:]


@FAMILIES
async def test_icmp_types_when_named_then_only_these(lab: Lab, client: str, server: str) -> None:
    """A number and a range, in the numbers of either family."""
    rule = AclRule(action="drop", protocol="icmp", icmp_types=("128", "13-18"))
    protocol = socket.IPPROTO_ICMP if "." in server else socket.IPPROTO_ICMPV6
    packets = [
        ip_packet(client, server, protocol, struct.pack("!BBHHH", kind, 0, 0, 1, kind), 2)
        for kind in (128, 13, 18, 19, 127, 200)
    ]
    assert await arriving(lab, rule, packets, server) == packets[3:]
