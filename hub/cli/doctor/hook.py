# SPDX-License-Identifier: Apache-2.0
"""FastNetMon's notify script: set, present, ours, and run as its own user for a trial."""

import os
import re
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hub.cli.doctor import people, programs
from hub.cli.doctor.fastnetmon_conf import Conf
from hub.cli.doctor.fastnetmon_daemon import Process, missed_script, tail
from hub.cli.doctor.finding import Report
from hub.cli.doctor.people import Person
from hub.cli.doctor.situation import Situation

_NAME: Final = "fnm-notify"
_KNOWS_CHECK: Final = b'"--check"'
_CONFIG: Final = "/etc/fnm-hub/notify.conf"
_WAITS: Final = ": calls can wait there"
_LARGEST: Final = 2**20
_CHECK_SECONDS: Final = 4.5
"""More than fnm-notify gives a hub that hangs."""


def look(situation: Situation, conf: Conf, process: Process | None, report: Report) -> None:
    """Look at the script, and call it without making an event."""
    name = conf.text("notify_script_path")
    if not name:
        todo = f"notify_script_path = /usr/local/bin/{_NAME}, and restart FastNetMon"
        report.fail("script", "notify_script_path is not set: FastNetMon calls nothing", todo)
        return
    path = Path(name)
    if not _present(path, report):
        return
    person = _person(process)
    if process is not None and missed_script(tail(process.log)):
        text = f"FastNetMon did not find {path} when it started, and calls nothing since then"
        report.fail("script_at_start", text, "systemctl restart fastnetmon")
    if not programs.can_become(person):
        text = f"only root can call it as FastNetMon's user {person.name}"
        report.skip("hook", text, "run as root")
        return
    if not programs.may(person, "x", path):
        text = f"FastNetMon's user {person.name} may not run {path}: every call is lost"
        report.fail("script", text, f"chmod 0755 {path}, and let that user enter its folders")
        return
    if others := _changed_by_others(path):
        text = f"{path} can be changed by {others}, who would so act as {person.name}"
        report.fail("script", text, f"chown root {path}; chmod 0755 {path}")
        return
    report.ok("script", f"{path} is there, and {person.name} may run it")
    if _is_ours(path, report):
        _probe(situation, path, person, process, report)


def _present(path: Path, report: Report) -> bool:
    try:
        there = path.is_file()
    except PermissionError:
        report.skip("script", f"{path} is out of this user's sight", "run as root")
        return False
    if not there:
        text = f"notify_script_path names {path}, which is no file: FastNetMon calls nothing"
        todo = f"install -m 0755 scripts/{_NAME} {path}, then restart FastNetMon"
        report.fail("script", text, todo)
    return there


def _person(process: Process | None) -> Person:
    if process is not None:
        return process.person
    return people.of_name("fastnetmon") or people.of_uid(0)


def _changed_by_others(path: Path) -> str:
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH:
        return "everybody"
    return f"group {people.group_name(path.stat().st_gid)}" if mode & stat.S_IWGRP else ""


def _is_ours(path: Path, report: Report) -> bool:
    """Tell whether calling the script for a trial is harmless: nobody else's program is run."""
    try:
        content = _read(path)
        wrapper = None if _KNOWS_CHECK in content else wrapped(content.decode("utf-8", "replace"))
        if wrapper is not None:
            content = _read(wrapper[0])
    except OSError as error:
        report.skip("hook", f"{error.filename}: {error.strerror}")
        return False
    if _KNOWS_CHECK in content:
        return True
    if _NAME.encode() in content:
        text = f"{path} is an {_NAME} of another release, or a script of your own around one"
        todo = f"try it by hand: runuser -u fastnetmon -- {_NAME} --check"
        report.warn("hook", text, todo)
    else:
        text = f"{path} is no {_NAME}: the hub hears of nothing unless it tells the hub itself"
        report.fail("hook", text, f"notify_script_path = /usr/local/bin/{_NAME}")
    return False


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LARGEST)


def wrapped(script: str) -> tuple[Path, tuple[str, ...]] | None:
    """Return the fnm-notify that a shell script starts and its options, if it does nothing else.

    That is one line `exec PATH/fnm-notify OPTIONS "$@"` beside comments.
    """
    lines = [line.strip() for line in script.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) != 1 or re.search(r"[;&|<>`]|\$\(", lines[0]):
        return None
    try:
        words = shlex.split(lines[0])
    except ValueError:
        return None
    if len(words) < 3 or words[0] != "exec" or words[-1] != "$@":  # noqa: PLR2004
        return None
    path = Path(words[1])
    ours = path.name == _NAME and path.is_absolute()
    return (path, tuple(words[2:-1])) if ours else None


def detector_of(script: Path) -> str:
    """Return the name under which calls of `script` reach the hub, as fnm-notify finds it."""
    try:
        wrapper = wrapped(_read(script).decode("utf-8", "replace"))
    except OSError:
        wrapper = None
    options = _options(wrapper[1] if wrapper else ())
    try:
        text = _read(Path(options.get("config", _CONFIG))).decode("utf-8", "replace")
    except OSError:
        text = ""
    pairs = (line.partition("=") for line in text.splitlines())
    written = {key.strip(): value.strip() for key, _, value in pairs}
    name = options.get("detector") or written.get("detector") or os.uname().nodename
    good = "".join(c if c.isascii() and (c.isalnum() or c in "._:-") else "-" for c in name)
    return good[:64] or "unknown"


def _options(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        found[name] = value if equals else next(rest, "")
    return found


def _probe(
    situation: Situation, path: Path, person: Person, process: Process | None, report: Report
) -> None:
    report.look(f"{path} --check as {person.name}")
    done = programs.call(programs.as_person(person, (str(path), "--check")), _CHECK_SECONDS)
    said = programs.text_of(done)
    if done.code is None:
        text = f"{path} --check as {person.name} did not end within {_CHECK_SECONDS:g} s"
        report.fail("hook", text, "run it by hand, and see where it waits")
        return
    remote = "https://" in said
    answers = [line for line in said.splitlines() if line.startswith(("ok ", "fail "))]
    for line in said.splitlines():
        if line not in answers:
            report.warn("hook", line, "see notify.conf, docs/operations.md")
    for line in answers:
        if not remote and _is_elsewhere(line, situation):
            text = f"as {person.name}: {line[5:]}, where the hub does not look"
            report.fail("hook", text, "spool in notify.conf is intake.spool of the hub")
        elif line.startswith("ok "):
            report.ok("hook", f"as {person.name}: {line[5:]}")
        else:
            report.fail("hook", f"as {person.name}: {line[5:]}", _todo(line, situation, process))
    if not answers:
        text = f"{path} --check as {person.name} said nothing, exit status {done.code}"
        report.fail("hook", text, "is /usr/bin/python3 there, version 3.7 or newer?")


def _is_elsewhere(line: str, situation: Situation) -> bool:
    """Tell whether calls would wait in a spool that the hub on this host does not read."""
    config = situation.config
    if config is None or not line.endswith(_WAITS):
        return False
    return Path(line[5:].removesuffix(_WAITS)) != config.intake.spool


def _todo(line: str, situation: Situation, process: Process | None) -> str:
    """Return what to do about a way that is closed."""
    running = situation.hub.status is not None or situation.hub.denied
    config = situation.config
    if "403" in line:
        return "name the user in intake.unix.allow_users, and restart the hub"
    if "no answer in time" in line or "timed out" in line:
        return "the hub hangs: see its log, then restart it; calls wait in the spool"
    if "Permission denied" in line or "may not write" in line:
        group = "fnm-hub"
        if config is not None and programs.is_there(config.intake.unix.path):
            group = people.group_name(config.intake.unix.path.stat().st_gid)
        todo = f"usermod -aG {group} fastnetmon, then restart FastNetMon"
        stale = _stale(process)
        return f"restart FastNetMon: it has not the groups that {stale} has now" if stale else todo
    if "refused" in line or "No such file" in line:
        if running and config is not None and str(config.intake.unix.path) not in line:
            return f"the hub listens at {config.intake.unix.path}: set socket in notify.conf"
        return "start the hub; calls wait in the spool until then"
    return "see The hook, docs/operations.md"


def _stale(process: Process | None) -> str:
    """Return the user's name if the running process lacks groups of its user's."""
    if process is None:
        return ""
    now = people.of_name(process.person.name)
    return now.name if now is not None and now.groups - process.person.groups else ""
