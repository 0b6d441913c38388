# SPDX-License-Identifier: Apache-2.0
"""ISN sync as the hub sees it: every agent, and the keys of whatever is to be protected."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog

from hub.clock import Clock
from hub.config import Service
from hub.engines.native.keys import Prepared, Standing
from hub.errors import HubError, RefusedError
from hub.isn_sync.identity import Identity
from hub.isn_sync.link import Link
from hub.isn_sync.pins import Pins
from hub.isn_sync.prober import Prober
from hub.isn_sync.server import Parts, Server, Use
from hub.isn_sync.settings import IsnSync as IsnConfig
from hub.isn_sync.views import agent_view, key_view
from hub.metrics import Metrics
from hub.mitigations.model import Mitigation
from hub.net import IPAddress, IPNetwork, covers
from hub.tasks import Tasks

log = structlog.get_logger(__name__)

View = dict[str, Any]

_PATIENCE: Final = 2.0
"""Seconds that a countermeasure waits for its server to be made ready."""
_FLOWS_PATIENCE: Final = 5.0
_STATES: Final = ("new", "ok", "unreachable", "untrusted", "changed", "denied", "unusable")
_STANDINGS: Final = ("unknown", "proven", "left", "returning")
_HOUSEKEEPING: Final = 1.0


class IsnSync:
    """Implements `hub.engines.native.keys.IsnKeys`.

    Attributes:
        changed: set whenever something in force may need other keys.
    """

    def __init__(
        self,
        config: IsnConfig,
        services: Sequence[Service],
        clock: Clock,
        metrics: Metrics,
        *,
        identity: Identity,
        pins: Pins,
        prober: Prober | None,
    ) -> None:
        self._services, self._clock, self._metrics = services, clock, metrics
        self._identity, self._pins, self._prober = identity, pins, prober
        self.changed = asyncio.Event()
        parts = Parts(config, clock, metrics, prober, self.changed.set, self._ports_of)
        self._inventory = inventory = config.inventory()
        self._servers = {
            agent.name: Server(
                agent, Link(agent, identity, pins, clock, timeout=config.timeout), parts
            )
            for agent in inventory.agents
        }

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        config: IsnConfig,
        services: Sequence[Service],
        clock: Clock,
        metrics: Metrics,
        prober: Prober | None,
    ) -> AsyncIterator["IsnSync"]:
        """Read the key and the pins; close every connection in the end.

        Raises:
            HubError: the key cannot be read or made.
        """
        identity = await Identity.open(config.key)
        pins = await Pins.open(config.known_hosts, clock)
        made = cls(config, services, clock, metrics, identity=identity, pins=pins, prober=prober)
        try:
            yield made
        finally:
            await asyncio.gather(*(server.link.close() for server in made._servers.values()))

    def start(self, tasks: Tasks) -> None:
        """Poll and probe from now on."""
        for name, server in self._servers.items():
            tasks.run(f"poll agent {name}", server.poll_for_ever())
            tasks.run(f"probe behind agent {name}", server.probe_for_ever())
        tasks.run("isn-sync housekeeping", self._keep_house())

    # ---- for the engine -----------------------------------------------------------------

    def standing(self, mitigation: Mitigation) -> Standing:
        """Tell how the server behind the mitigation's target stands now; asks nobody."""
        found = self._find(mitigation.target)
        if isinstance(found, str):
            return Standing(why=found)
        server, address = found
        return server.standing(address)

    async def prepare(self, mitigation: Mitigation, seconds: float) -> Prepared:
        """Make the server ready to take cookies for `seconds`, and prove that it does."""
        found = self._find(mitigation.target)
        if isinstance(found, str):
            return Prepared(Standing(why=found))
        server, address = found
        is_new = mitigation.id not in server.uses
        use = self._use(mitigation, address, seconds)
        try:
            async with asyncio.timeout(_PATIENCE):
                standing = await server.prepare(mitigation.id, address, use)
        except TimeoutError:
            why = f"agent {server.agent.name} was not ready within {_PATIENCE:g} s"
            standing = Standing(why=why)
        # Open connections are worth waiting for, but not with the target unprotected meanwhile.
        wait = _FLOWS_PATIENCE if standing.keys else _PATIENCE
        prepared = Prepared(standing, await server.flows(address, wait) if is_new else ())
        if prepared.standing.keys is None:
            log.warning(
                "isn.not_ready",
                mitigation=mitigation.id,
                target=str(mitigation.target),
                why=prepared.standing.why,
                todo="it falls back as its rule says, and comes to isn-sync once it is proven",
            )
        return prepared

    def release(self, mitigation_id: str) -> None:
        """Say that this mitigation is not in force any more."""
        for server in self._servers.values():
            server.release(mitigation_id)

    def rely(self, mitigations: Iterable[tuple[Mitigation, float]]) -> None:
        """Take over what is in force, each with the seconds that it has left."""
        live: set[str] = set()
        for mitigation, seconds in mitigations:
            live.add(mitigation.id)
            found = self._find(mitigation.target)
            if not isinstance(found, str):
                server, address = found
                server.use(mitigation.id, self._use(mitigation, address, seconds))
        for server in self._servers.values():
            for gone in set(server.uses) - live:
                server.release(gone)

    # ---- for operators ------------------------------------------------------------------

    def agents(self) -> list[View]:
        """Return every agent, as docs/protocols.md describes it."""
        return [agent_view(server, self._clock) for server in self._servers.values()]

    async def trust(self, name: str, fingerprint: str) -> View:
        """Pin the host key that an agent has offered.

        Raises:
            RefusedError: no such agent, or it has offered another key, or none.
        """
        server = self._server(name)
        await server.link.trust(fingerprint)
        server.hurry()
        return agent_view(server, self._clock)

    async def forget(self, name: str) -> View:
        """Forget the host key of an agent."""
        server = self._server(name)
        await self._pins.forget(server.agent)
        server.hurry()
        return agent_view(server, self._clock)

    def key(self) -> View:
        """Return the line to paste on servers."""
        return key_view(self._identity, self._servers.values())

    async def rotate_key(self) -> View:
        """Make a new key; the old one opens doors until every agent has the new one.

        Raises:
            RefusedError: the last rotation is not over yet.
        """
        await self._identity.rotate()
        for server in self._servers.values():
            server.hurry()
        return self.key()

    def show_metrics(self) -> None:
        """Set the gauges to what is true now."""
        servers = list(self._servers.values())
        for state in _STATES:
            count = sum(server.state == state for server in servers)
            self._metrics.agents.labels(state).set(count)
        words = [one.word for server in servers for one in server.standings.values()]
        for word in _STANDINGS:
            self._metrics.isn_addresses.labels(word).set(words.count(word))

    def warnings(self) -> list[str]:
        """Return what an operator should know, for `status`."""
        said = []
        if self._prober is None:
            said.append("isn-sync: the hub cannot probe, it has no CAP_NET_RAW")
        for server in self._servers.values():
            if server.state not in {"ok", "new"}:
                said.append(f"agent {server.agent.name}: {server.state}: {server.why}")
            said += [
                f"isn-sync left for {address}: {standing.why}"
                for address, standing in server.standings.items()
                if standing.state == "left"
            ]
        return said

    # ---- within -------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        said = ""
        while True:
            await self._clock.sleep(_HOUSEKEEPING)
            try:
                for server in self._servers.values():
                    server.judge()
                await self._drop_previous_key()
            except HubError as error:
                if str(error) != said:
                    log.warning(
                        "isn.housekeeping_failed",
                        why=str(error),
                        todo="delete the file by hand, or mend the rights of its directory",
                    )
                said = str(error)

    async def _drop_previous_key(self) -> None:
        if self._identity.previous is None:
            return
        links = [server.link for server in self._servers.values()]
        if links and all(link.connected and not link.used_previous_key for link in links):
            await self._identity.drop_previous()

    def _find(self, target: IPNetwork) -> "tuple[Server, IPAddress] | str":
        if target.num_addresses != 1:
            return f"{target} is more than one address, which may be several servers"
        address = target.network_address
        agent = self._inventory.find(address)
        if agent is None:
            return f"no agent in isn_sync answers for {address}"
        return self._servers[agent.name], address

    def _use(self, mitigation: Mitigation, address: IPAddress, seconds: float) -> Use:
        ports = mitigation.service.tcp_ports if mitigation.service else ()
        return Use(address, tuple(ports), self._clock.monotonic() + seconds)

    def _ports_of(self, address: IPAddress) -> tuple[int, ...]:
        best: Service | None = None
        length = -1
        for service in self._services:
            for prefix in service.prefixes:
                if covers(prefix, address) and prefix.prefixlen > length:
                    best, length = service, prefix.prefixlen
        return tuple(best.tcp_ports) if best else ()

    def _server(self, name: str) -> Server:
        server = self._servers.get(name)
        if server is None:
            raise RefusedError(f"there is no agent {name!r}", todo="list them: fnm-hub agents")
        return server
