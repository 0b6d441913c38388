# SPDX-License-Identifier: Apache-2.0
"""What becomes of an attack, said and written down."""

from typing import Any

from hub.attacks.change import Change, Outcome, Sighting
from hub.attacks.model import Attack
from hub.effects import Effects
from hub.pipeline.releasing import release
from hub.pipeline.state import State
from hub.pipeline.words import audit, marked


def note_change(
    state: State, change: Change, sighting: Sighting | None, now: float, effects: Effects
) -> None:
    """Say what happened to an attack; the end of one lets go of what it held."""
    attack = change.attack
    event = sighting.number if sighting else None
    if change.outcome is Outcome.REFUSED:
        effects.log(
            "error",
            "attack.refused",
            number=event,
            delivery=sighting.delivery if sighting else "",
            why=change.why,
            todo="raise attacks.max_active, or look for a detector that reports too much",
        )
    if attack is None or change.outcome in (Outcome.STALE, Outcome.NOTHING):
        return
    effects.attacks[attack.id] = attack
    if change.outcome is not Outcome.REFRESHED:
        what = f"attack.{change.outcome}"
        effects.log(
            "info",
            what,
            attack=attack.id,
            targets=[str(target) for target in attack.targets],
            direction=str(attack.direction),
            attack_type=str(attack.attack_type),
            protocol=attack.protocol,
            pps=attack.pps,
            episodes=attack.episodes,
            delivery=(sighting.delivery if sighting else "") or attack.delivery,
            why=change.why,
            **marked(attack.drill),
        )
        details = {"about": _about(attack), **({"origin": sighting.origin} if sighting else {})}
        audit(effects, now, what, change.why, attack=attack, event=event, details=details)
    if change.outcome is Outcome.ENDED:
        state.told.pop(attack.id, None)
        state.decided.pop(attack.id, None)
        state.waiting.pop(attack.id, None)
        state.seen.pop(attack.id, None)
        state.escalating.pop(attack.id, None)
        free, held = state.ledger.leave(attack.id)
        effects.mitigations |= {row.id: row for row in held}
        for row in free:
            release(state, row, f"attack ended: {attack.end_reason}", now, effects)


def _about(attack: Attack) -> dict[str, Any]:
    """Return what is attacked and how, for the audit record."""
    return {
        "targets": [str(target) for target in attack.targets],
        "hostgroup": attack.hostgroup,
        "direction": str(attack.direction),
        "attack_type": str(attack.attack_type),
        "protocol": attack.protocol,
        "pps": attack.pps,
        "bps": attack.bps,
    }
