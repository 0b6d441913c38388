# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub explain`: why something was done, or nothing was."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hub.cli.details import heading
from hub.cli.lists import action_word, attack_target, show_attacks, show_events, show_mitigations
from hub.cli.text import STATE_STYLES, Screen, clean, clock, join, target

_NOT_KEPT: Final = "not kept by the release that decided it"
_TIMES: Final = (
    ("stamp", "reported", "stamp_to_received"),
    ("received", "received", "received_to_decided"),
    ("decided", "decided", "decided_to_ordered"),
    ("ordered", "ordered", "ordered_to_active"),
    ("active", "in force", ""),
    ("releasing", "taken back", ""),
    ("released", "gone", ""),
)


def show_explanation(screen: Screen, found: dict[str, Any]) -> None:
    """Print the answer of `/v1/explain/{thing}`."""
    if found["kind"] == "address":
        _show_address(screen, found)
        return
    screen.text(f"{found['kind']} {clean(found['thing'])}", "bold")
    for attack in found["attacks"]:
        _attack(screen, attack)
    _event(screen, found)
    for decision in found["decisions"]:
        heading(screen, "decision")
        if found.get("repeated"):
            screen.text("the event repeats what was reported; this decision stood", indent=2)
        _decision(screen, decision)
    if not found["decisions"]:
        heading(screen, "decision")
        screen.text("none was made", indent=2)
    for refused in found["refused"]:
        heading(screen, "refused")
        _refused(screen, refused)
    for mitigation in found["mitigations"]:
        heading(screen, f"mitigation {clean(mitigation['id'])}")
        _mitigation(screen, mitigation)
    heading(screen, "what happened")
    _history(screen, found["history"])


def _attack(screen: Screen, attack: Mapping[str, Any]) -> None:
    state = clean(attack.get("state") or "unknown")
    kind = [clean(attack.get(key) or "") for key in ("attack_type", "protocol", "direction")]
    where = attack_target({"hostgroup": None, **attack})
    shown = join((f"{clean(attack['id'])}", state, where, ", ".join(filter(None, kind))))
    screen.field("attack", shown, STATE_STYLES.get(state, ""))


def _event(screen: Screen, found: Mapping[str, Any]) -> None:
    event, origin = found.get("event"), found.get("origin")
    if origin:
        screen.field("detector", clean(origin["detector"]))
        screen.field("delivery", clean(origin["delivery"]))
    if event:
        said = f"{clean(event['action'] or '?')} {target(event['target'] or '-')}"
        screen.field("said", join((said, f"via {clean(event['via'])}", clean(event["status"]))))
        screen.field("reported", _time(event["stamp"]))
        screen.field("received", _time(event["received_at"]))
        if event.get("note"):
            screen.field("became", clean(event["note"]))


def _decision(screen: Screen, decision: Mapping[str, Any]) -> None:
    by = f"event {decision['event']}" if decision["event"] is not None else "time or an operator"
    asked = join((_time(decision["time"]), f"asked for by {by}", clean(decision["actor"])))
    screen.text(asked, indent=2)
    version = clean(decision["rules_version"] or "?")
    service = clean(decision["service"] or "none")
    screen.text(f"rule set {version}, service {service}: {clean(decision['reason'])}", indent=2)
    for rule in decision["rules"]:
        _rule(screen, rule)
    names = decision["not_asked"]
    if names:
        screen.text(f"not asked any more: {', '.join(map(clean, names))}", "dim", indent=4)
    elif names is None and decision["not_looked_at"]:
        screen.text(f"not asked any more: {decision['not_looked_at']} rules", "dim", indent=4)


def _rule(screen: Screen, rule: Mapping[str, Any]) -> None:
    place = f" ({clean(rule['place'])})" if rule["place"] else ""
    if rule["matched"]:
        screen.text(f"+ {clean(rule['rule'])} matched{place}", "green", indent=4)
        for clause in rule["clauses"]:
            screen.text(_clause(clause), "dim", indent=8)
        return
    screen.text(f"- {clean(rule['rule'])} did not match{place}", indent=4)
    if rule["failed"]:
        screen.text(_clause(rule["failed"]), indent=8)


def _clause(clause: Mapping[str, Any]) -> str:
    wanted, seen = _value(clause["wanted"]), _value(clause["seen"])
    return f"{clean(clause['clause'])}: wanted {wanted}, seen {seen}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(clean(one) for one in value) or "none"
    return "none" if value is None else clean(value)


def _refused(screen: Screen, refused: Mapping[str, Any]) -> None:
    what = f"{action_word(refused['action'])} on {target(refused['target'])}"
    screen.text(join((_time(refused["time"]), what, f"rule {clean(refused['rule'])}")), indent=2)
    screen.text(f"by guard {clean(refused['guard'])}: {clean(refused['why'])}", "alarm", indent=2)
    if refused["todo"]:
        screen.text(clean(refused["todo"]), indent=2)
    _guards(screen, refused["guards"])
    _engines(screen, refused["engines"])


def _guards(screen: Screen, guards: Sequence[Mapping[str, Any]] | None) -> None:
    if guards is None:
        screen.field("guards", _NOT_KEPT, "dim")
        return
    screen.field("guards", "in the order in which they were asked")
    for one in guards:
        word, style = ("passed", "") if one["passed"] else ("REFUSED", "alarm")
        screen.field(f"  {word}", f"{clean(one['guard'])}: {clean(one['why'])}", style)
        if one.get("todo"):
            screen.field("", clean(one["todo"]))


def _engines(screen: Screen, engines: Sequence[Mapping[str, Any]] | None) -> None:
    if engines is None:
        screen.field("engines", _NOT_KEPT, "dim")
        return
    for one in engines:
        word = "taken" if one["chosen"] else "not taken"
        screen.field("engine", f"{clean(one['engine'])} {word}: {clean(one['why'])}")


def _mitigation(screen: Screen, row: Mapping[str, Any]) -> None:
    state = clean(row["state"]).replace("_", "-")
    what = f"{action_word(row['action'])} on {target(row['target'])}"
    head = join((state, what, f"by {clean(row['engine'])}", f"rule {clean(row['rule'])}"))
    screen.text(head, STATE_STYLES.get(clean(row["state"]), ""), indent=2)
    if row["why"]:
        screen.field("why", clean(row["why"]))
    if row.get("origin"):
        screen.field("delivery", clean(row["origin"]["delivery"]))
    _guards(screen, row["guards"])
    _engines(screen, row["engines"])
    _ways(screen, row)
    _went(screen, row)


def _ways(screen: Screen, row: Mapping[str, Any]) -> None:
    """Print how it was carried out, and what went wrong with that."""
    for one in row["modes"][:-1]:
        screen.field("mode", f"{clean(one['mode'])} from {_time(one['time'])}")
    if row["mode"]:
        screen.field("mode", clean(row["mode"]))
    for one in row["down"]:
        screen.field("stepped down", clean(one), "yellow", at=16)
    for one in row["plan"]:
        screen.field("would", clean(one), "dim")
    for one in row["troubles"]:
        said = f"{clean(one['what'])} at {_time(one['time'])}: {clean(one['reason'])}"
        screen.field("trouble", said, "alarm")


def _went(screen: Screen, row: Mapping[str, Any]) -> None:
    """Print when each step was done, and how long it took to the next."""
    for key, word, gap in _TIMES:
        if row["times"].get(key) is not None:
            took = row["seconds"].get(gap) if gap else None
            then = "" if took is None else f"then {_took(took)}"
            screen.field(word, join((_time(row["times"][key]), then)))
    whole = row["seconds"].get("received_to_active")
    if whole is not None:
        engine = row["seconds"].get("engine")
        of_it = "" if engine is None else f", of it {_took(engine)} the engine's own"
        screen.field("in all", f"{_took(whole)} from received to in force{of_it}")


def _time(stamp: float | None) -> str:
    """Return local time with milliseconds."""
    if stamp is None:
        return "-"
    return f"{clock(stamp)}.{int(stamp * 1000) % 1000:03d}"


def _took(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if abs(seconds) < 1 else f"{seconds:.3f} s"


def _history(screen: Screen, history: Sequence[Mapping[str, Any]]) -> None:
    if not history:
        screen.text("nothing", indent=2)
    for one in history:
        about = clean(one["mitigation"] or "")
        screen.text(join((_time(one["time"]), clean(one["what"]), about, clean(one["actor"]))))
        if one["reason"]:
            screen.text(clean(one["reason"]), "dim", indent=14)


# ---- an address -------------------------------------------------------------------------------


def _show_address(screen: Screen, found: dict[str, Any]) -> None:
    screen.text(f"address {target(found['thing'])}", "bold")
    screen.field("service", clean(found["service"] or "none"))
    heading(screen, "in force now")
    show_mitigations(screen, {"now": found["now"], "items": found["in_force"]})
    heading(screen, "why not more")
    for one in found["reasons"]:
        screen.text(f"{clean(one['what']).replace('_', ' ')}: {clean(one['why'])}", indent=2)
        if one["todo"]:
            screen.text(clean(one["todo"]), "dim", indent=4)
    if not found["reasons"]:
        screen.text("nothing stands in the way", indent=2)
    heading(screen, "guards on it now")
    _guards(screen, found["guards"])
    heading(screen, f"rules of set {clean(found['rules_version'])}")
    for rule in found["rules"]:
        _prospect(screen, rule)
    heading(screen, "attacks lately")
    show_attacks(screen, {"now": found["now"], "items": found["attacks"]})
    for one in found["lately"]:
        _lately(screen, one)
    heading(screen, "events lately")
    show_events(screen, {"now": found["now"], "items": found["events"]})


def _prospect(screen: Screen, rule: Mapping[str, Any]) -> None:
    name = clean(rule["rule"]) + (" (dry-run)" if rule["dry_run"] else "")
    if rule["ruled_out"]:
        screen.text(f"- {name} cannot match: {_clause(rule['ruled_out'])}", "dim", indent=2)
    elif not rule["reached"]:
        screen.text(f"- {name} is never reached: a rule above takes everything", "dim", indent=2)
    else:
        needs = "; ".join(map(clean, rule["needs"])) or "any attack"
        screen.text(f"+ {name} matches when: {needs}", indent=2)


def _lately(screen: Screen, one: Mapping[str, Any]) -> None:
    decision = one["decision"]
    screen.line()
    said = "no decision is on record" if decision is None else clean(decision["reason"])
    screen.text(f"{clean(one['attack'])}: {said}", "bold")
    if decision is not None and not decision["matched"]:
        for rule in decision["rules"]:
            _rule(screen, rule)
    for refused in one["refused"]:
        _refused(screen, refused)
