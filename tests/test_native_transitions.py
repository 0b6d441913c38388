# SPDX-License-Identifier: Apache-2.0
"""Protection goes on and off, and the daemon lives and dies: no open connection notices.

Two modes: `isn-sync` with a daemon that has the cookies of this machine's kernel, which the server
shares, and `reset` with the daemon as it is for use.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from itertools import cycle

import pytest
import pytest_asyncio

from tests.support.netns import ACK, RST, SERVER, SYN, spoofed, tcp_packet
from tests.support.stack import ECHO, TARGETS, Stand, tcp_of
from tests.support.stack_daemon import Daemon, dropped, oracle_daemon, plain_daemon
from tests.support.stack_raw import Stranger, wires
from tests.support.stack_talk import GREETER, Server
from tests.support.stack_traffic import Traffic, talking

FLOWS = 500
FORGED = 2000
NEWCOMERS = 6
MODES = {"isn-sync": oracle_daemon, "reset": plain_daemon}
TRIES = {"isn-sync": 1, "reset": 2}
COOKIES = {"isn-sync": 2, "reset": 1}
"""`tcp_syncookies` of the server."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module", params=list(MODES))
def mode(request: pytest.FixtureRequest) -> str:
    """Return how the engine proves a client."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def stand(mode: str) -> Iterator[Stand]:
    """Return one lab for all tests of a mode."""
    with Stand() as made:
        made.sysctl(SERVER, "net/ipv4/tcp_syncookies", COOKIES[mode])
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traffic(stand: Stand) -> AsyncIterator[Traffic]:
    """Return 500 connections that were opened without us, and talk on whatever happens."""
    async with Server(stand).running() as server, talking(server, FLOWS) as made:
        await stand.profiles()
        yield made


@pytest.fixture
def daemon(stand: Stand, mode: str) -> Iterator[Daemon]:
    """Return a synproxyd that knows nothing."""
    with Daemon(stand, MODES[mode]()) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def flows(traffic: Traffic) -> AsyncIterator[Traffic]:
    """Return the connections, all of them alive; none may be lost."""
    await traffic.begin(FLOWS - traffic.open)
    await traffic.server.prime()
    traffic.forget_lost()
    yield traffic
    assert traffic.lost == []
    assert traffic.open >= FLOWS


async def test_flows_given_beforehand_pass(
    stand: Stand, daemon: Daemon, flows: Traffic, mode: str
) -> None:
    """Of flows that the hub has listed to the engine, no segment is dropped."""
    assert await daemon.load(flows.names()) == flows.open
    await daemon.protect(await stand.profiles(), mode=mode)
    await flows.rounds()
    counts = await daemon.counts()
    assert counts["known_flow"] >= 2 * FLOWS
    assert dropped(counts) == {}


async def test_flows_learned_by_a_watch_pass(
    stand: Stand, daemon: Daemon, flows: Traffic, mode: str
) -> None:
    """Of flows that a watch has seen make progress, no segment is dropped."""
    await daemon.watch()
    await flows.rounds(3)
    await daemon.protect(await stand.profiles(), mode=mode)
    await flows.rounds()
    counts = await daemon.counts()
    assert counts["learned_flow"] >= 2 * FLOWS
    assert dropped(counts) == {}


async def test_flows_seen_within_the_grace_time_pass_after_it(
    stand: Stand, daemon: Daemon, flows: Traffic, mode: str
) -> None:
    """Flows that nobody has told of are learned in the grace time, and pass when it is over."""
    grace = {"for_ms": 1500, "pps": 20000}
    await daemon.protect(await stand.profiles(), mode=mode, grace=grace)
    while await daemon.age_ms() <= grace["for_ms"]:
        await flows.rounds(1)
    before = await daemon.counts()
    assert before["grace"] >= FLOWS
    await flows.rounds()
    counts = await daemon.counts()
    assert (counts - before)["learned_flow"] >= 2 * FLOWS
    assert (counts - before)["grace"] == 0
    assert dropped(counts) == {}


async def test_a_renewal_and_a_replacement_lose_nothing(
    stand: Stand, daemon: Daemon, flows: Traffic, mode: str
) -> None:
    """The same again, other settings, and the other mode: the flows stay known."""
    await daemon.load(flows.names())
    profiles = await stand.profiles()
    other = next(one for one in MODES if one != mode)
    assert await daemon.protect(profiles, mode=mode) == ["created"] * 2
    assert await daemon.protect(profiles, mode=mode) == ["renewed"] * 2
    await flows.rounds(1)
    assert await daemon.protect(profiles, mode=mode, newer=True, source_pps=50) == ["replaced"] * 2
    await flows.rounds(1)
    assert await daemon.protect(profiles, mode=other, newer=True) == ["replaced"] * 2
    await flows.rounds()
    assert dropped(await daemon.counts()) == {}


async def test_what_came_under_protection_outlives_it(
    stand: Stand, daemon: Daemon, flows: Traffic, mode: str
) -> None:
    """Off again: connections of both kinds go on, and new ones are the server's own affair."""
    await daemon.load(flows.names())
    await daemon.protect(await stand.profiles(), mode=mode)
    await newcomers(flows, mode)
    counts = await daemon.counts()
    proofs = counts["cookie_good"] + counts["reset_sent"]
    assert proofs == NEWCOMERS
    await daemon.release()
    await flows.rounds()
    await newcomers(flows, mode, tries=1)
    after = await daemon.counts()
    assert after["cookie_sent"] == counts["cookie_sent"]
    assert dropped(after) == {}


async def test_a_killed_daemon_is_not_missed(
    stand: Stand, daemon: Daemon, flows: Traffic, mode: str
) -> None:
    """Kill -9: clients are proven and served without it, and the next one finds all in force."""
    await daemon.load(flows.names())
    await daemon.protect(await stand.profiles(), mode=mode)
    await asyncio.to_thread(daemon.kill)
    await newcomers(flows, mode)
    await flows.rounds()
    await asyncio.to_thread(daemon.start)
    assert await daemon.ids() == {"m-4", "m-6"}
    await newcomers(flows, mode)
    await flows.rounds()
    counts = await daemon.counts()
    assert counts["cookie_good"] + counts["reset_sent"] == 2 * NEWCOMERS
    assert dropped(counts) == {}


async def test_an_upgrade_swaps_the_program_under_traffic(
    stand: Stand, daemon: Daemon, flows: Traffic, mode: str
) -> None:
    """Another file is started over what the first has left: other program, same flows."""
    await daemon.load(flows.names())
    await daemon.protect(await stand.profiles(), mode=mode)
    old = await stand.xdp_program()
    await asyncio.to_thread(daemon.stop)
    assert await stand.xdp_program() == old
    await asyncio.to_thread(daemon.start, await asyncio.to_thread(daemon.copy))
    assert await stand.xdp_program() not in {old, None}
    await newcomers(flows, mode)
    await flows.rounds()
    assert await daemon.ids() == {"m-4", "m-6"}
    assert dropped(await daemon.counts()) == {}


async def test_the_deadline_holds_with_everybody_dead(
    stand: Stand, daemon: Daemon, flows: Traffic, mode: str
) -> None:
    """Without hub and daemon, protection ends by itself; the server's own SYN-ACK comes out."""
    await daemon.load(flows.names())
    await daemon.protect(await stand.profiles(), mode=mode, expires_ms=1500)
    await newcomers(flows, mode)
    await asyncio.to_thread(daemon.kill)
    async with wires(stand) as outside:
        async with asyncio.timeout(1.5 + 5):
            while not await passes(stand, outside.stranger(4, ECHO)):
                await flows.rounds(1)
        assert await passes(stand, outside.stranger(6, ECHO))
    await newcomers(flows, mode, tries=1)
    await flows.rounds()


async def test_clients_notice_no_death_during_an_attack(
    stand: Stand, daemon: Daemon, flows: Traffic, mode: str
) -> None:
    """A flood goes on while the daemon is killed, started, stopped and swapped."""
    await daemon.load(flows.names())
    await daemon.protect(await stand.profiles(), mode=mode)
    copied = await asyncio.to_thread(daemon.copy)
    ends = {"killed": daemon.kill, "stopped": daemon.stop}
    async with AsyncExitStack() as stack:
        for target in TARGETS.values():
            await stack.enter_async_context(stand.flood(cycle(forged_syns(target)), target))
        for end in ends.values():
            for program in (daemon.program, copied):
                await newcomers(flows, mode)
                await asyncio.to_thread(end)
                await newcomers(flows, mode)
                await asyncio.to_thread(daemon.start, program)
        await flows.rounds(1)
    counts = await daemon.counts()
    assert counts["cookie_sent"] > 2 * FORGED
    assert dropped(counts) == {}


def forged_syns(target: str) -> list[bytes]:
    """Return SYNs from addresses that are made up."""
    return [
        tcp_packet(source, target, 1024 + at, GREETER, SYN)
        for at, source in zip(range(FORGED), spoofed(target, 1), strict=False)
    ]


async def newcomers(flows: Traffic, mode: str, tries: int | None = None) -> None:
    """Have some clients come that are not proven; each must be served in as many tries."""
    here = [flows.newcomer(4 + at % 2 * 2, tries=tries or TRIES[mode]) for at in range(NEWCOMERS)]
    assert await asyncio.gather(*here) == [True] * NEWCOMERS


async def passes(stand: Stand, stranger: Stranger) -> bool:
    """Return whether a SYN gets exactly the answer that the server sends."""
    async with stand.capture(SERVER, "eth0") as inside:
        stranger.syn()
        seen = await stranger.hears()
        stranger.send(RST | ACK)
    sent = [one for one in inside.packets() if tcp_of(one)[2:4] == stranger.port]
    return [tcp_of(one) for one in sent[:1]] == [tcp_of(seen.packet)]
