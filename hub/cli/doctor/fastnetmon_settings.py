# SPDX-License-Identifier: Apache-2.0
"""What FastNetMon's settings mean for a hub; docs/fastnetmon.md has the reasons in full."""

from collections.abc import Iterable, Sequence
from typing import Final

from hub.cli.doctor.fastnetmon_conf import Conf
from hub.cli.doctor.finding import Report
from hub.config import Config
from hub.rules.ruleset import RuleSet
from hub.units import format_duration

DEFAULT_BAN_TIME: Final = 1800
_DEFAULT_RECORDS: Final = 50
_MOST_RECORDS: Final = 20
_TICK: Final = 60
"""Seconds between two looks of FastNetMon at what may be unbanned."""
_CAPTURES: Final = (
    "mirror_afpacket", "mirror_afxdp", "mirror_netmap", "mirror", "pcap", "netflow", "sflow",
)  # fmt: skip
_THRESHOLDS: Final = (
    "ban_for_pps", "ban_for_bandwidth", "ban_for_flows",
    "ban_for_tcp_pps", "ban_for_udp_pps", "ban_for_icmp_pps",
    "ban_for_tcp_bandwidth", "ban_for_udp_bandwidth", "ban_for_icmp_bandwidth",
)  # fmt: skip
_USAGE_REPORT: Final = (1, 2, 8)


def judge(conf: Conf, version: Sequence[int], report: Report) -> None:
    """Report what the settings alone say.

    Args:
        conf: the settings.
        version: FastNetMon's, empty where it is unknown.
        report: takes the findings.
    """
    _records(conf, report)
    _usage(conf, version, report)
    _captures(conf, report)
    _unban(conf, report)
    _announcers(conf, report)
    _thresholds(conf, report)


def _records(conf: Conf, report: Report) -> None:
    count = conf.number("ban_details_records_count", _DEFAULT_RECORDS)
    if count > _MOST_RECORDS:
        report.warn(
            "records",
            f"ban_details_records_count is {count}: from 1.2.6 on, and for IPv6 always, there is "
            "no call at all until that many packets of the attack have been seen",
            "set it to 20, or to 0 where traffic is sampled",
        )
    else:
        report.ok("records", f"ban_details_records_count is {count}")


def _usage(conf: Conf, version: Sequence[int], report: Report) -> None:
    if conf.on("disable_usage_report"):
        report.ok("usage_report", "nothing is reported to the vendor")
        return
    old = bool(version) and tuple(version) < _USAGE_REPORT
    what = "how it is used" if old else "the victim's address and packets at every ban (from 1.2.8)"
    text = f"FastNetMon tells its vendor {what}"
    report.warn("usage_report", text, "disable_usage_report = on, and restart FastNetMon")


def _captures(conf: Conf, report: Report) -> None:
    used = [key for key in _CAPTURES if conf.on(key)]
    if not used:
        todo = "mirror_afpacket = on and interfaces, or netflow or sflow = on"
        report.fail("capture", "no source of traffic is on: FastNetMon sees nothing", todo)
    elif "pcap" in used:
        text = "pcap delivers in batches: seconds late, and short floods are missed altogether"
        report.warn("capture", text, "mirror_afpacket = on in place of pcap")
    else:
        report.ok("capture", f"sees traffic by {', '.join(used)}")


def _unban(conf: Conf, report: Report) -> None:
    ban_time = conf.number("ban_time", DEFAULT_BAN_TIME)
    if ban_time <= 0:
        text = f"ban_time is {ban_time}: FastNetMon never unbans, and attacks never end by its word"
        todo = "set it to 60 or more; until then the hub ends them at attacks.lifetime"
        report.warn("ban_time", text, todo)
    elif ban_time == 1:
        text = "ban_time is 1: FastNetMon looks for what to unban without a pause (1/2 is 0)"
        report.fail("ban_time", text, "set it to 2 or more, better 60 or more")
    else:
        report.ok("ban_time", f"ban_time is {ban_time} s")
    if conf.on("unban_only_if_attack_finished", default=True):
        text = "unbans IPv4 only once the attack is over; IPv6 whatever goes on"
        report.ok("unban", text)
    else:
        report.warn(
            "unban",
            "unban_only_if_attack_finished is off: an attack that lasts is unbanned and banned "
            "again after each ban_time",
            "set it to on; a rule's linger bridges the gap until then",
        )


def _announcers(conf: Conf, report: Report) -> None:
    used = [key for key in ("exabgp", "gobgp") if conf.on(key)]
    for key in used:
        whole = conf.on(f"{key}_announce_whole_subnet")
        if whole and key == "exabgp":
            text = "exabgp_announce_whole_subnet is on: a ban set by hand announces 0.0.0.0/0"
            report.fail("bgp", text, "exabgp_announce_whole_subnet = off")
            continue
        text = (
            f"{key} is on: the victim is announced as a blackhole at the ban, which the hub meets"
        )
        report.warn("bgp", text, f"{key} = off, or leave those targets out of the hub's rules")
    if len(used) > 1:
        text = "exabgp and gobgp are both on: each announces every ban"
        report.warn("bgp", text, "leave one of them on at most")
    if not used:
        report.ok("bgp", "FastNetMon announces nothing itself")


def _thresholds(conf: Conf, report: Report) -> None:
    used = [key for key in _THRESHOLDS if conf.on(key)]
    if not conf.on("enable_ban", default=True):
        report.fail(
            "thresholds", "enable_ban is off: the script is never called", "enable_ban = on"
        )
    elif not used:
        todo = "ban_for_pps = on, and threshold_pps to what a host never has in peace"
        report.fail("thresholds", "no ban_for_... is on: nothing is ever banned", todo)
    elif not conf.on("process_incoming_traffic", default=True):
        text = "process_incoming_traffic is off: attacks on your hosts are not counted"
        report.fail("thresholds", text, "process_incoming_traffic = on")
    else:
        pps = conf.number("threshold_pps", 20_000)
        report.ok("thresholds", f"bans by {', '.join(used)}; threshold_pps is {pps}")
    if not conf.on("enable_ban_ipv6"):
        text = "enable_ban_ipv6 is off: attacks on IPv6 hosts are not reported"
        report.warn("ipv6", text, "enable_ban_ipv6 = on, where you have IPv6")
    else:
        report.ok("ipv6", "attacks on IPv6 hosts are reported")


def judge_lifetimes(conf: Conf, rules: RuleSet, report: Report) -> None:
    """Report which rules let go before FastNetMon would speak again."""
    ban_time = conf.number("ban_time", DEFAULT_BAN_TIME)
    short = [rule for rule in rules.rules if rule.ttl is not None and rule.ttl <= ban_time + _TICK]
    if short:
        shown = ", ".join(f"{rule.name} ({format_duration(rule.ttl or 0)})" for rule in short)
        report.warn(
            "ttl",
            f"ttl of {shown} is not above ban_time + {_TICK} s, and between ban and unban "
            "FastNetMon says nothing: what no engine renews ends early",
            "raise ttl, or lower ban_time; see How long a ttl has to be, docs/operations.md",
        )
    elif rules.rules:
        report.ok("ttl", f"every rule's ttl is above ban_time + {_TICK} s")


def judge_blindness(conf: Conf, config: Config, xdp: Iterable[str], report: Report) -> None:
    """Report whether FastNetMon stands behind our XDP, and whether its end can be told then.

    Args:
        conf: FastNetMon's settings.
        config: the hub's.
        xdp: interfaces on which synproxyd drops.
        report: takes the finding.
    """
    shared = sorted(set(xdp) & set(conf.listed("interfaces")))
    local = conf.on("mirror_afpacket") or conf.on("pcap") or conf.on("mirror_afxdp")
    if not shared or not local:
        report.ok("blind", "FastNetMon does not capture behind synproxyd")
        return
    if conf.on("mirror_afxdp"):
        text = f"FastNetMon's AF_XDP and synproxyd both want the XDP program of {shared[0]}"
        report.fail("blind", text, "mirror_afpacket = on in place of mirror_afxdp")
        return
    text = (
        f"FastNetMon captures on {', '.join(shared)}, behind synproxyd: it sees nothing of what "
        "is met there, and the engine's rates tell the end (attacks.hold)"
    )
    floor, threshold = config.attacks.hold.floor, conf.number("threshold_pps", 20_000)
    if floor >= threshold:
        text += f"; attacks.hold.floor is {floor}, not below threshold_pps {threshold}"
        report.warn("blind", text, f"set attacks.hold.floor below {threshold}")
    else:
        report.ok("blind", text)
