# SPDX-License-Identifier: Apache-2.0
"""Filters and per-source limits on real packets."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_network

import pytest

from hub.config import NftablesEngine as Config
from hub.engines.nftables.engine import NftablesEngine
from hub.mitigations.model import Mitigation
from hub.rules.actions import AclRule
from tests.support.netns import (
    CLIENT,
    CLIENT4,
    CLIENT6,
    GATEWAY,
    GATEWAY4,
    GATEWAY6,
    INSIDE,
    SERVER,
    SERVER4,
    SERVER6,
    SYN,
    Lab,
    ip_packet,
    spoofed,
    tcp_packet,
    udp_packet,
)
from tests.support.nftables import (
    DROP_ICMP,
    acl,
    engine_on,
    mitigation,
    ruleset,
    serving,
    sorb,
    talk,
    tcp,
)

PORT = 8080
FAMILIES = pytest.mark.parametrize(
    ("client", "server"), [(CLIENT4, SERVER4), (CLIENT6, SERVER6)], ids=["v4", "v6"]
)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Return a lab of its own for each test."""
    with Lab() as made:
        yield made


@asynccontextmanager
async def enforcing(
    lab: Lab, *rows: Mitigation, config: Config | None = None
) -> AsyncIterator[NftablesEngine]:
    """Start an engine with these mitigations in force."""
    engine = engine_on(lab, config=config)
    await engine.start()
    for row in rows:
        await engine.apply(row)
    yield engine
    await engine.close()


async def reached(lab: Lab, packets: list[bytes], target: str) -> int:
    """Return how many of the packets, which hold `flood`, come to the server's interface."""
    async with lab.capture(SERVER, "eth0") as capture:
        await lab.send(packets, target)
    return sum(b"flood" in packet for packet in capture.packets(incoming=True))


def datagrams(count: int, source: str, target: str, port: int = 53, size: int = 5) -> list[bytes]:
    """Return UDP packets that hold `flood`."""
    return [udp_packet(source, target, 9, port, b"flood".ljust(size, b"."))] * count


def icmp_error(source: str, inner: bytes, target: str) -> bytes:
    """Return "fragmentation needed" or "packet too big" about the packet `inner`."""
    if inner[0] >> 4 == 4:
        segment = struct.pack("!BBHHH", 3, 4, 0, 0, 1400) + inner[:28]
        return ip_packet(source, target, socket.IPPROTO_ICMP, segment, checksum_at=2)
    segment = struct.pack("!BBHI", 2, 0, 0, 1400) + inner[:60]
    return ip_packet(source, target, socket.IPPROTO_ICMPV6, segment, checksum_at=2)


async def pongs(lab: Lab, source: str, target: str) -> int:
    """Return how many of three pings are answered."""
    kind, answer, protocol = (8, 0, 1) if "." in target else (128, 129, 58)
    segment = struct.pack("!BBHHH", kind, 0, 0, 1, 1)
    packet = ip_packet(source, target, protocol, segment, checksum_at=2)
    async with lab.capture(CLIENT, "eth0") as capture:
        await lab.send([packet] * 3, target)
    at, at_type = (9, 20) if "." in target else (6, 40)
    came = capture.packets(incoming=True)
    return sum(one[at] == protocol and one[at_type] == answer for one in came)


@FAMILIES
async def test_icmp_when_dropped_leaves_everything_else(lab: Lab, client: str, server: str) -> None:
    """Pings end, connections do not, and release brings pings back."""
    row = mitigation(DROP_ICMP, server)
    async with enforcing(lab) as engine, serving(lab, server, PORT):
        before = await ruleset(lab)
        assert await pongs(lab, client, server) == 3
        await engine.apply(row)
        assert await pongs(lab, client, server) == 0
        conversation = await talk(lab, server, PORT)
        assert await conversation.echo()
        await conversation.close()
        assert (await engine.telemetry())["acl.dropped"] == 3
        await engine.release(row)
        assert await pongs(lab, client, server) == 3
        assert before == await ruleset(lab)


async def test_neighbours_when_icmp_is_dropped_still_find_the_gateway(lab: Lab) -> None:
    """Neighbour discovery to a protected address of the gateway's own works."""
    async with (
        enforcing(lab, mitigation(DROP_ICMP, GATEWAY6)) as engine,
        serving(lab, GATEWAY6, PORT, GATEWAY),
    ):
        await lab.run(CLIENT, "ip", "-6", "neigh", "flush", "all")
        # A unicast solicitation, as a neighbour sends to see whether an entry still holds.
        solicit = struct.pack("!BBHI", 135, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, GATEWAY6)
        packet = bytearray(ip_packet(CLIENT6, GATEWAY6, 58, solicit, checksum_at=2))
        packet[7] = 255
        async with lab.capture(CLIENT, "eth0") as capture:
            conversation = await talk(lab, GATEWAY6, PORT)
            assert await conversation.echo()
            await conversation.close()
            await lab.send([bytes(packet)] * 5, GATEWAY6)
            assert (await engine.telemetry())["acl.dropped"] == 0
        advertised = [one for one in capture.packets() if one[6] == 58 and one[40] == 136]
        assert len(advertised) >= 5


@FAMILIES
async def test_icmp_errors_when_icmp_is_dropped_pass_for_known_flows_only(
    lab: Lab, client: str, server: str
) -> None:
    """Path MTU discovery of the server's connections survives; forged errors do not."""
    async with enforcing(lab, mitigation(DROP_ICMP, server)) as engine, serving(lab, server, PORT):
        conversation = await talk(lab, server, PORT)
        port = conversation.local_port
        router = "198.51.100.9" if client == CLIENT4 else "2001:db8:1::9"
        mine = icmp_error(router, tcp_packet(server, client, PORT, port, SYN), server)
        forged = icmp_error(router, tcp_packet(server, client, PORT, port ^ 1, SYN), server)
        number = 1 if client == CLIENT4 else 58
        async with lab.capture(SERVER, "eth0") as capture:
            await lab.send([mine, forged, forged], server)
            await conversation.close()
        at, at_type = (9, 20) if client == CLIENT4 else (6, 40)
        packets = capture.packets(incoming=True)
        came = [one for one in packets if one[at] == number and one[at_type] in {2, 3}]
        assert len(came) == 1
        assert (await engine.telemetry())["acl.dropped"] == 2


@FAMILIES
async def test_filter_when_rules_overlap_obeys_the_first_match(
    lab: Lab, client: str, server: str
) -> None:
    """`pass` before `drop` lets through, and what nothing matches passes."""
    rules = acl(
        AclRule(action="pass", protocol="udp", destination_ports=("53", "60-70")),
        AclRule(action="pass", protocol="udp", sources=(ip_network(client),), length="100-200"),
        AclRule(action="drop", protocol="udp", source_ports=("1-1023",)),
    )
    async with enforcing(lab, mitigation(rules, server)) as engine:
        expected = {53: 3, 65: 3, 80: 0}
        for port, count in expected.items():
            assert count == await reached(lab, datagrams(3, client, server, port), server)
        assert await reached(lab, datagrams(3, client, server, 80, size=120), server) == 3
        telemetry = await engine.telemetry()
    assert (telemetry["acl.dropped"], telemetry["acl.dropped_bytes"] > 0) == (3, True)


@FAMILIES
async def test_sources_when_named_are_the_only_ones_dropped(
    lab: Lab, client: str, server: str
) -> None:
    """A rule with sources of both families takes those of the target's."""
    listed = (ip_network("11.0.0.0/8"), ip_network("2001:db8:ffff::/48"))
    rule = AclRule(action="drop", sources=listed)
    source = next(spoofed(server, 1))
    async with enforcing(lab, mitigation(acl(rule), server)):
        assert await reached(lab, datagrams(3, source, server), server) == 0
        assert await reached(lab, datagrams(3, client, server), server) == 3


@FAMILIES
async def test_rate_when_limited_is_kept(lab: Lab, client: str, server: str) -> None:
    """`limit` lets its rate pass and drops the rest."""
    rule = AclRule.model_construct(action="limit", protocol="udp", pps=20)
    async with enforcing(lab, mitigation(acl(rule), server)) as engine:
        passed = await reached(lab, datagrams(2000, client, server), server)
        telemetry = await engine.telemetry()
    assert 0 < passed < 1000
    assert telemetry["acl.limited"] == 2000 - passed


@FAMILIES
@pytest.mark.parametrize("wanted", [True, False])
async def test_fragments_when_filtered_are_told_apart(
    lab: Lab, client: str, server: str, *, wanted: bool
) -> None:
    """Fragments are seen before the kernel puts them together."""
    rule = AclRule(action="drop", protocol="any", fragments=wanted)
    family = socket.AF_INET if client == CLIENT4 else socket.AF_INET6
    async with enforcing(lab, mitigation(acl(rule), server)):
        sender = await lab.open_socket(CLIENT, family, socket.SOCK_DGRAM)
        with sender:
            async with lab.capture(SERVER, "eth0") as capture:
                sender.sendto(b"small", (server, 53))
                sender.sendto(b"large" + b"." * 4000, (server, 53))
        came = capture.packets(incoming=True)
    small, large = (sum(word in one for one in came) for word in (b"small", b"large"))
    assert (small, large) == ((1, 0) if wanted else (0, 1))


async def test_filter_when_the_packets_come_by_another_interface_does_nothing(lab: Lab) -> None:
    """An interface restricts filters too."""
    row = mitigation(acl(AclRule(action="drop", protocol="udp")), SERVER4)
    async with enforcing(lab, row, config=Config(interface=INSIDE)):
        assert await reached(lab, datagrams(3, CLIENT4, SERVER4), SERVER4) == 3


async def test_filters_when_several_cover_one_address_all_work(lab: Lab) -> None:
    """A host's two filters, its prefix's filter and its SYN proxy stand side by side."""
    rows = [
        mitigation(acl(AclRule(action="drop", destination_ports=("1001",))), SERVER4, 1),
        mitigation(acl(AclRule(action="drop", destination_ports=("1002",))), SERVER4, 2),
        mitigation(acl(AclRule(action="drop", destination_ports=("1003",))), "192.0.2.0/24", 3),
        mitigation(acl(AclRule(action="drop", destination_ports=("1004",))), "192.0.2.0/25", 4),
        mitigation(tcp(), SERVER4, 5),
        mitigation(sorb(), SERVER4, 6),
    ]
    async with enforcing(lab, *rows) as engine, serving(lab, SERVER4, PORT):
        counts = {
            port: await reached(lab, datagrams(2, CLIENT4, SERVER4, port), SERVER4)
            for port in range(1000, 1006)
        }
        assert counts == {1000: 2, 1001: 0, 1002: 0, 1003: 0, 1004: 0, 1005: 2}
        conversation = await talk(lab, SERVER4, PORT)
        assert await conversation.echo()
        await conversation.close()
        assert {row.id for row in rows} == {one.mitigation_id for one in await engine.inventory()}


@FAMILIES
async def test_source_when_it_exceeds_the_threshold_is_blocked_alone(
    lab: Lab, client: str, server: str
) -> None:
    """Its other packets are dropped too; other sources and a new mitigation are not affected."""
    row = mitigation(sorb(pps=100), server)
    other = next(spoofed(server, 3))
    async with enforcing(lab) as engine:
        before = await ruleset(lab)
        await engine.apply(row)
        passed = await reached(lab, datagrams(2000, client, server), server)
        assert 0 < passed < 1000
        assert await reached(lab, datagrams(3, client, server, 99), server) == 0
        assert await reached(lab, datagrams(3, other, server), server) == 3
        telemetry = await engine.telemetry()
        assert telemetry["sorb.dropped"] >= 2000 - passed
        assert telemetry["sorb.blocked"] == 1
        await engine.release(row)
        assert before == await ruleset(lab)
        await engine.apply(row)
        assert await reached(lab, datagrams(3, client, server), server) == 3


async def test_source_when_its_block_ends_may_send_again(lab: Lab) -> None:
    """The block is a time, and it ends by itself."""
    async with enforcing(lab, mitigation(sorb(pps=50, block=1.0), SERVER4)):
        await reached(lab, datagrams(1000, CLIENT4, SERVER4), SERVER4)
        async with asyncio.timeout(20):
            while not await reached(lab, datagrams(1, CLIENT4, SERVER4), SERVER4):
                await lab.run(GATEWAY, "sleep", "0.2")


async def test_blocked_sources_when_a_neighbour_target_is_released_stay_blocked(lab: Lab) -> None:
    """Two targets with the same threshold share its sets and are released each by itself."""
    rows = [mitigation(sorb(), SERVER4, 1), mitigation(sorb(), GATEWAY4, 2)]
    async with enforcing(lab, *rows) as engine:
        await reached(lab, datagrams(2000, CLIENT4, SERVER4), SERVER4)
        await engine.release(rows[1])
        assert await reached(lab, datagrams(3, CLIENT4, SERVER4), SERVER4) == 0


async def test_source_when_it_spreads_over_a_prefix_is_counted_as_one(lab: Lab) -> None:
    """A threshold on a prefix is about the source's packets to all of its addresses."""
    async with enforcing(lab, mitigation(sorb(pps=100), "192.0.2.0/24")):
        packets = [
            udp_packet(CLIENT4, f"192.0.2.{11 + number % 200}", 9, 53, b"flood")
            for number in range(2000)
        ]
        await lab.send(packets, SERVER4)
        assert await reached(lab, datagrams(3, CLIENT4, SERVER4), SERVER4) == 0


async def test_sources_when_they_share_a_64_are_counted_together_at_a_higher_threshold(
    lab: Lab,
) -> None:
    """An IPv6 attacker that changes its address for every packet is blocked by its /64."""
    sources = spoofed(SERVER6, 5)
    async with enforcing(lab, mitigation(sorb(pps=20), SERVER6)):
        packets = [
            udp_packet(source, SERVER6, 9, 53, b"flood")
            for source, _ in zip(sources, range(4000), strict=False)
        ]
        assert await reached(lab, packets, SERVER6) < 3000
        assert await reached(lab, datagrams(3, next(sources), SERVER6), SERVER6) == 0
        assert await reached(lab, datagrams(3, CLIENT6, SERVER6), SERVER6) == 3


async def test_meters_when_sources_are_spoofed_stay_within_their_bound(lab: Lab) -> None:
    """Memory is bounded by max_sources, and who is not counted passes."""
    sources = spoofed(SERVER4, 7)
    row = mitigation(sorb(pps=100), SERVER4)
    async with enforcing(lab, row, config=Config(max_sources=1024)):
        packets = [udp_packet(next(sources), SERVER4, 9, 53, b"flood") for _ in range(5000)]
        assert await reached(lab, packets, SERVER4) == 5000
        sizes = [line for line in (await ruleset(lab)).splitlines() if "size 1024" in line]
        assert len(sizes) == 2
        assert await reached(lab, datagrams(3, CLIENT4, SERVER4), SERVER4) == 3
