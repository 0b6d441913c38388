# SPDX-License-Identifier: Apache-2.0
"""synproxyd, asked by itself: it answers, works in the driver, has room, and sees packets."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hub.cli.doctor.finding import Report
from hub.cli.doctor.programs import is_there
from hub.cli.doctor.situation import Situation
from hub.clock import Clock
from hub.config import NativeEngine
from hub.engines.native.client import Client, Hello
from hub.errors import EngineError
from hub.units import format_duration

_PATIENCE: Final = 2.0
_WINDOW: Final = 1.0
_FULL: Final = 0.8
_NETWORK: Final = Path("/sys/class/net")
_EVICTED: Final = {
    "flows_evicted": "live connections fall out of the flow table: --flows",
    "sources_evicted": "proven sources fall out of their table: --sources",
    "talkers_untracked": "sources are not counted by sorb: --talkers",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What synproxyd has said, twice a moment apart.

    Attributes:
        received: packets by interface that came in meanwhile, by the kernel's count.
    """

    hello: Hello
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    mitigations: tuple[Mapping[str, Any], ...]
    received: Mapping[str, int]


def look(situation: Situation, native: NativeEngine, report: Report) -> None:
    """Look at synproxyd."""
    report.look(f"synproxyd at {native.socket}")
    try:
        seen = asyncio.run(_ask(native.socket, situation.clock))
    except EngineError as error:
        if is_there(native.socket) and not situation.is_root:
            report.skip("synproxyd", str(error), "run as root, or as a user of --allow-user")
        else:
            todo = error.todo or "systemctl status synproxyd, and its log"
            report.fail("synproxyd", f"{error.where}: {error.what}", todo)
        return
    except (KeyError, TypeError, ValueError) as error:
        text = f"its answer cannot be understood: {type(error).__name__} {error}"
        report.fail("synproxyd", text, "install the hub and synproxyd of one release")
        return
    judge(seen, report)
    ids = {str(one["id"]) for one in seen.mitigations if one["kind"] != "watch"}
    _deadlines(situation, seen, ids, report)


async def _ask(path: Path, clock: Clock) -> Seen:
    client = Client(path, _PATIENCE, clock)
    try:
        hello = await client.hello()
        names = [one.name for one in hello.interfaces]
        before, counted = await client.ask("stats"), {name: _received(name) for name in names}
        await clock.sleep(_WINDOW)
        # The kernel's counts first: what comes between the two is then no reason to complain.
        received = {name: _received(name) - counted[name] for name in names}
        after = await client.ask("stats")
        listed = await client.ask("list")
        return Seen(hello, before, after, tuple(listed["mitigations"]), received)
    finally:
        await client.close()


def _received(interface: str) -> int:
    try:
        return int((_NETWORK / interface / "statistics/rx_packets").read_text())
    except (OSError, ValueError):
        return 0


def judge(seen: Seen, report: Report) -> None:
    """Report what synproxyd has said of itself."""
    report.ok("synproxyd", f"synproxyd {seen.hello.daemon} answers, in the protocol of this hub")
    attached = {str(one["interface"]) for one in seen.after["programs"]}
    for one in seen.hello.interfaces:
        if one.name not in attached:
            text = f"{one.name} is not there, or has not our program"
            report.fail("interface", text, "bring it up; systemctl restart synproxyd")
        elif one.mode == "native":
            report.ok("interface", f"{one.name}: in the driver (native)")
        else:
            text = f"{one.name}: {one.mode}, an order of magnitude slower than in the driver"
            report.warn("interface", text, "another NIC or driver; see interface.generic")
    if not seen.hello.interfaces:
        text = "synproxyd has no interface, so that nothing is protected by it"
        report.fail("interface", text, "start it with --interface NAME")
    _moving(seen, report)
    _fill(seen, report)


def _moving(seen: Seen, report: Report) -> None:
    judged = _total(seen.after) - _total(seen.before)
    arrived = sum(seen.received.values())
    if judged > 0:
        report.ok("counters", f"{judged} packets judged within {_WINDOW:g} s")
    elif arrived > 0:
        text = f"{arrived} packets came in within {_WINDOW:g} s, and none was judged"
        todo = "bpftool net show: is our program attached where they come in?"
        report.fail("counters", text, todo)
    else:
        text = f"no packet came in by its interfaces within {_WINDOW:g} s"
        report.skip("counters", text, "is --interface where the clients' packets arrive?")


def _total(stats: Mapping[str, Any]) -> int:
    return sum(int(count) for count in stats["packets"].values())


def _fill(seen: Seen, report: Report) -> None:
    for what, used, room, todo in _tables(seen.after):
        text = f"{what}: {used} of {room}"
        if used >= _FULL * room:
            report.warn("tables", text, f"what comes beyond finds no room; see {todo}")
        else:
            report.ok("tables", text)
    for counter, text in _EVICTED.items():
        grown = int(seen.after["work"].get(counter, 0)) - int(seen.before["work"].get(counter, 0))
        if grown > 0:
            report.warn("tables", f"{counter} grew by {grown}: {text}", "give synproxyd more room")


def _tables(stats: Mapping[str, Any]) -> list[tuple[str, int, int, str]]:
    """Return each table with what it holds, its room, and what makes it larger."""
    splices, limits = stats["splices"], stats.get("limits", {})
    six = int(stats.get("flows6", 0))
    spliced = sum(int(splices[name]) for name in ("asked", "open", "closing"))
    rows = (
        ("mitigations", int(stats["mitigations"]), limits.get("mitigations"), "guard.caps"),
        ("IPv4 flows", int(stats["flows"]) - six, limits.get("flows4"), "--flows"),
        ("IPv6 flows", six, limits.get("flows6"), "--flows6"),
        ("proven sources", int(stats["sources"]), limits.get("sources"), "--sources"),
        ("spliced flows", spliced, splices["rows"], "--splices, after synproxyd detach"),
    )
    return [(what, used, int(room), todo) for what, used, room, todo in rows if room]


def _deadlines(situation: Situation, seen: Seen, ids: set[str], report: Report) -> None:
    left = [int(one["expires_ms"]) / 1000 for one in seen.mitigations]
    if left:
        soon, late = format_duration(min(left)), format_duration(max(left))
        report.ok("deadlines", f"{len(left)} in force; they end by themselves in {soon} to {late}")
    else:
        report.ok("deadlines", "nothing is in force")
    if situation.hub.status is None and ids:
        text = f"{len(ids)} countermeasures are in force without a hub that renews them"
        report.warn("deadlines", text, "start the hub: it goes on from its journal")
