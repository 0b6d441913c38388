# SPDX-License-Identifier: Apache-2.0
"""The running hub as its sockets see it: takes events, shows state, obeys operators."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from hub import __version__, arming_file
from hub.api.daemon import Accepted
from hub.attacks.model import Attack
from hub.clock import SteadyClock, SystemClock
from hub.documents import read_attack, read_mitigation, readable
from hub.drilling import HubDrills
from hub.effects import Effects
from hub.engine_watch import EngineWatch
from hub.errors import (
    ConfigError,
    OverloadedError,
    RefusedError,
    StoreError,
)
from hub.explainer import Explainer
from hub.gauges import Gauges
from hub.guard.checks import cap_usage
from hub.intake.envelope import Envelope, may_be_unban
from hub.intake.spool import Spool
from hub.intake.view import stored_report
from hub.loading import difference, place_of, read_for_reload, warnings_of
from hub.mitigations.model import Mitigation
from hub.needs import Needs
from hub.overview import arming_view, in_force, warnings_of_core
from hub.pipeline import arming, operating
from hub.runner import Runner
from hub.views import View, attack_view, audit_view, event_view, mitigation_view, switch_view

if TYPE_CHECKING:
    from hub.isn_sync.sync import IsnSync

log = structlog.get_logger(__name__)


class HubDaemon:
    """Implements `hub.api.daemon.Daemon` on the core."""

    def __init__(
        self,
        config_path: Path,
        runner: Runner,
        watch: EngineWatch,
        spool: Spool,
        clock: SteadyClock,
        *,
        needs: Needs,
        isn: "IsnSync | None" = None,
    ) -> None:
        self._config_path, self._needs, self._isn = config_path, needs, isn
        self._runner, self._watch, self._spool, self._clock = runner, watch, spool, clock
        self._started_at = clock.time()
        self._state = runner.state
        self._explainer = Explainer(runner.state, runner.journal, watch.unready)
        self._rules_loaded_at = self._started_at
        self._reloading = asyncio.Lock()
        self.gauges = Gauges(config_path, runner, watch, spool, clock, isn=isn)
        self.drills = HubDrills(runner, watch, clock)
        self.serving = False

    # ---- events -------------------------------------------------------------------------

    async def accept(self, envelope: Envelope, *, raw: bytes, via: str) -> Accepted:
        """Make one event durable; beyond the queue's limit only an unban is taken."""
        begun, limit = self._clock.monotonic(), self._state.config.intake.queue
        if self._runner.pending >= limit and not may_be_unban(envelope):
            self._runner.metrics.turned_away.labels("overload").inc()
            raise OverloadedError(
                f"{self._runner.pending} events wait already",
                todo="keep it and hand it over again later",
            )
        try:
            number, is_new = await self._runner.journal.append_event(
                delivery_id=envelope.id,
                detector=envelope.detector,
                stamp=envelope.stamp,
                received_at=self._clock.time(),
                via=via,
                raw=raw,
            )
        except StoreError:
            self._runner.metrics.turned_away.labels("store").inc()
            raise
        about = {"number": number, "delivery": envelope.id, "detector": envelope.detector}
        if is_new:
            self._runner.accepted += 1
            self._note_accepted(envelope, via, begun)
            if envelope.drill:
                self.drills.arrived(envelope, number, via)
            self._runner.arrived(number)
            log.debug("event.accepted", **about, via=via)
        else:
            self._runner.metrics.duplicates.inc()
            log.debug("event.duplicate", **about, via=via)
        return Accepted(number, is_new)

    def _note_accepted(self, envelope: Envelope, via: str, begun: float) -> None:
        metrics, now = self._runner.metrics, SystemClock().time()
        metrics.accepted.labels(via).inc()
        metrics.intake.newest.set(now)
        metrics.intake.durable_seconds.labels(via).observe(self._clock.monotonic() - begun)
        # The stamp is of another clock, which may be ahead.
        metrics.intake.delivery_seconds.labels(via).observe(max(0.0, now - envelope.stamp))

    # ---- what operators see -------------------------------------------------------------

    def status(self) -> View:
        """Return the state of the whole."""
        state, config = self._state, self._state.config
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": self._started_at,
            "now": self._clock.time(),
            "dry_run": state.dry_run,
            "arming": arming_view(state, self._clock.time()),
            "drill": self.drills.view(),
            "frozen": switch_view(state.memory.frozen),
            "draining": state.memory.draining is not None,
            "rules": {
                "version": state.rules.version,
                "files": [str(path) for path in config.rules],
                "count": len(state.rules.rules),
                "loaded_at": self._rules_loaded_at,
            },
            "counts": self.gauges.counts(),
            "engines": self._watch.views(),
            "caps": {
                usage.cap: {"used": usage.used, "limit": usage.limit}
                for usage in cap_usage("", "", state.ledger.live(), config.guard)
            },
            "store": {
                "path": str(self._runner.journal.path),
                "recovered_from": _text(self._runner.journal.recovered_from),
                "taken_away": self._runner.journal.taken_away,
                "trouble": self._runner.keeper.trouble,
            },
            "spool": {
                "path": str(config.intake.spool),
                "waiting": self._spool.waiting,
                "bad": self._spool.bad,
            },
            "warnings": [*self._watch.unready(), *self._warnings()],
        }

    def history(self) -> View:
        """Return what engines counted lately."""
        return self._watch.history.view(self._now())

    async def attacks(self, *, include_ended: bool, limit: int) -> list[View]:
        """Return attacks, newest first."""
        if not include_ended:
            newest = sorted(self._state.tracker, key=lambda attack: -attack.started_at)
            return [self._attack_view(attack) for attack in newest[:limit]]
        rows = await self._runner.journal.attacks(limit=limit)
        stored, _ = readable(rows, read_attack)
        return [self._attack_view(self._state.tracker.get(one.id) or one) for one in stored]

    async def attack(self, attack_id: str) -> View | None:
        """Return one attack with its events, mitigations and audit record."""
        journal = self._runner.journal
        attack = self._state.tracker.get(attack_id)
        if attack is None:
            row = await journal.attack(attack_id)
            if row is None:
                return None
            attack = read_attack(row)
        audit = await journal.audit(attack=attack_id, limit=500)
        view = self._attack_view(attack)
        events = await journal.events(attack=attack_id, limit=100)
        view["events"] = [event_view(event) for event in reversed(events)]
        ids = dict.fromkeys(row.mitigation for row in audit if row.mitigation)
        ids |= dict.fromkeys(view["mitigations"])
        found = [await self._mitigation(mitigation_id) for mitigation_id in ids]
        view["mitigations"] = [one for one in found if one is not None]
        view["audit"] = [audit_view(row) for row in audit]
        return view

    async def decisions(self, *, limit: int) -> list[View]:
        """Return the newest of the audit record, newest first."""
        rows = await self._runner.journal.audit(limit=limit)
        return [audit_view(row) for row in reversed(rows)]

    async def mitigations(self, *, include_ended: bool, limit: int) -> list[View]:
        """Return mitigations, newest first."""
        if not include_ended:
            newest = sorted(self._state.ledger, key=lambda row: -row.created_at)
            return [self._mitigation_view(row) for row in newest[:limit]]
        rows = await self._runner.journal.mitigations(limit=limit)
        stored, _ = readable(rows, read_mitigation)
        return [self._mitigation_view(self._state.ledger.get(one.id) or one) for one in stored]

    async def events(self, *, before: int | None, limit: int) -> list[View]:
        """Return events, newest first."""
        found = await self._runner.journal.events(before=before, limit=limit)
        return [event_view(event) for event in found]

    async def event(self, number: int) -> View | None:
        """Return one event with its bytes and what they say."""
        event = await self._runner.journal.event(number)
        if event is None:
            return None
        view = event_view(event)
        view["raw"] = base64.b64encode(event.raw).decode("ascii")
        view["report"] = stored_report(event.raw)
        audit = await self._runner.journal.audit(event=number, limit=100)
        view["audit"] = [audit_view(row) for row in audit]
        return view

    async def explain(self, thing: str) -> View | None:
        """Return why something was done, or nothing was."""
        return await self._explainer.explain(thing, self._now())

    # ---- agents -------------------------------------------------------------------------

    def agents(self) -> list[View]:
        """Return every agent."""
        return [] if self._isn is None else self._isn.agents()

    async def trust_agent(self, name: str, *, fingerprint: str, actor: str, reason: str) -> View:
        """Pin the host key that an agent has offered."""
        view = await self._agents().trust(name, fingerprint)
        log.info("isn.host_key_trusted", agent=name, key=fingerprint, actor=actor, reason=reason)
        return view

    async def forget_agent(self, name: str, *, actor: str, reason: str) -> View:
        """Forget the host key of an agent."""
        view = await self._agents().forget(name)
        log.info("isn.host_key_forgotten", agent=name, actor=actor, reason=reason)
        return view

    def key(self) -> View:
        """Return the public key to paste on servers."""
        return self._agents().key()

    async def rotate_key(self, *, actor: str, reason: str) -> View:
        """Make a new key for agents."""
        previous = self.key()["fingerprint"]
        view = await self._agents().rotate_key()
        key = view["fingerprint"]
        log.info("isn.key_rotated", key=key, previous=previous, actor=actor, reason=reason)
        return view

    def _agents(self) -> "IsnSync":
        if self._isn is None:
            raise RefusedError(
                "no agents are configured",
                todo="name them in isn_sync, enable engines.native, and restart the hub",
            )
        return self._isn

    def subscribe(self) -> AsyncIterator[View]:
        """Return what happens from now on."""
        return self._runner.stream.listen()

    def ready(self) -> Sequence[str]:
        """Return why the hub is not ready."""
        reasons = self._watch.unready()
        if not self.serving:
            reasons.append("still starting")
        if self._runner.keeper.trouble:
            reasons.append(f"journal: {self._runner.keeper.trouble}")
        return reasons + self._needs.unready()

    async def metrics(self) -> bytes:
        """Return the hub's metrics."""
        return await self.gauges.render()

    # ---- what operators do --------------------------------------------------------------

    async def release(self, mitigation_id: str, *, actor: str, reason: str) -> View:
        """Release one mitigation and hold it off."""
        if await self._watch.release_orphan(mitigation_id):
            return {"id": mitigation_id, "state": "released"}
        effects = operating.release_one(self._state, mitigation_id, actor, reason, self._now())
        row = effects.mitigations[mitigation_id]
        await self._runner.carry_out(effects)
        return mitigation_view(row)

    async def freeze(self, *, actor: str, reason: str) -> View:
        """Let nothing new begin."""
        return await self._switched(operating.freeze(self._state, actor, reason, self._now()))

    async def unfreeze(self, *, actor: str, reason: str) -> View:
        """Take freeze and drain off."""
        return await self._switched(operating.unfreeze(self._state, actor, reason, self._now()))

    async def drain(self, *, actor: str, reason: str) -> View:
        """Release everything."""
        return await self._switched(operating.drain(self._state, actor, reason, self._now()))

    async def arm(self, *, actor: str, reason: str) -> View:
        """Leave dry-run, if everything for it is there."""
        place = await asyncio.to_thread(place_of, self._config_path, "dry_run")
        await self._runner.carry_out(
            arming.arm(self._state, actor, reason, self._now(), place=place)
        )
        await arming_file.keep(self._state)
        return arming_view(self._state, self._now())

    async def disarm(self, *, actor: str, reason: str, let_go: bool) -> View:
        """Go back to dry-run at once."""
        effects = arming.disarm(self._state, actor, reason, self._now(), let_go=let_go)
        await self._runner.carry_out(effects)
        await arming_file.keep(self._state)
        return {**arming_view(self._state, self._now()), "in_force": in_force(self._state)}

    async def reload(self, *, actor: str) -> View:
        """Read configuration and rules, run the rule tests, and swap; or change nothing."""
        async with self._reloading:
            return await self._reload(actor)

    async def _reload(self, actor: str) -> View:
        try:
            new = await asyncio.to_thread(read_for_reload, self._config_path, self._state.config)
        except ConfigError as error:
            self._runner.metrics.reload_ok.set(0)
            log.error(
                "rules.reload_failed",
                problems=[str(problem) for problem in error.problems],
                todo="nothing has changed; mend the file and reload again",
            )
            raise
        old, rules, now = self._state.rules, new.loaded.rules, self._now()
        effects = operating.adopt(self._state, new.config, rules, actor, now)
        operating.redecide(self._state, actor, now, effects)
        self._rules_loaded_at = now
        self._runner.metrics.reload_ok.set(1)
        self.gauges.loaded()
        await self._runner.carry_out(effects)
        return {
            "version": rules.version,
            "before": old.version,
            "count": len(rules.rules),
            "tests": new.tests,
            **difference(old, rules),
            "warnings": warnings_of(new),
        }

    # ---- parts --------------------------------------------------------------------------

    def _now(self) -> float:
        return self._clock.time()

    async def _switched(self, effects: Effects) -> View:
        await self._runner.carry_out(effects)
        memory = self._state.memory
        return {
            "frozen": switch_view(memory.frozen),
            "draining": memory.draining is not None,
            "live": len(self._state.ledger),
        }

    def _attack_view(self, attack: Attack) -> View:
        return attack_view(attack, self._state.ledger.held_by(attack.id))

    def _mitigation_view(self, row: Mitigation) -> View:
        return mitigation_view(row, self._state.rates_of(row))

    async def _mitigation(self, mitigation_id: str) -> View | None:
        row = self._state.ledger.get(mitigation_id)
        if row is not None:
            return self._mitigation_view(row)
        stored = await self._runner.journal.mitigation(mitigation_id)
        return None if stored is None else mitigation_view(read_mitigation(stored))

    def _warnings(self) -> list[str]:
        spool = [] if self._spool.problem is None else [f"spool: {self._spool.problem}"]
        isn = [] if self._isn is None else self._isn.warnings()
        core = warnings_of_core(self._runner, self._clock)
        return [*core, *self._needs.warnings(), *spool, *isn]


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
