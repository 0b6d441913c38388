# SPDX-License-Identifier: Apache-2.0
"""FastNetMon's lists of networks beside the hub's: where they differ."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from pathlib import Path
from typing import Final

from hub.cli.doctor import addresses
from hub.cli.doctor.fastnetmon_conf import Conf, parse_prefixes
from hub.cli.doctor.finding import Report
from hub.config import Config
from hub.net import IPNetwork, covers, overlap

_SHOWN: Final = 8


def look(conf: Conf, config: Config, report: Report) -> None:
    """Compare both pairs of lists."""
    networks = _read(conf.path("networks_list_path", "/etc/networks_list"), "networks", report)
    if networks is not None:
        own = config.guard.own_prefixes
        _compare(
            networks, own, local=conf.on("monitor_local_ip_addresses", default=True), to=report
        )
    listed = _read(conf.path("white_list_path", "/etc/networks_whitelist"), "whitelist", report)
    if listed is not None:
        _whitelist(listed, config, report)


def _read(path: Path, check: str, report: Report) -> list[IPNetwork] | None:
    try:
        found, wrong = parse_prefixes(path.read_text("utf-8", "replace"))
    except FileNotFoundError:
        if check == "networks":
            text = f"{path} is not there: FastNetMon watches no networks of yours"
            report.fail(
                check, text, "write your prefixes there, one a line, and restart FastNetMon"
            )
        else:
            report.ok(check, f"{path} is not there: nothing is left out")
        return None
    except OSError as error:
        report.skip(check, f"{path}: {error.strerror}", "run as root")
        return None
    for line in wrong[:_SHOWN]:
        report.warn(check, f"{path}: {line!r} is no prefix", "mend it, and restart FastNetMon")
    return found


def _compare(
    networks: Sequence[IPNetwork], own: Sequence[IPNetwork], *, local: bool, to: Report
) -> None:
    seen = [*networks]
    if local:
        seen += [ip_network(one) for one in addresses.local()]
    refused, unseen = uncovered(networks, own), uncovered(own, seen)
    if refused:
        text = f"FastNetMon reports on {_named(refused)}, outside of guard.own_prefixes: refused"
        to.warn("networks", text, "add what is yours to guard.own_prefixes")
    if unseen:
        text = f"{_named(unseen)} of guard.own_prefixes is not in networks_list: never reported"
        to.warn("networks", text, "add it there and restart FastNetMon, or take it out here")
    if not refused and not unseen:
        to.ok("networks", "networks_list and guard.own_prefixes are the same addresses")


def _whitelist(listed: Sequence[IPNetwork], config: Config, report: Report) -> None:
    own = config.guard.own_prefixes
    inside = [one for one in listed if any(overlap(one, prefix) for prefix in own)]
    open_ones = uncovered(inside, config.guard.never_block)
    if open_ones:
        text = f"FastNetMon reports nothing on {_named(open_ones)}, and another detector may"
        report.warn("whitelist", text, "add it to guard.never_block, if it is never to be touched")
    else:
        report.ok("whitelist", "what FastNetMon leaves out, the hub never touches")


def uncovered(found: Iterable[IPNetwork], by: Iterable[IPNetwork]) -> list[IPNetwork]:
    """Return those of `found` that do not lie wholly inside the prefixes of `by`, all of them."""
    one, other = tuple(by), tuple(found)
    whole: list[IPNetwork] = [
        *collapse_addresses(prefix for prefix in one if isinstance(prefix, IPv4Network)),
        *collapse_addresses(prefix for prefix in one if isinstance(prefix, IPv6Network)),
    ]
    return [target for target in other if not any(covers(prefix, target) for prefix in whole)]


def _named(prefixes: Sequence[IPNetwork]) -> str:
    shown = ", ".join(str(one) for one in prefixes[:_SHOWN])
    more = len(prefixes) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
