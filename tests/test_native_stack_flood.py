# SPDX-License-Identifier: Apache-2.0
"""Service while a flood goes on, and the books that the engine keeps of it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import cycle

import pytest

from tests.support.netns import ACK, CLIENT, PSH, RST, SERVER, SYN, spoofed, tcp_packet
from tests.support.stack import BOTH_FAMILIES, ECHO, TARGETS, Stand, tcp_of
from tests.support.stack_daemon import Daemon, by_verdict, oracle_daemon
from tests.support.stack_talk import BULK, GREETER, Server

CLIENTS = 50
LEAST = 20_000
DIFFERENT = 2000


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """Return one lab for all of them."""
    with Stand() as made:
        yield made


@pytest.fixture
async def server(stand: Stand) -> AsyncIterator[Server]:
    """Return the protected server at work."""
    async with Server(stand).running() as made:
        yield made


@pytest.fixture
def daemon(stand: Stand) -> Iterator[Daemon]:
    """Return a synproxyd with the cookies of this kernel, and nothing in force."""
    with Daemon(stand, oracle_daemon()) as made:
        yield made


def forged(target: str) -> list[bytes]:
    """Return SYNs for the most part, and other segments among them, all from made-up sources."""
    flags = [SYN] * 7 + [ACK, PSH | ACK, RST]
    return [
        tcp_packet(source, target, 1024 + at, (ECHO, GREETER)[at % 2], flags[at % 10])
        for at, source in zip(range(DIFFERENT), spoofed(target, 3), strict=False)
    ]


@BOTH_FAMILIES
async def test_clients_are_served_under_a_flood_and_every_frame_is_in_the_books(
    stand: Stand, daemon: Daemon, server: Server, family: int
) -> None:
    """All clients are served; frames in are those answered, dropped and passed, by reason."""
    target = TARGETS[family]
    await daemon.protect(await stand.profiles())
    queues, before = await stand.xdp_counts(), await daemon.counts()
    async with (
        stand.capture(SERVER, "eth0") as inside,
        stand.flood(cycle(forged(target)), target, LEAST),
    ):
        clients = await asyncio.gather(*(server.client(family, ECHO) for _ in range(CLIENTS)))
        answers = await asyncio.gather(*(one.says(b"hello") for one in clients))
    assert answers == [b"hello"] * CLIENTS
    queues, counts = await stand.xdp_counts() - queues, await daemon.counts() - before
    verdicts = by_verdict(counts)
    assert queues["xdp_packets"] == sum(counts.values()) >= LEAST
    assert queues["xdp_tx"] == verdicts["TX"]
    assert queues["xdp_drops"] == verdicts["DROP"]
    assert queues["xdp_tx_errors"] == 0
    assert counts["cookie_good"] == CLIENTS
    assert counts["cookie_sent"] >= LEAST * 0.7
    assert counts["cookie_bad"] >= LEAST * 0.2
    assert counts["rst_unknown"] >= LEAST * 0.1
    names = {client.name[1].to_bytes(2, "big") for client in clients}
    arrived = {tcp_of(packet)[:2] for packet in inside.packets(incoming=True) if tcp_of(packet)}
    assert arrived == names
    facts = await daemon.ask(op="stats")
    assert facts["work"]["flows_inserted"] == facts["work"]["sources_inserted"] == CLIENTS
    assert all(server.info(one).retransmitted == 0 for one in clients)


@BOTH_FAMILIES
async def test_a_long_transfer_goes_on_under_a_flood(
    stand: Stand, daemon: Daemon, server: Server, family: int
) -> None:
    """Ten megabytes each way arrive whole, with nothing of them judged a stranger's."""
    size = 10_000_000
    target = TARGETS[family]
    await daemon.protect(await stand.profiles())
    syns = [packet for packet in forged(target) if tcp_of(packet)[13] == SYN]
    async with stand.flood(cycle(syns), target):
        client = await server.client(family, BULK)
        assert await client.exchange(size) == (size, size)
    counts = await daemon.counts()
    assert counts["cookie_good"] == 1
    assert by_verdict(counts)["DROP"] == 0
    assert (await stand.netstat(CLIENT))["PAWSEstab"] == 0
