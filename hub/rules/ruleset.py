# SPDX-License-Identifier: Apache-2.0
"""A loaded set of rules and what it decides about one attack. Pure and deterministic."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hub.attacks.model import Attack
from hub.rates import NONE, Rates
from hub.rules.actions import Action
from hub.rules.conditions import AllOf, Facts, Test, facts_of
from hub.rules.explain import describe, explain

_MATCHED = -1


@dataclass(frozen=True, slots=True)
class Escalation:
    """More countermeasures of a rule.

    Attributes:
        after: seconds since the attack began, 0 for at once.
        condition: what must hold then; without parts it always does.
    """

    after: float
    condition: AllOf
    actions: tuple[Action, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what it says."""
        return {
            "after": self.after,
            "if": describe(self.condition),
            "actions": [action.model_dump(mode="json") for action in self.actions],
        }


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, checked and ready.

    Attributes:
        name: unique in the set.
        condition: when it matches.
        actions: what it asks for, in this order; empty means: decide to do nothing.
        ttl: longest life of what it starts, seconds; None where nothing lasts.
        linger: how long protection stays after the attack's end, seconds.
        engine: engine to use, None for the first that can.
        dry_run: plan and log, apply nothing.
        passes_on: later rules are looked at as well.
        escalate: more countermeasures, when these are not enough.
        file: where it stands.
        line: where it stands.
    """

    name: str
    condition: AllOf
    actions: tuple[Action, ...]
    ttl: float | None
    linger: float
    engine: str | None = None
    dry_run: bool = False
    passes_on: bool = False
    escalate: tuple[Escalation, ...] = ()
    file: str = ""
    line: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return what the rule says; not where it stands."""
        return {
            "name": self.name,
            "when": describe(self.condition),
            "actions": [action.model_dump(mode="json") for action in self.actions],
            "ttl": self.ttl,
            "linger": self.linger,
            "engine": self.engine,
            "dry_run": self.dry_run,
            "continue": self.passes_on,
            "escalate": [each.to_json() for each in self.escalate],
        }


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one matching rule asks for; the fields are the rule's."""

    rule: str
    actions: tuple[Action, ...]
    ttl: float | None
    linger: float
    engine: str | None
    dry_run: bool
    escalate: tuple[Escalation, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "rule": self.rule,
            "actions": [action.model_dump(mode="json") for action in self.actions],
            "ttl": self.ttl,
            "linger": self.linger,
            "engine": self.engine,
            "dry_run": self.dry_run,
            "escalate": [each.to_json() for each in self.escalate],
        }


@dataclass(frozen=True, slots=True)
class Looked:
    """One rule that was looked at.

    Attributes:
        failed: index of the first top-level clause that failed, -1 where the rule matched.
    """

    rule: Rule
    failed: int

    @property
    def matched(self) -> bool:
        """Tell whether every clause held."""
        return self.failed == _MATCHED


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rules say about one attack, and why.

    Attributes:
        version: version of the rule set.
        attack: id of the attack.
        chosen: what to do, in order; empty where no rule matched.
        facts: what the conditions looked at.
        looked: rules in the order looked at; those after the last were never asked.
        names: of all rules in the set, in order.
    """

    version: str
    attack: str
    chosen: tuple[Chosen, ...]
    facts: Facts = field(repr=False)
    looked: tuple[Looked, ...] = field(repr=False)
    names: tuple[str, ...] = field(default=(), repr=False)

    def to_json(self, *, full: bool = False) -> dict[str, Any]:
        """Return the decision with its trace; rendered only here, from the same facts.

        Args:
            full: also show the clauses behind the first one that failed.
        """
        return {
            "rules_version": self.version,
            "attack": self.attack,
            "chosen": [each.to_json() for each in self.chosen],
            "trace": [_trace(each, self.facts, full=full) for each in self.looked],
            "not_looked_at": len(self.names) - len(self.looked),
            "not_asked": list(self.names[len(self.looked) :]),
        }


class RuleSet:
    """Rules in order: the first that matches decides, unless it passes on.

    Args:
        rules: with unique names.
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.rules = tuple(rules)
        self._names = tuple(rule.name for rule in self.rules)
        content = json.dumps([rule.to_json() for rule in self.rules], sort_keys=True)
        self.version = hashlib.sha256(content.encode()).hexdigest()[:12]
        self._compiled: tuple[tuple[Rule, tuple[Test, ...], tuple[Looked, ...]], ...] = tuple(
            (
                rule,
                tuple(part.compile() for part in rule.condition.parts),
                tuple(Looked(rule, index) for index in range(_MATCHED, len(rule.condition.parts))),
            )
            for rule in self.rules
        )

    def evaluate(self, attack: Attack, service: str | None, rates: Rates = NONE) -> Decision:
        """Return what to do about `attack`.

        Args:
            attack: the attack.
            service: name of the one that covers its target.
            rates: what engines measure of its countermeasures now.
        """
        facts = facts_of(attack, service, rates)
        looked: list[Looked] = []
        chosen: list[Chosen] = []
        for rule, tests, outcomes in self._compiled:
            failed = _MATCHED
            for index, test in enumerate(tests):
                if not test(facts):
                    failed = index
                    break
            looked.append(outcomes[failed + 1])
            if failed == _MATCHED:
                chosen.append(_chosen(rule))
                if not rule.passes_on:
                    break
        return Decision(
            version=self.version,
            attack=attack.id,
            chosen=tuple(chosen),
            facts=facts,
            looked=tuple(looked),
            names=self._names,
        )


def _chosen(rule: Rule) -> Chosen:
    return Chosen(
        rule.name,
        rule.actions,
        rule.ttl,
        rule.linger,
        rule.engine,
        rule.dry_run,
        rule.escalate,
    )


def _trace(looked: Looked, facts: Facts, *, full: bool) -> dict[str, Any]:
    rule = looked.rule
    why = explain(rule.condition, facts, full=full)
    clauses = why["clauses"] or [
        {"clause": "always", "wanted": "any attack", "seen": "an attack", "held": True}
    ]
    return {
        "rule": rule.name,
        "place": f"{rule.file}:{rule.line}" if rule.file else "",
        "matched": looked.matched,
        "clauses": clauses,
    }
