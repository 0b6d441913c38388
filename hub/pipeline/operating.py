# SPDX-License-Identifier: Apache-2.0
"""What operators do: release, freeze, drain, reload."""

from collections.abc import Iterable
from dataclasses import replace

from hub.config import Config
from hub.documents import Switch
from hub.effects import Effects
from hub.errors import RefusedError
from hub.mitigations.ledger import key_of
from hub.mitigations.model import Mitigation, MitigationState
from hub.pipeline.deciding import Occasion, decide
from hub.pipeline.guarding import forbidden
from hub.pipeline.releasing import release
from hub.pipeline.state import State
from hub.pipeline.words import audit, say
from hub.rules.ruleset import RuleSet

_DRAIN_PER_STEP = 100


def release_one(state: State, mitigation_id: str, actor: str, reason: str, now: float) -> Effects:
    """Release one mitigation by hand and hold it off for `guard.hold_off`.

    One whose release does not succeed is given up: the operator has seen to it.

    Raises:
        RefusedError: none of this id is in force.
    """
    effects = Effects()
    row = state.ledger.get(mitigation_id)
    if row is not None and row.state is MitigationState.RELEASING and row.error:
        return _give_up(state, row, actor, reason, now)
    if row is None or row.state is MitigationState.RELEASING:
        raise RefusedError(
            f"no mitigation {mitigation_id} is in force",
            todo="list what is there with: fnm-hub mitigations",
        )
    offs = {**state.memory.hold_offs, key_of(row): now + state.config.guard.hold_off}
    state.remember(replace(state.memory, hold_offs=offs), effects)
    why = f"released by {actor}: {reason or 'no reason given'}"
    release(state, row, why, now, effects, actor=actor)
    return effects


def freeze(state: State, actor: str, reason: str, now: float) -> Effects:
    """Let nothing new begin."""
    effects = Effects()
    state.remember(replace(state.memory, frozen=Switch(now, actor, reason)), effects)
    _note_switch(effects, "freeze", actor, reason, now)
    return effects


def unfreeze(state: State, actor: str, reason: str, now: float) -> Effects:
    """Take freeze and drain off again, and decide anew on every attack that goes on."""
    effects = Effects()
    state.remember(replace(state.memory, frozen=None, draining=None), effects)
    _note_switch(effects, "unfreeze", actor, reason, now)
    redecide(state, actor, now, effects)
    return effects


def drain(state: State, actor: str, reason: str, now: float) -> Effects:
    """Release everything, oldest first, and let nothing new begin until `unfreeze`."""
    effects = Effects()
    brake = Switch(now, actor, reason)
    state.remember(replace(state.memory, frozen=brake, draining=brake), effects)
    _note_switch(effects, "drain", actor, reason, now)
    drain_step(state, now, effects)
    return effects


def drain_step(state: State, now: float, effects: Effects) -> None:
    """Release the next few while a drain is on, and end it when nothing is left."""
    brake = state.memory.draining
    if brake is None:
        return
    waiting = [row for row in state.ledger if row.state is not MitigationState.RELEASING]
    for row in waiting[:_DRAIN_PER_STEP]:
        release(state, row, f"drain by {brake.actor}", now, effects, actor=brake.actor)
    if not len(state.ledger):
        state.remember(replace(state.memory, draining=None), effects)
        effects.log("warning", "switch.drained", actor=brake.actor, todo="then: fnm-hub unfreeze")


def adopt(state: State, config: Config, rules: RuleSet, actor: str, now: float) -> Effects:
    """Swap configuration and rules; what the new guards forbid is withdrawn."""
    effects = Effects()
    state.config, state.rules = config, rules
    state.tracker.limits = config.attacks
    state.told.clear()
    withdraw_forbidden(state, now, effects, actor)
    audit(effects, now, "rules.reloaded", f"rule set {rules.version}", actor=actor)
    effects.log("info", "rules.reloaded", version=rules.version, actor=actor)
    return effects


def withdraw_forbidden(state: State, now: float, effects: Effects, actor: str = "hub") -> None:
    """Release what a guard forbids by now."""
    for row in state.ledger:
        refusal = forbidden(state, row)
        if refusal is not None:
            release(state, row, f"{refusal.guard}: {refusal.why}", now, effects, actor=actor)


def redecide(
    state: State, actor: str, now: float, effects: Effects, *, unasked: bool = False
) -> None:
    """Decide anew on every attack that goes on; see `Occasion` for `unasked`."""
    state.told.clear()
    for attack in state.tracker:
        if attack.goes_on:
            decide(state, Occasion(attack, None, actor, unasked), now, effects)


def keep_orphans(state: State, ids: Iterable[str]) -> Effects:
    """Leave alone what is in force and not in the ledger, until it ends by itself."""
    effects = Effects()
    state.remember(replace(state.memory, orphans=tuple(sorted(ids))), effects)
    return effects


def forget_hold_offs(state: State, now: float, effects: Effects) -> None:
    """Drop hold-offs that are over."""
    live = {key: end for key, end in state.memory.hold_offs.items() if end > now}
    if live != state.memory.hold_offs:
        state.remember(replace(state.memory, hold_offs=live), effects)


def _give_up(state: State, row: Mitigation, actor: str, reason: str, now: float) -> Effects:
    effects = Effects()
    why = f"given up by {actor}: {reason or 'no reason given'}; last error: {row.error}"
    over = state.ledger.close(row.id, why, now)
    if over is not None:
        effects.mitigations[over.id] = over
        say(
            effects,
            "warning",
            "mitigation.given_up",
            over,
            why,
            todo="take back by hand what it had put in force, if anything is left",
        )
        audit(effects, now, "mitigation.given_up", why, mitigation=over, actor=actor)
    return effects


def _note_switch(effects: Effects, name: str, actor: str, reason: str, now: float) -> None:
    effects.log(
        "warning",
        f"switch.{name}",
        actor=actor,
        reason=reason,
        todo="fnm-hub unfreeze ends a freeze or a drain",
    )
    audit(effects, now, f"switch.{name}", reason, actor=actor)
