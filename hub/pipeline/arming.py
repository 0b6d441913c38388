# SPDX-License-Identifier: Apache-2.0
"""Leaving dry-run and going back to it: what has to be there first, and what follows."""

from dataclasses import replace
from typing import Final

from hub.config import UNTIL_ARMED
from hub.documents import Arming
from hub.drills.place import fingerprint
from hub.effects import Effects
from hub.errors import NotReadyError
from hub.mitigations.model import MitigationState
from hub.pipeline.operating import redecide
from hub.pipeline.releasing import release
from hub.pipeline.state import State
from hub.pipeline.words import audit
from hub.units import format_duration

FRESH: Final = 7 * 86400.0
"""Seconds for which a drill that passed speaks for the whole."""


def missing(state: State, now: float, *, place: str) -> list[str]:
    """Return what stands in the way of arming, each with the command that mends it.

    Args:
        state: the core.
        now: Unix seconds.
        place: file and line of `dry_run` in the configuration.
    """
    guard, found = state.config.guard, []
    if state.config.dry_run is True:
        found.append(
            f"{place}: dry_run: true always wins; write dry_run: {UNTIL_ARMED} there, "
            "then: fnm-hub reload"
        )
    if not guard.own_prefixes:
        found.append(
            "guard.own_prefixes is empty: list your address space there, then: fnm-hub reload"
        )
    if not guard.never_block:
        found.append(
            "guard.never_block is empty: list the gateway's own addresses, resolvers, management "
            "and BGP peers there, then: fnm-hub reload"
        )
    if lacking := drill_lacking(state, now):
        found.append(f"{lacking}: run fnm-hub drill")
    return found


def drill_lacking(state: State, now: float) -> str:
    """Return why no drill speaks for what is in force now; empty when one does."""
    passed = state.memory.passed
    if passed is None:
        return "no drill has passed yet"
    age = now - passed.ended_at
    if age > FRESH:
        shown = format_duration(float(round(age)))
        return f"the last drill that passed was {shown} ago, more than {format_duration(FRESH)}"
    if passed.rules != state.rules.version:
        return f"the last drill that passed, {passed.id}, was of other rules"
    if passed.config != fingerprint(state.config):
        return f"the last drill that passed, {passed.id}, was of another configuration"
    return ""


def arm(state: State, actor: str, reason: str, now: float, *, place: str) -> Effects:
    """Leave dry-run, and decide anew on every attack that goes on.

    Raises:
        NotReadyError: with everything that is missing.
    """
    found = missing(state, now, place=place)
    if found:
        raise NotReadyError("not armed: something is missing", problems=found)
    effects = Effects()
    passed = state.memory.passed
    arming = Arming(
        armed=True, since=now, actor=actor, reason=reason, drill=passed.id if passed else ""
    )
    state.remember(replace(state.memory, arming=arming), effects)
    effects.log(
        "warning",
        "switch.arm",
        actor=actor,
        reason=reason,
        drill=arming.drill,
        todo="fnm-hub disarm takes it back",
    )
    details = {"drill": arming.drill, "rules": state.rules.version}
    audit(effects, now, "switch.arm", reason, actor=actor, details=details)
    redecide(state, actor, now, effects)
    return effects


def disarm(state: State, actor: str, reason: str, now: float, *, let_go: bool = False) -> Effects:
    """Go back to dry-run: nothing begins and nothing is prolonged; with `let_go` all goes now."""
    effects = Effects()
    arming = Arming(armed=False, since=now, actor=actor, reason=reason)
    state.remember(replace(state.memory, arming=arming), effects)
    effects.log(
        "warning",
        "switch.disarm",
        actor=actor,
        reason=reason,
        released=let_go,
        todo="fnm-hub arm when it is over",
    )
    audit(effects, now, "switch.disarm", reason, actor=actor, details={"released": let_go})
    for row in state.ledger:
        pending = row.state is MitigationState.APPLYING and row.active_at is None
        in_force = let_go and row.state is not MitigationState.DRY_RUN
        if not row.drill and (pending or in_force):
            release(state, row, f"disarmed by {actor}", now, effects, actor=actor)
    return effects
