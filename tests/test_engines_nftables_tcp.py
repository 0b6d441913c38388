# SPDX-License-Identifier: Apache-2.0
"""The kernel's SYN proxy between real clients and servers."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network

import pytest

from hub.config import NftablesEngine as Config
from hub.config import Service, TcpProfile
from hub.engines.nftables.engine import NftablesEngine
from tests.support.netns import (
    ACK,
    CLIENT,
    GATEWAY,
    GATEWAY4,
    GATEWAY6,
    INSIDE,
    OUTSIDE,
    PSH,
    RST,
    SERVER,
    SERVER4,
    SERVER6,
    SYN,
    Lab,
    spoofed,
    tcp_packet,
)
from tests.support.nftables import (
    BANNER,
    Conversation,
    MemoryStore,
    engine_on,
    loose,
    mitigation,
    ruleset,
    serving,
    talk,
    tcp,
)

PORT = 8080
FLOWS = 20


@dataclass(frozen=True)
class Place:
    """Where the protected server runs, and the interface its SYNs arrive by."""

    role: str
    address: str
    interface: str


FORWARD4 = Place(SERVER, SERVER4, "eth0")
FORWARD6 = Place(SERVER, SERVER6, "eth0")
INPUT4 = Place(GATEWAY, GATEWAY4, "lo")
INPUT6 = Place(GATEWAY, GATEWAY6, "lo")
EVERYWHERE = pytest.mark.parametrize(
    "place", [FORWARD4, FORWARD6, INPUT4, INPUT6], ids=["forward4", "forward6", "input4", "input6"]
)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Return a lab of its own for each test."""
    with Lab() as made:
        yield made


def syns(target: str, flags: int = SYN, seed: int = 1, port: int = PORT) -> Iterator[bytes]:
    """Yield packets from made-up sources without end."""
    for number, source in enumerate(spoofed(target, seed)):
        yield tcp_packet(source, target, 1024 + number % 60000, port, flags)


def some(count: int, target: str, flags: int = SYN, port: int = PORT) -> list[bytes]:
    """Return so many packets from made-up sources."""
    endless = syns(target, flags, port=port)
    return [next(endless) for _ in range(count)]


@asynccontextmanager
async def started(engine: NftablesEngine) -> AsyncIterator[NftablesEngine]:
    """Start and close an engine."""
    await engine.start()
    yield engine
    await engine.close()


@asynccontextmanager
async def flows(lab: Lab, place: Place, count: int = FLOWS) -> AsyncIterator[list[Conversation]]:
    """Open so many connections, and close them in the end."""
    talks = [await talk(lab, place.address, PORT) for _ in range(count)]
    try:
        yield talks
    finally:
        for one in talks:
            await one.close()


async def alive(talks: list[Conversation]) -> int:
    """Return how many connections still carry data both ways."""
    return sum(await asyncio.gather(*(one.echo() for one in talks)))


@EVERYWHERE
async def test_clients_are_served_when_a_spoofed_syn_flood_goes_on(lab: Lab, place: Place) -> None:
    """Every client is served, and only the clients' own SYNs reach the server."""
    async with started(engine_on(lab)) as engine, serving(lab, place.address, PORT, place.role):
        await engine.apply(mitigation(tcp(), place.address))
        async with (
            lab.capture(place.role, place.interface) as capture,
            lab.flood(syns(place.address), place.address),
            flows(lab, place) as talks,
        ):
            assert await alive(talks) == FLOWS
        telemetry = await engine.telemetry()
        # On the loopback interface a packet is seen twice: sent and received.
        seen = 2 if place.interface == "lo" else 1
        assert FLOWS * seen == capture.tcp(flags=SYN)
    assert telemetry["tcp.syn_packets"] >= 1000
    assert telemetry["tcp.cookie_valid"] == FLOWS


async def retransmitted(lab: Lab, role: str) -> int:
    """Return how many segments the TCP of a namespace has sent again."""
    text = await lab.files(role).read("net/snmp")
    names, values = (line.split() for line in text.splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


@EVERYWHERE
async def test_server_that_speaks_first_when_proxied_does_not_repeat_its_syn_ack(
    lab: Lab, place: Place
) -> None:
    """The server takes the proxy's ACK at once and sends its first line."""
    async with started(engine_on(lab)) as engine, serving(lab, place.address, PORT, place.role):
        await engine.apply(mitigation(tcp(), place.address))
        conversation = Conversation(*await lab.connect(place.address, PORT))
        assert await conversation.greeted() == BANNER
        await conversation.close()
        assert await retransmitted(lab, place.role) == 0


async def test_server_that_speaks_first_when_the_cure_is_missing_repeats_its_syn_ack(
    lab: Lab,
) -> None:
    """The test above can fail: without our rule the server waits."""
    async with started(engine_on(lab)) as engine, serving(lab, SERVER4, PORT):
        await engine.apply(mitigation(tcp(), SERVER4))
        await lab.nft("flush", "chain", "inet", "fnm_hub", "raw_out")
        conversation = Conversation(*await lab.connect(SERVER4, PORT))
        assert await conversation.greeted() == BANNER
        await conversation.close()
        assert await retransmitted(lab, SERVER) > 0


@EVERYWHERE
async def test_open_connections_when_protection_goes_on_and_off_are_all_kept(
    lab: Lab, place: Place
) -> None:
    """Connections opened before, and others opened meanwhile, carry data throughout."""
    async with started(engine_on(lab)) as engine, serving(lab, place.address, PORT, place.role):
        protection = mitigation(tcp(), place.address)
        async with flows(lab, place) as before:
            await engine.apply(protection)
            async with flows(lab, place) as meanwhile:
                assert (await alive(before), await alive(meanwhile)) == (FLOWS, FLOWS)
                await engine.release(protection)
                assert (await alive(before), await alive(meanwhile)) == (FLOWS, FLOWS)


@EVERYWHERE
async def test_idle_connections_when_older_than_the_engine_are_kept(lab: Lab, place: Place) -> None:
    """A connection that conntrack has never seen is learned from the server's answers."""
    async with serving(lab, place.address, PORT, place.role), flows(lab, place) as talks:
        assert await ruleset(lab) == ""
        async with started(engine_on(lab)) as engine:
            protection = mitigation(tcp(), place.address)
            await engine.apply(protection)
            assert await alive(talks) == FLOWS
            telemetry = await engine.telemetry()
            await engine.release(protection)
            assert await alive(talks) == FLOWS
    assert telemetry["tcp.unknown_passed"] >= FLOWS
    assert telemetry["tcp.known_passed"] > 0


async def test_new_connection_when_its_port_is_of_a_learned_one_is_proxied(lab: Lab) -> None:
    """A SYN ends what was learned of the flow before it."""
    source = ("198.51.100.2", 40404)
    async with serving(lab, SERVER4, PORT):
        old = await talk(lab, SERVER4, PORT, source)
        async with started(engine_on(lab)) as engine:
            await engine.apply(mitigation(tcp(), SERVER4))
            assert await old.echo()
            await old.close()
            await lab.run(CLIENT, "ss", "-K", "sport", "=", "40404", check=False)
            fresh = await talk(lab, SERVER4, PORT, source)
            assert await fresh.echo()
            telemetry = await engine.telemetry()
            await fresh.close()
    assert telemetry["tcp.cookie_valid"] == 1


@pytest.mark.parametrize("target", [SERVER4, SERVER6])
async def test_forged_packets_when_they_fit_no_flow_are_dropped(lab: Lab, target: str) -> None:
    """ACKs without a cookie, SYN-ACKs and RSTs reach nobody and are answered by nobody."""
    async with started(engine_on(lab)) as engine:
        await engine.apply(mitigation(tcp(), target))
        async with lab.capture(SERVER, "eth0") as inner, lab.capture(CLIENT, "eth0") as outer:
            for flags in (ACK, SYN | ACK, RST, RST | ACK):
                await lab.send(some(300, target, flags), target)
            telemetry = await engine.telemetry()
        assert [inner.tcp(flags=flags) for flags in (ACK, SYN | ACK, RST)] == [0, 0, 0]
        assert outer.tcp(flags=SYN | ACK) == 300  # those that the test itself has sent
    assert telemetry["tcp.ack_packets"] == 300
    assert telemetry["tcp.invalid_dropped"] == 900


async def test_forged_data_when_it_fits_no_flow_is_limited(lab: Lab) -> None:
    """Data of unknown flows may ask the server a little, never flood it."""
    async with started(engine_on(lab)) as engine:
        await engine.apply(mitigation(tcp(), SERVER4))
        async with lab.capture(SERVER, "eth0") as capture:
            await lab.send(some(3000, SERVER4, PSH | ACK), SERVER4)
        assert 0 < capture.tcp(flags=ACK) < 1500


async def test_other_ports_when_the_service_names_its_own_are_left_alone(lab: Lab) -> None:
    """Only the service's ports are proxied; a spoofed SYN to another port passes."""
    service = Service(name="web", prefixes=(ip_network(SERVER4),), tcp_ports=(PORT, 443))
    async with started(engine_on(lab)) as engine, serving(lab, SERVER4, PORT):
        await engine.apply(mitigation(tcp(), SERVER4, service=service))
        async with lab.capture(SERVER, "eth0") as capture:
            await lab.send(some(50, SERVER4), SERVER4)
            await lab.send(some(50, SERVER4, port=443), SERVER4)
            await lab.send(some(50, SERVER4, port=8081), SERVER4)
            conversation = await talk(lab, SERVER4, PORT)
            assert await conversation.echo()
            await conversation.close()
        assert capture.tcp(flags=SYN) == 51


async def test_other_interfaces_when_the_service_names_one_are_left_alone(lab: Lab) -> None:
    """Clients of the named interface are proxied, with the cure; the others connect directly."""
    service = Service(name="web", prefixes=(ip_network(GATEWAY4),), interface=OUTSIDE)
    async with started(engine_on(lab)) as engine, serving(lab, GATEWAY4, PORT, GATEWAY):
        await engine.apply(mitigation(tcp(), GATEWAY4, service=service))
        outer = await talk(lab, GATEWAY4, PORT)
        assert await outer.echo()
        await outer.close()
        assert await retransmitted(lab, GATEWAY) == 0
        inner = Conversation(*await lab.connect(GATEWAY4, PORT, role=SERVER))
        assert await inner.greeted() == BANNER
        await inner.close()
        telemetry = await engine.telemetry()
    assert telemetry["tcp.cookie_valid"] == 1


async def test_interface_of_the_engine_when_the_service_has_none_counts(lab: Lab) -> None:
    """The engine's own interface stands in for the service's."""
    config = Config(interface=INSIDE)
    async with started(engine_on(lab, config=config)) as engine, serving(lab, SERVER4, PORT):
        await engine.apply(mitigation(tcp(), SERVER4))
        conversation = await talk(lab, SERVER4, PORT)
        assert await conversation.echo()
        await conversation.close()
        telemetry = await engine.telemetry()
    assert telemetry["tcp.syn_packets"] == 0


async def test_gateway_when_it_is_a_client_itself_connects_directly(lab: Lab) -> None:
    """A connection from the gateway to the protected server is none of the proxy's business."""
    async with started(engine_on(lab)) as engine, serving(lab, SERVER4, PORT):
        await engine.apply(mitigation(tcp(), SERVER4))
        conversation = Conversation(*await lab.connect(SERVER4, PORT, role=GATEWAY))
        assert await conversation.greeted() == BANNER
        assert await conversation.echo()
        await conversation.close()
        telemetry = await engine.telemetry()
    assert telemetry["tcp.syn_packets"] == 0


@pytest.mark.parametrize(
    "profile",
    [
        TcpProfile(mss=536, wscale=0, sack=False, timestamps=False),
        TcpProfile(mss=9000, wscale=14, sack=True, timestamps=False),
    ],
    ids=["least", "most"],
)
async def test_connection_when_the_profile_is_unusual_works(lab: Lab, profile: TcpProfile) -> None:
    """Every profile that the configuration allows makes a proxy that serves both families."""
    prefixes = (ip_network(SERVER4), ip_network(SERVER6))
    service = Service(name="web", prefixes=prefixes, tcp=profile)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(started(engine_on(lab, services=(service,))))
        for number, target in enumerate((SERVER4, SERVER6)):
            await stack.enter_async_context(serving(lab, target, PORT + number))
            await engine.apply(mitigation(tcp(), target, number, service=service))
            conversation = await talk(lab, target, PORT + number)
            assert await conversation.echo(200_000)
            await conversation.close()


@pytest.mark.parametrize("target", ["192.0.2.0/24", "2001:db8:2::/64"])
async def test_server_when_its_whole_prefix_is_protected_is_served(lab: Lab, target: str) -> None:
    """A prefix protects each address in it."""
    address = SERVER4 if "." in target else SERVER6
    async with started(engine_on(lab)) as engine, serving(lab, address, PORT):
        await engine.apply(mitigation(tcp(), target))
        conversation = await talk(lab, address, PORT)
        assert await conversation.echo()
        await conversation.close()
        telemetry = await engine.telemetry()
    assert telemetry["tcp.cookie_valid"] == 1


async def test_gateway_when_everything_is_released_is_as_before(lab: Lab) -> None:
    """Rules and settings are those of before the first protection, byte for byte."""
    store = MemoryStore()
    async with started(engine_on(lab, store)) as engine:
        before = (await ruleset(lab), await loose(lab))
        rows = [
            mitigation(tcp(), target, number) for number, target in enumerate((SERVER4, SERVER6))
        ]
        for row in rows:
            await engine.apply(row)
        assert await loose(lab) == "0"
        await engine.release(rows[0])
        assert await loose(lab) == "0"
        await engine.release(rows[1])
        assert before == (await ruleset(lab), await loose(lab))
    assert store.kept == {"nftables.sysctl": "{}"}
