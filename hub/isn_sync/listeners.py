# SPDX-License-Identifier: Apache-2.0
"""On which ports a server listens and who is connected, as its agent says."""

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

import structlog

from hub.clock import Clock
from hub.engines.native.keys import Flow
from hub.errors import HubError
from hub.isn_sync.inventory import Agent
from hub.isn_sync.link import Link
from hub.isn_sync.lists import MOST_NAMES, read_flows
from hub.net import IPAddress

log = structlog.get_logger(__name__)

Listener = tuple[IPAddress, int]

_EVERY: Final = 60.0
_WILD: Final = {4: ip_address("0.0.0.0"), 6: ip_address("::")}  # noqa: S104 - as listeners show it


class Listeners:
    """The listeners of one server, asked for once a minute, and their connections."""

    def __init__(self, agent: Agent, link: Link, clock: Clock) -> None:
        self._agent, self._link, self._clock = agent, link, clock
        self._known: tuple[Listener, ...] = ()
        self._asked_at: float | None = None

    async def learn(self) -> None:
        """Ask, where the last answer is old."""
        now = self._clock.monotonic()
        if self._asked_at is not None and now - self._asked_at < _EVERY:
            return
        try:
            reply = await self._link.run("listeners")
        except HubError as error:
            log.debug("isn.listeners_unknown", agent=self._agent.name, why=str(error))
            return
        self._asked_at, self._known = now, tuple(read_listeners(reply.text))

    async def flows(
        self, address: IPAddress, ports: Sequence[int], seconds: float
    ) -> Sequence[Flow]:
        """Return the open connections to some ports of an address, told within `seconds`."""
        shown = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004
        found: list[Flow] = []
        try:
            async with asyncio.timeout(seconds):
                for first in range(0, len(ports), MOST_NAMES):
                    some = ports[first : first + MOST_NAMES]
                    names = " ".join(f"{shown}:{port}" for port in some)
                    reply = await self._link.run(f"flows {names}")
                    found += await asyncio.to_thread(read_flows, reply.text)
        except (HubError, TimeoutError) as error:
            log.warning(
                "isn.flows_unknown",
                agent=self._agent.name,
                why=str(error) or f"not told within {seconds:g} s",
                todo="connections that were open rely on what the engine has learned",
            )
        return found

    def forget(self) -> None:
        """Let the next `learn` ask."""
        self._asked_at = None

    def on(self, address: IPAddress) -> set[int]:
        """Return the ports that are open on an address, without the agent's own."""
        at = (address, _WILD[address.version])
        return {port for one, port in self._known if one in at} - {self._agent.port}


def read_listeners(text: str) -> list[Listener]:
    """Return the places in an answer to `listeners`; lines of another form are left out."""
    found: list[Listener] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) != 3 or words[0] != "listener:" or not words[2].isdecimal():  # noqa: PLR2004
            continue
        try:
            found.append((ip_address(words[1]), int(words[2])))
        except ValueError:
            continue
    return found
