# SPDX-License-Identifier: Apache-2.0
"""Users as the kernel and the user database know them."""

import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Person:
    """A user with groups: those of a process, or those that a new one would get.

    Attributes:
        groups: supplementary ones, with `gid` among them.
    """

    name: str
    uid: int
    gid: int
    groups: frozenset[int]


def process_status(pid: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status, proc_pid_status(5).

    Raises:
        OSError: there is no such process.
    """
    pairs = (line.partition(":") for line in (PROC / f"{pid}/status").read_text().splitlines())
    return {name: value.strip() for name, _, value in pairs}


def of_process(status: Mapping[str, str]) -> Person:
    """Return who a process is, by its status: the effective user."""
    uid, gid = (int(status[key].split()[1]) for key in ("Uid", "Gid"))
    groups = frozenset(int(one) for one in status.get("Groups", "").split())
    return Person(user_name(uid), uid, gid, groups | {gid})


def of_name(name: str) -> Person | None:
    """Return who would run a new process of user `name`; None where there is none."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    groups = frozenset(os.getgrouplist(name, found.pw_gid))
    return Person(name, found.pw_uid, found.pw_gid, groups)


def of_uid(uid: int) -> Person:
    """Return who would run a new process of the user `uid`, who may have no name."""
    name = user_name(uid)
    return of_name(name) or Person(name, uid, uid, frozenset({uid}))


def user_name(uid: int) -> str:
    """Return the name of a user, its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Return the name of a group, its number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
