# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub doctor` beside a real hub and the packaged FastNetMon: whole runs."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hub.cli.doctor import banlist, configuration, fastnetmon_daemon
from hub.cli.doctor.fastnetmon_conf import parse
from hub.cli.doctor.fastnetmon_daemon import Process, find
from hub.cli.doctor.finding import Finding, Report, Status
from hub.cli.doctor.run import examine, exit_code
from hub.cli.doctor.situation import Hub, Situation
from hub.cli.main import main
from hub.clock import SystemClock
from tests.support.doctor import DETECTOR, Installation, only, place
from tests.support.hub_process import until
from tests.support.netns import inside

LONGEST = 15.0
"""Seconds that no run may take; a loaded machine starts Python slowly on top of that."""
SLOW = 15.0
FORGOTTEN = (
    "is under attack by FastNetMon's word, and it has no ban: forgotten by a restart, and its "
    "unban will not come"
)
_NOWHERE = Path("/nowhere")


@pytest.fixture(scope="module")
def machine() -> Iterator[Installation]:
    """A hub and FastNetMon, both well."""
    with place() as folder:
        installed = Installation(folder)
        installed.install()
        with installed.hub, installed.fastnetmon():
            yield installed


@contextmanager
def still(pid: int) -> Iterator[None]:
    """Hold a process still, as one that hangs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def of(found: list[dict[str, Any]], check: str) -> list[dict[str, Any]]:
    """Return the findings of one check."""
    return [one for one in found if one["check"] == check]


def fastnetmon(machine: Installation) -> Process:
    """Return the FastNetMon that runs."""
    process = find(machine.conf)
    assert process is not None
    return process


def test_doctor_when_all_is_well_then_zero_and_nothing_has_changed(machine: Installation) -> None:
    """Every group is looked at, nothing fails, and the journal and the kernel are as before."""
    # What another test has begun comes to its end first.
    moving = {"applying", "releasing"}
    until(
        "rest", lambda: not moving & machine.hub.get("/v1/status")["counts"]["mitigations"].keys()
    )
    before = (machine.hub.get("/v1/status")["counts"], machine.hub.nft("-s", "list", "ruleset"))
    code, found, said = machine.doctor()
    assert (code, said) == (0, ""), [one for one in found if one["status"] == "fail"]
    assert all(one.keys() == {"group", "check", "status", "text", "todo"} for one in found)
    assert list(dict.fromkeys(one["group"] for one in found)) == [
        "machine",
        "time",
        "disk",
        "rights",
        "service",
        "configuration",
        "engines",
        "agents",
        "store",
        "fastnetmon",
    ]
    for check in ("hub", "engine", "table", "journal", "in_force", "daemon", "banlist", "bans"):
        assert {one["status"] for one in of(found, check)} == {"ok"}, check
    assert [one["status"] for one in of(found, "hook")] == ["ok", "ok"]
    assert all(one["todo"] for one in found if one["status"] in {"warn", "fail"})
    after = (machine.hub.get("/v1/status")["counts"], machine.hub.nft("-s", "list", "ruleset"))
    assert after == before


def test_doctor_when_hub_and_fastnetmon_hang_then_it_ends_in_time(machine: Installation) -> None:
    """Whatever hangs is named, with what to do, and the rest is looked at all the same."""
    clock = SystemClock()
    with machine.hub.stopped(), still(fastnetmon(machine).pid):
        start = clock.monotonic()
        code, found, _ = machine.doctor()
        took = clock.monotonic() - start
    assert code == 1
    assert took < LONGEST + SLOW
    (hub,) = of(found, "hub")
    assert (hub["status"], "no answer within" in hub["text"]) == ("fail", True)
    (bans,) = of(found, "banlist")
    assert bans["status"] == "fail"
    assert bans["text"] == "FastNetMon runs and does not answer on its API: it hangs"
    assert of(found, "journal")[0]["status"] == "ok"
    assert of(found, "space")[0]["status"] == "ok"


def test_bans_when_they_differ_then_named(machine: Installation) -> None:
    """A ban whose call was lost, and an attack that FastNetMon has forgotten."""
    machine.client("ban", "192.0.2.77")
    until("FastNetMon has the ban", lambda: "192.0.2.77" in machine.client("get_banlist"))
    machine.hub.send("ban", "192.0.2.78", detector=DETECTOR)
    until("the hub has the attack", lambda: _targets(machine) >= {"192.0.2.77/32", "192.0.2.78/32"})
    known = tuple(one for one in machine.hub.attacks() if "192.0.2.78/32" in one["targets"])
    later = {**machine.hub.get("/v1/status")}
    later["now"] += 60.0
    report = Report("fastnetmon")
    try:
        situation = machine.situation(Hub(status=later, attacks=known))
        conf = parse(machine.conf.read_text())
        # Its API is in the namespace where it lives itself.
        process = replace(fastnetmon(machine), same_network=True)
        inside(machine.hub.namespace, lambda: banlist.look(situation, conf, process, report))
    finally:
        machine.client("unban", "192.0.2.77")
        machine.hub.send("unban", "192.0.2.78", detector=DETECTOR)
        until("all of it is over", lambda: not machine.hub.attacks(), 30)
    texts = [one.text for one in report.findings() if one.status == Status.WARN]
    assert texts == [
        "192.0.2.77 is banned by FastNetMon, and the hub knows of no attack on it",
        f"192.0.2.78 {FORGOTTEN}",
    ]


def _targets(machine: Installation) -> set[str]:
    return {target for one in machine.hub.attacks() for target in one["targets"]}


def test_daemon_when_in_another_namespace_then_skipped(machine: Installation) -> None:
    """Its API is not here, so nothing is said of its bans."""
    report = Report("fastnetmon")
    conf = parse(machine.conf.read_text())
    banlist.look(machine.situation(), conf, fastnetmon(machine), report)
    one = only(report, "banlist")
    assert (one.status, "another network namespace" in one.text) == (Status.SKIP, True)


def test_files_when_changed_since_the_start_then_restart_or_reload(machine: Installation) -> None:
    """What runs has read its files once, and those on the disk are others by now."""
    os.utime(machine.conf)
    rules = (machine.folder / "rules.yaml").read_text()
    machine.hub.write_rules(rules.replace("block: 10m", "block: 11m"))
    situation = machine.situation(Hub(status=machine.hub.get("/v1/status")))
    hub_side, detector_side = Report("configuration"), Report("fastnetmon")
    try:
        configuration.look(situation, hub_side)
        fastnetmon_daemon.look(fastnetmon(machine), machine.conf, (1, 2, 4), detector_side)
    finally:
        (machine.folder / "rules.yaml").write_text(rules)
    assert only(detector_side, "restarted").todo == "systemctl restart fastnetmon"
    assert only(hub_side, "in_force").todo == "fnm-hub reload, when you want them in force"


def test_doctor_when_an_ordinary_user_then_skips_say_why(machine: Installation) -> None:
    """It ends, looks at what it may, and says of the rest that root would see it."""
    argv = ["setpriv", "--reuid=4711", "--regid=4711", "--clear-groups", "--bounding-set=-all"]
    code, found, said = machine.doctor_by(argv)
    assert (code, said) == (0, ""), [one for one in found if one["status"] == "fail"]
    (hub,) = of(found, "hub")
    assert (hub["status"], "permission denied" in hub["text"]) == ("skip", True)
    for check in ("table", "journal", "writable", "hook"):
        assert {one["status"] for one in of(found, check)} == {"skip"}, check
    assert of(found, "table")[0]["todo"] == "run as root"
    assert of(found, "records")[0]["status"] == "ok"
    assert not of(found, "doctor")


def test_doctor_when_there_is_nothing_then_one_and_no_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a machine without any of it, each group says what it misses."""
    nowhere = ("--config", "/nowhere/config.yaml", "--fastnetmon-conf", "/nowhere/f.conf")
    assert main(["doctor", *nowhere]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert "fail  config: /nowhere/config.yaml: does not exist" in out
    assert "skip  conf: /nowhere/f.conf is not there" in out
    lines = out.splitlines()
    assert lines[-1].split(", ")[2].endswith(" fail")
    assert all(len(line) <= 80 for line in lines)


def test_group_when_it_hangs_then_its_findings_and_what_it_waited_for() -> None:
    """The time limit holds whatever a check waits for, and the others are not delayed."""
    held = threading.Event()

    def hangs(_: Situation, report: Report) -> None:
        report.ok("first", "was well")
        report.look("a disk that is gone")
        held.wait(30)

    def breaks(_: Situation, report: Report) -> None:
        report.ok("second", "was well")
        raise ValueError("a defect")

    groups = (("one", hangs), ("two", breaks))
    situation = Situation(_NOWHERE, None, _NOWHERE, Hub())
    try:
        found = examine(situation, groups, 0.2)
    finally:
        held.set()
    assert [(one.group, one.check, str(one.status)) for one in found] == [
        ("one", "first", "ok"),
        ("one", "time_limit", "fail"),
        ("two", "second", "ok"),
        ("two", "doctor", "fail"),
    ]
    assert "while it waited for a disk that is gone" in found[1].text
    assert "ValueError: a defect" in found[3].text


@pytest.mark.parametrize(
    ("statuses", "plain", "strict"),
    [(["ok", "skip"], 0, 0), (["ok", "warn"], 0, 1), (["fail", "ok"], 1, 1), ([], 0, 0)],
)
def test_exit_code_when_strict_then_warnings_count(
    statuses: list[str], plain: int, strict: int
) -> None:
    """1 for a failure; for a warning only where it is asked for."""
    found = [Finding("g", "c", Status(one), "t") for one in statuses]
    assert exit_code(found, strict=False) == plain
    assert exit_code(found, strict=True) == strict
