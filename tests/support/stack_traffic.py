# SPDX-License-Identifier: Apache-2.0
"""Many open connections that never rest, and newcomers among them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

from tests.support.stack import TARGETS, fresh_client
from tests.support.stack_talk import BANNER, GREETER, Client, Server

_PAUSE: Final = 0.25
_AT_ONCE: Final = 50
_PATIENCE: Final = 10


class Traffic:
    """Connections that say something four times a second, and hear it back."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._clients: list[Client] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._rounds: dict[Client, int] = {}
        self._sources: Iterator[int] = count()
        self._lost: dict[Client, str] = {}
        """Newcomers whose first try was reset."""

    def forget_lost(self) -> None:
        """Begin anew with those that are open."""
        for client in self._lost:
            del self._rounds[client]
        self._lost.clear()

    @property
    def lost(self) -> list[str]:
        """Return the connections that have ended, and how."""
        return [f"{client.name}: {how}" for client, how in self._lost.items()]

    @property
    def open(self) -> int:
        """Return how many are open."""
        return len(self._rounds) - len(self._lost)

    def names(self) -> list[tuple[str, int, str, int]]:
        """Return all of them as the daemon takes them in: client, port, server, port."""
        here = (one for one in self._rounds if one not in self._lost)
        return [(*one.name, one.writer.get_extra_info("peername")[0], GREETER) for one in here]

    async def begin(self, number: int) -> None:
        """Open so many, half of them over IPv6, ten from each address."""
        for first in range(0, number, _AT_ONCE):
            some = range(first, min(first + _AT_ONCE, number))
            sources = {family: [fresh_client(family) for _ in range(5)] for family in TARGETS}
            here = [(4 + at % 2 * 2, sources[4 + at % 2 * 2][at // 2 % 5]) for at in some]
            made = [self._greeted(family, source) for family, source in here]
            for client in await asyncio.gather(*made):
                self._keep(client)

    async def newcomer(self, family: int, *, tries: int = 1) -> bool:
        """Come from an address that is not proven; return whether one of the tries has worked."""
        source = fresh_client(family)
        for _ in range(tries):
            try:
                client = await self._greeted(family, source)
                await client.says(b"hello")
            except (OSError, EOFError, TimeoutError):
                continue
            self._keep(client)
            return True
        return False

    async def _greeted(self, family: int, source: str) -> Client:
        client = await self.server.client(family, GREETER, (source, 0))
        # As much back as forth would be the distance of a cookie, and so prove each segment.
        async with asyncio.timeout(_PATIENCE):
            await client.reader.readexactly(len(BANNER))
        return client

    async def rounds(self, number: int = 2) -> None:
        """Return once each that is open has heard its words so many times from now on."""
        goal = {client: done + number for client, done in self._rounds.items()}
        async with asyncio.timeout(_PATIENCE):
            while any(  # noqa: ASYNC110 - the other end of it is a kernel
                self._rounds[client] < wanted and client not in self._lost
                for client, wanted in goal.items()
            ):
                await asyncio.sleep(0.02)  # noqa: TID251 - for kernels and other tasks

    def _keep(self, client: Client) -> None:
        self._rounds[client] = 0
        task = asyncio.create_task(self._talk(client))  # noqa: TID251 - it ends with the test
        self._tasks.add(task)

    async def _talk(self, client: Client) -> None:
        words = f"{client.name} says hello".encode()
        try:
            while True:
                if await client.says(words) != words:
                    self._lost[client] = "other words came back"
                    break
                self._rounds[client] += 1
                await asyncio.sleep(_PAUSE)  # noqa: TID251 - real time is what is measured
        except (OSError, EOFError, TimeoutError) as error:
            self._lost[client] = type(error).__name__
        client.reset()

    async def end(self) -> None:
        """Stop talking."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def talking(server: Server, number: int) -> AsyncIterator[Traffic]:
    """Open so many connections and have them talk meanwhile."""
    made = Traffic(server)
    try:
        await made.begin(number)
        await made.rounds(1)
        yield made
    finally:
        await made.end()
