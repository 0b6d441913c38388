# SPDX-License-Identifier: Apache-2.0
"""The doctor's trial of the hook: a real hub, the real script, FastNetMon's user."""

import os
import shutil
import socket
from collections.abc import Iterator

import pytest

from hub.cli.doctor import hook
from hub.cli.doctor.fastnetmon_conf import parse
from hub.cli.doctor.fastnetmon_daemon import Process
from hub.cli.doctor.finding import Report, Status
from hub.cli.doctor.people import Person
from hub.cli.doctor.situation import Hub
from tests.support.doctor import NOBODY, SCRIPT, Installation, found, only, place, worst

GROUPLESS = Person("nobody", NOBODY, 4711, frozenset({4711}))
MEMBER = Person("nobody", NOBODY, NOBODY, frozenset({NOBODY}))
RUNNING = Hub(denied=True)
STRANGER = Person("daemon", 1, NOBODY, frozenset({NOBODY}))


@pytest.fixture(scope="module")
def machine() -> Iterator[Installation]:
    """A hub that takes calls of `nobody`, and the hook."""
    with place() as folder:
        installed = Installation(folder)
        installed.install()
        with installed.hub:
            yield installed


def looked(
    machine: Installation,
    person: Person = MEMBER,
    hub: Hub = RUNNING,
    **changes: object,
) -> Report:
    """Return what the check of the hook says for a FastNetMon that runs as `person`."""
    machine.write_conf(**changes)
    process = Process(
        pid=os.getpid(),
        person=person,
        umask=0,
        started=0.0,
        log=machine.folder / "none.log",
        same_network=True,
    )
    report = Report("fastnetmon")
    hook.look(machine.situation(hub), parse(machine.conf.read_text()), process, report)
    return report


def test_hook_when_all_is_right_then_ok_and_nothing_was_recorded(machine: Installation) -> None:
    """The very script is run as the very user, and the hub has no event of it."""
    before = machine.hub.get("/v1/status")["counts"]["events"]
    report = looked(machine)
    assert {one.status for one in report.findings()} == {Status.OK}
    (socket_line, spool_line) = [one.text for one in found(report, "hook")]
    assert socket_line == f"as nobody: {machine.folder}/intake.sock: the hub would take a call"
    assert spool_line == f"as nobody: {machine.folder}/spool: calls can wait there"
    assert machine.hub.get("/v1/status")["counts"]["events"] == before
    assert list((machine.folder / "spool").iterdir()) == []


def test_hook_when_the_user_is_not_in_the_group_then_usermod(machine: Installation) -> None:
    """Socket and spool are both closed to it, and both lines say how to open them."""
    report = looked(machine, GROUPLESS)
    lines = found(report, "hook")
    assert [one.status for one in lines] == [Status.FAIL] * 2
    assert "Permission denied" in lines[0].text
    assert "may not write there" in lines[1].text
    # The user database has the group, which this process was started without.
    assert lines[0].todo == "restart FastNetMon: it has not the groups that nobody has now"


def test_hook_when_the_user_is_not_allowed_then_the_key_is_named(machine: Installation) -> None:
    """The socket lets it in by its group, and the hub refuses it by its name."""
    report = looked(machine, STRANGER)
    (refused,) = [one for one in found(report, "hook") if one.status == Status.FAIL]
    assert "answered 403" in refused.text
    assert refused.todo == "name the user in intake.unix.allow_users, and restart the hub"


def test_hook_when_the_hub_hangs_then_it_ends_and_says_so(machine: Installation) -> None:
    """A hub that takes connections and answers nothing costs the check a few seconds."""
    with machine.hub.stopped():
        report = looked(machine)
    (hung,) = [one for one in found(report, "hook") if one.status == Status.FAIL]
    assert hung.todo == "the hub hangs: see its log, then restart it; calls wait in the spool"


def test_hook_when_the_socket_is_missing_then_start_or_name_it(
    machine: Installation,
) -> None:
    """No hub at all, and a hub that listens elsewhere, are two different things to do."""
    text = machine.notify.read_text()
    try:
        machine.notify.write_text(text.replace("intake.sock", "old.sock"))
        report = looked(machine)
        (missing,) = [one for one in found(report, "hook") if one.status == Status.FAIL]
        assert "No such file" in missing.text
        assert missing.todo == (
            f"the hub listens at {machine.folder}/intake.sock: set socket in notify.conf"
        )
    finally:
        machine.notify.write_text(text)


def test_hook_when_it_spools_elsewhere_then_fail(machine: Installation) -> None:
    """Calls in a directory that no hub reads are lost without a word."""
    text = machine.notify.read_text()
    other = machine.folder / "other"
    other.mkdir()
    os.chown(other, NOBODY, NOBODY)
    try:
        machine.notify.write_text(text.replace(f"{machine.folder}/spool", str(other)))
        report = looked(machine)
        (lost,) = [one for one in found(report, "hook") if one.status == Status.FAIL]
        assert lost.text.endswith("where the hub does not look")
        assert lost.todo == "spool in notify.conf is intake.spool of the hub"
    finally:
        machine.notify.write_text(text)
        other.rmdir()


def test_script_when_it_cannot_be_run_then_chmod(machine: Installation) -> None:
    """FastNetMon would only log an exit code."""
    machine.script.chmod(0o644)
    try:
        one = only(looked(machine), "script")
    finally:
        machine.script.chmod(0o755)
    assert (one.status, one.text) == (
        Status.FAIL,
        f"FastNetMon's user nobody may not run {machine.script}: every call is lost",
    )
    assert one.todo.startswith(f"chmod 0755 {machine.script}")


@pytest.mark.parametrize(("mode", "who"), [(0o757, "everybody"), (0o775, "group root")])
def test_script_when_others_may_change_it_then_it_is_not_run(
    machine: Installation, mode: int, who: str
) -> None:
    """Whoever can write it acts as FastNetMon's user; a trial would as well."""
    machine.script.chmod(mode)
    try:
        report = looked(machine)
    finally:
        machine.script.chmod(0o755)
    one = only(report, "script")
    assert (one.status, f"changed by {who}" in one.text) == (Status.FAIL, True)
    assert found(report, "hook") == []


def test_script_when_a_folder_above_is_closed_then_the_same(machine: Installation) -> None:
    """Root would not notice: only the user itself can tell."""
    closed = machine.folder / "closed"
    closed.mkdir(mode=0o700)
    shutil.copy(SCRIPT, closed)
    try:
        report = looked(machine, notify_script_path=closed / "fnm-notify")
    finally:
        shutil.rmtree(closed)
    assert only(report, "script").status == Status.FAIL
    assert "let that user enter its folders" in only(report, "script").todo


@pytest.mark.parametrize("name", ["", "/nowhere/fnm-notify"])
def test_script_when_not_there_then_fail(machine: Installation, name: str) -> None:
    """Unset or missing: FastNetMon calls nothing, and says so once in its log."""
    one = only(looked(machine, notify_script_path=name), "script")
    assert one.status == Status.FAIL
    assert "FastNetMon calls nothing" in one.text
    assert "restart FastNetMon" in one.todo


def test_script_when_it_was_missing_at_the_start_then_restart(machine: Installation) -> None:
    """It is there by now, and FastNetMon looked once."""
    log = machine.folder / "none.log"
    log.write_text("Logger initialized!\n[ERROR] We can't find notify script /x\n")
    try:
        one = only(looked(machine), "script_at_start")
    finally:
        log.unlink()
    assert (one.status, one.todo) == (Status.FAIL, "systemctl restart fastnetmon")


@pytest.mark.parametrize(
    ("content", "status"),
    [("#!/bin/sh\ntouch RAN\n", "fail"), ("#!/bin/sh\ntouch RAN\nfnm-notify $@\n", "warn")],
)
def test_script_when_somebody_elses_then_it_is_not_run(
    machine: Installation, content: str, status: str
) -> None:
    """A look must change nothing, so only fnm-notify itself is ever called."""
    foreign = machine.folder / "run" / "foreign"
    ran = machine.folder / "run" / "ran"
    foreign.write_text(content.replace("RAN", str(ran)))
    foreign.chmod(0o755)
    try:
        report = looked(machine, notify_script_path=foreign)
    finally:
        foreign.unlink()
    assert worst(report, "hook") == status
    assert not ran.exists()


def test_hook_when_the_hub_is_dead_then_start_it(machine: Installation) -> None:
    """What a killed hub leaves at its socket's path refuses connections."""
    dead = machine.folder / "dead.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fspath(dead))
    dead.chmod(0o666)
    text = machine.notify.read_text()
    try:
        machine.notify.write_text(text.replace("intake.sock", "dead.sock"))
        report = looked(machine, hub=Hub(trouble="nobody answers"))
    finally:
        machine.notify.write_text(text)
    (gone,) = [one for one in found(report, "hook") if one.status == Status.FAIL]
    assert "refused" in gone.text
    assert gone.todo == "start the hub; calls wait in the spool until then"
