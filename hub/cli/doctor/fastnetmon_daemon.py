# SPDX-License-Identifier: Apache-2.0
"""FastNetMon's process: whether it runs, as whom, since when, and what it has logged."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hub.cli.doctor import people
from hub.cli.doctor.finding import Report
from hub.cli.doctor.people import Person
from hub.cli.doctor.programs import call, text_of
from hub.cli.doctor.programs import find as find_program

NAME: Final = "fastnetmon"
DEFAULT_CONF: Final = Path("/etc/fastnetmon.conf")
DEFAULT_LOG: Final = Path("/var/log/fastnetmon.log")
_OWN_USER: Final = (1, 2, 7)
"""From this release on the unit runs it as user fastnetmon."""
_TAIL: Final = 256 * 2**10
_STARTED: Final = "Logger initialized"
_MISSED: Final = "We can't find notify script"


@dataclass(frozen=True, slots=True)
class Process:
    """One running FastNetMon.

    Attributes:
        person: whom it, and so the script, runs as.
        umask: that the script inherits, None where the kernel does not tell.
        started: Unix seconds.
        log: where it writes.
        same_network: it lives in this process's network namespace.
    """

    pid: int
    person: Person
    umask: int | None
    started: float
    log: Path
    same_network: bool


def find(conf: Path) -> Process | None:
    """Return the FastNetMon that was started with the configuration `conf`."""
    for pid in _pids():
        try:
            argv = (people.PROC / f"{pid}/cmdline").read_bytes().decode("utf-8", "replace")
            words = argv.split("\0")
            if Path(_option(words, "--configuration_file") or DEFAULT_CONF) == conf:
                return _process(pid, words)
        except (OSError, KeyError, ValueError):
            continue  # it has ended meanwhile
    return None


def _pids() -> Iterator[int]:
    for folder in people.PROC.iterdir():
        if folder.name.isdecimal():
            try:
                name = (folder / "comm").read_text().strip()
            except OSError:
                continue
            if name == NAME:
                yield int(folder.name)


def _option(words: list[str], name: str) -> str:
    for place, word in enumerate(words):
        if word == name:
            return words[place + 1] if place + 1 < len(words) else ""
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""


def _process(pid: int, words: list[str]) -> Process:
    status = people.process_status(pid)
    return Process(
        pid=pid,
        person=people.of_process(status),
        umask=int(status["Umask"], 8) if "Umask" in status else None,
        started=_started(pid),
        log=Path(_option(words, "--log_file") or DEFAULT_LOG),
        same_network=_network(str(pid)) in {"", _network("self")},
    )


def _network(pid: str) -> str:
    try:
        return str((people.PROC / pid / "ns/net").readlink())
    except OSError:
        return ""  # another user's, and nothing is said about it


def _started(pid: int) -> float:
    # Behind the name, which may hold anything: proc_pid_stat(5), field 22.
    fields = (people.PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[19])
    lines = (people.PROC / "stat").read_text().splitlines()
    boot = next(int(line.split()[1]) for line in lines if line.startswith("btime"))
    return boot + ticks / os.sysconf("SC_CLK_TCK")


def version() -> tuple[int, ...]:
    """Return the version of the installed FastNetMon, empty where it does not say."""
    program = find_program(NAME)
    if program is None:
        return ()
    said = text_of(call((program, "--version")))
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", said)
    return tuple(int(one) for one in match.groups()) if match else ()


def look(process: Process | None, conf: Path, release: tuple[int, ...], report: Report) -> None:
    """Report whether it runs, as whom, and with the files as they are now."""
    shown = ".".join(str(one) for one in release) or "of unknown version"
    if process is None:
        text = f"FastNetMon {shown} does not run with {conf}: nothing is detected here"
        report.fail("daemon", text, "systemctl start fastnetmon, or name its file")
        return
    report.ok("daemon", f"FastNetMon {shown} runs, pid {process.pid}")
    _user(process, release, report)
    try:
        changed = conf.stat().st_mtime
    except OSError:
        return
    if changed > process.started:
        text = f"{conf} was changed after FastNetMon started, which reads it at its start only"
        report.warn("restarted", text, "systemctl restart fastnetmon")
    else:
        report.ok("restarted", "FastNetMon has read its configuration as it is now")


def _user(process: Process, release: tuple[int, ...], report: Report) -> None:
    name = process.person.name
    if process.person.uid:
        report.ok("daemon_user", f"it runs as {name}, and so does the script")
        return
    open_mask = process.umask is not None and not process.umask & 0o022
    text = "it runs as root, and so does the script"
    if open_mask:
        text += f", with umask {process.umask:03o}: what a script writes everybody may change"
    if release >= _OWN_USER:
        text += "; from 1.2.7 on it needs no more than user fastnetmon with two capabilities"
        report.warn("daemon_user", text, "take the unit of its package")
    elif open_mask:
        # fnm-notify sets a umask of its own: the older units are as they are.
        report.ok("daemon_user", text + " (fnm-notify sets its own)")
    else:
        report.ok("daemon_user", text)


def missed_script(text: str) -> bool:
    """Tell whether FastNetMon found no script at its last start, by the end of its log."""
    return text.rfind(_MISSED) > text.rfind(_STARTED)


def tail(path: Path) -> str:
    """Return the end of a log, empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            return file.read(_TAIL).decode("utf-8", "replace")
    except OSError:
        return ""
