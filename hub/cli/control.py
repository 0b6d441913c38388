# SPDX-License-Identifier: Apache-2.0
"""The commands that change something: release, freeze, unfreeze, drain, reload."""

import sys
from typing import Any, Final
from urllib.parse import quote

from hub.cli.client import ApiError, Client
from hub.cli.details import show_mitigation
from hub.cli.text import Screen, clean, moment

_DONE: Final = {
    "freeze": "frozen: nothing new starts, what is in force stays; undo with: fnm-hub unfreeze",
    "unfreeze": "not frozen any more: countermeasures start again",
    "drain": "draining: everything is released, nothing new starts; undo with: fnm-hub unfreeze",
}
_DONE_DRY: Final = {
    "freeze": "frozen: nothing new is planned (dry-run); undo with: fnm-hub unfreeze",
    "unfreeze": "not frozen any more: countermeasures are planned again (dry-run: none is applied)",
    "drain": "draining: every plan ends, nothing new is planned (dry-run); "
    "undo with: fnm-hub unfreeze",
}


def release(client: Client, mitigation_id: str, reason: str) -> dict[str, Any]:
    """End one mitigation; return it.

    Raises:
        ApiError: refused, with ids that look alike when there is none of that id.
    """
    path = f"/v1/mitigations/{quote(mitigation_id, safe='')}/release"
    try:
        return client.post(path, {"reason": reason})
    except ApiError as error:
        raise with_near_ids(client, error, "mitigations", mitigation_id) from error


def change(client: Client, what: str, reason: str) -> dict[str, Any]:
    """Carry out `freeze`, `unfreeze`, `drain` or `reload`; return the answer."""
    return client.post(f"/v1/{what}", {"reason": reason} if reason else {})


def show_change(screen: Screen, what: str, answer: dict[str, Any]) -> None:
    """Say what `release` or `reload` has done."""
    if what == "release":
        show_mitigation(screen, answer, float(answer.get("now", 0.0)))
        return
    screen.text("rules reloaded")
    version, before = (clean(answer.get(key) or "?")[:12] for key in ("version", "before"))
    screen.text(f"{answer.get('count', '?')} rules, version {version}, before {before}")
    screen.text(f"{answer.get('tests', 0)} rule tests passed")
    for change in ("added", "removed", "changed", "warnings"):
        for text in answer.get(change) or ():
            screen.text(f"{change.removesuffix('s')}: {clean(text)}")


def show_switch(screen: Screen, what: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Say what `freeze`, `unfreeze` or `drain` has done.

    Args:
        screen: where to.
        what: the command.
        before: the state of the whole before it.
        after: the same after it.
    """
    dry_run = after["dry_run"]
    if what == "unfreeze" and not before["frozen"] and not before["draining"]:
        screen.text("it was not frozen: there was nothing to undo")
    else:
        screen.text((_DONE_DRY if dry_run else _DONE)[what])
    counts = dict(after["counts"]["mitigations"])
    planned = counts.pop("dry_run", 0)
    real = sum(counts.values())
    if real or not dry_run:
        screen.text(f"countermeasures in force or on their way: {real}")
    if planned or dry_run:
        screen.text(f"planned in dry-run, not in force: {planned}")


def show_armed(screen: Screen, answer: dict[str, Any]) -> None:
    """Say what `arm` has done."""
    screen.text("armed: countermeasures are applied; undo with: fnm-hub disarm", "green")
    drill = (answer.get("operator") or {}).get("drill")
    if drill:
        screen.text(f"it rests on drill {clean(drill)}")


def show_disarmed(screen: Screen, answer: dict[str, Any], released: bool) -> None:  # noqa: FBT001
    """Say what `disarm` has done, and what it has left in force."""
    screen.text("dry-run: nothing new is applied or prolonged; undo with: fnm-hub arm", "cyan")
    left = answer["in_force"]
    if released:
        screen.text("what was in force is being released")
    elif left["count"]:
        until = moment(left["until"], float(answer["now"]))
        screen.text(
            f"{left['count']} still in force, each to the end of its attack or its deadline, "
            f"{until} at the latest; to end them now: fnm-hub disarm --release"
        )


def confirmed(what: str) -> bool:
    """Ask on the terminal; False without one."""
    if not sys.stdin.isatty():
        return False
    sys.stderr.write(f"{what} Type yes to go on: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() == "yes"


def with_near_ids(client: Client, error: ApiError, kind: str, wanted: str) -> ApiError:
    """Return `error` with the ids that look like `wanted`, when none is it.

    Args:
        client: asks for the ids there are.
        error: what the daemon said.
        kind: `attacks` or `mitigations`.
        wanted: the id as typed.
    """
    from difflib import get_close_matches  # noqa: PLC0415 - for mistakes only

    if error.status not in (404, 409):
        return error
    items = client.get(f"/v1/{kind}?all=1&limit=10000")["items"]
    known = [str(item["id"]) for item in items]
    if wanted in known:
        return error
    near = [one for one in known if wanted and (one.startswith(wanted) or wanted in one)]
    near = near or get_close_matches(wanted, known, n=3)
    if not near:
        return error
    todo = f"did you mean {' or '.join(near[:3])}?"
    return ApiError(error.status, {**error.fields, "todo": todo})
