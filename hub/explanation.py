# SPDX-License-Identifier: Apache-2.0
"""What was decided and done, and why, put together from audit rows alone (docs/protocols.md)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from hub.store.records import AuditRow

View = dict[str, Any]

_STATES: Final = {
    "mitigation.applying": "applying",
    "mitigation.dry_run": "dry_run",
    "mitigation.active": "active",
    "mitigation.releasing": "releasing",
    "mitigation.released": "released",
    "mitigation.failed": "failed",
    "mitigation.given_up": "failed",
}
"""Of rows that a release wrote which did not yet note the state."""
_BEGINNINGS: Final = frozenset({"mitigation.applying", "mitigation.dry_run"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One audit row with its document; the same change of several attacks' mitigation is one.

    Attributes:
        attacks: ids of the attacks it concerns.
    """

    row: AuditRow
    doc: Mapping[str, Any]
    attacks: tuple[str, ...]


def entries(rows: Iterable[AuditRow]) -> list[Entry]:
    """Return `rows` in their order, each once however many attacks it is kept for."""
    found: dict[tuple[Any, ...], list[AuditRow]] = {}
    for row in sorted(rows, key=lambda one: one.seq):
        own = row.attack if not row.mitigation else ""
        found.setdefault((row.at, row.kind, row.mitigation, own, row.doc), []).append(row)
    return [
        Entry(same[0], json.loads(same[0].doc), tuple(dict.fromkeys(_attacks(same))))
        for same in found.values()
    ]


def _attacks(rows: Sequence[AuditRow]) -> list[str]:
    return [row.attack for row in rows if row.attack]


def decision_view(entry: Entry) -> View:
    """Return one decision with every rule that was looked at.

    `failed` is the first clause that did not hold, with what was seen and what was wanted.
    `not_asked` names the rules behind the one that decided; None where a row does not tell.
    """
    doc = entry.doc
    return {
        "seq": entry.row.seq,
        "time": entry.row.at,
        "event": entry.row.event,
        "attack": entry.row.attack or None,
        "actor": entry.row.actor,
        "reason": doc.get("reason", ""),
        "rules_version": doc.get("rules_version", ""),
        "service": doc.get("service"),
        "matched": [one["rule"] for one in doc.get("chosen", ())],
        "rules": [_rule_view(one) for one in doc.get("rules", ())],
        "not_asked": doc.get("not_asked"),
        "not_looked_at": doc.get("not_looked_at", 0),
        "origin": doc.get("origin"),
    }


def _rule_view(rule: Mapping[str, Any]) -> View:
    clauses = list(rule.get("clauses", ()))
    failed = next((one for one in clauses if not one["held"]), None)
    return {
        "rule": rule["rule"],
        "place": rule.get("place", ""),
        "matched": rule["matched"],
        "failed": failed and {key: failed[key] for key in ("clause", "wanted", "seen")},
        "clauses": clauses,
    }


def refusal_view(entry: Entry) -> View:
    """Return what a guard refused; `guards` and `engines` are None where a row does not tell."""
    doc = entry.doc
    return {
        "seq": entry.row.seq,
        "time": entry.row.at,
        "event": entry.row.event,
        "attack": entry.row.attack or None,
        "target": doc.get("target", ""),
        "action": doc.get("action", {}),
        "rule": doc.get("rule", ""),
        "guard": doc.get("outcome", ""),
        "why": doc.get("reason", ""),
        "todo": doc.get("todo", ""),
        "guards": doc.get("guards"),
        "engines": doc.get("engines"),
    }


def history_view(entry: Entry) -> View:
    """Return one step in a few words."""
    return {
        "seq": entry.row.seq,
        "time": entry.row.at,
        "what": entry.row.kind,
        "actor": entry.row.actor,
        "event": entry.row.event,
        "attacks": list(entry.attacks),
        "mitigation": entry.row.mitigation or None,
        "outcome": entry.doc.get("outcome", ""),
        "reason": entry.doc.get("reason", ""),
    }


def mitigation_views(found: Sequence[Entry]) -> list[View]:
    """Return each mitigation that the rows tell of, in the order in which they began."""
    by_id: dict[str, list[Entry]] = {}
    for entry in found:
        if entry.row.mitigation:
            by_id.setdefault(entry.row.mitigation, []).append(entry)
    return [_mitigation_view(name, its) for name, its in by_id.items()]


def _mitigation_view(name: str, its: Sequence[Entry]) -> View:
    first, begun = its[0].doc, _first(its, _BEGINNINGS)
    doc: Mapping[str, Any] = begun.doc if begun else {}
    modes = [
        {"time": one.row.at, "mode": one.doc["mode"], "down": list(one.doc.get("down", ()))}
        for one in its
        if one.doc.get("mode")
    ]
    return {
        "id": name,
        "target": first.get("target", ""),
        "action": first.get("action", {}),
        "engine": first.get("engine", ""),
        "rule": first.get("rule", ""),
        "attacks": list(dict.fromkeys(attack for one in its for attack in one.attacks)),
        "state": _state(its),
        "deadline": _newest(its, "deadline"),
        "begun_by": None if begun is None else begun.row.event,
        "why": doc.get("reason", ""),
        "guards": doc.get("guards"),
        "engines": doc.get("engines"),
        "mode": modes[-1]["mode"] if modes else "",
        "down": modes[-1]["down"] if modes else _told_before(its),
        "modes": modes,
        "plan": [step for one in its for step in _steps(one)],
        "troubles": [history_view(one) for one in its if one.doc.get("outcome") == "error"],
        **_times(its, begun),
        "history": [history_view(one) for one in its],
    }


def _times(its: Sequence[Entry], begun: Entry | None) -> View:
    """Return when each step of the way was done, and how long each took, both in seconds.

    `stamp` is by the detector's clock, so that the way from it to here may be off by what the
    two clocks differ.
    """
    doc: Mapping[str, Any] = begun.doc if begun else {}
    origin = doc.get("origin") or {}
    active = _first(its, {"mitigation.active"})
    released = _first(its, {"mitigation.released"})
    decided = begun.row.at if begun else None
    ordered = active.doc.get("ordered_at") if active else None
    times = {
        "stamp": origin.get("stamp"),
        "received": origin.get("received_at"),
        "decided": decided,
        "ordered": ordered,
        "active": active.row.at if active else None,
        "releasing": _at(_first(its, {"mitigation.releasing"})),
        "released": _at(released),
    }
    steps = ("stamp", "received", "decided", "ordered", "active")
    took = {
        f"{before}_to_{after}": _span(times[before], times[after])
        for before, after in pairwise(steps)
    }
    engine = active.doc.get("engine_seconds") if active else None
    whole = _span(times["received"], times["active"])
    seconds = {**took, "received_to_active": whole, "engine": engine}
    return {
        "origin": dict(origin) or None,
        "times": times,
        "seconds": seconds,
        "tries": active.doc.get("tries") if active else None,
    }


def _at(entry: Entry | None) -> float | None:
    return None if entry is None else entry.row.at


def _span(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else round(after - before, 6)


def _first(its: Sequence[Entry], kinds: Iterable[str]) -> Entry | None:
    return next((one for one in its if one.row.kind in kinds), None)


def _newest(its: Sequence[Entry], key: str) -> Any:
    return next((one.doc[key] for one in reversed(its) if key in one.doc), None)


def _state(its: Sequence[Entry]) -> str:
    for one in reversed(its):
        if state := one.doc.get("state") or _STATES.get(one.row.kind):
            return str(state)
    return ""


def _told_before(its: Sequence[Entry]) -> list[str]:
    """Return why nothing better was taken, from rows that have it in one text."""
    active = _first(its, {"mitigation.active"})
    reason = active.doc.get("reason", "") if active else ""
    return [reason] if reason else []


def _steps(entry: Entry) -> list[str]:
    wanted = entry.row.kind == "mitigation.would_apply"
    return list(entry.doc.get("trace", ())) if wanted else []


def told(found: Sequence[Entry]) -> View:
    """Return decisions, refusals, mitigations and the whole history of `found`."""
    return {
        "decisions": [decision_view(one) for one in found if one.row.kind == "decision"],
        "refused": [refusal_view(one) for one in found if one.row.kind == "mitigation.refused"],
        "mitigations": mitigation_views(found),
        "history": [history_view(one) for one in found],
    }


def of_event(whole: View, number: int) -> View:
    """Return what of an attack's explanation concerns one event.

    An event that only repeats what was reported leads to no decision of its own: then the one
    that stood at that time is told, and `repeated` names the event behind it.
    """
    own = [one for one in whole["decisions"] if one["event"] == number]
    standing = [one for one in whole["decisions"] if (one["event"] or 0) <= number]
    touched = {one["mitigation"] for one in whole["history"] if one["event"] == number}
    refused = [one for one in whole["refused"] if one["event"] == number]
    mitigations = [one for one in whole["mitigations"] if one["id"] in touched]
    repeated = not own and bool(standing)
    if repeated:
        mitigations = mitigations or whole["mitigations"]
        refused = refused or whole["refused"]
    return {
        "decisions": own or standing[-1:],
        "refused": refused,
        "mitigations": mitigations,
        "history": [one for one in whole["history"] if one["event"] == number],
        "repeated": repeated,
    }


def of_mitigation(whole: View, name: str) -> View:
    """Return what of its attacks' explanation concerns one mitigation."""
    ours = [one for one in whole["mitigations"] if one["id"] == name]
    rules = {one["rule"] for one in ours}
    begun_at = [one["times"]["decided"] for one in ours if one["times"]["decided"] is not None]
    before = [
        one
        for one in whole["decisions"]
        if rules & set(one["matched"]) and (not begun_at or one["time"] <= begun_at[0])
    ]
    return {
        "decisions": before[-1:],
        "refused": [],
        "mitigations": ours,
        "history": [one for one in whole["history"] if one["mitigation"] == name],
    }
