# SPDX-License-Identifier: Apache-2.0
"""From an attack to mitigations: evaluate the rules, ask the guards, write the intents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hub.attacks.model import Attack
from hub.effects import Effects
from hub.guard.checks import Refusal, cap_usage
from hub.mitigations.executor import Order, Verb
from hub.mitigations.ledger import Proposal
from hub.mitigations.model import Mitigation, MitigationState
from hub.net import IPNetwork
from hub.pipeline.guarding import Asked, asked, asked_of_live, forbidden, refuse
from hub.pipeline.releasing import release
from hub.pipeline.state import Escalating, State
from hub.pipeline.words import audit, marked, rule_line, say
from hub.rules.actions import Action, Command, Notify
from hub.rules.ruleset import Chosen, Decision

_PASSING: Final = frozenset({"cap", "hold_off"})
"""Guards whose reason passes by itself: what they refuse is asked for again."""
_AGAIN_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a decision is about.

    Attributes:
        event: the event that asks for it, None when time or an operator does.
        actor: the detector, or who asks.
        unasked: the hub decides again by itself, after a start or when an engine works again.
        origin: where the event comes from, for the audit record.
    """

    attack: Attack
    event: int | None
    actor: str
    unasked: bool = False
    origin: Mapping[str, Any] | None = None

    @property
    def delivery(self) -> str:
        """Return the delivery that it goes back to."""
        return str(self.origin["delivery"]) if self.origin else self.attack.delivery

    @property
    def details(self) -> dict[str, Any]:
        """Return what every audit row about it holds."""
        return {"origin": dict(self.origin)} if self.origin else {}


def decide(state: State, occasion: Occasion, now: float, effects: Effects) -> None:
    """Evaluate the rules on the attack and begin, join or refuse what they ask for."""
    linger = 0.0
    rates = state.measured(occasion.attack.id)
    former = state.escalating.pop(occasion.attack.id, {})
    for service, targets in _by_service(state, occasion.attack).items():
        with state.evaluating():
            decision = state.rules.evaluate(occasion.attack, service, rates)
        linger = max([linger, *(chosen.linger for chosen in decision.chosen)])
        _note_decision(state, occasion, decision, service, now=now, effects=effects)
        for chosen in decision.chosen:
            entry = Escalating(chosen, service, tuple(targets))
            before = former.get((service, chosen.rule))
            if not occasion.attack.drill:
                _enlist(state, occasion.attack.id, entry, before)
            again = [chosen.escalate[number].actions for number in sorted(entry.fired)]
            for action in (one for actions in (chosen.actions, *again) for one in actions):
                for target in targets:
                    proposal = propose(state, occasion.attack, chosen, action, target)
                    admit(state, occasion, proposal, now, effects)
    if occasion.attack.drill:
        return  # it does not linger: what it put in force goes with its unban
    attack = state.tracker.set_linger(occasion.attack.id, linger)
    if attack is not None:
        effects.attacks[attack.id] = attack


def _enlist(state: State, attack_id: str, entry: Escalating, before: Escalating | None) -> None:
    """Remember what a rule may go on to; steps that were taken stay so while they are the same."""
    if before is not None and before.chosen.escalate == entry.chosen.escalate:
        entry.fired |= before.fired
        entry.begun |= before.begun
    if entry.chosen.escalate:
        entries = state.escalating.setdefault(attack_id, {})
        entries[entry.service, entry.chosen.rule] = entry


def decide_waiting(state: State, now: float, effects: Effects) -> None:
    """Ask again for what a full cap or a hold-off refused, oldest first, a few at a time."""
    for attack_id in tuple(state.waiting)[:_AGAIN_AT_ONCE]:
        del state.waiting[attack_id]
        attack = state.tracker.get(attack_id)
        if attack is not None and attack.goes_on:
            decide(state, Occasion(attack, None, "hub", unasked=True), now, effects)


def _note_decision(
    state: State,
    occasion: Occasion,
    decision: Decision,
    service: str | None,
    *,
    now: float,
    effects: Effects,
) -> None:
    """Keep the reasons, unless a repeated report led to the same decision for the same ones."""
    known = state.decided.setdefault(occasion.attack.id, {})
    outcome = (decision.version, tuple((each.rule.name, each.failed) for each in decision.looked))
    if known.get(service) == outcome:
        return
    known[service] = outcome
    if not occasion.attack.drill:
        effects.matched += [chosen.rule for chosen in decision.chosen] or ["none"]
    document = decision.to_json()
    rules = document.pop("trace")
    names = ", ".join(chosen.rule for chosen in decision.chosen)
    audit(
        effects,
        now,
        "decision",
        f"matched: {names}" if names else "no rule matched",
        attack=occasion.attack,
        event=occasion.event,
        actor=occasion.actor,
        trace=[rule_line(rule) for rule in rules],
        details={"service": service, "rules": rules, **document, **occasion.details},
    )


def _by_service(state: State, attack: Attack) -> dict[str | None, list[IPNetwork]]:
    groups: dict[str | None, list[IPNetwork]] = {}
    for target in attack.targets:
        service = state.config.service_of(target)
        groups.setdefault(service.name if service else None, []).append(target)
    return groups or {None: []}


def propose(
    state: State, attack: Attack, chosen: Chosen, action: Action, target: IPNetwork
) -> Proposal:
    """Return what a rule's countermeasure on a target asks for."""
    drill = state.drill_of(attack)
    ttl = chosen.ttl if chosen.ttl is not None else state.config.attacks.lifetime
    return Proposal(
        target=target,
        action=action,
        engine=_engine_for(state, action, chosen.engine),
        service=state.config.service_of(target),
        rule=chosen.rule,
        ttl=ttl if drill is None else min(ttl, drill.seconds),
        dry_run=chosen.dry_run or _is_planned_only(state, attack, action),
        named=chosen.engine is not None,
        drill=attack.drill,
    )


def _is_planned_only(state: State, attack: Attack, action: Action) -> bool:
    """Tell whether an action is only planned, rules aside.

    A drill acts on traffic where it may enforce, and speaks to others where it is asked to; a
    program may do either, so that it needs both.
    """
    if not attack.drill:
        return state.dry_run
    drill = state.drill_of(attack)
    if drill is None:
        return True
    if isinstance(action, Notify):
        return not drill.notify_too or (state.lasting(action.to) and not drill.enforce)
    return not drill.enforce or (isinstance(action, Command) and not drill.notify_too)


def _engine_for(state: State, action: Action, wanted: str | None) -> str:
    if isinstance(action, Notify):
        return action.to
    if isinstance(action, Command):
        return action.run
    if wanted is not None:
        return wanted
    return next((name for name, able in state.engines.items() if able.can(action)), "")


def _engines_looked_at(state: State, proposal: Proposal) -> list[dict[str, Any]]:
    """Return each engine that was considered: whether it was taken, and why (not)."""
    action, taken = proposal.action, proposal.engine
    if isinstance(action, Notify | Command) or proposal.named:
        return [{"engine": taken, "chosen": True, "why": "the rule names it"}]
    found: list[dict[str, Any]] = []
    for name, able in state.engines.items():
        if not able.lasting:
            continue
        why = able.why_not(action) or "the first that can"
        found.append({"engine": name, "chosen": name == taken, "why": why})
        if name == taken:
            break
    return found


def admit(
    state: State, occasion: Occasion, proposal: Proposal, now: float, effects: Effects
) -> None:
    """Begin, join or refuse what is asked for."""
    if occasion.unasked and occasion.attack.updated_at + proposal.ttl <= now:
        return  # no news for a whole lifetime: only a detector or an operator begins it again
    existing = state.ledger.find(proposal)
    planned = existing is not None and existing.state is MitigationState.DRY_RUN
    if existing is not None and proposal.dry_run and not planned:
        return  # what is in force runs out by itself; dry-run neither begins nor prolongs
    if existing is not None and planned and not proposal.dry_run:
        release(state, existing, "no longer dry-run", now, effects)
        existing = None
    ending = existing is not None and existing.state is MitigationState.RELEASING
    if existing is None or ending:
        refusal = refuse(state, proposal, now, again=ending)
    else:
        refusal = forbidden(state, existing)
    if refusal is not None:
        guards = _asked(state, proposal, existing, now)
        _note_refusal(state, occasion, proposal, refusal, guards, now=now, effects=effects)
    elif existing is not None:
        _join(state, existing, occasion, proposal, now=now, effects=effects)
    else:
        _begin(state, occasion, proposal, now, effects)


def _asked(
    state: State, proposal: Proposal, existing: Mitigation | None, now: float
) -> Callable[[], list[Asked]]:
    """Return what tells which guards were asked; most refusals are told once and not again."""
    if existing is None or existing.state is MitigationState.RELEASING:
        return lambda: asked(state, proposal, now, again=existing is not None)
    return lambda: asked_of_live(state, existing)


def _begin(
    state: State, occasion: Occasion, proposal: Proposal, now: float, effects: Effects
) -> None:
    state.made += 1
    salt = f"{occasion.event}/{state.made}"
    details = {**occasion.details, **_asked_first(state, proposal, asked(state, proposal, now))}
    delivery = occasion.delivery
    row = state.ledger.begin(proposal, occasion.attack.id, now, salt, delivery=delivery)
    effects.mitigations[row.id] = row
    effects.orders.append(Order(Verb.PLAN if proposal.dry_run else Verb.APPLY, row))
    what = "mitigation.dry_run" if proposal.dry_run else "mitigation.applying"
    why = f"rule {row.rule} of rule set {state.rules.version} asks for it"
    say(effects, "info", what, row, why)
    audit(
        effects,
        now,
        what,
        why,
        attack=occasion.attack,
        mitigation=row,
        event=occasion.event,
        actor=occasion.actor,
        details=details,
    )
    _warn_caps(state, row, effects)


def _asked_first(state: State, proposal: Proposal, guards: list[Asked]) -> dict[str, Any]:
    """Return what stood between the rule and the order: guards and engines, and the ttl."""
    return {
        "guards": guards,
        "engines": _engines_looked_at(state, proposal),
        "ttl": proposal.ttl,
        "service": proposal.service.name if proposal.service else None,
    }


def _join(
    state: State,
    row: Mitigation,
    occasion: Occasion,
    proposal: Proposal,
    *,
    now: float,
    effects: Effects,
) -> None:
    others = (one for one in row.attacks if state.tracker.get(one) is not None)
    holders = tuple(dict.fromkeys((*others, occasion.attack.id)))
    after = state.ledger.join(row, proposal, holders, now)
    if after is row:
        return
    effects.mitigations[after.id] = after
    if after.state is MitigationState.APPLYING:
        effects.orders.append(Order(Verb.APPLY, after))
    why = f"held by {len(after.attacks)} attack(s) until {after.deadline:.0f}"
    say(effects, "info", "mitigation.renewed", after, why)
    audit(
        effects,
        now,
        "mitigation.renewed",
        why,
        attack=occasion.attack,
        mitigation=after,
        event=occasion.event,
        actor=occasion.actor,
        details={**occasion.details, "guards": asked_of_live(state, after)},
    )


def _note_refusal(
    state: State,
    occasion: Occasion,
    proposal: Proposal,
    refusal: Refusal,
    guards: Callable[[], list[Asked]],
    *,
    now: float,
    effects: Effects,
) -> None:
    if refusal.guard in _PASSING and not proposal.drill:
        state.waiting[occasion.attack.id] = None
    told = state.told.setdefault(occasion.attack.id, set())
    mark = f"{refusal.guard} {proposal.key}"
    if mark in told:
        return
    told.add(mark)
    effects.log(
        "warning",
        "mitigation.refused",
        attack=occasion.attack.id,
        target=str(proposal.target),
        kind=proposal.action.kind,
        rule=proposal.rule,
        guard=refusal.guard,
        delivery=occasion.delivery,
        why=refusal.why,
        todo=refusal.todo,
        **marked(proposal.drill),
    )
    audit(
        effects,
        now,
        "mitigation.refused",
        f"{proposal.action.kind} on {proposal.target}: {refusal.why}",
        outcome=refusal.guard,
        attack=occasion.attack,
        event=occasion.event,
        actor=occasion.actor,
        details={
            "target": str(proposal.target),
            "action": proposal.action.model_dump(mode="json"),
            "rule": proposal.rule,
            "todo": refusal.todo,
            **occasion.details,
            **_asked_first(state, proposal, guards()),
        },
    )


def _warn_caps(state: State, row: Mitigation, effects: Effects) -> None:
    for usage in cap_usage(row.engine, row.rule, state.ledger.live(), state.config.guard):
        if not usage.near:
            state.near_caps.discard(usage.cap)
        elif usage.cap not in state.near_caps:
            state.near_caps.add(usage.cap)
            effects.log(
                "warning",
                "guard.cap_near",
                cap=usage.cap,
                used=usage.used,
                limit=usage.limit,
                todo="see what is live with: fnm-hub mitigations",
            )
