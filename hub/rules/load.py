# SPDX-License-Identifier: Apache-2.0
"""Reads rule files: every mistake in all of them at once, each with its place."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.errors import ConfigError, Problem
from hub.intake.model import Direction
from hub.rules.able import FEATURES, NATIVE, needs, too_much_for_native
from hub.rules.actions import Acl, Command, Sorb, Tcp
from hub.rules.conditions import AllOf, OneOf, condition_of, engine_clauses
from hub.rules.cover import Covering, implies, never_holds
from hub.rules.language import CARRIED, LASTING, EscalationSpec, RuleSpec
from hub.rules.ruleset import Escalation, Rule, RuleSet
from hub.rules.words import Known, known_of
from hub.units import format_duration
from hub.yamlerrors import nearest, validate
from hub.yamlfile import scan
from hub.yamlnode import Document, Loc

__all__ = ["Known", "Loaded", "known_of", "load_rules", "read_rules"]

_DOMESTIC = OneOf(
    "direction",
    "direction",
    frozenset({Direction.INCOMING.value, Direction.UNKNOWN.value}),
    (Direction.INCOMING.value, Direction.UNKNOWN.value),
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A rule set and what the operator should know about it although it works."""

    rules: RuleSet
    warnings: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Read:
    """One rule with its place."""

    rule: Rule
    document: Document
    index: int

    def problem(self, what: str, todo: str, *below: str) -> Problem:
        return self.document.problem(("rules", self.index, *below), what, todo)


def load_rules(paths: Sequence[Path], known: Known) -> RuleSet:
    """Return the rules of all files, in the order of `paths` and of the lines.

    Raises:
        ConfigError: with every mistake in every file.
    """
    return read_rules(paths, known).rules


def read_rules(paths: Sequence[Path], known: Known) -> Loaded:
    """Return the rules of all files together with warnings.

    Raises:
        ConfigError: with every mistake in every file.
    """
    documents = [scan(path) for path in paths]
    read: list[_Read] = []
    problems: list[Problem] = []
    names: dict[str, tuple[str, int]] = {}
    for document in documents:
        problems.extend(document.problems)
        if document.root is not None:
            problems.extend(_read_document(document, known, names, read))
    problems.extend(_unreachable(read))
    if problems:
        raise ConfigError(_in_order(problems, documents))
    warnings = _in_order(_warnings(read, documents), documents)
    return Loaded(RuleSet(each.rule for each in read), tuple(warnings))


def _in_order(problems: Sequence[Problem], documents: Sequence[Document]) -> list[Problem]:
    order = {document.file: number for number, document in enumerate(documents)}
    return sorted(problems, key=lambda each: (order[each.file], each.line, each.column))


def _read_document(
    document: Document, known: Known, names: dict[str, tuple[str, int]], read: list[_Read]
) -> list[Problem]:
    data = document.data
    if not isinstance(data, dict):
        return [document.problem((), "expected a mapping", "write rules: and the rules below it")]
    problems = [
        document.problem((key,), "unknown field", "only rules: may stand here", at_key=True)
        for key in data
        if key != "rules"
    ]
    if "rules" not in data:
        return [*problems, document.problem((), "'rules' is missing", "write rules: []")]
    if not isinstance(data["rules"], tuple):
        if document.locate(("rules",)).sound:
            what, todo = "expected a list of rules", "begin each rule with - name: ..."
            problems.append(document.problem(("rules",), what, todo))
        return problems
    for index, raw in enumerate(data["rules"]):
        problems.extend(_raw_problems(document, index, raw, known, names))
        spec, mistakes = validate(document, RuleSpec, ("rules", index), known)
        problems.extend(mistakes)
        if spec is not None:
            problems.extend(_unable(document, ("rules", index), spec, known))
            problems.extend(_too_much(document, ("rules", index), spec, known))
            read.append(_Read(_rule(spec, document, index), document, index))
    return problems


def _raw_problems(
    document: Document,
    index: int,
    raw: Any,
    known: Known,
    names: dict[str, tuple[str, int]],
) -> list[Problem]:
    """Return mistakes that concern several fields; found also where one of them has its own."""
    if not isinstance(raw, dict):
        return []
    problems: list[Problem] = []
    loc = ("rules", index)
    name = raw.get("name")
    if isinstance(name, str):
        if name in names:
            file, line = names[name]
            what = f"{name!r} is already the name of the rule at {file}:{line}"
            problems.append(document.problem((*loc, "name"), what, "give each rule its own name"))
        else:
            names[name] = (document.file, document.locate(loc).node.line)
    for place, then in _lists(raw):
        kinds = _kinds(then)
        lasting = sorted(LASTING & set(kinds))
        if lasting and "ttl" not in raw and document.locate((*loc, *place)).sound:
            what = f"'ttl' is missing; {lasting[0]} must not outlive a known time"
            problems.append(document.problem(loc, what, _ttl_hint(raw)))
        for kind in sorted(CARRIED & set(kinds)):
            if kinds.count(kind) > 1:
                todo = "merge them into one" if kind == "acl" else "keep one"
                problems.append(document.problem((*loc, *place), f"{kind} stands twice", todo))
            if not known.engines:
                what = f"no enabled engine carries out {kind}"
                todo = "set engines.native.enabled or engines.nftables.enabled: true"
                problems.append(document.problem((*loc, *place), what, todo))
    return problems


def _lists(raw: dict[str, Any]) -> list[tuple[Loc, Any]]:
    """Return every list of countermeasures in a rule with its place, whatever else is wrong."""
    lists: list[tuple[Loc, Any]] = [(("then",), raw.get("then"))]
    more = raw.get("escalate")
    for number, one in enumerate(more if isinstance(more, tuple) else ()):
        if isinstance(one, dict):
            lists.append((("escalate", number, "then"), one.get("then")))
    return lists


def _unable(document: Document, loc: Loc, spec: RuleSpec, known: Known) -> list[Problem]:
    """Return what no engine can do that the rule may use."""
    engines = {spec.engine} if spec.engine else known.engines
    able = [FEATURES.get(engine, frozenset[str]()) for engine in engines]
    problems: list[Problem] = []
    for steps, place in spec.steps():
        for number, step in enumerate(steps):
            for feature in needs(step.action):
                if able and not any(feature in one for one in able):
                    kind, name = feature.split(".", 1)
                    at = "mode" if kind == "tcp" else name
                    who = f"engine {spec.engine}" if spec.engine else "no enabled engine"
                    can = "cannot do it" if spec.engine else "can do it"
                    what = f"{kind} {name}: {who} {can}"
                    others = [one for one, does in FEATURES.items() if feature in does]
                    todo = f"use engine {' or '.join(others)}, or take it out"
                    where = (*loc, *place, number, kind, at)
                    problems.append(document.problem(where, what, todo))
    return problems


def _too_much(document: Document, loc: Loc, spec: RuleSpec, known: Known) -> list[Problem]:
    """Return what the native engine would refuse in the middle of an attack."""
    if (spec.engine or NATIVE) != NATIVE or NATIVE not in known.engines:
        return []
    todo = "take less, split it, or name engine: nftables"
    return [
        document.problem((*loc, *place, number, *where), what, todo)
        for steps, place in spec.steps()
        for number, step in enumerate(steps)
        for where, what in too_much_for_native(step.action)
    ]


def _ttl_hint(raw: dict[str, Any]) -> str:
    typo = next((key for key in raw if nearest(key, ["ttl"])), None)
    return f"is {typo!r} meant?" if typo else "add e.g. ttl: 15m"


def _kinds(then: Any) -> list[str]:
    """Return the names of countermeasures in `then`, whatever else is wrong with it."""
    kinds: list[str] = []
    for step in then if isinstance(then, tuple) else ():
        if isinstance(step, str):
            kinds.append(step)
        elif isinstance(step, dict):
            kinds.extend(step)
    return kinds


def _rule(spec: RuleSpec, document: Document, index: int) -> Rule:
    return Rule(
        name=spec.name,
        condition=condition_of(spec.when),
        actions=spec.actions,
        ttl=spec.ttl,
        linger=spec.linger,
        engine=spec.engine,
        dry_run=spec.dry_run,
        passes_on=spec.continue_,
        escalate=tuple(map(_escalation, spec.escalate)),
        file=document.file,
        line=document.locate(("rules", index)).node.line,
    )


def _escalation(spec: EscalationSpec) -> Escalation:
    clauses = engine_clauses(spec.if_.engine) if spec.if_ else []
    return Escalation(spec.after or 0.0, AllOf(tuple(clauses)), spec.actions)


def _unreachable(read: Sequence[_Read]) -> list[Problem]:
    problems: list[Problem] = []
    deciding: Covering[Rule] = Covering()
    for each in read:
        rule = each.rule
        if never_holds(rule.condition):
            what = f"{rule.name!r} can never match: its clauses contradict each other"
            problems.append(each.problem(what, "correct them", "when"))
            continue
        earlier = deciding.find(rule.condition)
        if earlier is not None:
            problems.append(each.problem(*_never_reached(rule, earlier), "when"))
        elif not rule.passes_on:
            deciding.add(rule.condition, rule)
    return problems


def _never_reached(rule: Rule, earlier: Rule) -> tuple[str, str]:
    what = (
        f"{rule.name!r} is never reached: {earlier.name!r} ({earlier.file}:{earlier.line}) "
        "comes first and matches all that it matches"
    )
    return what, f"move it up, narrow {earlier.name!r}, or give {earlier.name!r} continue: true"


def _warnings(read: Sequence[_Read], documents: Sequence[Document]) -> list[Problem]:
    warnings = [
        document.problem((), "has no rules; no attack is ever answered", "add one")
        for document in documents
        if not any(each.document is document for each in read)
    ]
    for each in read:
        rule = each.rule
        every = [*rule.actions, *(a for one in rule.escalate for a in one.actions)]
        touching = [a for a in every if isinstance(a, Tcp | Acl | Sorb | Command)]
        if touching and not implies(rule.condition, _DOMESTIC):
            what = f"{rule.name!r} also acts on outgoing attacks, which may cut off a customer"
            warnings.append(each.problem(what, "add direction: [incoming, unknown]", "when"))
        if rule.ttl is not None and not touching:
            what = f"{rule.name!r} starts nothing that lasts; its ttl has no effect"
            warnings.append(each.problem(what, "remove it", "ttl"))
        if rule.ttl is not None and rule.linger > rule.ttl:
            what = f"its linger is longer than its ttl, {format_duration(rule.ttl)}, which wins"
            warnings.append(each.problem(what, "shorten linger or raise ttl", "linger"))
    return warnings
