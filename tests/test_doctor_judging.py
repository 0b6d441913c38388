# SPDX-License-Identifier: Apache-2.0
"""What the doctor makes of what it has read: pure, without the machine."""

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from hub.cli.doctor import agents, timekeeping, unit
from hub.cli.doctor.banlist import Difference, compare, held_by, judge, read_banlist
from hub.cli.doctor.configuration import unguarded
from hub.cli.doctor.fastnetmon_conf import Conf, parse, parse_prefixes
from hub.cli.doctor.fastnetmon_daemon import missed_script
from hub.cli.doctor.fastnetmon_lists import uncovered
from hub.cli.doctor.fastnetmon_settings import judge as judge_settings
from hub.cli.doctor.fastnetmon_settings import judge_blindness, judge_lifetimes
from hub.cli.doctor.finding import Finding, Report, Status
from hub.cli.doctor.hook import detector_of, wrapped
from hub.cli.doctor.machine import version_numbers
from hub.cli.doctor.rights import open_files
from hub.cli.doctor.situation import Hub, Situation
from hub.config import Attacks, Config, Engines, Guard, Hold, NativeEngine, Service
from hub.fields import parse_network
from hub.isn_sync.settings import IsnSync
from hub.net import IPNetwork
from hub.rules.load import read_rules
from hub.rules.words import Known
from tests.support.doctor import PACKAGED, found, only, worst

NOWHERE = Path("/nowhere")
GOOD = {
    "disable_usage_report": "on",
    "mirror_afpacket": "on",
    "interfaces": "eth0",
    "ban_for_pps": "on",
    "enable_ban_ipv6": "on",
    "ban_details_records_count": "20",
    "ban_time": "1900",
}


def nets(*texts: str) -> tuple[IPNetwork, ...]:
    """Return prefixes."""
    return tuple(parse_network(text) for text in texts)


def settings(**changes: str) -> Report:
    """Return what the doctor says of good settings with some changed."""
    report = Report("fastnetmon")
    judge_settings(Conf({**GOOD, **changes}), (1, 2, 9), report)
    return report


def test_conf_when_a_key_stands_twice_then_the_last_value_wins() -> None:
    """That is how FastNetMon reads its file, and how overrides are appended."""
    conf = parse("ban_time = 1900\n# ban_time = 5\n  ban_time=20  \r\n\ngobgp = on\n")
    assert dict(conf.values) == {"ban_time": "20", "gobgp": "on"}
    assert (conf.number("ban_time", 1), conf.on("gobgp"), conf.on("exabgp")) == (20, True, False)


def test_conf_when_a_line_cannot_be_read_then_fastnetmon_leaves_it_out() -> None:
    """A value with `=` in it is no value, and a comment behind a value is a part of it."""
    conf = parse(
        "notify_script_path = /x --a=b\nnonsense\nexabgp = on # yes\nban_time = 5x\na == b\n"
    )
    assert conf.ignored == (1, 2)
    assert "notify_script_path" not in conf.values
    assert not conf.on("exabgp")
    assert (conf.number("ban_time", 1), conf.text("a")) == (5, "b")


def test_conf_when_it_is_the_packaged_one_then_every_line_is_understood() -> None:
    """The file of Debian's package has no line that is left out, and many that are not."""
    conf = parse(PACKAGED.read_text())
    assert conf.ignored == ()
    assert conf.listed("interfaces") == ("eth3", "eth4")
    assert (conf.number("ban_time", 1), conf.number("ban_details_records_count", 1)) == (1900, 20)


def test_prefixes_when_lines_are_wrong_then_they_are_told_apart() -> None:
    """Comments and blanks are nothing, host bits are cut off, the rest is named."""
    text = "# ours\n192.0.2.5/24\n\n2001:db8::/32\nfe80::/129\nours\n"
    assert parse_prefixes(text) == (
        [ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")],
        ["fe80::/129", "ours"],
    )


def test_settings_when_good_then_nothing_but_ok() -> None:
    """What docs/fastnetmon.md recommends has no complaint."""
    assert {one.status for one in settings().findings()} == {Status.OK}


@pytest.mark.parametrize(
    ("changes", "check", "status", "words", "todo"),
    [
        ({"ban_details_records_count": "500"}, "records", "warn", "no call at all", "set it to 20"),
        ({"disable_usage_report": "off"}, "usage_report", "warn", "victim's", "disable_usage"),
        ({"pcap": "on"}, "capture", "warn", "batches", "mirror_afpacket = on"),
        ({"mirror_afpacket": "off"}, "capture", "fail", "sees nothing", "mirror_afpacket = on"),
        ({"ban_time": "0"}, "ban_time", "warn", "never unbans", "60 or more"),
        ({"ban_time": "1"}, "ban_time", "fail", "without a pause", "60 or more"),
        ({"unban_only_if_attack_finished": "off"}, "unban", "warn", "again after", "set it to on"),
        ({"exabgp": "on"}, "bgp", "warn", "blackhole", "exabgp = off"),
        (
            {"exabgp": "on", "exabgp_announce_whole_subnet": "on"},
            "bgp",
            "fail",
            "0.0.0.0/0",
            "exabgp_announce_whole_subnet = off",
        ),
        ({"enable_ban": "off"}, "thresholds", "fail", "never called", "enable_ban = on"),
        ({"ban_for_pps": "off"}, "thresholds", "fail", "nothing is ever", "ban_for_pps = on"),
        (
            {"process_incoming_traffic": "off"},
            "thresholds",
            "fail",
            "not counted",
            "process_incoming_traffic = on",
        ),
        ({"enable_ban_ipv6": "off"}, "ipv6", "warn", "not reported", "enable_ban_ipv6 = on"),
    ],
)
def test_settings_when_one_is_a_trap_then_it_says_so_and_what_to_do(
    changes: dict[str, str], check: str, status: str, words: str, todo: str
) -> None:
    """Each trap is one line, and no other check complains."""
    report = settings(**changes)
    one = only(report, check)
    assert (one.status, words in one.text, todo in one.todo) == (status, True, True), one
    others = [other for other in report.findings() if other.check != check]
    assert {other.status for other in others} == {Status.OK}


def test_settings_when_both_announce_then_each_and_both_are_named() -> None:
    """ExaBGP and GoBGP at once announce every ban twice."""
    lines = found(settings(exabgp="on", gobgp="on"), "bgp")
    assert [one.status for one in lines] == [Status.WARN] * 3
    assert "both on" in lines[2].text


def test_usage_report_when_the_release_is_old_then_it_is_said_less() -> None:
    """Only from 1.2.8 on the victim's address goes out."""
    report = Report("fastnetmon")
    judge_settings(Conf({**GOOD, "disable_usage_report": "off"}), (1, 2, 4), report)
    assert "victim" not in only(report, "usage_report").text


RULES = "rules: [{name: a, when: {direction: incoming}, then: [tcp], ttl: TTL}]\n"


@pytest.mark.parametrize(("ttl", "status"), [("31m", "warn"), ("1h", "ok")])
def test_lifetime_when_not_above_the_silence_then_the_rule_is_named(
    tmp_path: Path, ttl: str, status: str
) -> None:
    """FastNetMon says nothing for ban_time and a minute more."""
    (tmp_path / "r.yaml").write_text(RULES.replace("TTL", ttl))
    report = Report("fastnetmon")
    judge_lifetimes(Conf(GOOD), read_rules([tmp_path / "r.yaml"], Known()).rules, report)
    assert only(report, "ttl").status == status
    assert ("a (31m)" in only(report, "ttl").text) == (status == "warn")


@pytest.mark.parametrize(
    ("changes", "xdp", "floor", "status", "words"),
    [
        ({}, ["eth1"], 1000, "ok", "does not capture behind"),
        ({}, ["eth0"], 1000, "ok", "sees nothing of what is met"),
        ({"threshold_pps": "500"}, ["eth0"], 1000, "warn", "not below threshold_pps 500"),
        ({"mirror_afpacket": "off", "sflow": "on"}, ["eth0"], 1000, "ok", "does not capture"),
        ({"mirror_afxdp": "on"}, ["eth0"], 1000, "fail", "both want the XDP program"),
    ],
)
def test_capture_when_behind_xdp_then_said_with_what_tells_the_end(
    changes: dict[str, str], xdp: list[str], floor: int, status: str, words: str
) -> None:
    """FastNetMon on an interface where synproxyd drops first is blind for what is met."""
    report = Report("fastnetmon")
    config = Config(attacks=Attacks(hold=Hold(floor=floor)))
    judge_blindness(Conf({**GOOD, **changes}), config, xdp, report)
    one = only(report, "blind")
    assert (one.status, words in one.text) == (status, True), one


def test_uncovered_when_halves_make_a_whole_then_nothing_is_missing() -> None:
    """Lists are compared as sets of addresses, not line by line; families do not mix."""
    whole = nets("192.0.2.0/24", "2001:db8::/32")
    halves = nets("192.0.2.0/25", "192.0.2.128/25", "2001:db8::/33", "2001:db8:8000::/33")
    assert uncovered(whole, halves) == uncovered(halves, whole) == []
    assert uncovered(nets("192.0.2.0/23", "::/0"), halves) == list(nets("192.0.2.0/23", "::/0"))


def test_unguarded_when_own_and_not_listed_then_named() -> None:
    """Only what could be acted on counts, and a host that is a service itself is meant."""
    config = Config(
        guard=Guard(own_prefixes=nets("192.0.2.0/24"), never_block=nets("192.0.2.2")),
        services=(
            Service(name="all", prefixes=nets("192.0.2.0/24")),
            Service(name="self", prefixes=nets("192.0.2.3")),
        ),
    )
    addresses = [
        one.network_address for one in nets("192.0.2.1", "192.0.2.2", "192.0.2.3", "10.0.0.1")
    ]
    assert [str(one) for one in unguarded(addresses, config)] == ["192.0.2.1"]


def attack(target: str, since: float, *, holder: bool = True) -> dict[str, Any]:
    """Return an open attack as the API shows it."""
    detector = "edge" if holder else "elsewhere"
    return {"targets": [target], "holders": [{"detector": detector, "since": since}]}


def test_banlist_when_read_then_canonical_and_errors_are_no_list() -> None:
    """The client ends with 0 whatever happens: its words tell."""
    text = "192.0.2.10/32\n2001:0db8:000b::0010/128\n"
    assert read_banlist(text) == set(nets("192.0.2.10/32", "2001:db8:b::10/128"))
    assert read_banlist("") == set()
    assert read_banlist("Query failed failed to connect to all addresses") is None


def test_bans_when_compared_then_unknown_forgotten_and_overdue() -> None:
    """A lost call, a restart of FastNetMon, and an unban that never comes each show."""
    bans = nets("192.0.2.1", "192.0.2.2", "2001:db8::1", "192.0.2.9")
    attacks = [
        attack("192.0.2.1/32", 1000.0),
        attack("192.0.2.2/32", 9000.0),
        attack("2001:db8::1/128", 1000.0),
        attack("192.0.2.3/32", 9000.0),
        attack("192.0.2.4/32", 9999.0),
        attack("192.0.2.5/32", 1000.0, holder=False),
    ]
    held = held_by("edge", attacks)
    got = compare(bans, held, 10_000.0, 1900, always_unbans=False)
    assert got.unknown == nets("192.0.2.9")
    assert got.forgotten == nets("192.0.2.3")
    assert got.overdue == ((nets("2001:db8::1")[0], 9000.0),)
    always = compare(bans, held, 10_000.0, 1900, always_unbans=True)
    assert [one for one, _ in always.overdue] == list(nets("192.0.2.1", "2001:db8::1"))
    assert compare(bans, held, 10_000.0, 0, always_unbans=True).overdue == ()


def test_bans_when_they_differ_then_each_line_says_what_to_do() -> None:
    """One line a host, at most twenty of a kind; agreement is one line too."""
    report = Report("fastnetmon")
    many = nets(*(f"192.0.2.{number}" for number in range(25)))
    judge(Difference(many, nets("192.0.2.30"), ((nets("192.0.2.31")[0], 5000.0),)), report)
    lines = found(report, "bans")
    assert (len(lines), {one.status for one in lines}) == (23, {Status.WARN})
    assert all(one.todo for one in lines)
    assert lines[-1].text == "and 5 more"
    agreed = Report("fastnetmon")
    judge(Difference((), (), ()), agreed)
    assert worst(agreed, "bans") == Status.OK


@pytest.mark.parametrize(
    ("state", "status", "expected"), [(0, 0x2001, "ok"), (5, 0x2001, "warn"), (0, 0x40, "warn")]
)
def test_clock_when_nothing_keeps_it_then_warns(state: int, status: int, expected: str) -> None:
    """adjtimex(2): TIME_ERROR, or STA_UNSYNC."""
    report = Report("time")
    timekeeping.judge(timekeeping.KernelClock(state, status, 12_345), report)
    assert only(report, "synchronised").status == expected


def test_clock_when_the_kernel_is_asked_then_a_state_of_the_manual() -> None:
    """The structure is read where the kernel wrote it: its numbers are plausible."""
    said = timekeeping.read_kernel_clock()
    assert 0 <= said.state <= 5
    assert 0 <= said.max_error <= 16_000_000 * 2**10


HARDENED = """LoadState=loaded
UnitFileState=enabled
ActiveState=active
Restart=on-failure
User=fnm-hub
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
RestrictSUIDSGID=yes
MemoryDenyWriteExecute=yes
"""


@pytest.mark.parametrize(
    ("change", "check", "status", "words"),
    [
        (lambda text: text, "unit", "ok", "enabled, active"),
        (lambda text: text.replace("=loaded", "=not-found"), "unit", "warn", "not-found"),
        (lambda text: text.replace("=enabled", "=disabled"), "unit", "fail", "next start"),
        (lambda text: text.replace("on-failure", "no"), "restart", "warn", "not started again"),
        (lambda text: text.replace("fnm-hub", "root"), "hardening", "warn", "User"),
        (lambda text: text.replace("strict", "no"), "hardening", "warn", "ProtectSystem"),
    ],
)
def test_unit_when_it_differs_from_the_documents_then_said(
    change: Callable[[str], str], check: str, status: str, words: str
) -> None:
    """Installed, enabled, started again, hardened: what `systemctl show` prints."""
    report = Report("service")
    unit.judge(unit.properties(change(HARDENED)), report)
    one: Finding = only(report, check)
    assert (one.status, words in one.text) == (status, True), one


@pytest.mark.parametrize(
    ("script", "target"),
    [
        ('#!/bin/sh\n# b\nexec /usr/local/bin/fnm-notify --config=/x "$@"\n', True),
        ('#!/bin/sh\nexec /usr/local/bin/fnm-notify -- "$@"\n', True),
        ('#!/bin/sh\nmail root\nexec /usr/local/bin/fnm-notify "$@"\n', False),
        ('#!/bin/sh\nexec /usr/local/bin/fnm-notify "$@" | tee /tmp/x\n', False),
        ('#!/bin/sh\nexec /usr/local/bin/fnm-notify "$(reboot)" "$@"\n', False),
        ("#!/bin/sh\nexec /usr/local/bin/fnm-notify\n", False),
        ('#!/bin/sh\nexec /opt/notify "$@"\n', False),
        ("#!/bin/sh\nexec '\n", False),
    ],
)
def test_wrapper_when_it_does_anything_else_then_it_is_not_run(
    script: str, *, target: bool
) -> None:
    """Only a script that is one `exec` of fnm-notify may be called for a trial."""
    found_there = wrapped(script)
    assert (found_there is not None) == target
    assert found_there is None or found_there[0] == Path("/usr/local/bin/fnm-notify")


def test_detector_when_named_anywhere_then_as_fnm_notify_finds_it(tmp_path: Path) -> None:
    """An option goes before the file, the file before the host's name."""
    conf, script = tmp_path / "notify.conf", tmp_path / "script"
    conf.write_text("detector = from file\n")
    line = f'exec /x/fnm-notify --config={conf} OPTION "$@"\n'
    script.write_text(line.replace("OPTION", "--detector fnm-b"))
    assert detector_of(script) == "fnm-b"
    script.write_text(line.replace(" OPTION", ""))
    assert detector_of(script) == "from-file"
    conf.unlink()
    assert detector_of(script) == detector_of(tmp_path / "none")


def test_log_when_the_script_was_missing_at_the_last_start_then_true() -> None:
    """What an earlier start has missed does not count."""
    start, missed = "[INFO] Logger initialized!\n", "[ERROR] We can't find notify script /x\n"
    assert missed_script(start + missed)
    assert not missed_script(start + missed + start)
    assert not missed_script("")


def test_small_readers_when_given_what_the_kernel_prints() -> None:
    """Versions, and limits of a process."""
    assert version_numbers("6.1.0-18-amd64") == (6, 1, 0)
    assert version_numbers("none") == ()
    line = "Max open files            1024                 524288               files     \n"
    assert open_files(line) == 1024
    assert open_files(line.replace("1024  ", "unlimited")) == 2**31


def agent(name: str, state: str, standing: str = "proven") -> dict[str, Any]:
    """Return an agent as the API shows it."""
    address = {"address": "192.0.2.10", "standing": standing, "why": "because"}
    return {"name": name, "state": state, "why": "because", "addresses": [address]}


AGENTS = Config(
    guard=Guard(own_prefixes=nets("192.0.2.0/24")),
    engines=Engines(native=NativeEngine(enabled=True)),
    isn_sync=IsnSync(servers="192.0.2.10"),
)


@pytest.mark.parametrize(
    ("state", "todo"),
    [
        ("unreachable", "is fnm-agent running"),
        ("untrusted", "fnm-hub agents trust web"),
        ("changed", "fnm-hub agents trust web"),
        ("denied", "fnm-hub key show"),
        ("unusable", "journalctl -u fnm-agent"),
    ],
)
def test_agents_when_one_is_not_well_then_its_next_step(state: str, todo: str) -> None:
    """Each state of an agent has a step of its own; the others are counted."""
    hub = Hub(status={"now": 0.0}, agents=(agent("web", state), agent("db", "ok")))
    report = Report("agents")
    agents.look(Situation(NOWHERE, AGENTS, NOWHERE, hub), report)
    bad, good = found(report, "agents")
    assert (bad.status, todo in bad.todo) == (Status.FAIL, True), bad
    assert good.text == "1 of 2 answer, are trusted and usable"
    assert only(report, "probes").status == Status.OK


def test_agents_when_many_or_left_or_none_then_bounded_and_said() -> None:
    """A thousand dead agents are not a thousand lines; ISN sync that was left is a warning."""
    hub = Hub(
        status={"now": 0.0}, agents=tuple(agent(f"s{n}", "denied", "left") for n in range(30))
    )
    report = Report("agents")
    agents.look(Situation(NOWHERE, AGENTS, NOWHERE, hub), report)
    assert found(report, "agents")[-1].text == "and 10 more"
    assert len(found(report, "probes")) == 20
    for config, where in ((AGENTS, Hub()), (Config(), hub)):
        nothing = Report("agents")
        agents.look(Situation(NOWHERE, config, NOWHERE, where), nothing)
        assert only(nothing, "agents").status == Status.SKIP
