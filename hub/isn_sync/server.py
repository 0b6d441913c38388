# SPDX-License-Identifier: Apache-2.0
"""One protected server: polls its agent, has its ports probed, makes it ready for cookies."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

import structlog

from hub.clock import Clock, SystemClock
from hub.engines.native.keys import Flow, Standing
from hub.errors import HubError
from hub.isn_sync.inventory import Agent
from hub.isn_sync.known import Known
from hub.isn_sync.lease import Lease
from hub.isn_sync.link import DeniedError, HostKeyError, Link
from hub.isn_sync.listeners import Listeners
from hub.isn_sync.lists import skew_of
from hub.isn_sync.prober import Prober
from hub.isn_sync.report import parse_report
from hub.isn_sync.rounds import Rounds
from hub.isn_sync.settings import IsnSync as IsnConfig
from hub.isn_sync.standing import Address
from hub.metrics import Metrics
from hub.net import IPAddress

log = structlog.get_logger(__name__)

MARGIN: Final = 120.0
"""Seconds that a server stays ready after the last mitigation's deadline, hub or no hub."""
LINGER: Final = 10.0
"""Seconds that it stays ready after the last mitigation: handshakes are under way."""
_JITTER: Final = 0.15
_REFUSED_WAIT: Final = 60.0
MOST_PORTS: Final = 256
"""Ports of one address that are probed in one round."""
_POLLS_AT_ONCE: Final = 64
_MODE_ALWAYS: Final = 2


@dataclass(frozen=True, slots=True)
class Use:
    """One mitigation that relies on this server; `until` in monotonic seconds."""

    address: IPAddress
    ports: tuple[int, ...]
    until: float


@dataclass(slots=True)
class Parts:
    """What all servers share."""

    config: IsnConfig
    clock: Clock
    metrics: Metrics
    prober: Prober | None
    changed: Callable[[], None]
    ports_of: Callable[[IPAddress], tuple[int, ...]]
    random: Random = field(default_factory=Random)
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_POLLS_AT_ONCE))


class Server:
    """One agent, and the addresses that it speaks for.

    Attributes:
        state: `new`, `ok`, `unreachable`, `untrusted`, `changed`, `denied` or `unusable`.
        why: what stands in the way; empty with `ok`.
        skew_ms: how far the server's UTC is ahead of this machine's, None where it is not known.
        known: what is known of the server.
        standings: by address.
        uses: what relies on it, by mitigation id.
        lease: whether it answers every SYN with a cookie on our behalf.
    """

    def __init__(self, agent: Agent, link: Link, parts: Parts) -> None:
        self.agent, self.link, self._parts = agent, link, parts
        self._log = log.bind(agent=agent.name)
        self.known = Known()
        self.state, self.why = "new", "not asked yet"
        self.polled_at: float | None = None
        self.rtt_ms: float | None = None
        self.skew_ms: int | None = None
        self.standings = {one: Address(parts.config.good_probes) for one in agent.services}
        self.uses: dict[str, Use] = {}
        self.lease = Lease(link, parts.clock, self._log)
        self._idle_since = parts.clock.monotonic()
        self._listeners = Listeners(agent, link, parts.clock)
        self._rounds = Rounds(
            parts.prober,
            parts.clock,
            parts.metrics,
            known=self.known,
            standings=self.standings,
            ports_of=self.ports,
            changed=parts.changed,
            log=self._log,
        )
        self._polling = asyncio.Lock()
        self._poll_now, self._probe_now = asyncio.Event(), asyncio.Event()
        link.on_loss = self._poll_now.set

    # ---- life ---------------------------------------------------------------------------

    async def poll_for_ever(self) -> None:
        """Ask the agent now and then, and keep its lease, for ever."""
        config = self._parts.config
        await self._parts.clock.sleep(self._parts.random.uniform(0, min(1.0, config.poll_interval)))
        while True:
            await self._guarded(self._poll_round)
            refused = self.state in {"untrusted", "changed", "denied"}
            wait = _REFUSED_WAIT if refused else config.poll_interval
            await self._pause(self._poll_now, wait)

    async def probe_for_ever(self) -> None:
        """Probe each port now and then, for ever."""
        while True:
            self._probe_now.clear()
            await self._guarded(self._probe_everything)
            await self._pause(
                self._probe_now, self._rounds.pause(self._parts.config.probe_interval)
            )

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Let a defect cost one round of one agent, not the hub."""
        try:
            await work()
        except Exception:  # noqa: BLE001 - it is logged with its traceback
            self._log.exception("isn.defect", todo="report it; this agent is asked again")
            await self._parts.clock.sleep(1.0)

    async def _poll_round(self) -> None:
        await self.poll()
        await self._keep_lease()
        if self._is_ours() and self.state == "ok":
            await self._listeners.learn()

    async def _probe_everything(self) -> None:
        for address in self.standings:
            await self._rounds.probe(address)
            if self._rounds.doubtful(address):
                await self._ask_again(address)

    def hurry(self) -> None:
        """Ask and probe at once."""
        self._poll_now.set()
        self._probe_now.set()

    # ---- what is asked of it ------------------------------------------------------------

    async def poll(self) -> bool:
        """Ask the agent for its secrets and clocks; tell whether it answered."""
        async with self._polling:
            metric = self._parts.metrics.agent_polls
            try:
                async with self._parts.room:
                    reply = await self.link.run("get")
                report = parse_report(reply.text)
            except HubError as error:
                self._failed(error)
                metric.labels(self.state).inc()
                return False
            clock, wall = self._parts.clock, SystemClock().time()
            self.polled_at, self.rtt_ms = clock.time(), 1000 * (reply.received - reply.sent)
            self.skew_ms = skew_of(report, wall)
            changed = self.known.take_report(report, reply.sent, reply.received, wall)
            lacking = report.cookie is None and report.cookie6 is None and self.lease.held
            self._set_state(*(("unusable", "it gives no secret") if lacking else ("ok", "")))
            metric.labels(self.state).inc()
            if changed:
                self._restart()
            if report.syncookies is not None and report.syncookies != _MODE_ALWAYS:
                self.lease.lost()
            elif report.engaged_s and not self.lease.held:
                # Agreed by an earlier run of this hub.
                self.lease.adopt(report.engaged_s)
            return True

    async def prepare(self, mitigation_id: str, address: IPAddress, use: Use) -> Standing:
        """Make the server ready for `use`, and prove it."""
        renewed = mitigation_id in self.uses
        self.uses[mitigation_id] = use
        standing, clock = self.standings[address], self._parts.clock
        standing.want(clock.monotonic())
        if self._parts.prober is None:
            return Standing(why="the hub cannot probe: it has no CAP_NET_RAW")
        away = self.state not in {"ok", "new"}
        if standing.state == "left" or (standing.state == "proven" and (renewed or away)):
            self._poll_now.set()
            return self.standing(address)
        if self.state == "new":
            await self.poll()
        if self.state != "ok":
            # Nobody waits for an agent that is away: an attack is under way.
            self.hurry()
            return Standing(why=f"agent {self.agent.name} is {self.state}: {self.why}")
        ports = self.ports(address)
        if len(ports) > MOST_PORTS:
            why = f"{len(ports)} listeners are more than {MOST_PORTS}: name the service's tcp_ports"
            return Standing(why=why)
        standing.expect(ports)
        await self._engage()
        await self._prove(address)
        if standing.state != "proven":
            return Standing(why=standing.why)
        return self.standing(address)

    def standing(self, address: IPAddress) -> Standing:
        """Tell how an address stands now; asks nobody."""
        standing = self.standings[address]
        if standing.state == "left":
            return Standing(why=standing.why)
        if standing.state == "unknown":
            return Standing(why=standing.why, unknown=True)
        keys = self.known.keys(address, self.ports(address), self._parts.clock.monotonic())
        if keys is None:
            return Standing(why="its clocks are not known yet", unknown=True)
        return Standing(keys)

    def use(self, mitigation_id: str, use: Use) -> None:
        """Note that a mitigation in force relies on this server."""
        known = self.uses.get(mitigation_id)
        self.uses[mitigation_id] = use
        self.standings[use.address].want(self._parts.clock.monotonic())
        if known is None:
            self.hurry()

    def judge(self) -> None:
        """Let silence count."""
        self._rounds.judge()

    def release(self, mitigation_id: str) -> None:
        """Note that a mitigation is over."""
        if self.uses.pop(mitigation_id, None) is None:
            return
        used = {use.address for use in self.uses.values()}
        if not self.uses:
            self._idle_since = self._parts.clock.monotonic()
        for address, standing in self.standings.items():
            if address not in used:
                standing.unwant()

    def ports(self, address: IPAddress) -> tuple[int, ...]:
        """Return the ports whose probes decide about an address."""
        asked = {port for use in self.uses.values() if use.address == address for port in use.ports}
        asked |= set(self._parts.ports_of(address))
        if not asked or any(use.address == address and not use.ports for use in self.uses.values()):
            asked |= self._listeners.on(address)
        return tuple(sorted(asked))

    # ---- polling ------------------------------------------------------------------------

    def _failed(self, error: HubError) -> None:
        match error:
            case HostKeyError():
                self._set_state("changed" if error.changed else "untrusted", str(error))
            case DeniedError():
                self._set_state("denied", str(error))
            case _ if error.retryable:
                self._set_state("unreachable", str(error))
            case _:
                self._set_state("unusable", str(error))

    def _set_state(self, state: str, why: str) -> None:
        if state != self.state:
            if state == "ok":
                self._log.info("isn.agent_ok", before=self.state)
                self._probe_now.set()
            else:
                self._log.warning(
                    "isn.agent_trouble",
                    state=state,
                    before=self.state,
                    why=why,
                    todo="fnm-hub agent NAME tells more; see ISN sync in docs/operations.md",
                )
        self.state, self.why = state, why

    def _restart(self) -> None:
        self._log.warning(
            "isn.keys_changed",
            why="the server has started anew, or was given other secrets",
            boot_id=self.known.report.boot_id if self.known.report else "",
            todo="nothing if it was restarted: isn.proven follows",
        )
        self.lease.lost()
        self._listeners.forget()
        for standing in self.standings.values():
            standing.restart("the server's keys are new", self._parts.clock.monotonic())
        self._probe_now.set()

    # ---- readiness ----------------------------------------------------------------------

    def _is_ours(self) -> bool:
        return self.known.report is not None and self.known.report.kind == "fnm-agent"

    def _seconds(self) -> float:
        """Return for how long the server must stay ready, whatever becomes of the hub."""
        now = self._parts.clock.monotonic()
        until = max((use.until for use in self.uses.values()), default=now)
        return until - now + MARGIN

    async def _keep_lease(self) -> None:
        if self.uses:
            await self._engage()
        elif self._parts.clock.monotonic() - self._idle_since >= LINGER:
            await self.lease.give_up()

    async def _engage(self) -> None:
        if not self._is_ours():
            return
        ports = sorted({port for one in self.standings for port in self.ports(one)})
        if await self.lease.engage(self._seconds(), ports):
            self._probe_now.set()

    async def flows(self, address: IPAddress, seconds: float) -> Sequence[Flow]:
        """Return the open connections to an address, as its agent tells them within `seconds`."""
        ports = self.ports(address)
        if not self._is_ours() or self.state != "ok":
            return ()
        return await self._listeners.flows(address, ports, seconds)

    # ---- probes -------------------------------------------------------------------------

    async def _prove(self, address: IPAddress) -> None:
        await self._rounds.probe(address)
        if self.standings[address].state == "proven" or not self.standings[address].ports:
            return
        # A secret that was never used before is there only now; a changed one is fetched.
        await self._ask_again(address)

    async def _ask_again(self, address: IPAddress) -> None:
        """Let no second mismatch count before the agent was asked for the keys of now."""
        await self.poll()
        await self._engage()
        await self._rounds.probe(address)

    async def _pause(self, event: asyncio.Event, seconds: float) -> None:
        jittered = seconds * self._parts.random.uniform(1 - _JITTER, 1 + _JITTER)
        try:
            async with asyncio.timeout(jittered):
                await event.wait()
        except TimeoutError:
            pass
        event.clear()
