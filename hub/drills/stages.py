# SPDX-License-Identifier: Apache-2.0
"""How far a drill has come, judged by what was written down of it."""

import json
from collections.abc import Sequence
from typing import Any, Final

from hub.drills.model import Arrival, Course, Drill, Stage
from hub.store.records import AuditRow, EventResult

_BEGUN: Final = ("mitigation.dry_run", "mitigation.applying")
_DONE: Final = ("mitigation.would_apply", "mitigation.active")
_TROUBLE: Final = ("mitigation.failed", "mitigation.apply_retry", "mitigation.plan_retry")
_OVER: Final = ("mitigation.released", "mitigation.failed")
_MESSAGES: Final = frozenset({"notify", "command"})


def stages(drill: Drill, course: Course) -> tuple[Stage, ...]:
    """Return every stage in its order; those that were not reached have no answer."""
    carried = (_applied, _in_kernel) if drill.enforce else (_planned,)
    parts = (_accepted, _understood, _decided, _guards, *carried, _unban, _released)
    return (_hook(course), *(part(drill, course) for part in parts))


def shortfall(found: Sequence[Stage]) -> str:
    """Return why these stages are no success: the first that is not good; empty if all are."""
    for stage in found:
        if stage.ok is None:
            return f"{stage.name}: {stage.said or 'not reached'}"
        if not stage.ok:
            return f"{stage.name}: {stage.said}"
    return ""


def _hook(course: Course) -> Stage:
    hook = course.hooks.get("ban")
    arrival = _first(course)
    at = None if arrival is None else arrival.started_at
    if hook is None:
        return Stage("hook", at=at)
    who = f"{hook.path} as {hook.user}"
    if hook.status != 0:
        ended = "did not run" if hook.status is None else f"ended with status {hook.status}"
        said = f"{who} {ended}: {hook.said}".rstrip(": ")
        return Stage("hook", ok=False, at=at, said=said, todo=_INSTALL)
    if hook.said:
        said = f"{who}: {hook.said}"
        todo = f"let {hook.user} do what it says is in the way, see docs/operations.md"
        return Stage("hook", ok=False, at=at, said=said, todo=todo)
    note = "" if hook.as_detector else ", which proves nothing of FastNetMon's own rights"
    return Stage("hook", ok=True, at=at, said=f"{who}, {hook.seconds * 1000:.0f} ms{note}")


_INSTALL: Final = "install the fnm-notify of this release, or name it with --notify"
_REACH: Final = (
    "let the user that the hook ran as reach intake.unix.path: its group, and "
    "intake.unix.allow_users; then restart FastNetMon, whose groups are those of its start"
)
_FROM_SPOOL: Final = (
    "it could not reach the socket, see what the hook said; "
    "check its group, and intake.unix.allow_users"
)


def _accepted(_drill: Drill, course: Course) -> Stage:
    number, arrival = _arrived(course, "ban")
    return _arrival_stage("accepted", number, arrival, course, "ban")


def _unban(_drill: Drill, course: Course) -> Stage:
    number, arrival = _arrived(course, "unban")
    stage = _arrival_stage("unban", number, arrival, course, "unban")
    result = course.results.get(number) if number is not None else None
    if stage.ok and result is not None and "ended: " not in result.note:
        return Stage("unban", ok=False, at=stage.at, said=result.note, todo=_SAME_DETECTOR)
    if stage.ok and result is None:
        return Stage("unban", said=stage.said)
    return stage


_SAME_DETECTOR: Final = "both calls must be of one detector: see `detector` in notify.conf"


def _arrival_stage(
    name: str, number: int | None, arrival: Arrival | None, course: Course, call: str
) -> Stage:
    if arrival is None:
        if call in course.hooks:
            return Stage(name, ok=False, said=f"its {call} has not come", todo=_REACH)
        return Stage(name)
    said = f"event {number} is durable, by {arrival.via}"
    if arrival.via == "spool":
        return Stage(name, ok=False, at=arrival.at, said=said, todo=_FROM_SPOOL)
    return Stage(name, ok=True, at=arrival.at, said=said)


def _understood(drill: Drill, course: Course) -> Stage:
    number, arrival = _arrived(course, "ban")
    result = None if number is None else course.results.get(number)
    if result is None or arrival is None:
        return Stage("understood")
    if result.status != "done":
        return Stage("understood", ok=False, at=arrival.at, said=result.note, todo=_INSTALL)
    if not drill.attack:
        return Stage("understood", ok=False, at=arrival.at, said=result.note)
    began = _of_kind(course, ("attack.began",))
    at = began[0].at if began else arrival.at
    said = f"{result.action} of {result.target}, attack {drill.attack}"
    return Stage("understood", ok=True, at=at, said=said)


def _decided(_drill: Drill, course: Course) -> Stage:
    found = _of_kind(course, ("decision",))
    if not found:
        return Stage("decided")
    last, document = found[-1], json.loads(found[-1].doc)
    matched = document["reason"].startswith("matched")
    asked = _of_kind(course, (*_BEGUN, "mitigation.refused"))
    if matched and asked:
        return Stage("decided", ok=True, at=last.at, said=document["reason"])
    said = "the rules that match ask for nothing" if matched else "no rule matched"
    trace = "; ".join(document["trace"])
    todo = "see what each rule looked at: fnm-hub attack ID; or drill another --kind or --pps"
    return Stage("decided", ok=False, at=last.at, said=f"{said} ({trace})", todo=todo)


def _guards(_drill: Drill, course: Course) -> Stage:
    refused = _of_kind(course, ("mitigation.refused",))
    if refused:
        first = json.loads(refused[0].doc)
        said = f"{first['outcome']}: {first['reason']}"
        todo = first.get("todo") or "drill another --target"
        return Stage("guards", ok=False, at=refused[0].at, said=said, todo=todo)
    begun = _of_kind(course, _BEGUN)
    if not begun:
        return Stage("guards")
    said = f"{len(_names(begun))} allowed"
    return Stage("guards", ok=True, at=begun[-1].at, said=said)


def _planned(_drill: Drill, course: Course) -> Stage:
    return _carried("planned", course, _DONE)


def _applied(_drill: Drill, course: Course) -> Stage:
    stage = _carried("applied", course, _DONE)
    if not stage.ok or any(_acts(row) for row in _of_kind(course, ("mitigation.active",))):
        return stage
    said = f"nothing was applied to traffic: {stage.said}"
    todo = "take dry_run off the rule, add --notify-too where it runs a program, or another --kind"
    return Stage("applied", ok=False, at=stage.at, said=said, todo=todo)


def _carried(name: str, course: Course, done: tuple[str, ...]) -> Stage:
    begun = {row.mitigation: row for row in _of_kind(course, _BEGUN)}
    if not begun:
        return Stage(name)
    good = {row.mitigation: row for row in _of_kind(course, done)}
    if begun.keys() <= good.keys():
        said = "; ".join(_words(row) for row in good.values())
        return Stage(name, ok=True, at=max(row.at for row in good.values()), said=said)
    failed = _of_kind(course, ("mitigation.failed",))
    trouble = [row for row in _of_kind(course, _TROUBLE) if row.mitigation not in good]
    if failed or trouble:
        row = failed[0] if failed else trouble[-1]
        said = f"{_what(row)}: {json.loads(row.doc)['reason']}"
        todo = "see the engine in: fnm-hub status"
        # What is tried again may still succeed.
        return Stage(name, ok=False if failed else None, at=row.at, said=said, todo=todo)
    return Stage(name)


def _in_kernel(_drill: Drill, course: Course) -> Stage:
    if course.there is None:
        todo = "see the engine in: fnm-hub status" if course.lacking else ""
        return Stage("kernel", said=course.lacking, todo=todo)
    return Stage("kernel", ok=True, at=course.there, said="shown by the engine's inventory")


def _released(drill: Drill, course: Course) -> Stage:
    begun = _names(_of_kind(course, _BEGUN))
    ended = _of_kind(course, ("attack.ended",))
    over = {row.mitigation: row for row in _of_kind(course, _OVER)}
    trouble = _of_kind(course, ("mitigation.release_retry",))
    if trouble and not begun <= over.keys():
        last = trouble[-1]
        said = f"{_what(last)}: {json.loads(last.doc)['reason']}"
        return Stage("released", at=last.at, said=said, todo=_TRIED_AGAIN)
    if not ended or not begun <= over.keys():
        return Stage("released")
    at = max(row.at for row in (*ended, *over.values()))
    if not drill.enforce:
        return Stage("released", ok=True, at=at, said="nothing of it is open")
    if course.gone is None:
        return Stage("released", said="the engine's inventory has not been seen without it")
    return Stage("released", ok=True, at=course.gone, said="gone from the engine's inventory")


_TRIED_AGAIN: Final = "it is tried again, and ends at its deadline; see: fnm-hub status"


def ready_to_look(drill: Drill, course: Course) -> set[str]:
    """Return the ids of what an engine should show now; empty before all of it is in force."""
    if not drill.enforce or not _applied(drill, course).ok:
        return set()
    return {row.mitigation for row in _of_kind(course, ("mitigation.active",)) if _acts(row)}


def is_released(course: Course) -> bool:
    """Tell whether everything has been taken back, as the ledger has it."""
    over = {row.mitigation for row in _of_kind(course, _OVER)}
    ended = _of_kind(course, ("attack.ended",))
    return bool(ended) and _names(_of_kind(course, _BEGUN)) <= over


def _first(course: Course) -> Arrival | None:
    return _arrived(course, "ban")[1]


def _arrived(course: Course, action: str) -> tuple[int | None, Arrival | None]:
    """Return the marked event of `action`; of a ban also what was not understood."""
    for number, arrival in course.arrivals.items():
        result = course.results.get(number, EventResult(number, "pending"))
        known = result.action or ("ban" if number == min(course.arrivals) else "unban")
        if known == action:
            return number, arrival
    return None, None


def _of_kind(course: Course, kinds: tuple[str, ...]) -> list[AuditRow]:
    return [row for row in course.notes if row.kind in kinds]


def _names(rows: Sequence[AuditRow]) -> set[str]:
    return {row.mitigation for row in rows}


def _acts(row: AuditRow) -> bool:
    action: dict[str, Any] = json.loads(row.doc)["action"]
    return action["kind"] not in _MESSAGES


def _what(row: AuditRow) -> str:
    document = json.loads(row.doc)
    return f"{document['action']['kind']} by {document['engine']}"


def _words(row: AuditRow) -> str:
    verb = "would be applied" if row.kind == "mitigation.would_apply" else "is in force"
    return f"{_what(row)} {verb}"
