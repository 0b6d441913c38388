# SPDX-License-Identifier: Apache-2.0
"""Where the journal and the spool lie: room, inodes, kind of file system, and who may write."""

import os
import stat
from pathlib import Path
from typing import Final

from hub.cli.doctor import programs
from hub.cli.doctor.finding import Report
from hub.cli.doctor.situation import Situation
from hub.errors import StoreError
from hub.store import files

_LOW, _EMPTY = 0.10, 0.02
_LOW_BYTES, _EMPTY_BYTES = 256 * 2**20, 32 * 2**20
_MEMORY: Final = frozenset({"tmpfs", "ramfs", "rootfs"})


def look(situation: Situation, report: Report) -> None:
    """Look at the places of the journal and the spool."""
    if situation.config is None:
        report.skip("space", "the configuration cannot be read, so the places are unknown")
        return
    journal = situation.config.store.path.parent
    spool = situation.config.intake.spool
    places = {"journal": journal, "spool": spool}
    there = {name: path for name, path in places.items() if _is_there(name, path, report)}
    for name, path in there.items():
        report.look(str(path))
        _room(name, path, report)
        _kind(name, path, report)
        _writable(situation, name, path, report)
    if len(there) == len(places):
        _apart(journal, spool, report)


def _is_there(name: str, path: Path, report: Report) -> bool:
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return True
        why = "is no directory"
    except PermissionError:
        report.skip("space", f"{path} cannot be looked at by this user", "run as root")
        return False
    except OSError as error:
        why = error.strerror or str(error)
    mode = "-o root -g fnm-hub -m 2770" if name == "spool" else "-o fnm-hub -g fnm-hub -m 0700"
    report.fail("space", f"{name}: {path}: {why}", f"install -d {mode} {path}")
    return False


def _room(name: str, path: Path, report: Report) -> None:
    found = os.statvfs(path)
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    text = f"{name}: {_amount(free)} of {_amount(size)} free at {path}"
    todo = "free space, or give it a larger file system"
    # A share of a large disk is much, and so many bytes of a small one are all there is.
    if free < min(_EMPTY * size, _EMPTY_BYTES):
        report.fail("space", text, todo)
    elif free < min(_LOW * size, _LOW_BYTES):
        report.warn("space", text, todo)
    else:
        report.ok("space", text)
    if found.f_files and found.f_favail < _LOW * found.f_files:
        text = f"{name}: {found.f_favail} of {found.f_files} inodes free at {path}"
        judge = report.fail if found.f_favail < _EMPTY * found.f_files else report.warn
        judge("inodes", text, "delete small files, or give it a file system of its own")
    elif found.f_files:
        report.ok("inodes", f"{name}: {found.f_favail} of {found.f_files} inodes free")


def _kind(name: str, path: Path, report: Report) -> None:
    place = path.resolve()
    mounts = files.MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    kind = files.filesystem_of(place, mounts)
    try:
        files.refuse_network(place)
    except StoreError:
        if name == "journal":
            todo = "set store.path to a file on a local disk"
            report.fail("filesystem", f"journal: {kind}, reached over a network", todo)
        else:
            text = f"spool: {kind}, reached over a network: a call waits for it, or is lost with it"
            report.warn("filesystem", text, "set intake.spool, and spool in notify.conf, to a disk")
        return
    if kind in _MEMORY:
        text = f"{name}: {kind}, which a restart of the machine empties"
        report.warn("filesystem", text, f"move {path} to a disk")
    else:
        report.ok("filesystem", f"{name}: {kind or 'of unknown kind'}, local")


def _writable(situation: Situation, name: str, path: Path, report: Report) -> None:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        todo = "look at the disk and its log, then mount it for writing"
        report.fail("writable", f"{name}: {path} is mounted read-only", todo)
        return
    user = situation.hub_user()
    if user is None:
        report.skip("writable", f"{name}: the hub's user is unknown")
    elif not programs.can_become(user):
        report.skip("writable", f"{name}: only root can try it as {user.name}", "run as root")
    elif programs.may(user, "w", path) and programs.may(user, "x", path):
        report.ok("writable", f"{name}: {user.name} may write at {path}")
    else:
        text = f"{name}: the hub's user {user.name} may not write at {path}"
        todo = f"chown fnm-hub {path}" if name == "journal" else f"chgrp fnm-hub {path}; chmod 2770"
        report.fail("writable", text, todo)


def _apart(journal: Path, spool: Path, report: Report) -> None:
    if journal.stat().st_dev == spool.stat().st_dev:
        text = "journal and spool are on one file system: when it is full, calls are lost"
        report.warn("apart", text, f"give {spool} a file system of its own, however small")
    else:
        report.ok("apart", "journal and spool are on two file systems")


def _amount(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004 - the next unit begins here
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
