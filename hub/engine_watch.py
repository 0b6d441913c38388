# SPDX-License-Identifier: Apache-2.0
"""Keeps engines true: health, counters, and the comparison of ledger and reality."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import structlog

from hub.clock import SystemClock
from hub.documents import ADOPTED
from hub.effects import Effects
from hub.engine_metrics import show_telemetry
from hub.engines.verdicts import verdict_of
from hub.errors import HubError
from hub.history import History
from hub.mitigations.engine import Engine, Health, Installed, Interface
from hub.mitigations.model import Mitigation
from hub.mitigations.reconciler import Findings, compare
from hub.pipeline import answers
from hub.pipeline.operating import keep_orphans, redecide
from hub.pipeline.renewing import renew_if_attacked
from hub.rates import total
from hub.runner import Runner
from hub.tasks import Tasks
from hub.views import rates_view

log = structlog.get_logger(__name__)

_HEALTH_INTERVAL: Final = 5.0
_BUSIEST: Final = 10


class EngineWatch:
    """Watches every engine.

    Attributes:
        health: newest answer by engine name.
        counters: newest telemetry by engine name.
        history: of the telemetry.
        foreign: what of somebody else's was found in our place, by engine name.
    """

    def __init__(self, engines: Mapping[str, Engine], runner: Runner) -> None:
        self._engines, self._runner = engines, runner
        self.health: dict[str, Health] = {}
        self.counters: dict[str, Mapping[str, int]] = {}
        self.history = History(verdict_of)
        self.foreign: dict[str, tuple[str, ...]] = {}
        self._seen: dict[str, dict[str, tuple[int, float]]] = {}
        self._places: dict[str, set[Interface]] = {}
        self._due = {name: asyncio.Event() for name in engines}

    async def start_engines(self) -> None:
        """Make every engine ready; one that cannot work now is tried again by `watch`."""
        await asyncio.gather(*(self._start(name) for name in self._engines))

    def run(self, tasks: Tasks, interval: float) -> None:
        """Watch from now on, each engine by itself: one that hangs keeps no other waiting.

        Args:
            tasks: owner of the work.
            interval: seconds between comparisons of ledger and reality.
        """
        for name in self._engines:
            tasks.run(f"watch engine {name}", self._watch(name))
            tasks.run(f"reconcile engine {name}", self._reconcile_for_ever(name, interval))

    async def _watch(self, name: str) -> None:
        while True:
            await self._look(name)
            await self._runner.clock.sleep(_HEALTH_INTERVAL)

    async def _reconcile_for_ever(self, name: str, interval: float) -> None:
        due = self._due[name]
        while True:
            due.clear()
            await self.reconcile(name)
            try:
                async with asyncio.timeout(interval):
                    await due.wait()
            except TimeoutError:
                continue

    def hurry(self, name: str) -> None:
        """Let the next comparison of ledger and reality of one engine be now."""
        self._due[name].set()

    async def standing(self) -> dict[str, dict[str, float | None]]:
        """Return the seconds that each mitigation has left in each engine that can be asked."""
        found: dict[str, dict[str, float | None]] = {}
        for name, engine in self._engines.items():
            if not engine.capabilities().readable or not self._health(name).ok:
                continue
            there = await self._inventory(name)
            if there is not None:
                found[name] = {one.mitigation_id: one.expires_in for one in there}
        return found

    async def reconcile(self, name: str) -> Findings | None:
        """Compare ledger and reality of one engine, and mend the difference."""
        engine = self._engines[name]
        if not engine.capabilities().readable or not self._health(name).ok:
            return None
        before = {row.id for row in self._runner.state.ledger}
        there = await self._inventory(name)
        if there is None:
            return None
        state = self._runner.state
        rows = [row for row in state.ledger if row.engine == name]
        await self._adopt(name, there)
        findings = compare(rows, there, state.memory.orphans)
        again = Effects()
        for row in findings.missing:
            if row.id in before and not self._busy(row.id):
                self._count(name, "missing")
                again.add(answers.missing(state, row, self._runner.clock.time()))
        again.add(self._renew(name, rows, there))
        await self._runner.carry_out(again)
        for item in findings.unknown:
            if item.mitigation_id not in before:
                await self._withdraw(engine, item)
        await self._forget_orphans(name, findings)
        self._note_foreign(name, findings.foreign)
        self._runner.metrics.engines.compared.labels(name).set(SystemClock().time())
        return findings

    async def release_orphan(self, mitigation_id: str) -> bool:
        """End an orphan by hand; tell whether there was one of this id."""
        if mitigation_id not in self._runner.state.memory.orphans:
            return False
        for name, engine in self._engines.items():
            for item in await self._inventory(name) or ():
                if item.mitigation_id == mitigation_id:
                    await self._withdraw(engine, item)
        left = set(self._runner.state.memory.orphans) - {mitigation_id}
        await self._runner.carry_out(keep_orphans(self._runner.state, left))
        return True

    async def shown(self) -> set[str]:
        """Return the ids of all that engines show to be in force now, ours by their tag."""
        found: set[str] = set()
        for name, engine in self._engines.items():
            if engine.capabilities().readable:
                found |= {item.mitigation_id for item in await self._inventory(name) or ()}
        return found

    def views(self) -> list[dict[str, Any]]:
        """Return each engine for `status`."""
        return [
            {
                "name": name,
                "kinds": sorted(engine.capabilities().kinds),
                "ok": self._health(name).ok,
                "detail": self._health(name).detail,
                "interfaces": [asdict(one) for one in self._health(name).interfaces],
                "hides_traffic": engine.capabilities().hides_traffic,
                "telemetry": dict(self.counters.get(name, {})),
                "foreign": list(self.foreign.get(name, ())),
                **self._measured(name),
            }
            for name, engine in self._engines.items()
        ]

    def _measured(self, name: str) -> dict[str, Any]:
        """Return the sum of what an engine measures, and the busiest of its mitigations."""
        rates = self._runner.state.rates.get(name)
        if rates is None:
            return {"rates": None, "busiest": []}
        rows = [(self._runner.state.ledger.get(key), one) for key, one in rates.items()]
        live = [(row, one) for row, one in rows if row is not None]
        busiest = sorted(live, key=lambda item: -item[1].hostile_pps)[:_BUSIEST]
        return {
            "rates": rates_view(total(one for _, one in live)),
            "busiest": [
                {
                    "id": row.id,
                    "kind": row.action.kind,
                    "target": str(row.target),
                    "rates": rates_view(one),
                }
                for row, one in busiest
            ],
        }

    def unready(self) -> list[str]:
        """Return why engines cannot work; empty when all can."""
        return [
            f"engine {name}: {health.detail}"
            for name, health in self.health.items()
            if not health.ok
        ]

    def _health(self, name: str) -> Health:
        return self.health.get(name, Health(ok=False, detail="not asked yet"))

    def _busy(self, mitigation_id: str) -> bool:
        executor = self._runner.executor
        return executor is not None and executor.busy(mitigation_id)

    async def _start(self, name: str) -> None:
        engine = self._engines[name]
        try:
            await engine.start()
            health = await engine.health()
        except Exception as error:  # noqa: BLE001 - an engine's defect must not end the hub
            health = Health(ok=False, detail=_words(error))
        self._note_health(name, health)

    async def _look(self, name: str) -> None:
        was_ok = self._health(name).ok
        if not was_ok:
            await self._start(name)
            if self._health(name).ok:
                await self._decide_again()
                self.hurry(name)
            return
        engine = self._engines[name]
        try:
            health = await engine.health()
            self.counters[name] = await engine.telemetry()
            self.history.take(name, self.counters[name], self._runner.clock.time())
        except Exception as error:  # noqa: BLE001 - an engine's defect must not end the hub
            health = Health(ok=False, detail=_words(error))
        self._note_health(name, health)
        kinds = engine.capabilities().kinds
        show_telemetry(self._runner.metrics.engines, name, kinds, self.counters.get(name, {}))

    def _note_health(self, name: str, health: Health) -> None:
        before = self.health.get(name)
        self.health[name] = health
        self._runner.metrics.engine_up.labels(name).set(int(health.ok))
        places = self._places.setdefault(name, set())
        places.update(health.interfaces)
        for one in places:
            works = health.ok and one in health.interfaces
            metric = self._runner.metrics.engine_interface.labels(name, one.name, one.mode)
            metric.set(int(works))
        if before is not None and before.ok == health.ok:
            return
        if health.ok:
            log.info("engine.ready", engine=name, detail=health.detail)
        else:
            log.error(
                "engine.not_ready",
                engine=name,
                why=health.detail,
                todo="protection by this engine is not possible until it works again",
            )

    async def _decide_again(self) -> None:
        """What failed while an engine could not work is asked for again."""
        effects = Effects()
        redecide(self._runner.state, "hub", self._runner.clock.time(), effects, unasked=True)
        await self._runner.carry_out(effects)

    async def _inventory(self, name: str) -> list[Installed] | None:
        try:
            return list(await self._engines[name].inventory())
        except Exception as error:  # noqa: BLE001 - an engine's defect must not end the hub
            log.warning(
                "engine.inventory_failed",
                engine=name,
                why=_words(error),
                todo="if it goes on, see the load of the machine and command_timeout",
            )
            return None

    async def _withdraw(self, engine: Engine, item: Installed) -> None:
        try:
            await engine.withdraw(item)
        except Exception as error:  # noqa: BLE001 - an engine's defect must not end the hub
            log.warning(
                "engine.withdraw_failed",
                engine=engine.name,
                why=_words(error),
                todo="nothing: tried again in the next round, and it has a deadline",
            )
            return
        self._count(engine.name, "withdrawn")
        log.warning(
            "reconcile.withdrawn",
            engine=engine.name,
            mitigation=item.mitigation_id,
            what=item.what,
            why="it carries our tag and the ledger does not know it",
            todo="ask whether two hubs share it; expected after an older journal",
        )

    async def _adopt(self, name: str, there: list[Installed]) -> None:
        """With a journal that has not seen this engine yet: leave alone what is in force.

        Whatever made the journal a new one, withdrawing would end protection in the middle of an
        attack; what is there ends at its own deadline.
        """
        mark = f"{ADOPTED}{name}"
        settings = self._runner.settings
        if mark in settings.known:
            return
        state = self._runner.state
        strangers = {item.mitigation_id for item in there if item.mitigation_id}
        strangers -= {row.id for row in state.ledger}
        if strangers:
            log.warning(
                "store.orphans_kept",
                mitigations=sorted(strangers),
                todo="they end at their deadlines; to end them now: fnm-hub release ID",
            )
            orphans = strangers | set(state.memory.orphans)
            await self._runner.carry_out(keep_orphans(state, orphans))
        await settings.put(mark, "1")

    def _renew(self, name: str, rows: list[Mitigation], there: list[Installed]) -> Effects:
        now = self._runner.clock.time()
        found = {item.mitigation_id: item.packets for item in there}
        seen, self._seen[name] = self._seen.get(name, {}), {}
        effects = Effects()
        for row in rows:
            packets, before = found.get(row.id), seen.get(row.id)
            if packets is None:
                continue
            self._seen[name][row.id] = (packets, now)
            # A count below the last one has begun anew: what it shows is since then.
            if before is not None and packets > before[0] and now > before[1]:
                pps = (packets - before[0]) / (now - before[1])
                effects.add(renew_if_attacked(self._runner.state, row, pps, now))
        return effects

    async def _forget_orphans(self, name: str, findings: Findings) -> None:
        state = self._runner.state
        readable = [key for key, one in self._engines.items() if one.capabilities().readable]
        if readable == [name] and findings.orphans != frozenset(state.memory.orphans):
            await self._runner.carry_out(keep_orphans(state, findings.orphans))

    def _note_foreign(self, name: str, foreign: tuple[Installed, ...]) -> None:
        found = tuple(item.what for item in foreign)
        if found and found != self.foreign.get(name, ()):
            self._count(name, "foreign")
            log.warning(
                "reconcile.foreign",
                engine=name,
                what=list(found),
                todo="somebody else put it there; it is never touched",
            )
        self.foreign[name] = found
        self._runner.metrics.engines.foreign.labels(name).set(len(found))

    def _count(self, name: str, finding: str) -> None:
        self._runner.metrics.reconciled.labels(name, finding).inc()


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, HubError) else f"defect: {type(error).__name__}: {error}"
