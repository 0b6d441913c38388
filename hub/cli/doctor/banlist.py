# SPDX-License-Identifier: Apache-2.0
"""FastNetMon's own list of bans beside the hub's attacks: overdue, forgotten, unknown."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hub.cli.doctor.fastnetmon_conf import Conf
from hub.cli.doctor.fastnetmon_daemon import Process
from hub.cli.doctor.fastnetmon_settings import DEFAULT_BAN_TIME
from hub.cli.doctor.finding import Report
from hub.cli.doctor.hook import detector_of
from hub.cli.doctor.programs import call, find, text_of
from hub.cli.doctor.situation import Situation
from hub.fields import parse_network
from hub.intake.address import parse_address
from hub.net import IPNetwork
from hub.units import format_duration

CLIENT: Final = "fastnetmon_api_client"
_GRACE: Final = 120.0
"""FastNetMon looks once a minute at what may be unbanned."""
_FRESH: Final = 5.0
"""A call is on its way for less than this."""
_MOST: Final = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the two disagree.

    Attributes:
        unknown: banned there, and no attack here.
        forgotten: an attack here that its detector has no ban for.
        overdue: banned for longer than it should be, with the seconds.
    """

    unknown: tuple[IPNetwork, ...]
    forgotten: tuple[IPNetwork, ...]
    overdue: tuple[tuple[IPNetwork, float], ...]


def look(situation: Situation, conf: Conf, process: Process | None, report: Report) -> None:
    """Ask FastNetMon for its bans, and compare them with the hub's attacks."""
    if not conf.on("enable_api"):
        text = "enable_api is off: the ban list cannot be read"
        report.skip("banlist", text, "enable_api = on; it listens on 127.0.0.1 only")
        return
    if process is None or not process.same_network:
        why = "does not run" if process is None else "lives in another network namespace"
        report.skip("banlist", f"FastNetMon {why}, so that its API is not here")
        return
    client = find(CLIENT)
    if client is None:
        report.skip("banlist", f"{CLIENT} is not installed")
        return
    report.look(f"{client} get_banlist")
    done = call((client, "get_banlist"))
    said = text_of(done)
    if done.code is None:
        text = "FastNetMon runs and does not answer on its API: it hangs"
        report.fail("banlist", text, "see its log, then restart it")
        return
    banned = read_banlist(said)
    if banned is None:
        # The exit status is 0 all the same.
        text = f"FastNetMon's API cannot be asked: {said.splitlines()[-1][:200]}"
        report.fail("banlist", text, "enable_api = on, and restart FastNetMon")
        return
    report.ok("banlist", f"FastNetMon answers: {len(banned)} hosts are banned")
    if situation.hub.status is None:
        report.skip("bans", "no running hub to compare them with")
        return
    now = float(situation.hub.status["now"])
    once = not conf.on("unban_only_if_attack_finished", default=True)
    ban_time = conf.number("ban_time", DEFAULT_BAN_TIME)
    script = conf.path("notify_script_path", "fnm-notify")
    held = held_by(detector_of(script), situation.hub.attacks)
    judge(compare(banned, held, now, ban_time, always_unbans=once), report, script)


def read_banlist(text: str) -> set[IPNetwork] | None:
    """Return the prefixes that `get_banlist` has printed, None where it printed an error."""
    found: set[IPNetwork] = set()
    for line in (line.strip() for line in text.splitlines()):
        if not line:
            continue
        address, _, length = line.partition("/")
        parsed = parse_address(address)
        if parsed is None or length not in {"32", "128"}:
            return None
        found.add(parse_network(str(parsed)))
    return found


def held_by(detector: str, attacks: Iterable[Mapping[str, Any]]) -> dict[IPNetwork, float | None]:
    """Return the targets of attacks, and since when `detector` holds each; None where it does not.

    Args:
        detector: name that this FastNetMon's calls have.
        attacks: open ones, as the hub's API shows them.
    """
    found: dict[IPNetwork, float | None] = {}
    for attack in attacks:
        since = min(
            (float(one["since"]) for one in attack["holders"] if one["detector"] == detector),
            default=None,
        )
        for target in map(parse_network, attack["targets"]):
            before = found.get(target)
            both = [one for one in (since, before) if one is not None]
            found[target] = min(both, default=None)
    return found


def compare(
    banned: Iterable[IPNetwork],
    held: Mapping[IPNetwork, float | None],
    now: float,
    ban_time: int,
    *,
    always_unbans: bool,
) -> Difference:
    """Return where bans and attacks disagree.

    Args:
        banned: by FastNetMon, now.
        held: from `held_by`.
        now: of the hub's clock.
        ban_time: of FastNetMon, seconds; 0 for ever.
        always_unbans: whatever the attack does; of IPv6 it is so in any case.
    """
    bans = set(banned)
    since = {target: start for target, start in held.items() if start is not None}
    overdue = [
        (one, now - since[one])
        for one in sorted(bans & since.keys(), key=str)
        if ban_time > 0
        and now - since[one] > ban_time + _GRACE
        and (always_unbans or one.version == 6)  # noqa: PLR2004
    ]
    forgotten = [one for one, start in since.items() if one not in bans and now - start > _FRESH]
    return Difference(
        tuple(sorted(bans - held.keys(), key=str)),
        tuple(sorted(forgotten, key=str)),
        tuple(overdue),
    )


def judge(found: Difference, report: Report, script: Path = Path("fnm-notify")) -> None:
    """Report the differences; `script` is what tells the hub in FastNetMon's name."""
    for one in found.unknown[:_MOST]:
        host = one.network_address
        text = f"{host} is banned by FastNetMon, and the hub knows of no attack on it"
        todo = f"was its call lost? fnm-hub events; tell the hub: {script} {host} other 0 ban"
        report.warn("bans", text, todo)
    for one in found.forgotten[:_MOST]:
        host = one.network_address
        text = f"{host} is under attack by FastNetMon's word, and it has no ban: forgotten by a"
        text += " restart, and its unban will not come"
        todo = f"if it is over: {script} {host} other 0 unban; else it ends at its lifetime"
        report.warn("bans", text, todo)
    for one, age in found.overdue[:_MOST]:
        host = one.network_address
        text = f"{host} is banned for {format_duration(age)}, longer than ban_time: overdue"
        report.warn("bans", text, f"fastnetmon_api_client unban {host}")
    more = sum(len(each[_MOST:]) for each in (found.unknown, found.forgotten, found.overdue))
    if more:
        report.warn(
            "bans", f"and {more} more", "fastnetmon_api_client get_banlist; fnm-hub attacks"
        )
    if not (found.unknown or found.forgotten or found.overdue):
        report.ok("bans", "bans and attacks are the same hosts")
