# SPDX-License-Identifier: Apache-2.0
"""Goes on to the further countermeasures of a rule when its first ones are not enough."""

from hub.attacks.model import Attack
from hub.effects import Effects
from hub.pipeline.deciding import Occasion, admit, propose
from hub.pipeline.state import Escalating, State
from hub.pipeline.words import audit
from hub.rules.conditions import Facts, facts_of
from hub.rules.explain import explain
from hub.rules.ruleset import Escalation
from hub.units import format_duration


def escalate_step(state: State, now: float, effects: Effects) -> None:
    """Take every step that is due by `now` on attacks that go on."""
    for attack_id, entries in tuple(state.escalating.items()):
        attack = state.tracker.get(attack_id)
        if attack is None:
            del state.escalating[attack_id]
        elif attack.goes_on:
            for entry in entries.values():
                _advance(state, attack, entry, now, effects)


def next_escalation(state: State) -> float | None:
    """Return when the next step may be due by its `after` alone, Unix seconds."""
    due = [
        attack.started_at + step.after
        for attack in state.tracker
        for entry in state.escalating.get(attack.id, {}).values()
        for number, step in enumerate(entry.chosen.escalate)
        if number not in entry.fired and not step.condition.parts
    ]
    return min(due, default=None)


def _advance(state: State, attack: Attack, entry: Escalating, now: float, effects: Effects) -> None:
    facts: Facts | None = None
    for number, step in enumerate(entry.chosen.escalate):
        if number in entry.fired or now - attack.started_at < step.after:
            continue
        if facts is None:
            facts = facts_of(attack, entry.service, state.measured(attack.id))
        if step.condition.compile()(facts):
            _take(state, attack, entry, number, facts, now=now, effects=effects)


def _take(
    state: State,
    attack: Attack,
    entry: Escalating,
    number: int,
    facts: Facts,
    *,
    now: float,
    effects: Effects,
) -> None:
    """Take a step; what a guard refuses of it is tried again, and that alone."""
    step, occasion = entry.chosen.escalate[number], Occasion(attack, None, "hub")
    wanted = [
        propose(state, attack, entry.chosen, action, target)
        for action in step.actions
        for target in entry.targets
    ]
    missing = [one for one in wanted if (number, one.key) not in entry.begun]
    for proposal in missing:
        admit(state, occasion, proposal, now, effects)
        if state.ledger.find(proposal) is not None:
            entry.begun.add((number, proposal.key))
    if any((number, one.key) not in entry.begun for one in missing):
        return
    entry.fired.add(number)
    why = _why(entry, number, step, facts)
    about = {"attack": attack.id, "delivery": attack.delivery}
    effects.log("info", "rule.escalated", **about, rule=entry.chosen.rule, why=why)
    audit(
        effects,
        now,
        "rule.escalated",
        why,
        attack=attack,
        details={"rule": entry.chosen.rule, "step": number, "if": explain(step.condition, facts)},
    )


def _why(entry: Escalating, number: int, step: Escalation, facts: Facts) -> str:
    words = [f"rule {entry.chosen.rule}, step {number + 1}"]
    if step.after:
        words.append(f"after {format_duration(step.after)}")
    words += [
        f"{clause['clause']} {clause['wanted']} (seen {clause['seen']})"
        for clause in explain(step.condition, facts)["clauses"]
    ]
    return "; ".join(words)
