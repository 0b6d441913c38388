# SPDX-License-Identifier: Apache-2.0
"""The core without a world, for rule tests: engines answer at once and always succeed."""

import json
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from hub.attacks.change import Sighting
from hub.attacks.model import Attack
from hub.attacks.tracker import Tracker
from hub.config import Config, traffic_engines
from hub.documents import Memory
from hub.effects import Effects
from hub.mitigations.engine import Capabilities
from hub.mitigations.executor import Order, Verb
from hub.mitigations.ledger import Ledger
from hub.mitigations.model import Mitigation, MitigationState
from hub.net import IPAddress
from hub.pipeline import answers
from hub.pipeline.escalating import next_escalation
from hub.pipeline.events import take_sighting, tick
from hub.pipeline.holding import measure
from hub.pipeline.state import State
from hub.rates import NONE, Rates
from hub.rules.able import FEATURES, KINDS, NATIVE
from hub.rules.actions import Action, Command, Notify
from hub.rules.ruleset import RuleSet
from hub.rules.testrun import Effect

_STEP = 1.0
_WEBHOOK = Capabilities(frozenset({"notify"}), leases=False, hides_traffic=False, lasting=False)
_COMMAND = Capabilities(frozenset({"notify", "command"}), leases=False, hides_traffic=False)


class CoreSimulator:
    """Implements `hub.rules.testrun.Simulator` on the real core."""

    def __init__(self, rules: RuleSet, config: Config) -> None:
        engines = {name: _traffic(name) for name in traffic_engines(config.engines)}
        engines |= dict.fromkeys(config.engines.webhook, _WEBHOOK)
        engines |= dict.fromkeys(config.engines.command, _COMMAND)
        tracker = Tracker(config.attacks)
        self._state = State(config, rules, engines, tracker, Ledger(), Memory())
        self._measured: dict[IPAddress | None, Rates] = {}
        self._now = 0.0

    def advance(self, now: float) -> Sequence[Effect]:
        """Let time pass up to `now`; what comes due on the way happens at its own time."""
        seen: list[Effect] = []
        while self._measured and self._now + _STEP <= now:
            seen += self._second(self._now + _STEP)
        self._now = now
        while (due := self._next_due()) is not None and due <= now:
            seen += self._carry_out(tick(self._state, due), due)
        return seen

    def feed(self, sighting: Sighting, now: float) -> Sequence[Effect]:
        """Take in one event."""
        return self._carry_out(take_sighting(self._state, sighting, now), now)

    def measure(self, rates: Rates, target: IPAddress | None, now: float) -> Sequence[Effect]:
        """Let the engine measure this from `now` on, of one attack or of each."""
        if not self._measured:
            self._state.engines = {
                name: replace(able, hides_traffic=name == NATIVE)
                for name, able in self._state.engines.items()
            }
        if target is None:
            self._measured.clear()
        self._measured[target] = rates
        return self._second(now)

    def _second(self, now: float) -> list[Effect]:
        self._now = now
        found: dict[str, Rates] = {}
        for attack in self._state.tracker:
            # One countermeasure stands for all on the attack, whose rates are added up.
            for number, row in enumerate(self._state.hiding(attack.id)):
                found[row.id] = NONE if number else self._rates_of(attack)
        effects = self._carry_out(measure(self._state, NATIVE, found, now), now)
        return effects + self._carry_out(tick(self._state, now), now)

    def _rates_of(self, attack: Attack) -> Rates:
        for target in attack.targets:
            one = self._measured.get(target.network_address)
            if one is not None:
                return one
        return self._measured.get(None, NONE)

    def _next_due(self) -> float | None:
        due = [row.deadline for row in self._state.ledger]
        due += self._state.memory.hold_offs.values()
        due += [
            one
            for one in (self._state.tracker.next_deadline(), next_escalation(self._state))
            if one is not None
        ]
        return min(due, default=None)

    def _carry_out(self, effects: Effects, now: float) -> list[Effect]:
        ordered = {order.mitigation.id for order in effects.orders}
        seen = [
            _of_row("off", row)
            for row in effects.mitigations.values()
            if row.state is MitigationState.RELEASED and row.id not in ordered
        ]
        for order in effects.orders:
            seen += self._obey(order, now)
        seen += [
            _of_refusal(json.loads(row.doc))
            for row in effects.audit
            if row.kind == "mitigation.refused"
        ]
        return seen

    def _obey(self, order: Order, now: float) -> list[Effect]:
        row = order.mitigation
        match order.verb:
            case Verb.PLAN:
                return [_of_row("would", row)]
            case Verb.APPLY:
                answers.applied(self._state, order, now)
                return [] if row.active_at is not None else [_of_row("on", row)]
            case Verb.RELEASE:
                answers.released(self._state, order, now)
                return [_of_row("off", row)]


def _traffic(name: str) -> Capabilities:
    """Return an engine that hides nothing: so it is until a test lets it measure."""
    return Capabilities(KINDS, leases=True, hides_traffic=False, features=FEATURES[name])


def _of_row(what: Any, row: Mitigation) -> Effect:
    return Effect(what, row.action.kind, row.target, row.rule, name=_name(row.action))


def _name(action: Action) -> str:
    if isinstance(action, Notify):
        return action.to
    return action.run if isinstance(action, Command) else ""


def _of_refusal(document: dict[str, Any]) -> Effect:
    action = document["action"]
    return Effect(
        "refused",
        action["kind"],
        ip_network(document["target"]),
        document["rule"],
        guard=document["outcome"],
        name=action.get("to", action.get("run", "")),
    )
