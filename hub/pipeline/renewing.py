# SPDX-License-Identifier: Apache-2.0
"""Keeps a mitigation beyond its deadline while its own engine still sees the attack.

FastNetMon Community says nothing between ban and unban, and a deadline must not end protection
in the middle of an attack. So the engine's packet counts are evidence, too: while they come at
half the rate or more that raised the alarm, and no detector has let go, the deadline moves on.
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
    effects = Effects()
    held = [state.tracker.get(attack_id) for attack_id in row.attacks]
    raised = [attack.pps for attack in held if attack is not None and attack.holders]
    due = row.deadline - now < row.ttl / 2
    if row.state is not MitigationState.ACTIVE or not due or not any(raised):
        return effects
    if pps < SHARE * min(rate for rate in raised if rate):
        return effects
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
