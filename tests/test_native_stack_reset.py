# SPDX-License-Identifier: Apache-2.0
"""The mode `reset` between real TCP stacks: who has shown that it answers is let through."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.netns import ACK, PSH, RST, SYN
from tests.support.stack import BOTH_FAMILIES, ECHO, TARGETS, Stand, fresh_client
from tests.support.stack_daemon import Daemon, plain_daemon
from tests.support.stack_raw import wires
from tests.support.stack_talk import Client, Server

CLOSED = 9


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """Return one lab for all of them, whose server is as it comes: cookies only in need."""
    with Stand() as made:
        made.make_ordinary()
        yield made


@pytest.fixture(scope="module")
def running(stand: Stand) -> Iterator[Daemon]:
    """Return a synproxyd with nothing in force."""
    with Daemon(stand, plain_daemon()) as made:
        yield made


@pytest.fixture
async def daemon(stand: Stand, running: Daemon, server: Server) -> Daemon:
    """Return a synproxyd that protects the server."""
    del server  # it is there to be asked for its profile
    await running.begin(await stand.profiles(), mode="reset")
    return running


@pytest.fixture
async def server(stand: Stand) -> AsyncIterator[Server]:
    """Return the protected server at work."""
    async with Server(stand).running() as made:
        yield made


async def served(server: Server, family: int, source: str) -> Client | None:
    """Return a new connection that answers, or none if it was reset."""
    try:
        client = await server.client(family, source=(source, 0))
        assert await client.says(b"hello") == b"hello"
    except ConnectionResetError:
        return None
    return client


async def proven(server: Server, family: int) -> str:
    """Return an address whose first connection has been reset."""
    source, accepted = fresh_client(family), server.accepted
    assert await served(server, family, source) is None
    assert server.accepted == accepted
    return source


@BOTH_FAMILIES
async def test_the_first_connection_is_reset_and_the_next_is_the_servers_own(
    daemon: Daemon, server: Server, family: int
) -> None:
    """The server sees only the second one, and agrees on what it would without us."""
    source = await proven(server, family)
    ours = await served(server, family, source)
    assert ours
    counts = await daemon.in_force()
    assert counts["cookie_sent"] == counts["reset_sent"] == counts["proven_syn"] == 1
    await daemon.release()
    direct = await server.client(family)
    assert await direct.says(b"hello") == b"hello"
    assert server.info(ours).agreed() == server.info(direct).agreed()
    assert ours.info.agreed() == direct.info.agreed()


@BOTH_FAMILIES
async def test_beyond_its_bucket_a_proven_source_is_asked_again(
    stand: Stand, daemon: Daemon, server: Server, family: int
) -> None:
    """So many connections in a second pass natively; the next is proven like the first one."""
    most = 5
    await daemon.begin(await stand.profiles(), mode="reset", source_pps=most)
    source = await proven(server, family)
    here = [await served(server, family, source) is not None for _ in range(most + 1)]
    assert here == [True] * most + [False]
    counts = await daemon.in_force()
    assert counts["proven_syn"] == most
    assert counts["cookie_sent"] == counts["reset_sent"] == 2
    # Its bucket fills again in the meantime.
    async with asyncio.timeout(3):
        while not await served(server, family, source):
            pass


@BOTH_FAMILIES
async def test_a_port_in_time_wait_is_used_again(
    daemon: Daemon, server: Server, family: int
) -> None:
    """The server itself takes a new connection on the ports of one that it has just closed."""
    source = (await proven(server, family), 40000)
    client = await server.client(family, source=source)
    assert await client.says(b"first") == b"first"
    server.side_of(client).close()
    async with asyncio.timeout(5):
        assert await client.reader.read() == b""
    client.writer.close()
    again = await server.client(family, source=source)
    assert await again.says(b"second") == b"second"
    assert (await daemon.in_force())["cookie_sent"] == 1


@BOTH_FAMILIES
async def test_a_closed_port_refuses_a_proven_client(
    stand: Stand, daemon: Daemon, server: Server, family: int
) -> None:
    """The server's own RST tells that nobody listens there."""
    source = await proven(server, family)
    with pytest.raises(ConnectionRefusedError):
        await stand.connect(TARGETS[family], CLOSED, source=(source, 0))
    assert (await daemon.in_force())["proven_syn"] == 1


@BOTH_FAMILIES
async def test_the_reset_is_one_that_the_client_takes(
    stand: Stand, daemon: Daemon, family: int
) -> None:
    """It carries the sequence number that is expected next (RFC 5961), also after data."""
    async with wires(stand) as outside:
        stranger = outside.stranger(family, ECHO)
        stranger.syn()
        answer = await stranger.hears()
        assert answer.flags == SYN | ACK
        assert answer.ack == stranger.seq
        assert 8 not in answer.options  # timestamps would be compared with the server's later
        for flags, data in ((ACK, b""), (PSH | ACK, b"GET /")):
            stranger.send(flags, data, ack=answer.seq + 1)
            seen = await stranger.hears()
            assert (seen.flags, seen.seq, seen.data) == (RST, answer.seq + 1, b"")
    counts = await daemon.in_force()
    assert counts["proven_ack"] == 0
