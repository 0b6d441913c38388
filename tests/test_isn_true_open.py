# SPDX-License-Identifier: Apache-2.0
"""P10 with ISN sync: whatever begins, ends or dies on our side, open connections go on."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.guest import Protected
from tests.support.isn import Shield, protecting, shielded
from tests.support.stack_talk import Server
from tests.support.stack_traffic import Traffic, talking

OPEN = 100


@asynccontextmanager
async def traffic_through(shield: Shield) -> AsyncIterator[Traffic]:
    """Keep connections to the guest talking meanwhile."""
    server = Server(shield.protected.stand)
    try:
        async with talking(server, OPEN) as traffic:
            yield traffic
            await traffic.rounds()
            assert traffic.lost == []
    finally:
        await server.end_clients()


@pytest.mark.long
async def test_protection_when_on_and_off_under_open_connections_then_none_is_lost(
    protected: Protected, tmp_path: Path
) -> None:
    """What was open before, what opened meanwhile; the server is left as it was found."""
    async with shielded(protected, tmp_path) as shield:
        await protected.sysctl("net.ipv4.tcp_syncookies", 0)
        await shield.ready()
        async with traffic_through(shield) as traffic:
            await shield.protect()
            assert await shield.syncookies() == "2"
            await traffic.rounds()
            for family in (4, 6):
                assert await traffic.newcomer(family)
            assert traffic.lost == []
            await shield.unban()
            await shield.in_force("")
            # Handshakes may be under way, which need a server that takes cookies.
            assert await shield.syncookies() == "2"
            await traffic.rounds()
            assert traffic.lost == []
            await shield.until_text("isn.released", seconds=20)
            assert await shield.syncookies() == "0"
            for family in (4, 6):
                assert await traffic.newcomer(family)


@pytest.mark.long
async def test_programs_when_killed_then_open_connections_live_and_new_ones_come(
    protected: Protected, tmp_path: Path
) -> None:
    """The hub, the engine's daemon and the agent, one after the other, and then all of them."""
    async with protecting(protected, tmp_path) as shield, traffic_through(shield) as traffic:
        await shield.aside(shield.hub.kill)
        await shield.serves()
        await traffic.rounds()
        await shield.aside(shield.hub.start)
        await shield.until("proven again", lambda: shield.hub.standing() == "proven")
        assert await shield.mode() == "isn-sync"
        await shield.serves()

        await shield.aside(shield.daemon.kill)
        await shield.serves()
        await shield.aside(shield.daemon.start)
        await shield.in_force()
        await shield.serves()

        await shield.agent.stop(signal.SIGKILL)
        away = {"unreachable"}
        await shield.until("the agent is away", lambda: shield.hub.agent()["state"] in away)
        assert await shield.syncookies() == "2"
        await shield.serves()
        await shield.agent.start()
        await shield.ready()
        assert await shield.syncookies() == "2"
        assert await shield.aside(shield.hub.logged, "isn.left") == []

        await shield.aside(shield.hub.kill)
        await shield.aside(shield.daemon.kill)
        await shield.agent.stop(signal.SIGKILL)
        assert traffic.lost == []
        await traffic.rounds()
        await shield.serves()
