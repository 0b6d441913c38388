# SPDX-License-Identifier: Apache-2.0
"""Spliced connections through everything that can happen to synproxyd: none of 500 is lost."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.support.netns import GATEWAY, OUTSIDE
from tests.support.stack import Stand
from tests.support.stack_daemon import Daemon, plain_daemon
from tests.support.stack_talk import Server
from tests.support.stack_traffic import Traffic, talking

FLOWS = 500
NEWCOMERS = 4
GRACE = {"for_ms": 60_000, "pps": 20_000}
"""For connections that clients have opened while protection was off."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """Return a lab with an ordinary server."""
    with Stand() as made:
        made.make_ordinary()
        yield made


@pytest.fixture(scope="module")
def daemon(stand: Stand) -> Iterator[Daemon]:
    """Return a synproxyd that has nothing to do yet."""
    with Daemon(stand, plain_daemon()) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def flows(stand: Stand, daemon: Daemon) -> AsyncIterator[Traffic]:
    """Return 500 connections that were spliced, and talk on whatever happens."""
    async with Server(stand).running() as server:
        await daemon.protect(await stand.profiles(), mode="splice", grace=GRACE)
        async with talking(server, FLOWS) as made:
            assert (await daemon.counts())["splice_open"] >= FLOWS - 10
            yield made


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def all_live(stand: Stand, daemon: Daemon, flows: Traffic) -> AsyncIterator[None]:
    """Begin each test under protection, and lose nothing in it."""
    await daemon.protect(await stand.profiles(), mode="splice", grace=GRACE, newer=True)
    yield
    await flows.rounds()
    assert flows.lost == []
    assert flows.open >= FLOWS


async def newcomers(flows: Traffic) -> None:
    """Have some clients come; each must be served."""
    here = [flows.newcomer(4 + at % 2 * 2) for at in range(NEWCOMERS)]
    assert await asyncio.gather(*here) == [True] * NEWCOMERS


async def opened(daemon: Daemon) -> int:
    """Return how many flows have been spliced."""
    return (await daemon.counts())["splice_open"]


async def test_a_restart_keeps_every_flow(daemon: Daemon, flows: Traffic) -> None:
    """Stopped and started again, from another file too, which is an upgrade."""
    for program in (None, daemon.copy):
        path = program if program is None else await asyncio.to_thread(program)
        await asyncio.to_thread(daemon.stop)
        await newcomers(flows)
        await asyncio.to_thread(daemon.start, path)
        await newcomers(flows)
        await flows.rounds()


async def test_a_killed_daemon_is_not_missed(daemon: Daemon, flows: Traffic) -> None:
    """Kill -9: spliced flows go on and new ones are spliced without it."""
    before = await opened(daemon)
    await asyncio.to_thread(daemon.kill)
    await newcomers(flows)
    await flows.rounds()
    await asyncio.to_thread(daemon.start)
    assert await opened(daemon) - before >= NEWCOMERS - 2
    assert (await daemon.ask(op="stats"))["splices"]["open"] >= 0


async def test_release_drains(daemon: Daemon, flows: Traffic) -> None:
    """Off: no new flow is spliced, the old ones are served on, through a restart too."""
    await daemon.release()
    before = await opened(daemon)
    await newcomers(flows)
    await flows.rounds()
    assert await opened(daemon) == before
    await asyncio.to_thread(daemon.stop)
    await asyncio.to_thread(daemon.start)
    await flows.rounds()
    await newcomers(flows)
    assert await opened(daemon) == before


async def test_a_deadline_drains_with_everybody_dead(
    stand: Stand, daemon: Daemon, flows: Traffic
) -> None:
    """Protection that nobody renews ends by itself, and what was spliced goes on."""
    await daemon.release()
    await daemon.protect(
        await stand.profiles(), mode="splice", grace=GRACE, expires_ms=1000, newer=True
    )
    await asyncio.to_thread(daemon.kill)
    await flows.rounds(6)
    await asyncio.to_thread(daemon.start)
    before = await opened(daemon)
    assert not await daemon.ids() & {"m-4", "m-6"}
    await newcomers(flows)
    assert await opened(daemon) == before


async def test_another_mode_takes_over(stand: Stand, daemon: Daemon, flows: Traffic) -> None:
    """What was spliced goes on when the mitigation becomes one of mode reset, and back."""
    await daemon.protect(await stand.profiles(), mode="reset", grace=GRACE, newer=True)
    await flows.rounds()
    await daemon.protect(await stand.profiles(), mode="splice", grace=GRACE, newer=True)
    await flows.rounds()
    await newcomers(flows)


async def test_native_flows_are_left_alone(stand: Stand, daemon: Daemon, flows: Traffic) -> None:
    """On: connections that were opened without us are learned by a watch, and not translated."""
    await daemon.release()
    await daemon.watch()
    await newcomers(flows)
    await flows.rounds(3)
    await daemon.protect(await stand.profiles(), mode="splice", grace=GRACE, newer=True)
    before = await daemon.counts()
    await flows.rounds(3)
    counted = await daemon.counts() - before
    assert counted["learned_flow"] + counted["known_flow"] >= NEWCOMERS
    assert counted["cookie_bad"] == 0


async def test_a_start_without_splice_serves_the_old_flows(daemon: Daemon, flows: Traffic) -> None:
    """What is left of flows keeps its program where packets leave, until it has ended.

    What is in force is mode reset then: nobody would translate for a new client.
    """
    await asyncio.to_thread(daemon.stop)
    await asyncio.to_thread(daemon.start, None, "--no-splice")
    assert "splice" not in (await daemon.hello())["tcp_modes"]
    before = await daemon.counts()
    assert await flows.newcomer(4, tries=2)
    counted = await daemon.counts() - before
    assert (counted["splice_open"], counted["reset_sent"]) == (0, 1)
    await flows.rounds()
    await asyncio.to_thread(daemon.stop)
    await asyncio.to_thread(daemon.start)
    assert "splice" in (await daemon.hello())["tcp_modes"]


async def test_a_filter_serves_where_the_kernel_has_no_link(
    stand: Stand, daemon: Daemon, flows: Traffic
) -> None:
    """Kernels before 6.6 have clsact alone: started so twice, and back, without losing a flow."""

    async def filters() -> int:
        shown = await stand.run(GATEWAY, "tc", "filter", "show", "dev", OUTSIDE, "egress")
        return shown.count("direct-action")

    for kind, number in (("clsact", 1), ("clsact", 1), ("auto", 0)):
        await asyncio.to_thread(daemon.stop)
        await asyncio.to_thread(daemon.start, None, "--egress", kind)
        assert await filters() == number
        await newcomers(flows)
        await flows.rounds()
