# SPDX-License-Identifier: Apache-2.0
"""The probes of one server: every port of an address in a round, and what that says of it."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from hub.clock import Clock
from hub.errors import HubError
from hub.isn_sync.evidence import examine
from hub.isn_sync.known import Known
from hub.isn_sync.prober import Prober
from hub.isn_sync.standing import Address
from hub.metrics import Metrics
from hub.net import IPAddress

_FAST: Final = 5.0
_AT_ONCE: Final = 16


class Rounds:
    """Probes the ports of a server's addresses, one address at a time.

    Args:
        prober: sends the probes, None where that is not permitted.
        clock: the hub's.
        metrics: count what the probes show.
        known: of the server; learns from each probe.
        standings: by address; judged by each probe.
        ports_of: the ports whose probes decide about an address.
        changed: is told when an address stands otherwise than before.
        log: a bound logger that names the agent.
    """

    def __init__(
        self,
        prober: Prober | None,
        clock: Clock,
        metrics: Metrics,
        *,
        known: Known,
        standings: Mapping[IPAddress, Address],
        ports_of: Callable[[IPAddress], tuple[int, ...]],
        changed: Callable[[], None],
        log: Any,
    ) -> None:
        self._prober, self._clock, self._metrics = prober, clock, metrics
        self._known, self._standings, self._ports_of = known, standings, ports_of
        self._changed, self._log = changed, log
        self._busy = asyncio.Lock()

    async def probe(self, address: IPAddress) -> None:
        """Probe every port of an address once."""
        async with self._busy:
            await self._round(address)

    def judge(self) -> None:
        """Let silence count."""
        for address in self._standings:
            self._judge(address)

    def doubtful(self, address: IPAddress) -> bool:
        """Tell whether a port has missed for the first time while it matters."""
        standing = self._standings[address]
        fresh = any(port.misses == 1 for port in standing.ports.values())
        return fresh and standing.wanted_at is not None and standing.state != "left"

    def pause(self, usual: float) -> float:
        """Return the seconds to the next round: fewer while something wanted is not proven."""
        wanted = [one for one in self._standings.values() if one.wanted_at is not None]
        return usual if all(one.state == "proven" for one in wanted) else min(_FAST, usual)

    async def _round(self, address: IPAddress) -> None:
        standing = self._standings[address]
        standing.expect(self._ports_of(address))
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(port: int) -> None:
            async with room:
                await self._probe(address, port)

        await asyncio.gather(*(one(port) for port in standing.ports))
        self._judge(address)

    async def _probe(self, address: IPAddress, port: int) -> None:
        prober, clock, report = self._prober, self._clock, self._known.report
        if prober is None or report is None:
            return
        try:
            exchange = await prober.probe(address, port)
        except HubError as error:
            self._log.debug("isn.not_probed", address=str(address), port=port, why=str(error))
            return
        if report is not self._known.report:
            return  # the server's keys were read anew meanwhile
        finding = examine(
            report,
            exchange,
            cookie_ms=self._known.cookie_ms(exchange.received),
            timestamp_ms=self._known.timestamp_ms(exchange.received),
        )
        self._metrics.probes.labels(finding.verdict).inc()
        for jump in self._known.take_finding(finding, (address, port), exchange.received):
            self._log.warning(
                "isn.clock_wrong",
                ms=jump.ms,
                todo="the server's own SYN-ACK is believed; see to NTP on both machines",
            )
        if self._standings[address].note(port, finding, clock.monotonic(), clock.time()):
            self._say(address)

    def _judge(self, address: IPAddress) -> None:
        if self._standings[address].judge(self._clock.monotonic(), self._clock.time()):
            self._say(address)

    def _say(self, address: IPAddress) -> None:
        standing = self._standings[address]
        fields = {"address": str(address), "why": standing.why}
        if standing.state == "left":
            self._metrics.isn_left.inc()
            todo = "what is in force falls back as its rule says; see fnm-hub agents"
            self._log.error("isn.left", **fields, todo=todo)
        elif standing.state == "proven":
            self._log.info("isn.proven", **fields)
        self._changed()
