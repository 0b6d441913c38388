# SPDX-License-Identifier: Apache-2.0
"""Runs drills in the daemon: hands out the mark, looks at the engines, shows each stage."""

from typing import Any, Final

from hub.clock import SteadyClock
from hub.drills.model import Arrival, Course, Drill, Hook, result_view, stage_view
from hub.drills.stages import is_released, ready_to_look, stages
from hub.effects import Effects
from hub.engine_watch import EngineWatch
from hub.errors import RefusedError
from hub.intake.envelope import Envelope
from hub.pipeline.drilling import Wish, begin_drill, end_drill
from hub.runner import Runner

View = dict[str, Any]
_HEADLINE: Final = ("id", "kind", "passed", "why", "actor", "began_at", "ended_at", "enforced")


class HubDrills:
    """Implements `hub.api.daemon.Drills` on the core."""

    def __init__(self, runner: Runner, watch: EngineWatch, clock: SteadyClock) -> None:
        self._runner, self._watch, self._clock = runner, watch, clock
        self._state = runner.state

    async def begin(self, wish: Wish, *, actor: str, reason: str) -> View:
        """Begin a drill and return it with its token."""
        now = self._clock.time()
        token, effects = begin_drill(self._state, wish, actor, reason, now)
        await self._runner.carry_out(effects)
        return {**(await self.look()), "token": token}

    def arrived(self, envelope: Envelope, number: int, via: str) -> None:
        """Note when an event became durable that bears the mark of the drill under way."""
        drill, course = self._state.memory.drill, self._state.course
        if drill is None or course is None or not drill.bears(envelope.drill):
            return
        now, started = self._clock.time(), envelope.stamp
        if envelope.mono is not None and envelope.boot == self._clock.anchor.boot_id:
            started = now - (self._clock.monotonic() - envelope.mono)
        course.arrivals.setdefault(number, Arrival(started, now, via))

    def ran(self, drill_id: str, call: str, hook: Hook) -> None:
        """Note how the hook of one call ended."""
        drill, course = self._state.memory.drill, self._state.course
        if drill is None or course is None or drill.id != drill_id:
            raise RefusedError(f"drill {drill_id} is not under way", todo=self._over())
        course.hooks[call] = hook

    async def look(self) -> View:
        """Return the drill under way, else the newest, with its stages."""
        drill, course = self._state.memory.drill, self._state.course
        if drill is None or course is None:
            newest = result_view(self._state.memory.drilled)
            if newest is None:
                raise RefusedError("there has been no drill", todo="run one: fnm-hub drill")
            return {"running": False, **newest}
        await self._ask_engines(drill, course)
        return {
            "running": True,
            "id": drill.id,
            "target": str(drill.target),
            "kind": drill.kind,
            "enforced": drill.enforce,
            "notify_too": drill.notify_too,
            "actor": drill.actor,
            "began_at": drill.began_at,
            "until": drill.until,
            "rules": drill.rules,
            "config": drill.config,
            "attack": drill.attack or None,
            "stages": [stage_view(stage) for stage in stages(drill, course)],
        }

    async def finish(self, drill_id: str, *, actor: str, why: str) -> View:
        """End the drill and return its result."""
        drill, newest = self._state.memory.drill, self._state.memory.drilled
        if drill is not None and drill.id == drill_id:
            await self.look()
            effects = Effects()
            end_drill(self._state, why, self._clock.time(), effects, actor=actor)
            await self._runner.carry_out(effects)
        elif newest is None or newest.id != drill_id:
            raise RefusedError(f"drill {drill_id} is not under way", todo=self._over())
        return {"running": False, **(result_view(self._state.memory.drilled) or {})}

    def view(self) -> View:
        """Return what `status` shows of drills."""
        memory, drill = self._state.memory, self._state.memory.drill
        running: View | None = None
        if drill is not None:
            running = {
                "id": drill.id,
                "actor": drill.actor,
                "target": str(drill.target),
                "until": drill.until,
                "enforced": drill.enforce,
            }
        passed = result_view(memory.passed)
        return {
            "running": running,
            "last": result_view(memory.drilled),
            "passed": None if passed is None else {key: passed[key] for key in _HEADLINE},
        }

    async def _ask_engines(self, drill: Drill, course: Course) -> None:
        wanted = ready_to_look(drill, course)
        if wanted and course.there is None and not is_released(course):
            lacking = sorted(wanted - await self._watch.shown())
            course.lacking = f"the inventory does not show {', '.join(lacking)}" if lacking else ""
            course.there = None if lacking else self._clock.time()
        elif wanted and course.gone is None and is_released(course):
            left = wanted & await self._watch.shown()
            course.gone = None if left else self._clock.time()

    def _over(self) -> str:
        newest = self._state.memory.drilled
        return f"the newest, {newest.id}: {newest.why or 'passed'}" if newest else "begin one"
