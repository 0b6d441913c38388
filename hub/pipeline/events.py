# SPDX-License-Identifier: Apache-2.0
"""From an event to an attack, and on to the decision; and what the passing of time does."""

from dataclasses import replace

from hub.attacks.change import Change, Outcome, Sighting
from hub.effects import Effects
from hub.errors import NotUnderstoodError
from hub.intake.envelope import Envelope
from hub.intake.model import Action, Report
from hub.intake.parse import parse
from hub.mitigations.executor import Order, Verb
from hub.mitigations.model import MitigationState
from hub.pipeline.changes import note_change
from hub.pipeline.deciding import Occasion, decide, decide_waiting
from hub.pipeline.drilling import (
    clash,
    drill_step,
    end_drill,
    invalid_mark,
    note_attack,
    note_taken,
)
from hub.pipeline.escalating import escalate_step
from hub.pipeline.holding import hold_step
from hub.pipeline.operating import drain_step, forget_hold_offs, withdraw_forbidden
from hub.pipeline.releasing import release, release_overdue
from hub.pipeline.state import State
from hub.pipeline.words import marked
from hub.store.records import EventResult
from hub.views import DRILL_NOTE

_DECIDING = frozenset({Outcome.BEGAN, Outcome.RETURNED, Outcome.CHANGED, Outcome.REFRESHED})


def take_event(
    state: State, number: int, envelope: Envelope, now: float, received_at: float | None = None
) -> Effects:
    """Take in one event that is durable as `number`; never raises for what is in it."""
    effects = Effects()
    try:
        report = parse(envelope.args, envelope.stdin)
    except NotUnderstoodError as error:
        note = str(error)
        effects.events.append(EventResult(number, "not_understood", note=note))
        effects.log(
            "warning",
            "event.not_understood",
            number=number,
            delivery=envelope.id,
            detector=envelope.detector,
            why=note,
            todo=f"it is kept as it came: fnm-hub event {number}",
        )
        return effects
    sighting = Sighting(number, envelope.detector, envelope.order, report, envelope.id, received_at)
    if not envelope.drill:
        return take_sighting(state, sighting, now)
    why = invalid_mark(state, envelope.drill, report, now)
    drill = state.memory.drill
    if why or drill is None:
        return _refuse_mark(sighting, why, effects)
    note_taken(state, report.action, effects)
    effects.add(take_sighting(state, replace(sighting, drill=drill.id), now))
    return effects


def take_sighting(state: State, sighting: Sighting, now: float) -> Effects:
    """Take in one event that is understood."""
    effects = Effects()
    change = state.tracker.fold(sighting, now)
    _note_event(sighting, change, effects)
    for one in (change, *change.also):
        note_change(state, one, sighting, now, effects)
    if sighting.drill:
        note_attack(state, change.attack, effects)
    elif change.attack is not None and change.outcome in _DECIDING:
        clash(state, change.attack, now, effects)
    if change.attack is not None and change.outcome in _DECIDING:
        occasion = Occasion(
            change.attack, sighting.number, sighting.detector, origin=sighting.origin
        )
        decide(state, occasion, now, effects)
    return effects


def remember_unban(state: State, number: int, envelope: Envelope, now: float) -> None:
    """Let an unban of before the restart go on cancelling a ban that comes after it."""
    if envelope.drill:
        return
    try:
        report = parse(envelope.args, envelope.stdin)
    except NotUnderstoodError:
        return
    if report.action in (Action.UNBAN, Action.PARTIAL_UNBLOCK):
        state.tracker.bury(Sighting(number, envelope.detector, envelope.order, report), now)


def tick(state: State, now: float) -> Effects:
    """Let time pass up to `now`: lifetimes, lingers, deadlines, drain."""
    effects = Effects()
    hold_step(state, now, effects)
    for change in state.tracker.advance(now):
        note_change(state, change, None, now, effects)
    drill_step(state, now, effects)
    release_overdue(state, now, effects)
    forget_hold_offs(state, now, effects)
    decide_waiting(state, now, effects)
    escalate_step(state, now, effects)
    drain_step(state, now, effects)
    return effects


def resume(state: State, now: float, *, complete: bool = True) -> Effects:
    """Order again every intent that an earlier run did not finish.

    Args:
        state: as restored.
        now: Unix seconds.
        complete: every attack of the earlier run is known; else what nobody holds stays.
    """
    effects = Effects()
    end_drill(state, "the hub was restarted in the middle", now, effects)
    withdraw_forbidden(state, now, effects)
    for row in state.ledger if complete else ():
        if all(state.tracker.get(attack_id) is None for attack_id in row.attacks):
            release(state, row, "attack ended before the restart", now, effects)
    for row in state.ledger:
        if row.state is MitigationState.APPLYING:
            effects.orders.append(Order(Verb.APPLY, row))
        elif row.state is MitigationState.RELEASING and row.id not in effects.mitigations:
            effects.orders.append(Order(Verb.RELEASE, row))
    return effects


def _note_event(sighting: Sighting, change: Change, effects: Effects) -> None:
    report, attack = sighting.report, change.attack
    target = _target_text(report)
    note = f"{DRILL_NOTE if sighting.drill else ''}{change.outcome}: {change.why}"
    attack_id = attack.id if attack else ""
    effects.events.append(
        EventResult(sighting.number, "done", str(report.action), target, attack_id, note)
    )
    effects.log(
        "info",
        "event.processed",
        number=sighting.number,
        delivery=sighting.delivery,
        detector=sighting.detector,
        action=str(report.action),
        target=target,
        outcome=str(change.outcome),
        attack=attack_id,
        why=change.why,
        **marked(sighting.drill),
    )


def _refuse_mark(sighting: Sighting, why: str, effects: Effects) -> Effects:
    """Keep an event whose mark is of no drill, as it came: it is neither believed nor a drill."""
    note = f"it bears the mark of a drill, and {why}"
    effects.events.append(EventResult(sighting.number, "not_understood", note=note))
    effects.log(
        "warning",
        "event.drill_refused",
        number=sighting.number,
        detector=sighting.detector,
        target=_target_text(sighting.report),
        why=why,
        todo="look who sends it if no drill has just ended; events without a mark are not affected",
    )
    return effects


def _target_text(report: Report) -> str:
    return str(report.target) if report.target is not None else f"group {report.hostgroup}"
