# SPDX-License-Identifier: Apache-2.0
"""The hook is found where FastNetMon has it, and run with FastNetMon's own rights."""

import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from hub.cli.hook import Identity, find_hook, identity, notify_script, run_hook
from hub.drills.model import KINDS
from hub.drills.report import arguments, report_text
from hub.errors import HubError
from hub.intake.parse import parse

KNOWN = {
    "syn": ("syn_flood", "tcp"),
    "tcp": ("other", "tcp"),
    "udp": ("udp_flood", "udp"),
    "icmp": ("icmp_flood", "icmp"),
    "fragments": ("ip_fragmentation", "udp"),
}


@pytest.mark.parametrize("target", ["192.0.2.10", "2001:db8::10"])
@pytest.mark.parametrize("kind", KINDS)
def test_report_when_written_for_a_drill_then_understood_as_that_attack(
    kind: str, target: str
) -> None:
    """Each kind is what the hub would make of FastNetMon's own report of it."""
    address = ip_address(target)
    text = report_text(kind, address, 100_000)
    report = parse(arguments(address, 100_000, "ban"), text.encode())
    assert (report.derived.attack_type, report.derived.protocol) == KNOWN[kind]
    assert (report.derived.direction, report.target, report.dialect) == (
        "incoming",
        address,
        "community-b",
    )
    assert report.counters["incoming"]["total"].pps == 100_000


def test_hook_when_fastnetmon_names_one_then_taken_from_there(tmp_path: Path) -> None:
    """`notify_script_path` is what is drilled; comments and other keys are not."""
    conf = tmp_path / "fastnetmon.conf"
    conf.write_text(
        "# notify_script_path = /wrong\nban_time = 1900\n notify_script_path = /opt/n.sh\n"
    )
    assert notify_script(conf) == Path("/opt/n.sh")
    assert find_hook(None, conf) == Path("/opt/n.sh")
    assert find_hook(Path("/other"), conf) == Path("/other")
    assert notify_script(tmp_path / "missing") is None


def process(proc: Path, number: int, name: str) -> None:
    """Make an entry of proc(5)."""
    (proc / str(number)).mkdir()
    (proc / str(number) / "status").write_text(
        f"Name:\t{name}\nUid:\t0\t65534\t0\t0\nGid:\t0\t65534\t0\t0\nGroups:\t1 65534 \n"
    )


def test_identity_when_fastnetmon_runs_then_its_own_user_and_groups(tmp_path: Path) -> None:
    """The groups are those that the process has, not those that it would get at a restart."""
    process(tmp_path, 1, "init")
    process(tmp_path, 7, "fastnetmon")
    assert identity(proc=tmp_path) == Identity("nobody", 65534, 65534, (1, 65534), as_detector=True)


def test_identity_when_a_user_is_named_then_that_one(tmp_path: Path) -> None:
    """--user wins, and must exist."""
    process(tmp_path, 7, "fastnetmon")
    assert identity("daemon", tmp_path).name == "daemon"
    with pytest.raises(HubError, match="there is no user nobody-at-all"):
        identity("nobody-at-all", tmp_path)


def test_hook_when_run_as_another_then_with_no_right_of_ours(tmp_path: Path) -> None:
    """User, groups and environment are those of FastNetMon; its words come back."""
    tmp_path.chmod(0o755)
    script = tmp_path / "hook.sh"
    script.write_text('#!/bin/sh\ncat > /dev/null\necho "$(id -u) $(id -G) $HOME $*" >&2\nexit 3\n')
    script.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o111)
    who = Identity("nobody", 65534, 65534, (65534,), as_detector=True)
    ended = run_hook(script, who, ["--drill", "t", "ban"], "text")
    assert (ended.status, ended.said) == (3, "65534 65534  --drill t ban")


def test_hook_when_it_cannot_be_started_then_said(tmp_path: Path) -> None:
    """What is no program ends the stage, not the command."""
    who = Identity("root", 0, 0, None, as_detector=True)
    ended = run_hook(tmp_path / "missing", who, [], "")
    assert (ended.status, ended.said) == (None, "No such file or directory")
