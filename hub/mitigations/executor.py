# SPDX-License-Identifier: Apache-2.0
"""Carries orders out: one at a time for each mitigation, with retries, never an outdated one."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import structlog
from structlog.contextvars import bound_contextvars

from hub.clock import Clock
from hub.errors import EngineError, EnginePermanentError
from hub.mitigations.engine import Carried, Engine
from hub.mitigations.model import Mitigation
from hub.tasks import Tasks

log = structlog.get_logger(__name__)

_FIRST_WAIT: Final = 0.2
_LONGEST_WAIT: Final = 15.0
_AT_ONCE: Final = 64


class Verb(StrEnum):
    """What an engine is asked to do."""

    APPLY = "apply"
    RELEASE = "release"
    PLAN = "plan"


@dataclass(frozen=True, slots=True)
class Order:
    """One thing for one engine to do, after the intent is durable."""

    verb: Verb
    mitigation: Mitigation


@dataclass(frozen=True, slots=True)
class Answer:
    """How an order went.

    Attributes:
        seconds: how long the engine took.
        error: what the engine said; empty when it did as asked.
        final: no further try is made of a failed order.
        steps: of a plan, what would be done.
        carried: of what is in force, how, where there are several ways.
        ordered_at: when the order was taken, Unix seconds.
        tries: how often it has been tried by now, this time included.
    """

    order: Order
    seconds: float
    error: str = ""
    final: bool = True
    steps: tuple[str, ...] = ()
    carried: Carried | None = None
    ordered_at: float | None = None
    tries: int = 1


class Executor:
    """Runs orders on engines.

    Args:
        engines: by name.
        current: tells whether an order is still what the ledger wants.
        allowed: asks the guards once more just before an order is carried out.
        report: is told how each try went.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        *,
        tasks: Tasks,
        clock: Clock,
        current: Callable[[Order], bool],
        allowed: Callable[[Order], Awaitable[bool]],
        report: Callable[[Answer], Awaitable[None]],
    ) -> None:
        self._engines, self._tasks, self._clock = engines, tasks, clock
        self._current, self._allowed, self._report = current, allowed, report
        self._next: dict[str, tuple[Order, float]] = {}
        self._busy: set[str] = set()
        self._fresh: dict[str, asyncio.Event] = {}
        # One for each engine: what hangs in one of them keeps no order for another waiting.
        self._rooms = {name: asyncio.Semaphore(_AT_ONCE) for name in engines}

    def submit(self, order: Order) -> None:
        """Take an order; a newer one for the same mitigation replaces one that waits."""
        mitigation_id = order.mitigation.id
        self._next[mitigation_id] = (order, self._clock.time())
        if (fresh := self._fresh.get(mitigation_id)) is not None:
            fresh.set()
        if mitigation_id not in self._busy:
            self._busy.add(mitigation_id)
            self._tasks.run(f"mitigation {mitigation_id}", self._work(mitigation_id))

    @property
    def waiting(self) -> int:
        """Number of mitigations with an order that waits or is under way."""
        return len(self._busy)

    def wake(self) -> None:
        """Try at once what waits for its next try."""
        for fresh in self._fresh.values():
            fresh.set()

    def busy(self, mitigation_id: str) -> bool:
        """Tell whether an order for this mitigation is waiting or under way."""
        return mitigation_id in self._busy

    async def _work(self, mitigation_id: str) -> None:
        self._fresh[mitigation_id] = asyncio.Event()
        try:
            while (taken := self._next.pop(mitigation_id, None)) is not None:
                await self._until_done(*taken)
        finally:
            self._busy.discard(mitigation_id)
            del self._fresh[mitigation_id]

    async def _until_done(self, order: Order, ordered_at: float) -> None:
        wait, tries = _FIRST_WAIT, 0
        fresh = self._fresh[order.mitigation.id]
        while True:
            fresh.clear()
            async with self._rooms.get(order.mitigation.engine) or nullcontext():
                # Asked last: what waits for room may be forbidden or outdated by then.
                if not self._current(order) or not await self._allowed(order):
                    return
                # What the engine logs of it can so be joined with all the rest.
                row = order.mitigation
                with bound_contextvars(mitigation=row.id, delivery=row.delivery):
                    answer = await self._try(order)
            tries += 1
            await self._report(replace(answer, ordered_at=ordered_at, tries=tries))
            if answer.final:
                return
            await self._sleep_or_fresh(fresh, wait)
            if order.mitigation.id in self._next:
                return
            wait = min(wait * 2, _LONGEST_WAIT)

    async def _sleep_or_fresh(self, fresh: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await fresh.wait()
        except TimeoutError:
            return

    async def _try(self, order: Order) -> Answer:
        engine = self._engines.get(order.mitigation.engine)
        if engine is None:
            text = f"engine {order.mitigation.engine!r} is not in the configuration any more"
            return Answer(order, 0.0, text)
        begun = self._clock.monotonic()
        try:
            steps, carried = await _call(engine, order)
        except EngineError as error:
            # What protects or harms is taken back in the end; a mere message is not worth it.
            insist = order.verb is Verb.RELEASE and engine.capabilities().lasting
            final = isinstance(error, EnginePermanentError) and not insist
            return Answer(order, self._clock.monotonic() - begun, str(error), final)
        except Exception as error:
            log.exception(
                "engine.defect",
                engine=engine.name,
                verb=str(order.verb),
                todo="report it with this line; it is tried again",
            )
            text = f"defect in engine {engine.name}: {type(error).__name__}"
            return Answer(order, self._clock.monotonic() - begun, text, order.verb is Verb.PLAN)
        return Answer(order, self._clock.monotonic() - begun, steps=steps, carried=carried)


async def _call(engine: Engine, order: Order) -> tuple[tuple[str, ...], Carried | None]:
    match order.verb:
        case Verb.APPLY:
            return (), await engine.apply(order.mitigation)
        case Verb.RELEASE:
            await engine.release(order.mitigation)
        case Verb.PLAN:
            return (await engine.plan(order.mitigation)).steps, None
    return (), None
