# SPDX-License-Identifier: Apache-2.0
"""Open connections lost when protection goes on, off, or loses its daemon."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.benchmarks.figure import Figure
from tests.support.netns import SERVER
from tests.support.stack import Profile, Stand
from tests.support.stack_daemon import Daemon, oracle_daemon, plain_daemon
from tests.support.stack_talk import Server
from tests.support.stack_traffic import Traffic, talking

FLOWS: Final = 500
FEW: Final = 50
_MODES: Final[dict[str, tuple[Callable[[], Path], int]]] = {
    "isn-sync": (oracle_daemon, 2),
    "reset": (plain_daemon, 1),
}
"""The daemon of each mode, and `tcp_syncookies` of the server."""


@dataclass(frozen=True, slots=True)
class _Scene:
    daemon: Daemon
    traffic: Traffic
    profiles: Mapping[int, Profile]
    mode: str

    async def on(self) -> None:
        await self.daemon.load(self.traffic.names())
        await self.daemon.protect(self.profiles, mode=self.mode)

    async def learned(self) -> None:
        await self.daemon.watch()
        await self.traffic.rounds(3)
        await self.daemon.protect(self.profiles, mode=self.mode)

    async def off(self) -> None:
        await self.on()
        await self.daemon.release()

    async def killed(self) -> None:
        await self.on()
        await asyncio.to_thread(self.daemon.kill)
        await self.traffic.rounds(1)
        await asyncio.to_thread(self.daemon.start)

    async def upgraded(self) -> None:
        await self.on()
        await asyncio.to_thread(self.daemon.stop)
        await asyncio.to_thread(self.daemon.start, await asyncio.to_thread(self.daemon.copy))


_TRANSITIONS: Final[dict[str, Callable[[_Scene], Awaitable[None]]]] = {
    "on, flows given": _Scene.on,
    "on, flows learned": _Scene.learned,
    "off": _Scene.off,
    "daemon killed and back": _Scene.killed,
    "daemon upgraded": _Scene.upgraded,
}


def lost_flows(number: int = FLOWS) -> dict[str, Figure]:
    """Return how many of `number` talking connections any transition has cost, at most."""
    lost = [one for mode in _MODES for one in asyncio.run(_of_mode(mode, number))]
    return {
        "transition_flows_lost": Figure(
            max(lost), "<= 0", "flows", len(lost), (min(lost), max(lost))
        )
    }


async def _of_mode(mode: str, number: int) -> list[float]:
    found: list[float] = []
    program, cookies = _MODES[mode]
    with Stand() as stand:
        stand.sysctl(SERVER, "net/ipv4/tcp_syncookies", cookies)
        async with _talk(stand, number) as traffic:
            for name, transition in _TRANSITIONS.items():
                with Daemon(stand, program()) as daemon:
                    await traffic.begin(number - traffic.open)
                    await traffic.server.prime()
                    traffic.forget_lost()
                    await transition(_Scene(daemon, traffic, await stand.profiles(), mode))
                    await traffic.rounds()
                    found.append(len(traffic.lost))
                print(f"  {mode:<9} {name:<24} {len(traffic.lost)} of {number} lost", flush=True)
    return found


@asynccontextmanager
async def _talk(stand: Stand, number: int) -> AsyncIterator[Traffic]:
    async with Server(stand).running() as server, talking(server, number) as traffic:
        await stand.profiles()
        yield traffic
