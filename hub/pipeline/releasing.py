# SPDX-License-Identifier: Apache-2.0
"""Taking mitigations back: because the attack ended, the deadline passed or somebody said so."""

from hub.effects import Effects, Level
from hub.mitigations.executor import Order, Verb
from hub.mitigations.model import Mitigation, MitigationState
from hub.pipeline.state import State
from hub.pipeline.words import audit, say


def release(
    state: State, row: Mitigation, reason: str, now: float, effects: Effects, *, actor: str = "hub"
) -> None:
    """Write the intent to release `row`; one that is being released already stays as it is."""
    after = state.ledger.releasing(row.id, reason, now)
    if after is None:
        return
    effects.mitigations[after.id] = after
    if after.state is MitigationState.RELEASED:
        say(effects, "info", "mitigation.released", after, reason)
    else:
        effects.orders.append(Order(Verb.RELEASE, after))
        unfinished = reason == "deadline" and _still_held(state, after)
        level: Level = "warning" if unfinished else "info"
        why = "deadline, though a detector still reports the attack" if unfinished else reason
        todo = "raise the rule's ttl; fnm-hub reload protects again" if unfinished else ""
        say(effects, level, "mitigation.releasing", after, why, todo=todo)
    audit(effects, now, f"mitigation.{after.state}", reason, mitigation=after, actor=actor)


def release_overdue(state: State, now: float, effects: Effects) -> None:
    """Release everything whose deadline has passed."""
    for row in state.ledger.overdue(now):
        release(state, row, "deadline", now, effects)


def _still_held(state: State, row: Mitigation) -> bool:
    attacks = (state.tracker.get(attack_id) for attack_id in row.attacks)
    return any(attack is not None and attack.holders for attack in attacks)
