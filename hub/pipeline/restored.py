# SPDX-License-Identifier: Apache-2.0
"""Makes the ledger of a journal that was put back from a backup true: it is from another time.

What is in force goes on, under a ledger that knows it again. What is not in force any more and
past its deadline is over, and so is the attack that asked for nothing else. What has time left
begins again: it may be a fresh machine.
"""

from collections.abc import Mapping
from dataclasses import replace

from hub.attacks.tracker import Tracker
from hub.effects import Effects
from hub.mitigations.model import Mitigation, MitigationState
from hub.pipeline.changes import note_change
from hub.pipeline.state import State
from hub.pipeline.words import audit, say

Standing = Mapping[str, Mapping[str, float | None]]
"""Seconds left by engine and mitigation id; an engine that cannot be asked is not there."""

_PAST = "its deadline had passed when the journal was put back from a backup"
_THERE = "found in force when the journal was put back from a backup"


def take_up(state: State, standing: Standing, now: float) -> Effects:
    """Compare a restored ledger with what engines have in force.

    Engines without leases are left out: what they switched on is switched off at its deadline.
    """
    effects, orphans = Effects(), set(state.memory.orphans)
    ended: set[str] = set()
    for row in state.ledger:
        able = state.engines.get(row.engine)
        if able is None or not able.leases or row.state is MitigationState.DRY_RUN:
            continue
        there = standing.get(row.engine)
        if there is not None and row.id in there:
            _go_on(state, row, there[row.id], now, effects)
        elif row.deadline <= now:
            _let_pass(state, row, now, effects)
            ended |= set(row.attacks)
            if there is None:
                orphans.add(row.id)
        else:
            effects.mitigations[row.id] = state.ledger.outdo(row.id, row.state, row.deadline)
    for attack_id in sorted(ended):
        if not state.ledger.held_by(attack_id):
            _end(state, state.tracker, attack_id, now, effects)
    state.remember(replace(state.memory, orphans=tuple(sorted(orphans))), effects)
    return effects


def _go_on(state: State, row: Mitigation, left: float | None, now: float, effects: Effects) -> None:
    deadline = max(row.deadline, now + (left or 0.0))
    after = state.ledger.outdo(row.id, MitigationState.ACTIVE, deadline)
    effects.mitigations[after.id] = after
    say(effects, "info", "mitigation.taken_up", after, _THERE)
    audit(effects, now, "mitigation.taken_up", _THERE, outcome="ok", mitigation=after)


def _let_pass(state: State, row: Mitigation, now: float, effects: Effects) -> None:
    over = state.ledger.close(row.id, _PAST, now)
    if over is not None:
        effects.mitigations[over.id] = over
        say(effects, "info", "mitigation.past", over, _PAST)
        audit(effects, now, "mitigation.past", _PAST, mitigation=over)


def _end(state: State, tracker: Tracker, attack_id: str, now: float, effects: Effects) -> None:
    change = tracker.forget(attack_id, now, "restored")
    if change is not None:
        note_change(state, change, None, now, effects)
