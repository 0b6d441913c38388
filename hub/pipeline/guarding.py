# SPDX-License-Identifier: Apache-2.0
"""Which guard forbids a proposal, asked in the order in which an operator would."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from hub.config import Guard as Policy
from hub.guard.checks import (
    TARGET_GUARDS,
    Refusal,
    cap_usage,
    check_caps,
    check_target,
)
from hub.mitigations.ledger import Proposal
from hub.mitigations.model import Mitigation
from hub.net import IPNetwork
from hub.pipeline.state import State

Asked = dict[str, Any]
"""One guard that was asked: `{guard, passed, why, todo}`."""


class _Guard(NamedTuple):
    """One guard.

    Attributes:
        refuse: says why not, or nothing.
        passed: says in words why it lets the proposal pass.
    """

    name: str
    refuse: Callable[[State, Proposal, float], Refusal | None]
    passed: Callable[[State, Proposal], str]


def refuse(state: State, proposal: Proposal, now: float, *, again: bool = False) -> Refusal | None:
    """Return why nothing new may begin for `proposal`; a mere message is never refused.

    With `again` the mitigation is there and on its way out: the caps count it already.
    """
    for guard in _guards(state, proposal, again=again):
        if (refusal := guard.refuse(state, proposal, now)) is not None:
            return refusal
    return None


def asked(state: State, proposal: Proposal, now: float, *, again: bool = False) -> list[Asked]:
    """Return every guard that `refuse` asks, with its answer; one that refuses is the last."""
    found: list[Asked] = []
    for guard in _guards(state, proposal, again=again):
        refusal = guard.refuse(state, proposal, now)
        if refusal is not None:
            return [*found, _refused(refusal)]
        found.append(_passed(guard.name, guard.passed(state, proposal)))
    return found


def asked_of_live(state: State, row: Mitigation) -> list[Asked]:
    """Return the guards that `forbidden` asks, with their answers."""
    return target_guards(row.target, state.config.guard) if state.lasting(row.engine) else []


def target_guards(target: IPNetwork, policy: Policy) -> list[Asked]:
    """Return what each guard on the target alone says; all of them, also behind a refusal."""
    answers = ((guard, guard.check(target, policy)) for guard in TARGET_GUARDS)
    return [
        _passed(guard.name, guard.words(target, policy)) if refusal is None else _refused(refusal)
        for guard, refusal in answers
    ]


def forbidden(state: State, row: Mitigation) -> Refusal | None:
    """Return why `row` must not be in force now; asked again just before it is applied."""
    return check_target(row.target, state.config.guard) if state.lasting(row.engine) else None


def _guards(state: State, proposal: Proposal, *, again: bool) -> tuple[_Guard, ...]:
    if proposal.engine not in state.engines or not state.lasting(proposal.engine):
        return _GUARDS[:1]
    return _GUARDS[:-1] if again else _GUARDS


def _no_engine(state: State, proposal: Proposal, _now: float) -> Refusal | None:
    if proposal.engine in state.engines:
        return None
    return Refusal(
        "no_engine",
        f"no engine carries out {proposal.action.kind}",
        "configure one under engines, or take the action out of the rule",
    )


def _braked(state: State, _proposal: Proposal, _now: float) -> Refusal | None:
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


def _too_long(state: State, proposal: Proposal, _now: float) -> Refusal | None:
    limit = state.config.guard.max_ttl
    if proposal.ttl <= limit:
        return None
    why = f"its ttl of {proposal.ttl:.0f} s is above guard.max_ttl ({limit:.0f} s)"
    return Refusal("ttl", why, "shorten the rule's ttl")


def _capped(state: State, proposal: Proposal, _now: float) -> Refusal | None:
    return check_caps(proposal.engine, proposal.rule, state.ledger.live(), state.config.guard)


def _cap_words(state: State, proposal: Proposal) -> str:
    usages = cap_usage(proposal.engine, proposal.rule, state.ledger.live(), state.config.guard)
    return "; ".join(f"{one.cap}: {one.used} of {one.limit} are live" for one in usages)


def _ttl_words(state: State, proposal: Proposal) -> str:
    limit = state.config.guard.max_ttl
    return f"its ttl of {proposal.ttl:.0f} s is within guard.max_ttl ({limit:.0f} s)"


def _of_target(number: int) -> _Guard:
    """Return a guard on the target alone as one on a proposal."""
    guard = TARGET_GUARDS[number]
    return _Guard(
        guard.name,
        lambda state, proposal, _now: guard.check(proposal.target, state.config.guard),
        lambda state, proposal: guard.words(proposal.target, state.config.guard),
    )


_GUARDS: Final = (
    _Guard(
        "no_engine",
        _no_engine,
        lambda _state, proposal: f"engine {proposal.engine} is there for {proposal.action.kind}",
    ),
    _Guard("freeze", _braked, lambda _state, _proposal: "neither freeze nor drain is on"),
    _Guard(
        "hold_off", _held_off, lambda _state, _proposal: "no operator has released the same lately"
    ),
    *map(_of_target, range(len(TARGET_GUARDS))),
    _Guard("ttl", _too_long, _ttl_words),
    _Guard("cap", _capped, _cap_words),
)
"""In the order in which they are asked; the first is the only one for a mere message."""


def _passed(guard: str, why: str) -> Asked:
    return {"guard": guard, "passed": True, "why": why, "todo": ""}


def _refused(refusal: Refusal) -> Asked:
    return {"guard": refusal.guard, "passed": False, "why": refusal.why, "todo": refusal.todo}
