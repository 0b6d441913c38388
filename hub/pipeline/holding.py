# SPDX-License-Identifier: Apache-2.0
"""Ends an attack that its countermeasures hide from the detector by what the engine measures.

XDP drops in front of FastNetMon's capture: it goes blind while we protect, and reports an end that
is none. Believed, the flood would be seen again, met again, and so on. So the detector's word does
not end such an attack; a few seconds without hostile traffic do. While nothing can be measured it
is held for a time that grows when the attack comes back.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from hub.attacks.model import Attack, AttackState
from hub.attacks.tracker import HELD, UNMEASURED
from hub.config import Hold
from hub.effects import Effects
from hub.pipeline.renewing import renew_if_loud
from hub.pipeline.state import Seen, State
from hub.pipeline.words import audit
from hub.rates import Rates

AGAIN: Final = 2.0
"""What was quiet is loud again only from so many times the rate at which it became quiet."""
FRESH: Final = 3.0
"""Seconds for which a measurement counts."""


def measure(state: State, engine: str, rates: Mapping[str, Rates] | None, now: float) -> Effects:
    """Take in what an engine measures.

    Args:
        state: the core.
        engine: its name.
        rates: by mitigation; None when it could not be asked.
        now: Unix seconds.
    """
    effects = Effects()
    if rates is None:
        state.rates.pop(engine, None)
        return effects
    state.rates[engine] = rates
    rows = (state.ledger.get(one) for one in rates)
    mine = [(row, rates[row.id]) for row in rows if row is not None and row.engine == engine]
    hostile: Counter[str] = Counter()
    for row, one in mine:
        for attack_id in row.attacks:
            hostile[attack_id] += one.hostile_pps
    for attack_id, pps in hostile.items():
        attack = state.tracker.get(attack_id)
        if attack is not None and not attack.drill:
            _see(state, attack, pps, now, effects)
    for row, one in mine:
        effects.add(renew_if_loud(state, row, one.hostile_pps, now))
    return effects


def hold_step(state: State, now: float, effects: Effects) -> None:
    """Let time pass for attacks that are held."""
    for attack in state.tracker:
        if not attack.held:
            continue
        seen = state.seen.setdefault(attack.id, Seen(now, now))
        if not state.hiding(attack.id):
            _linger(state, attack, "nothing that hides it is in force any more", now, effects)
        elif attack.held == HELD and now - seen.known_at > FRESH:
            _hold_blindly(state, attack, now, effects)


def least_hostile(attack: Attack, hold: Hold) -> float:
    """Return from how many hostile packets per second on an attack counts as going on."""
    return min(hold.share * attack.pps, hold.floor) if attack.pps else hold.floor


def _see(state: State, attack: Attack, pps: int, now: float, effects: Effects) -> None:
    limits = state.config.attacks.hold
    seen = state.seen.setdefault(attack.id, Seen(now, now))
    if now - seen.known_at > FRESH:
        seen.loud_at = now  # what was not measured was not quiet
    seen.known_at, seen.hostile = now, pps
    least = least_hostile(attack, limits)
    loud = pps >= least * (AGAIN if seen.quiet else 1.0)
    if loud:
        if seen.quiet:
            why = f"its engine meets {pps} hostile packets/s again"
            _note(attack, "attack.loud", why, now, effects)
        seen.loud_at, seen.quiet = now, False
    elif not seen.quiet and now - seen.loud_at >= limits.quiet:
        seen.quiet = True
        why = f"below {least:.0f} hostile packets/s for {now - seen.loud_at:.0f} s"
        _note(attack, "attack.quiet", why, now, effects)
        if attack.held:
            _linger(state, attack, why, now, effects)
        return
    if loud or attack.held == UNMEASURED:
        _hold(state, attack, f"its engine meets {pps} hostile packets/s", now, effects)


def _hold(state: State, attack: Attack, why: str, now: float, effects: Effects) -> None:
    if attack.state is not AttackState.ENDING or attack.held == HELD:
        return
    until = attack.updated_at + state.config.attacks.lifetime
    after = state.tracker.hold_on(attack.id, HELD, until)
    if after is not None:
        effects.attacks[after.id] = after
        _note(after, "attack.held", f"{HELD}: {why}", now, effects)


def _hold_blindly(state: State, attack: Attack, now: float, effects: Effects) -> None:
    limits = state.config.attacks
    grown = max(attack.linger, limits.hold.unmeasured) * limits.hold_growth ** min(
        attack.episodes - 1, 64
    )
    until = now + min(grown, max(limits.max_hold, attack.linger))
    after = state.tracker.hold_on(attack.id, UNMEASURED, min(until, attack.ends_at))
    if after is not None:
        effects.attacks[after.id] = after
        why = f"{UNMEASURED}: {after.ends_at - now:.0f} s, or until its deadline"
        _note(after, "attack.held", why, now, effects)


def _linger(state: State, attack: Attack, why: str, now: float, effects: Effects) -> None:
    after = state.tracker.let_linger(attack.id, now)
    if after is not None:
        effects.attacks[after.id] = after
        text = f"{why}; protection lingers {after.ends_at - now:.1f} s"
        _note(after, "attack.ending", text, now, effects)


def _note(attack: Attack, what: str, why: str, now: float, effects: Effects) -> None:
    effects.attacks[attack.id] = attack
    effects.log(
        "info",
        what,
        attack=attack.id,
        targets=[str(target) for target in attack.targets],
        state=str(attack.state),
        delivery=attack.delivery,
        why=why,
    )
    audit(effects, now, what, why, attack=attack)
