# SPDX-License-Identifier: Apache-2.0
"""Keeps a mitigation beyond its deadline while its own engine still sees the attack.

FastNetMon Community says nothing between ban and unban, and a deadline must not end protection
in the middle of an attack. So the engine's packet counts are evidence, too: while they come at
half the rate or more that raised the alarm, and no detector has let go, the deadline moves on.
Where the countermeasure hides the attack from its detector, what the engine meets decides alone.
"""

from typing import Final

from hub.effects import Effects
from hub.mitigations.executor import Order, Verb
from hub.mitigations.model import Mitigation, MitigationState
from hub.pipeline.state import State
from hub.pipeline.words import audit, say

SHARE: Final = 0.5
"""Of the rate that raised the alarm: what the engine must still see."""


def renew_if_attacked(state: State, row: Mitigation, pps: float, now: float) -> Effects:
    """Move the deadline of `row` when less than half its lifetime is left and the attack goes on.

    Args:
        state: the core.
        row: in force.
        pps: packets per second that its engine has judged lately.
        now: Unix seconds.
    """
    held = [state.tracker.get(attack_id) for attack_id in row.attacks]
    raised = [attack.pps for attack in held if attack is not None and attack.holders and attack.pps]
    if not _due(state, row, now) or not raised or pps < SHARE * min(raised):
        return Effects()
    return _renew(state, row, pps, now)


def renew_if_loud(state: State, row: Mitigation, pps: float, now: float) -> Effects:
    """Do the same for what hides the attack from its detector, whose silence says nothing.

    Args:
        state: the core, which has just been told of this measurement.
        row: in force.
        pps: hostile packets per second that its engine has met lately.
        now: Unix seconds.
    """
    seen = (state.seen.get(attack_id) for attack_id in row.attacks)
    if not _due(state, row, now) or not any(one is not None and one.loud_at >= now for one in seen):
        return Effects()
    return _renew(state, row, pps, now)


def _due(state: State, row: Mitigation, now: float) -> bool:
    """Tell whether it is time; dry-run prolongs nothing, and nothing prolongs a drill."""
    if state.dry_run or row.drill:
        return False
    return row.state is MitigationState.ACTIVE and row.deadline - now < row.ttl / 2


def _renew(state: State, row: Mitigation, pps: float, now: float) -> Effects:
    effects = Effects()
    after = state.ledger.reapply(row, now + row.ttl)
    if after is None:
        return effects
    effects.mitigations[after.id] = after
    effects.orders.append(Order(Verb.APPLY, after))
    for attack_id in row.attacks:
        attack = state.tracker.touch(attack_id, now)
        if attack is not None:
            effects.attacks[attack.id] = attack
    why = f"its engine still sees {pps:.0f} packets/s"
    say(effects, "info", "mitigation.renewed", after, why)
    audit(effects, now, "mitigation.renewed", why, mitigation=after)
    return effects
