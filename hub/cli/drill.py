# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub drill`: a synthetic attack through the real chain, stage by stage."""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any, Final

from hub.cli.client import Client, UnreachableError
from hub.cli.control import confirmed
from hub.cli.hook import Identity, find_hook, run_hook
from hub.cli.text import Screen, clean
from hub.drills.report import arguments, report_text
from hub.errors import HubError

_LOOK: Final = 0.05
_ARRIVED: Final = 5.0
"""Seconds for an event to come, by the spool at the worst."""
_REACHED: Final = 20.0
"""Seconds for a stage to be reached: an engine that has to be made ready may need some."""
_TROUBLED: Final = 3.0
"""Seconds that an engine in trouble gets: it may be about to come back."""
_LONGEST: Final = 500
_MARKS: Final = {True: ("ok", "green"), False: ("FAILED", "alarm"), None: ("-", "dim")}
_FIRST_HALF: Final = ("accepted", "understood", "decided", "guards", "planned", "applied")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for on the command line."""

    kind: str
    target: str | None
    enforce: str | None
    notify: Path | None
    pps: int
    notify_too: bool
    seconds: float
    reason: str


def wanted_of(args: argparse.Namespace) -> Wanted:
    """Return what the command line asks for."""
    return Wanted(
        kind=args.kind,
        target=args.target,
        enforce=args.enforce,
        notify=args.notify,
        pps=args.pps,
        notify_too=args.notify_too,
        seconds=float(args.seconds),
        reason=args.reason,
    )


def may_enforce(wanted: Wanted) -> bool:
    """Ask on the terminal before anything is really applied; without one say how to mean it."""
    if wanted.enforce is None:
        return True
    warning = (
        f"Countermeasures will really be applied to an address within {clean(wanted.enforce)}, "
        f"for {wanted.seconds:.0f} s at most."
    )
    if confirmed(warning):
        return True
    print(f"fnm-hub: {warning}\n  If you mean it: drill --yes", file=sys.stderr)
    return False


def drill(client: Client, wanted: Wanted, who: Identity) -> dict[str, Any]:
    """Run a drill to its end and return its result; releases what it put in force in any case.

    Args:
        client: asks the hub.
        wanted: as typed.
        who: whom the hook runs as.

    Raises:
        HubError: it could not begin, or the hub went away in the middle.
        KeyboardInterrupt: a signal came; the drill is ended all the same.
    """
    path = find_hook(wanted.notify)
    names = ("kind", "target", "enforce", "notify_too", "seconds", "reason")
    asked = {name: getattr(wanted, name) for name in names}
    with _stoppable():
        begun = client.post("/v1/drills", asked)
        drill_id, token = str(begun["id"]), str(begun["token"])
        why = "interrupted"
        try:
            target = ip_address(str(begun["target"]))
            for action, settled in (("ban", _ban_settled), ("unban", _all_settled)):
                text = report_text(wanted.kind, target, wanted.pps) if action == "ban" else ""
                call = ["--drill", token, *arguments(target, wanted.pps, action)]
                ended = run_hook(path, who, call, text)
                client.post(f"/v1/drills/{drill_id}/hook", {"call": action, **ended.fields()})
                if ended.status is None or not _wait(client, drill_id, settled):
                    break  # it has not come: an unban would not either, and both lie in the spool
            why = ""
        except HubError as error:
            # An end that came from elsewhere is kept as it is: the hub knows its reason better.
            gone = isinstance(error, UnreachableError)
            why = f"the hub went away: {error.what}" if gone else error.what
        finally:
            result = _finish(client, drill_id, why)
    return result


def show_drill(screen: Screen, result: dict[str, Any]) -> None:
    """Print the stages of a drill and its verdict."""
    how = "enforced" if result.get("enforced") else "planned only"
    screen.text(
        f"drill {clean(result['id'])}: {clean(result['kind'])} on {clean(result['target'])}, {how}",
        "bold",
    )
    start = next((s["at"] for s in result["stages"] if s["at"] is not None), None)
    for stage in result["stages"]:
        show_stage(screen, stage, start)
    if result.get("running"):
        screen.text("it is still under way", "yellow")
    elif result["passed"]:
        screen.text("PASSED: every stage", "green")
    else:
        screen.text(f"FAILED: {clean(result['why'])}", "alarm")


def show_stage(screen: Screen, stage: dict[str, Any], start: float | None) -> None:
    """Print one stage on a line, and below it what to do where it failed."""
    word, style = _MARKS[stage["ok"]]
    when = "" if stage["at"] is None or start is None else f"{(stage['at'] - start) * 1000:+.0f} ms"
    said = clean(stage["said"])
    screen.text(f"{word:<7}{clean(stage['name']):<11}{when:>9}  {said}".rstrip(), style)
    if stage["todo"] and not stage["ok"]:
        screen.text(f"do: {clean(stage['todo'])}", indent=9)


def _ban_settled(stages: dict[str, Any]) -> bool:
    """Tell whether nothing more is to be expected before the unban."""
    if any(stages.get(name) is False for name in _FIRST_HALF):
        return True
    carried = stages.get("planned", stages.get("applied"))
    return bool(carried and stages.get("kernel", True))


def _all_settled(stages: dict[str, Any]) -> bool:
    return stages["released"] is not None or stages["unban"] is False


def _wait(client: Client, drill_id: str, settled: Callable[[dict[str, Any]], bool]) -> bool:
    """Wait until a half of the drill is done or will not be; tell whether its ban has come."""
    begun = time.monotonic()  # noqa: TID251 - a client has no hub.clock
    while True:
        now = client.get("/v1/drill")
        came = any(s["name"] == "accepted" and s["at"] is not None for s in now["stages"])
        stages = {stage["name"]: stage["ok"] for stage in now["stages"]}
        if not now["running"] or now["id"] != drill_id or (came and settled(stages)):
            return came
        troubled = any(s["ok"] is None and s["todo"] for s in now["stages"])
        patience = min(_REACHED if came else _ARRIVED, _TROUBLED if troubled else _REACHED)
        if time.monotonic() - begun > patience:  # noqa: TID251
            return came
        time.sleep(_LOOK)


def _finish(client: Client, drill_id: str, why: str) -> dict[str, Any]:
    """End the drill; a hub that has been restarted meanwhile has ended it by itself."""
    begun = time.monotonic()  # noqa: TID251
    while True:
        try:
            return client.post(f"/v1/drills/{drill_id}/finish", {"why": why[:_LONGEST]})
        except UnreachableError as error:
            if time.monotonic() - begun > _REACHED:  # noqa: TID251
                raise HubError(
                    f"drill {drill_id} could not be ended: {error.what}",
                    where=error.where,
                    todo="it ends by itself, with all that it put in force, at its deadline",
                ) from error
        time.sleep(_LOOK * 4)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does: what it put in force is undone."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
