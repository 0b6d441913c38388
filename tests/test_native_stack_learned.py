# SPDX-License-Identifier: Apache-2.0
"""Flows that the engine knows without a cookie: learned by a watch, or opened by the server."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.netns import ACK, CLIENT, PSH, SERVER
from tests.support.stack import BOTH_FAMILIES, TARGETS, Stand, fresh_client
from tests.support.stack_daemon import Daemon, dropped, oracle_daemon
from tests.support.stack_raw import wires
from tests.support.stack_talk import BANNER, FILLER, GREETER, Client, Server, until

CLIENT_PORT = 9000
CLOSED = 9
MEGABYTE = 1 << 20
WIDE = 65535
PER_LINE = 10_000
ROUND_MOST_S = 20


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """Return one lab for all of them."""
    with Stand() as made:
        yield made


@pytest.fixture
def daemon(stand: Stand) -> Iterator[Daemon]:
    """Return a synproxyd with the cookies of this kernel, and nothing in force."""
    with Daemon(stand, oracle_daemon()) as made:
        yield made


@pytest.fixture
async def server(stand: Stand) -> AsyncIterator[Server]:
    """Return the server at work."""
    async with Server(stand).running() as made:
        await stand.profiles()
        yield made


async def greeted(server: Server, family: int) -> Client:
    """Return a connection whose bytes back and forth differ: no segment has a cookie's distance."""
    client = await server.client(family, GREETER)
    async with asyncio.timeout(5):
        await client.reader.readexactly(len(BANNER))
    return client


async def learned(stand: Stand, daemon: Daemon, server: Server, *families: int) -> list[Client]:
    """Return connections that a watch has learned before protection began."""
    await daemon.watch()
    # The first for a port shows what the server answers, and its flow is known at once.
    for family in families:
        (await greeted(server, family)).reset()
    clients = [await greeted(server, family) for family in families]
    for _ in range(3):
        await all_answered(clients)
    await daemon.protect(await stand.profiles())
    return clients


async def all_answered(clients: list[Client]) -> None:
    """Have every connection say something and hear it."""
    for client in clients:
        assert await client.says(b"hello") == b"hello"


@BOTH_FAMILIES
async def test_a_learned_flow_ends_as_it_likes(
    stand: Stand, daemon: Daemon, server: Server, family: int
) -> None:
    """The RST of a client that gives up reaches the server, which need not wait for ever."""
    (client,) = await learned(stand, daemon, server, family)
    assert await client.says(b"still here") == b"still here"
    client.reset()
    await until(lambda: server.ends.get(client.name) == "ConnectionResetError")
    assert dropped(await daemon.counts()) == {}


@BOTH_FAMILIES
@pytest.mark.usefixtures("server")
async def test_a_learned_flow_may_acknowledge_much_at_once(
    stand: Stand, daemon: Daemon, family: int
) -> None:
    """A hole that is filled acknowledges a whole window, which may be more than a megabyte."""
    await daemon.watch()
    # Unlike the usual one it does not leave slow start because this client is slow.
    reno = stand.setting(SERVER, {"tcp_congestion_control": "reno"})
    async with reno, wires(stand) as outside:
        stranger = outside.stranger(family, FILLER)
        await stranger.opens()
        stranger.send(PSH | ACK, (8 * MEGABYTE).to_bytes(8, "big"))
        received = 0
        while received < 2 * MEGABYTE:
            received += len((await stranger.hears()).data)
            stranger.send(window=WIDE)
        await daemon.protect(await stand.profiles())
        missing = 0
        while not stranger.heard.empty() or not await stranger.quiet(0.03):
            missing += len((await stranger.hears()).data)
        assert missing > MEGABYTE
        stranger.send(window=WIDE)
        assert (await stranger.hears()).data
        assert dropped(await daemon.counts()) == {}


@BOTH_FAMILIES
async def test_a_client_that_only_sends_is_learned(
    stand: Stand, daemon: Daemon, server: Server, family: int
) -> None:
    """An upload, to which the server says nothing, is a flow as well."""
    await daemon.watch()
    client = await server.client(family, FILLER)
    client.writer.write(bytes(8))
    for total in (100_000, 200_000, 300_000):
        if total > 200_000:
            await daemon.protect(await stand.profiles())
        client.writer.write(bytes(100_000))
        await until(lambda: server.received[client.name] == total)  # noqa: B023 - awaited here
    assert dropped(await daemon.counts()) == {}


@BOTH_FAMILIES
@pytest.mark.usefixtures("server")
async def test_the_server_may_open_connections_itself(
    stand: Stand, daemon: Daemon, family: int
) -> None:
    """With every port protected, the answers to the server's own SYN and requests come in."""
    await daemon.protect(await stand.profiles())
    address = fresh_client(family)
    listening = await stand.listen(CLIENT, address, CLIENT_PORT)
    loop = asyncio.get_running_loop()
    reader, writer = await stand.connect(address, CLIENT_PORT, role=SERVER)
    accepted, _ = await loop.sock_accept(listening)
    with listening, accepted:
        for _ in range(3):
            writer.write(b"query")
            async with asyncio.timeout(2):
                assert await loop.sock_recv(accepted, 100) == b"query"
                await loop.sock_sendall(accepted, b"an answer")
                assert await reader.readexactly(9) == b"an answer"
        writer.transport.abort()
    counts = await daemon.counts()
    assert counts["syn_ack_in"] >= 4  # the SYN-ACK, and each answer
    assert dropped(counts) == {}


@BOTH_FAMILIES
@pytest.mark.usefixtures("server")
async def test_the_server_hears_that_its_own_connection_is_refused(
    stand: Stand, daemon: Daemon, family: int
) -> None:
    """A RST that answers the server's SYN reaches it: no wait for a timeout."""
    await daemon.protect(await stand.profiles())
    with pytest.raises(ConnectionRefusedError):
        await stand.connect(fresh_client(family), CLOSED, role=SERVER)


async def test_flows_stay_known_when_the_filters_are_made_anew(
    stand: Stand, daemon: Daemon, server: Server
) -> None:
    """Many flows make a round due; those there before it and those that come in it all pass."""
    clients = await learned(stand, daemon, server, *TARGETS)
    before = await asyncio.to_thread(daemon.filters_in_use)
    for first in range(2):
        made_up = ((f"10.{first}.{at >> 8}.{at & 255}", 1024) for at in range(PER_LINE))
        await daemon.load((*one, TARGETS[4], GREETER) for one in made_up)
    async with asyncio.timeout(ROUND_MOST_S):
        while await asyncio.to_thread(daemon.filters_in_use) == before:
            clients += [await greeted(server, family) for family in TARGETS]
            await all_answered(clients)
            await asyncio.sleep(0.2)  # noqa: TID251 - the daemon's time
    await all_answered(clients)
    counts = await daemon.counts()
    assert counts["learned_flow"] > 0
    assert counts["cookie_good"] == len(clients) - len(TARGETS)
    assert dropped(counts) == {}
