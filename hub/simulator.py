# SPDX-License-Identifier: Apache-2.0
"""The core without a world, for rule tests: engines answer at once and always succeed."""

import json
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

from hub.attacks.change import Sighting
from hub.attacks.tracker import Tracker
from hub.config import Config
from hub.documents import Memory
from hub.effects import Effects
from hub.mitigations.engine import Capabilities
from hub.mitigations.executor import Order, Verb
from hub.mitigations.ledger import Ledger
from hub.mitigations.model import Mitigation, MitigationState
from hub.pipeline import answers
from hub.pipeline.events import take_sighting, tick
from hub.pipeline.state import State
from hub.rules.actions import Action, Command, Notify
from hub.rules.ruleset import RuleSet
from hub.rules.testrun import Effect

_NFTABLES = Capabilities(frozenset({"tcp", "acl", "sorb"}), leases=True, hides_traffic=False)
_WEBHOOK = Capabilities(frozenset({"notify"}), leases=False, hides_traffic=False, lasting=False)
_COMMAND = Capabilities(frozenset({"notify", "command"}), leases=False, hides_traffic=False)


class CoreSimulator:
    """Implements `hub.rules.testrun.Simulator` on the real core."""

    def __init__(self, rules: RuleSet, config: Config) -> None:
        engines = {"nftables": _NFTABLES} if config.engines.nftables.enabled else {}
        engines |= dict.fromkeys(config.engines.webhook, _WEBHOOK)
        engines |= dict.fromkeys(config.engines.command, _COMMAND)
        tracker = Tracker(config.attacks)
        self._state = State(config, rules, engines, tracker, Ledger(), Memory())

    def advance(self, now: float) -> Sequence[Effect]:
        """Let time pass up to `now`; what comes due on the way happens at its own time."""
        seen: list[Effect] = []
        while (due := self._next_due()) is not None and due <= now:
            seen += self._carry_out(tick(self._state, due), due)
        return seen

    def feed(self, sighting: Sighting, now: float) -> Sequence[Effect]:
        """Take in one event."""
        return self._carry_out(take_sighting(self._state, sighting, now), now)

    def _next_due(self) -> float | None:
        due = [row.deadline for row in self._state.ledger]
        due += self._state.memory.hold_offs.values()
        ends = self._state.tracker.next_deadline()
        return min([*due, *([] if ends is None else [ends])], default=None)

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
