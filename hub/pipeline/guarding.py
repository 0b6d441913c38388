# SPDX-License-Identifier: Apache-2.0
"""Which guard forbids a proposal, asked in the order in which an operator would."""

from hub.guard.checks import Refusal, check_caps, check_target
from hub.mitigations.ledger import Proposal
from hub.mitigations.model import Mitigation
from hub.pipeline.state import State


def refuse(state: State, proposal: Proposal, now: float, *, again: bool = False) -> Refusal | None:
    """Return why nothing new may begin for `proposal`; a mere message is never refused.

    With `again` the mitigation is there and on its way out: the caps count it already.
    """
    if proposal.engine not in state.engines:
        return Refusal(
            "no_engine",
            f"no engine carries out {proposal.action.kind}",
            "configure one under engines, or take the action out of the rule",
        )
    if not state.lasting(proposal.engine):
        return None
    caps = check_caps(proposal.engine, proposal.rule, state.ledger.live(), state.config.guard)
    return (
        _braked(state)
        or _held_off(state, proposal, now)
        or check_target(proposal.target, state.config.guard)
        or _too_long(state, proposal)
        or (None if again else caps)
    )


def forbidden(state: State, row: Mitigation) -> Refusal | None:
    """Return why `row` must not be in force now; asked again just before it is applied."""
    return check_target(row.target, state.config.guard) if state.lasting(row.engine) else None


def _braked(state: State) -> Refusal | None:
    brake = state.memory.draining or state.memory.frozen
    if brake is None:
        return None
    name = "drain" if state.memory.draining else "freeze"
    why = f"{brake.actor} put the {name} on: {brake.reason or 'no reason given'}"
    return Refusal("freeze", why, "take it off with: fnm-hub unfreeze")


def _held_off(state: State, proposal: Proposal, now: float) -> Refusal | None:
    until = state.memory.hold_offs.get(proposal.key)
    if until is None or until <= now:
        return None
    why = f"an operator released it; held off for another {until - now:.0f} s"
    return Refusal("hold_off", why, "wait, or lower guard.hold_off")


def _too_long(state: State, proposal: Proposal) -> Refusal | None:
    limit = state.config.guard.max_ttl
    if proposal.ttl <= limit:
        return None
    why = f"its ttl of {proposal.ttl:.0f} s is above guard.max_ttl ({limit:.0f} s)"
    return Refusal("ttl", why, "shorten the rule's ttl")
