# SPDX-License-Identifier: Apache-2.0
"""The nftables engine: kernel SYNPROXY, filters and per-source limits.

Everything it installs ends in the kernel at the mitigation's deadline, with the hub dead too.
What drops here stands behind the detector's capture, so the detector goes on seeing the attack.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from hub.clock import Clock
from hub.config import NftablesEngine as NftablesConfig
from hub.config import Service
from hub.engines.nftables.batches import Batches, Change
from hub.engines.nftables.judged import Hits, Totals, judged
from hub.engines.nftables.layout import GATES
from hub.engines.nftables.mirror import Mirror
from hub.engines.nftables.nft import Nft
from hub.engines.nftables.profile import Profile, finish, profile_of
from hub.engines.nftables.sysctl import KernelFiles, Proc, StateStore, TcpTracking
from hub.engines.nftables.table import Table
from hub.engines.nftables.tcp import tcp_draft
from hub.engines.nftables.telemetry import counted, synproxy
from hub.engines.nftables.wanted import interface_of, wanted
from hub.errors import EngineError, EnginePermanentError
from hub.mitigations.engine import Capabilities, Carried, Health, Installed, Plan
from hub.mitigations.model import Mitigation
from hub.rates import Rates
from hub.rules.able import FEATURES, KINDS, NFTABLES
from hub.rules.actions import Tcp
from hub.units import format_duration

log = structlog.get_logger(__name__)

NAME: Final = NFTABLES
KERNEL: Final = "kernel"
"""The mode of a `tcp` here, as rules name it."""
SYNPROXY_STATISTICS: Final = "net/stat/synproxy"
REMEMBERED: Final = 10_000
"""Mitigations whose last revision is kept, to tell an overtaken call."""
_LESS: Final = "not by isn-sync or splice: engine native is off, or not the one that the rule names"


class NftablesEngine:
    """Implements `hub.mitigations.engine.Engine` on one nftables table.

    Args:
        config: the engine's section of the configuration.
        services: checked at the start, so that a wrong one is known before an attack.
        clock: the machine's time.
        state: keeps the former value of a changed kernel setting.
        prefix: argument vector to run nft by, to work in another network namespace.
        files: the kernel's files there; those of this process by default.
    """

    def __init__(
        self,
        config: NftablesConfig,
        services: Sequence[Service],
        clock: Clock,
        state: StateStore,
        *,
        prefix: Sequence[str] = (),
        files: KernelFiles | None = None,
    ) -> None:
        self._config, self._services, self._clock = config, services, clock
        self._files = files or Proc()
        self._nft = Nft(config.nft, config.command_timeout, prefix)
        self._table = Table(self._nft, config.table, clock)
        self._tracking = TcpTracking(self._files, state, manage=config.manage_sysctls)
        self._batches = Batches(self._nft, self._table, self._tracking, clock)
        self._revisions: dict[str, int] = {}
        self._profiles: dict[str, Profile] = {}
        self._totals = Totals()

    @property
    def name(self) -> str:
        """Name in the configuration and the ledger."""
        return NAME

    def capabilities(self) -> Capabilities:
        """Say what this engine can do."""
        return Capabilities(
            kinds=KINDS, leases=True, hides_traffic=False, features=FEATURES[NFTABLES]
        )

    async def start(self) -> None:
        """Install the table, or adopt it with all that is live in it.

        From here on conntrack follows connections, so that those open before a SYN proxy is put
        in front of them survive it.
        """
        async with self._batches.looked_up() as (mirror, foreign):
            log.info("nftables.started", table=self._table.name, live=len(mirror.places))
            for what in foreign:
                log.warning(
                    "nftables.foreign",
                    table=self._table.name,
                    what=what,
                    todo="take them out: that table is the hub's",
                )
            await self._try_services()

    async def close(self) -> None:
        """Wait for a transaction under way; everything stays in force."""
        await self._batches.idle()

    async def plan(self, mitigation: Mitigation) -> Plan:
        """Let nft and the kernel check the very transaction that `apply` would make."""
        one = wanted(mitigation, self._config)
        gate = f"open a gate for {one.target} in table {self._table.name}"
        steps = [gate, *_stepped_down(mitigation), *one.profile.steps]
        mirror = await self._batches.check(one)
        if "syn" in one.profile.gates:
            steps.append(await self._tracking.check())
        others = mirror.overlapping(one.target) - {mitigation.id}
        if others:
            steps.append(f"stand beside {', '.join(sorted(others))}, which overlap it")
        remaining = format_duration(mitigation.deadline - self._clock.time())
        return Plan((*steps, f"the kernel ends it by itself after {remaining}"))

    async def apply(self, mitigation: Mitigation) -> Carried | None:
        """Put `mitigation` in force until its deadline; again with a new deadline renews it."""
        is_new = mitigation.id not in self._revisions
        if self._overtaken(mitigation):
            return None
        one = wanted(mitigation, self._config)
        await self._batches.carry_out(Change(mitigation.id, one))
        self._profiles[one.profile.name] = one.profile
        down = _stepped_down(mitigation)
        if is_new and down:
            about = {"mitigation": mitigation.id, "target": str(mitigation.target)}
            log.info("tcp.stepped_down", engine=NAME, **about, mode=KERNEL, why=down[0])
        return Carried(KERNEL, down) if isinstance(mitigation.action, Tcp) else None

    async def release(self, mitigation: Mitigation) -> None:
        """Take `mitigation` back; nothing there is success."""
        if self._overtaken(mitigation):
            return
        await self._batches.carry_out(Change(mitigation.id, None))

    async def withdraw(self, installed: Installed) -> None:
        """Take back something of ours that the ledger does not know."""
        if not installed.mitigation_id:
            raise EnginePermanentError(
                "is not ours", where=installed.what, todo="remove it by hand if nobody needs it"
            )
        await self._batches.carry_out(Change(installed.mitigation_id, None))

    async def inventory(self) -> Sequence[Installed]:
        """Read back what is really there, ours by tag and foreign.

        A mitigation of which a part is missing is not listed, so that it is applied again. What
        counts as judged is told by `hub.engines.nftables.judged.judged`.
        """
        async with self._batches.looked_up() as (mirror, foreign):
            now = self._clock.monotonic()
            hits = await self._table.hits()
            ours = [self._installed(mirror, one, now, hits) for one in mirror.places if one]
            self._totals.keep(mirror.places)
            standing = {profile_of(chain) for chain in mirror.chains}
            kept = {name: one for name, one in self._profiles.items() if name in standing}
            self._profiles = kept
            others = [Installed("", f"{what} of table {self._table.name}") for what in foreign]
            return [*(one for one in ours if one is not None), *others]

    async def health(self) -> Health:
        """Say whether nft works and our table is whole; name the tables of others."""
        try:
            standing = await self._table.standing()
        except EngineError as error:
            return Health(ok=False, detail=str(error))
        if standing is None:
            return Health(ok=False, detail=f"table {self._table.name} is missing")
        if not self._table.fits(standing):
            return Health(ok=False, detail=f"table {self._table.name} is not as we made it")
        beside = f" beside {', '.join(standing.beside)}" if standing.beside else ""
        return Health(ok=True, detail=f"table {self._table.name} stands{beside}")

    async def rates(self) -> Mapping[str, Rates]:
        """Return nothing: it does not measure."""
        return {}

    async def telemetry(self) -> Mapping[str, int]:
        """Return packets by what was done with them, since the table was installed."""
        counters = counted(await self._table.counters())
        try:
            statistics = synproxy(await self._files.read(SYNPROXY_STATISTICS))
        except OSError:
            statistics = {}
        return {**counters, **statistics}

    async def _try_services(self) -> None:
        """Find out before an attack that a service cannot be proxied as it is configured."""
        for service in self._services:
            interface = interface_of(service, self._config)
            profiles = (
                finish(tcp_draft(prefix, service, interface), self._config.table)
                for prefix in service.prefixes
            )
            commands = [command for profile in profiles for command in profile.create]
            try:
                await self._nft.check(commands)
            except EngineError as error:
                log.error(
                    "nftables.service_unusable",
                    service=service.name,
                    reason=str(error),
                    todo="mend the service, or use a kernel 5.7 or newer with SYNPROXY",
                )

    def _overtaken(self, mitigation: Mitigation) -> bool:
        newest = self._revisions.pop(mitigation.id, 0)
        self._revisions[mitigation.id] = max(newest, mitigation.revision)
        if len(self._revisions) > REMEMBERED:
            del self._revisions[next(iter(self._revisions))]
        return mitigation.revision < newest

    def _installed(
        self, mirror: Mirror, mitigation_id: str, now: float, hits: Hits
    ) -> Installed | None:
        found = list(mirror.of(mitigation_id))
        names = {profile_of(piece.chain) or "" for _, piece in found}
        places = {(name.partition("_")[2], piece.target) for name, piece in found}
        groups = {name.partition("_")[0][:-1] for name, _ in found}
        name, target = min(names), found[0][1].target
        profile = self._profiles.get(name)
        expected = set(GATES) - {"flt"} if name.startswith("tcp") else {"flt"}
        if (
            len(names) != 1
            or len(places) != 1
            or groups != expected
            or (profile is not None and not mirror.complete(profile))
        ):
            log.warning(
                "nftables.damaged",
                mitigation=mitigation_id,
                target=str(target),
                todo="find out who changed the table; it is applied again",
            )
            return None
        ends_at = min(piece.ends_at for _, piece in found)
        what = f"{name.partition('_')[0][:-1]} on {target} ({name})"
        packets = judged(dict(found), name, mirror, hits)
        total = None if packets is None else self._totals.add(mitigation_id, packets)
        return Installed(mitigation_id, what, max(0.0, ends_at - now), total)


def _stepped_down(mitigation: Mitigation) -> tuple[str, ...]:
    """Return why the kernel's SYNPROXY stands in for something better; nothing where asked for."""
    action = mitigation.action
    if not isinstance(action, Tcp) or action.mode != "auto":
        return ()
    return (_LESS,)
