# SPDX-License-Identifier: Apache-2.0
"""Carries out what the core decides: first durable, then ordered, then said."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import structlog

from hub.clock import Clock
from hub.documents import batch_of
from hub.effects import Effects, Line
from hub.errors import IntakeError, StoreError
from hub.intake.envelope import decode
from hub.metrics import Metrics
from hub.mitigations.executor import Answer, Executor, Order, Verb
from hub.pipeline import answers
from hub.pipeline.drilling import observe
from hub.pipeline.events import take_event, tick
from hub.pipeline.guarding import forbidden
from hub.pipeline.releasing import release
from hub.pipeline.state import State
from hub.pulse import Pulse
from hub.store.journal import Journal
from hub.store.records import EventResult, StoredEvent
from hub.store.settings import Settings
from hub.stream import Stream
from hub.views import attack_view, mitigation_view

log = structlog.get_logger(__name__)

_EVENTS_AT_ONCE: Final = 64
_BACKLOG: Final = 256
_YIELD: Final = 3.0
_TICK: Final = 1.0


class Runner:
    """Drives the core: events in, orders out, answers back in.

    Args:
        state: the core's state; only this class changes it while the hub runs.
        clock: the hub's steady clock.

    Attributes:
        pulse_at: where the last pulse was seen.
    """

    def __init__(
        self,
        state: State,
        journal: Journal,
        settings: Settings,
        *,
        clock: Clock,
        metrics: Metrics,
        stream: Stream,
    ) -> None:
        self.state, self.journal, self.clock = state, journal, clock
        self.settings, self.keeper = settings, settings.keeper
        self.metrics, self.stream = metrics, stream
        state.evaluating = metrics.core.rules_seconds.time
        journal.on_commit = metrics.journal.committed
        self.executor: Executor | None = None
        self.accepted = 0
        self.not_understood = 0
        self._arrived = asyncio.Event()
        self._taking, self._ticking = Pulse(), Pulse()
        self.pulse_at = ""
        self._newest = 0
        self._taken = 0
        self._received: dict[str, float] = {}

    # ---- events -------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Number of events that are durable and not yet taken in."""
        return max(0, self._newest - self._taken)

    async def find_pending(self) -> None:
        """Find out where an earlier run stopped."""
        newest = await self.journal.events(limit=1)
        self._newest = newest[0].number if newest else 0
        if newest:
            self.metrics.intake.newest.set(newest[0].received_at)
        oldest = await self.journal.pending_events(1)
        self._taken = oldest[0].number - 1 if oldest else self._newest

    def arrived(self, number: int) -> None:
        """Note that the journal has a new pending event."""
        self._newest = max(self._newest, number)
        self._arrived.set()

    async def take_events(self) -> None:
        """Take in pending events for ever, oldest first."""
        while True:
            self._arrived.clear()
            with self._taking.turn():
                took = await self._take_pending()
            if not took:
                await self._arrived.wait()

    async def _take_pending(self) -> bool:
        """Take some of what is pending; return whether there may be more."""
        try:
            events = await self.journal.pending_events(_EVENTS_AT_ONCE, after=self._taken)
        except StoreError as error:
            log.error("store.read_failed", why=str(error), todo="see docs/operations.md")
            await self.clock.sleep(1.0)
            return True
        if not events:
            return False
        begun = self.clock.monotonic()
        await self._take(events)
        if self.pending > _BACKLOG:
            # While a burst comes in, making it durable goes before working it off.
            await self.clock.sleep(_YIELD * (self.clock.monotonic() - begun))
        return True

    async def _take(self, events: list[StoredEvent]) -> None:
        whole = Effects()
        for event in events:
            whole.add(self._take_one(event))
            self._taken = event.number
        await self.carry_out(whole)

    def _take_one(self, event: StoredEvent) -> Effects:
        now = self.clock.time()
        try:
            envelope = decode(event.raw)
            effects = take_event(self.state, event.number, envelope, now, event.received_at)
        except IntakeError as error:
            return _unreadable(event, str(error))
        except Exception as error:
            log.exception(
                "event.defect",
                number=event.number,
                delivery=event.delivery_id,
                todo="report it with the event",
            )
            return _unreadable(event, f"defect while taking it in: {type(error).__name__}")
        for order in effects.orders:
            row = order.mitigation
            if order.verb is Verb.APPLY and row.active_at is None and not row.drill:
                self._received.setdefault(order.mitigation.id, event.received_at)
        return effects

    # ---- time ---------------------------------------------------------------------------

    async def tick_for_ever(self) -> None:
        """Let time pass for the core, once a second."""
        while True:
            await self.clock.sleep(_TICK)
            with self._ticking.turn():
                await self.carry_out(tick(self.state, self.clock.time()))
                await self.keeper.flush()

    async def pulse(self) -> None:
        """Send something that means nothing the way of an event; return when it is through.

        From the writer's queue through its transaction, and then once round the loop that takes
        events in and the one in which time passes. A journal that cannot be written, or read,
        answers as well: that state has its own care. What hangs never answers.
        """
        self.pulse_at = "the journal's writer"
        with suppress(StoreError):
            await self.journal.ping()
        took, ticked = self._taking.felt(), self._ticking.felt()
        self._arrived.set()
        self.pulse_at = "taking events in"
        await took
        self.pulse_at = "letting time pass"
        await ticked

    # ---- effects ------------------------------------------------------------------------

    async def carry_out(self, effects: Effects) -> None:
        """Make `effects` durable, then give the orders, then say what happened.

        When the journal cannot take them the orders are given all the same: the keeper holds
        the record until it can be written.
        """
        if effects.writes:
            durable = await self.keeper.save(batch_of(effects, self.clock.time()))
            if not durable:
                self.metrics.store_errors.inc()
        for order in effects.orders:
            if self.executor is not None:
                self.executor.submit(order)
        observe(self.state, effects)
        self._count(effects)
        for line in effects.lines:
            _log(line)
        if self.stream.heard:
            self._publish(effects)

    def wake(self) -> None:
        """Let what waits for its next try be tried at once: an engine works again."""
        if self.executor is not None:
            self.executor.wake()

    def current(self, order: Order) -> bool:
        """Tell whether an order is still what the ledger wants; asked just before each try."""
        row = self.state.ledger.get(order.mitigation.id)
        if row is None or row.revision != order.mitigation.revision:
            return False
        return order.verb is not Verb.APPLY or row.deadline > self.clock.time()

    async def answered(self, answer: Answer) -> None:
        """Write down how an engine answered."""
        await self.carry_out(self._answer(answer))

    async def guard_again(self, order: Order) -> bool:
        """Ask the guards once more just before applying; withdraw what they forbid by now."""
        row = self.state.ledger.get(order.mitigation.id)
        refusal = None if row is None else forbidden(self.state, row)
        if row is None or refusal is None or order.verb is not Verb.APPLY:
            return True
        effects = Effects()
        release(self.state, row, f"{refusal.guard}: {refusal.why}", self.clock.time(), effects)
        await self.carry_out(effects)
        return False

    async def rewrite(self) -> None:
        """Write all that is open into a fresh journal."""
        effects = Effects()
        effects.attacks = {attack.id: attack for attack in self.state.tracker}
        effects.mitigations = {row.id: row for row in self.state.ledger}
        self.state.remember(self.state.memory, effects)
        effects.settings = {**self.settings.known, **effects.settings}
        # Numbers go on in the fresh file, so that what is pending there is above what was taken.
        await self.carry_out(effects)
        self._arrived.set()

    def _answer(self, answer: Answer) -> Effects:
        order, now = answer.order, self.clock.time()
        engine, verb = order.mitigation.engine, str(order.verb)
        if answer.error or order.verb is not Verb.APPLY:
            self._received.pop(order.mitigation.id, None)
        if answer.error:
            retried = "no" if answer.final else "yes"
            if not order.mitigation.drill:
                self.metrics.engine_errors.labels(engine, verb, retried).inc()
            if answer.final:
                return answers.failed(self.state, order, answer.error, now)
            return answers.trouble(self.state, order, answer.error, now)
        if not order.mitigation.drill:
            self.metrics.engine_seconds.labels(engine, verb).observe(answer.seconds)
        match order.verb:
            case Verb.APPLY:
                effects = answers.applied(self.state, order, now, answer)
                received = self._received.pop(order.mitigation.id, None)
                if received is not None and effects.mitigations:
                    self.metrics.event_to_active.observe(max(0.0, now - received))
                return effects
            case Verb.RELEASE:
                return answers.released(self.state, order, now)
            case Verb.PLAN:
                return answers.planned(self.state, order, answer.steps, now)

    def _count(self, effects: Effects) -> None:
        for result in effects.events:
            if result.status == "not_understood":
                self.not_understood += 1
            outcome = result.note.partition(":")[0] if result.action else result.status
            self.metrics.processed.labels(result.action or "none", outcome).inc()
        for row in effects.mitigations.values():
            if row.drill:
                continue
            self.metrics.changes.labels(row.engine, str(row.state)).inc()
        for line in effects.lines:
            if line.event == "drill.ended":
                how = "passed" if line.fields["passed"] else "failed"
                self.metrics.drills.labels(how).inc()
            elif line.event == "mitigation.refused" and "drill" not in line.fields:
                self.metrics.refused.labels(line.fields["guard"]).inc()
            elif line.event == "attack.quiet":
                self.metrics.attacks_quiet.inc()
        self._count_attacks(effects)
        for rule in effects.matched:
            self.metrics.core.decisions.labels(rule).inc()

    def _count_attacks(self, effects: Effects) -> None:
        core = self.metrics.core
        for line in effects.lines:
            noun, _, change = line.event.partition(".")
            if noun == "attack" and "drill" not in line.fields:
                core.attack_changes.labels(change).inc()
        for attack in effects.attacks.values():
            if attack.ended_at is not None and not attack.drill:
                core.attack_seconds.observe(attack.ended_at - attack.started_at)

    def _publish(self, effects: Effects) -> None:
        now = self.clock.time()
        for line in effects.lines:
            self.stream.publish({"time": now, **_item(line, effects)})


def _log(line: Line) -> None:
    getattr(log, line.level)(line.event, **line.fields)


def _item(line: Line, effects: Effects) -> Mapping[str, Any]:
    noun, _, change = line.event.partition(".")
    attack = effects.attacks.get(line.fields.get("attack") or "")
    row = effects.mitigations.get(line.fields.get("mitigation") or "")
    if noun == "event":
        status = "done" if change == "processed" else change
        return {"type": "event", "event": {"status": status, **line.fields}}
    if noun == "attack" and attack is not None:
        return {"type": "attack", "change": change, "attack": attack_view(attack, [])}
    if noun == "mitigation" and row is not None:
        return {"type": "mitigation", "change": change, "mitigation": mitigation_view(row)}
    text = " ".join(f"{key}={value}" for key, value in line.fields.items() if value)
    return {"type": "notice", "level": line.level, "text": f"{line.event} {text}"}


def _unreadable(event: StoredEvent, why: str) -> Effects:
    effects = Effects()
    effects.events.append(EventResult(event.number, "not_understood", note=why))
    effects.log(
        "warning",
        "event.not_understood",
        number=event.number,
        delivery=event.delivery_id,
        detector=event.detector,
        why=why,
        todo=f"it is kept as it came: fnm-hub event {event.number}",
    )
    return effects
