# SPDX-License-Identifier: Apache-2.0
"""The life of a drill in the core: who may bear its mark, what ends it, what is seen of it."""

import secrets
from dataclasses import dataclass, replace
from typing import Final

from hub.attacks.model import Attack
from hub.drills.model import KINDS, LONGEST, SHORTEST, Course, Drill, Result, digest_of
from hub.drills.place import fingerprint, place
from hub.drills.stages import shortfall, stages
from hub.effects import Effects
from hub.errors import IntakeError, RefusedError
from hub.intake.model import Action, Report
from hub.net import IPAddress, covers
from hub.pipeline.changes import note_change
from hub.pipeline.releasing import release
from hub.pipeline.state import State
from hub.pipeline.words import audit

_MARKED: Final = (Action.BAN, Action.UNBAN)


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator wants drilled.

    Attributes:
        target: the address, None to have one chosen.
        enforce: the prefix within which countermeasures are really applied, None to plan only.
        seconds: how long it may last.
    """

    kind: str = "syn"
    target: str | None = None
    enforce: str | None = None
    notify_too: bool = False
    seconds: float = 60.0


def begin_drill(
    state: State, wish: Wish, actor: str, reason: str, now: float
) -> tuple[str, Effects]:
    """Begin a drill; return the token that its events have to bear.

    Raises:
        IntakeError: the wish makes no sense.
        RefusedError: a drill is under way, or it may not be there.
    """
    if wish.kind not in KINDS or not SHORTEST <= wish.seconds <= LONGEST:
        kinds = ", ".join(KINDS)
        raise IntakeError(
            "no such drill",
            todo=f"kinds are {kinds}; it lasts {SHORTEST:.0f} to {LONGEST:.0f} seconds",
        )
    if state.memory.drill is not None:
        running = state.memory.drill
        raise RefusedError(
            f"drill {running.id} by {running.actor} is under way, until {running.until:.0f}",
            todo=f"wait for its end, {max(0.0, running.until - now):.0f} s at most",
        )
    target = place(state.config, wish.target, wish.enforce, lambda one: _attacked(state, one))
    token = secrets.token_urlsafe(24)
    drill = Drill(
        id=f"d-{secrets.token_hex(5)}",
        digest=digest_of(token),
        target=target,
        kind=wish.kind,
        enforce=wish.enforce is not None,
        notify_too=wish.notify_too,
        actor=actor,
        reason=reason,
        began_at=now,
        seconds=wish.seconds,
        rules=state.rules.version,
        config=fingerprint(state.config),
    )
    effects = Effects()
    state.course = Course(drill.id)
    state.remember(replace(state.memory, drill=drill), effects)
    effects.log(
        "info",
        "drill.began",
        drill=drill.id,
        kind=drill.kind,
        target=str(target),
        enforce=drill.enforce,
        actor=actor,
        reason=reason,
    )
    details = {"drill": drill.id, "target": str(target), "kind": drill.kind}
    audit(effects, now, "drill.began", reason, actor=actor, details=details)
    return token, effects


def end_drill(
    state: State, why: str, now: float, effects: Effects, *, actor: str = "hub"
) -> Result | None:
    """End the drill under way, with all that it began; `why` is empty where it ran to its end.

    It has passed when it ran to its end and each stage was good. Returns None when there is none.
    """
    drill = state.memory.drill
    if drill is None:
        return None
    found = stages(drill, state.course or Course(drill.id))
    why = why or shortfall(found) or _changed(state, drill)
    result = Result(
        id=drill.id,
        target=drill.target,
        kind=drill.kind,
        enforced=drill.enforce,
        passed=not why,
        why=why,
        actor=drill.actor,
        began_at=drill.began_at,
        ended_at=now,
        rules=drill.rules,
        config=drill.config,
        stages=found,
    )
    for row in state.ledger:
        if row.drill == drill.id:
            release(state, row, "the drill is over", now, effects, actor=actor)
    change = state.tracker.forget(drill.attack, now, "drill")
    if change is not None:
        note_change(state, change, None, now, effects)
    passed = result if result.passed else state.memory.passed
    state.remember(replace(state.memory, drill=None, drilled=result, passed=passed), effects)
    state.course = None
    effects.log(
        "info" if result.passed else "warning",
        "drill.ended",
        drill=drill.id,
        passed=result.passed,
        why=why,
        actor=actor,
        todo="" if result.passed else "see what each stage said: fnm-hub status",
    )
    outcome = "passed" if result.passed else "failed"
    details = {
        "drill": drill.id,
        "target": str(drill.target),
        "rules": drill.rules,
        "config": drill.config,
        "stages": {stage.name: stage.ok for stage in found},
    }
    audit(effects, now, "drill.ended", why, outcome=outcome, actor=actor, details=details)
    return result


def drill_step(state: State, now: float, effects: Effects) -> None:
    """Let time pass: a drill that nobody ended ends by itself."""
    drill = state.memory.drill
    if drill is not None and drill.until <= now:
        why = f"nobody ended it within {drill.seconds:.0f} s: was its command killed?"
        end_drill(state, why, now, effects)


def clash(state: State, attack: Attack, now: float, effects: Effects) -> None:
    """End the drill where a real attack comes upon its target: that one has to be met."""
    drill = state.memory.drill
    if drill is not None and any(covers(target, drill.target) for target in attack.targets):
        why = f"a real attack came upon its target: {attack.id}"
        end_drill(state, why, now, effects)


def invalid_mark(state: State, token: str, report: Report, now: float) -> str:
    """Return why an event may not be taken for a part of the drill; empty when it may.

    The mark was handed out to an operator. It is good for one address, one ban and one unban, and
    for as long as the drill lasts: whoever gets hold of it can hide nothing else.
    """
    drill = state.memory.drill
    if drill is None or drill.until <= now:
        return "no drill is under way"
    if not drill.bears(token):
        return "it is not that of the drill under way"
    about = report.target or report.hostgroup
    wrong = {
        f"it is about {about}, the drill about {drill.target}": report.target != drill.target,
        f"it is no {' or '.join(_MARKED)}": report.action not in _MARKED,
        f"its {report.action} has been taken already": report.action in drill.taken,
    }
    return next((why for why, holds in wrong.items() if holds), "")


def note_taken(state: State, action: Action, effects: Effects) -> None:
    """Remember that the drill's `action` has come; it is not taken a second time."""
    drill = state.memory.drill
    if drill is not None:
        after = replace(drill, taken=(*drill.taken, str(action)))
        state.remember(replace(state.memory, drill=after), effects)


def note_attack(state: State, attack: Attack | None, effects: Effects) -> None:
    """Remember which attack the drill began."""
    drill = state.memory.drill
    if drill is not None and attack is not None and attack.id != drill.attack:
        after = replace(drill, attack=attack.id)
        state.remember(replace(state.memory, drill=after), effects)


def observe(state: State, effects: Effects) -> None:
    """Note what of `effects`, which are durable, belongs to the drill under way."""
    drill, course = state.memory.drill, state.course
    if drill is None or course is None:
        return
    for result in effects.events:
        if result.number in course.arrivals:
            course.results[result.number] = result
    course.notes += [row for row in effects.audit if row.attack and row.attack == drill.attack]


def _attacked(state: State, address: IPAddress) -> bool:
    return any(
        covers(target, address)
        for attack in state.tracker
        if not attack.drill
        for target in attack.targets
    )


def _changed(state: State, drill: Drill) -> str:
    if state.rules.version != drill.rules or fingerprint(state.config) != drill.config:
        return "rules or configuration were changed meanwhile"
    return ""
