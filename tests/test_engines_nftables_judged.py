# SPDX-License-Identifier: Apache-2.0
"""What a mitigation has judged, by which the hub sees that an attack goes on."""

import asyncio
import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from hub.config import NftablesEngine as Config
from hub.config import Service
from hub.engines.nftables.engine import NftablesEngine
from hub.engines.nftables.judged import Totals, read_hits
from hub.engines.nftables.layout import LAYOUT_PREFIX, base
from hub.engines.nftables.mirror import Mirror
from hub.engines.nftables.nft import Nft
from hub.engines.nftables.wanted import wanted
from hub.mitigations.model import Mitigation
from hub.rules.actions import AclRule, Action
from tests.support.netns import (
    ACK,
    CLIENT4,
    GATEWAY,
    GATEWAY4,
    GATEWAY6,
    OUTSIDE,
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
    elements,
    engine_on,
    ids,
    mitigation,
    serving,
    sorb,
    talk,
    tcp,
)

PORT = 8080
FLOOD = 400
NEIGHBOURS = {SERVER4: GATEWAY4, SERVER6: GATEWAY6}
PREFIXES = {SERVER4: "192.0.2.0/24", SERVER6: "2001:db8:2::/64"}
FAMILIES = pytest.mark.parametrize("server", [SERVER4, SERVER6], ids=["v4", "v6"])
ACTIONS: list[Action] = [tcp(), DROP_ICMP, sorb()]


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Return a lab of its own for each test."""
    with Lab() as made:
        yield made


async def enforcing(lab: Lab, *rows: Mitigation) -> NftablesEngine:
    """Start an engine with these mitigations in force."""
    engine = engine_on(lab)
    await engine.start()
    for row in rows:
        await engine.apply(row)
    return engine


async def judged(engine: NftablesEngine) -> list[int | None]:
    """Return the packets of each mitigation, in the order of their numbers."""
    found = sorted(await engine.inventory(), key=lambda one: one.mitigation_id)
    return [one.packets for one in found]


async def flood(lab: Lab, packets: Iterator[bytes], target: str, count: int = FLOOD) -> None:
    """Send so many packets; return when the gateway has taken them."""
    async with lab.capture(GATEWAY, OUTSIDE):
        await lab.send(islice(packets, count), target)


def segments(target: str, flags: int = SYN, port: int = PORT) -> Iterator[bytes]:
    """Yield TCP packets from made-up sources without end."""
    for number, source in enumerate(spoofed(target, 1)):
        yield tcp_packet(source, target, 1024 + number % 60000, port, flags)


def datagrams(target: str) -> Iterator[bytes]:
    """Yield UDP packets from made-up sources without end."""
    return (udp_packet(source, target, 9, 53, b"flood") for source in spoofed(target, 2))


def pings(target: str) -> Iterator[bytes]:
    """Yield pings from made-up sources without end."""
    kind, protocol = (8, 1) if ip_address(target).version == 4 else (128, socket.IPPROTO_ICMPV6)
    segment = struct.pack("!BBHHH", kind, 0, 0, 1, 1)
    for source in spoofed(target, 3):
        yield ip_packet(source, target, protocol, segment, checksum_at=2)


FLOODS = {"tcp": segments, "acl": pings, "sorb": datagrams}


@FAMILIES
@pytest.mark.parametrize("wide", [False, True], ids=["host", "prefix"])
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.kind)
async def test_flood_when_one_target_is_hit_counts_there_alone(
    lab: Lab, action: Action, server: str, *, wide: bool
) -> None:
    """Each packet counts once, for the target's mitigation, and 0 stands there before."""
    target = PREFIXES[server] if wide else server
    rows = [mitigation(action, target, 1), mitigation(action, NEIGHBOURS[server], 2)]
    engine = await enforcing(lab, *rows)
    assert await judged(engine) == [0, 0]
    for times in (1, 2):
        await flood(lab, FLOODS[action.kind](server), server)
        assert await judged(engine) == [FLOOD * times, 0]


async def test_proxy_when_packets_fit_no_flow_counts_them_and_only_its_ports_syns(
    lab: Lab,
) -> None:
    """Forged ACKs count as SYNs do; a SYN to a port that is not proxied does not."""
    service = Service(name="web", prefixes=(ip_network(SERVER4),), tcp_ports=(PORT,))
    engine = await enforcing(lab, mitigation(tcp(), SERVER4, service=service))
    await flood(lab, segments(SERVER4, ACK), SERVER4)
    await flood(lab, segments(SERVER4, port=22), SERVER4)
    assert await judged(engine) == [FLOOD]


async def test_proxy_when_a_client_connects_counts_its_handshake_only(lab: Lab) -> None:
    """A SYN and an ACK for each new connection, however much it carries then."""
    engine = await enforcing(lab, mitigation(tcp(), SERVER4))
    async with serving(lab, SERVER4, PORT):
        for _ in range(5):
            conversation = await talk(lab, SERVER4, PORT)
            assert await conversation.echo(200_000)
            await conversation.close()
    assert await judged(engine) == [10]


async def test_filter_when_packets_pass_counts_what_it_drops(lab: Lab) -> None:
    """Dropped or beyond a limit counts; what passes does not, nor what is for another filter."""
    limit = AclRule.model_construct(action="limit", protocol="udp", pps=10)
    rules = (AclRule(action="pass", protocol="udp", destination_ports=("53",)), limit)
    engine = await enforcing(
        lab,
        mitigation(acl(*rules), SERVER4, 1),
        mitigation(DROP_ICMP, SERVER4, 2),
        mitigation(DROP_ICMP, PREFIXES[SERVER4], 3),
        mitigation(acl(AclRule(action="pass", protocol="udp")), SERVER4, 4),
    )
    await flood(lab, datagrams(SERVER4), SERVER4)
    assert await judged(engine) == [0, 0, 0, None]
    await flood(lab, pings(SERVER4), SERVER4)
    assert await judged(engine) == [0, FLOOD, 0, None]
    await flood(lab, iter([udp_packet(CLIENT4, SERVER4, 9, 99)] * FLOOD), SERVER4)
    limited = (await engine.telemetry())["acl.limited"]
    assert 0 < limited < FLOOD
    assert await judged(engine) == [limited, FLOOD, 0, None]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.kind)
async def test_count_when_renewed_goes_on_and_when_released_starts_from_0(
    lab: Lab, action: Action
) -> None:
    """A renewal makes new elements; the hub's count does not show it."""
    row = mitigation(action, SERVER4)
    engine = await enforcing(lab, row)
    await flood(lab, FLOODS[action.kind](SERVER4), SERVER4)
    assert await judged(engine) == [FLOOD]
    await engine.apply(replace(row, deadline=row.deadline + 60, revision=2))
    await flood(lab, FLOODS[action.kind](SERVER4), SERVER4, 100)
    assert await judged(engine) == [FLOOD + 100]
    await engine.release(replace(row, revision=3))
    assert await judged(engine) == []
    await engine.apply(replace(row, revision=4))
    assert await judged(engine) == [0]


async def test_count_when_the_hub_is_restarted_goes_on_as_the_kernel_has_it(lab: Lab) -> None:
    """Another life of the hub reads what the elements count."""
    rows = [mitigation(action, SERVER4, number) for number, action in enumerate(ACTIONS)]
    await enforcing(lab, *rows)
    await flood(lab, datagrams(SERVER4), SERVER4)
    await flood(lab, pings(SERVER4), SERVER4)
    second = await enforcing(lab)
    # The pings that the filter drops do not come to the threshold behind it.
    assert await judged(second) == [0, FLOOD, FLOOD]


async def test_filters_when_they_are_the_same_are_released_together(lab: Lab) -> None:
    """Two mitigations that drop the same of one target share its count, also in its removal."""
    rows = [mitigation(DROP_ICMP, SERVER4, number) for number in range(2)]
    engine = await enforcing(lab, *rows)
    await flood(lab, pings(SERVER4), SERVER4)
    assert await judged(engine) == [FLOOD, FLOOD]
    await asyncio.gather(*(engine.release(row) for row in rows))
    assert await judged(engine) == []
    listing = json.loads(await lab.nft("-j", "list", "set", "inet", "fnm_hub", "hits4"))
    assert read_hits(listing["nftables"]) == {}


def uncounted() -> list[dict[str, Any]]:
    """Return the commands of a layout whose gates do not count."""
    commands: list[dict[str, Any]] = json.loads(json.dumps(base("fnm_hub")))
    for command in commands:
        body = next(iter(command["add"].values()))
        body.pop("stmt", None)
        if body.get("name", "").startswith(LAYOUT_PREFIX):
            body["name"] = f"{LAYOUT_PREFIX}0123456789"
    return commands


def gates_open(found: list[Any]) -> list[tuple[str, str, str]]:
    """Return whose elements there are, for what, and where they lead."""
    return sorted(
        (body["elem"]["comment"], str(body["elem"]["val"]), verdict["jump"]["target"])
        for body, verdict in found
    )


async def test_table_when_its_gates_do_not_count_is_upgraded_with_what_is_live(lab: Lab) -> None:
    """Every element is put back with its time into gates that count."""
    rows = [
        mitigation(action, target, number * 10 + place, ttl=300)
        for number, action in enumerate(ACTIONS)
        for place, target in enumerate((*PREFIXES, *PREFIXES.values()))
    ]
    nft = Nft(Path("nft"), 10, lab.prefix(GATEWAY))
    mirror, table = Mirror("fnm_hub"), ("inet", "fnm_hub")
    await nft.commit(uncounted())
    for row in rows:
        await nft.commit(mirror.apply(wanted(row, Config()), 0.0, 300))
    old = "acl4_0123456789"
    await lab.nft("add", "chain", *table, old)
    await lab.nft("add", "rule", *table, old, "drop", "comment", '"fnm-hub"')
    element = f'{{ {GATEWAY4} timeout 300s comment "m-0000000099" : jump {old} }}'
    await lab.nft("add", "element", *table, "flt4_h0", element)
    before = gates_open(await elements(lab))
    engine = await enforcing(lab)
    after = await elements(lab)
    assert before == gates_open(after)
    assert all(290 < one[0]["elem"]["expires"] <= 301 for one in after)
    found = await engine.inventory()
    assert ids(found) == [*sorted(row.id for row in rows), "m-0000000099"]
    # A filter of before does not say what it drops.
    assert await judged(engine) == [0] * len(rows) + [None]
    await flood(lab, segments(SERVER4), SERVER4)
    await flood(lab, segments(SERVER6), SERVER6)
    counts = dict(zip(ids(found), await judged(engine), strict=True))
    assert [counts[row.id] for row in rows[:4]] == [FLOOD, FLOOD, 0, 0]


def test_totals_when_a_counter_begins_anew_go_on() -> None:
    """A smaller number is a new beginning; another mitigation's is its own."""
    totals = Totals()
    assert [totals.add("a", packets) for packets in (5, 9, 2, 2, 0, 4)] == [5, 9, 11, 11, 11, 15]
    assert totals.add("b", 3) == 3
    totals.keep({"b"})
    assert (totals.add("a", 1), totals.add("b", 1)) == (1, 4)


def test_hits_when_something_strange_is_among_them_leave_it_out() -> None:
    """Only an address and a number with a count are read."""
    good = {"val": {"concat": ["192.0.2.0", 7]}, "counter": {"packets": 3}}
    strange: list[Any] = [
        7,
        {"elem": {"val": "192.0.2.1"}},
        {"elem": {**good, "val": {"concat": ["x", 7]}}},
        {"elem": {"val": good["val"]}},
    ]
    elem = [*strange, {"elem": good}]
    objects: list[dict[str, Any]] = [{"metainfo": {}}, {"set": {"elem": elem}}, {"set": {}}]
    assert read_hits(objects) == {(ip_address("192.0.2.0"), 7): 3}
