# SPDX-License-Identifier: Apache-2.0
"""Runs the hook as FastNetMon would: its own script, its own user, its own groups."""

import os
import pwd
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hub.errors import HubError

FASTNETMON_CONF: Final = Path("/etc/fastnetmon.conf")
INSTALLED: Final = (Path("/usr/local/bin/fnm-notify"), Path("/usr/bin/fnm-notify"))
FASTNETMON: Final = "fastnetmon"
_SECONDS: Final = 15.0
_LAST_WORDS: Final = 400
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom the hook runs as.

    Attributes:
        groups: supplementary groups; None to keep those that we have.
        as_detector: that is FastNetMon's own user.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] | None
    as_detector: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run of the hook ended, as the hub wants to be told."""

    path: str
    user: str
    as_detector: bool
    seconds: float
    status: int | None
    said: str

    def fields(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {name: getattr(self, name) for name in Ended.__dataclass_fields__}


def find_hook(named: Path | None, conf: Path = FASTNETMON_CONF) -> Path:
    """Return the program: as named, as FastNetMon has it, or as it was installed.

    Raises:
        HubError: there is none.
    """
    if named is not None:
        return named.absolute()
    configured = notify_script(conf)
    if configured is not None:
        return configured
    found = next((path for path in INSTALLED if path.exists()), None)
    if found is None:
        raise HubError(
            f"no fnm-notify: {conf} has no notify_script_path, and none is installed",
            todo="install it as docs/operations.md says, or name it with --notify PATH",
        )
    return found


def notify_script(conf: Path = FASTNETMON_CONF) -> Path | None:
    """Return what FastNetMon's own configuration has as `notify_script_path`."""
    try:
        text = conf.read_text("utf-8", "replace")
    except OSError:
        return None
    found = None
    for line in text.splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if key == "notify_script_path" and equals and value:
            found = Path(value)
    return found


def identity(named: str | None = None, proc: Path = Path("/proc")) -> Identity:
    """Return whom to run the hook as: as named, else FastNetMon's user, else who we are.

    Raises:
        HubError: no such user, or only root may run it as another.
    """
    me = os.geteuid()
    if me != 0:
        if named not in (None, _name(me)):
            raise HubError(f"only root may run the hook as {named}", todo="use sudo")
        return Identity(_name(me), me, os.getegid(), None, as_detector=_name(me) == FASTNETMON)
    if named is None and (running := _running(proc)) is not None:
        return running
    try:
        entry = pwd.getpwnam(named or FASTNETMON)
    except KeyError:
        if named is not None:
            raise HubError(f"there is no user {named}", todo="name one with --user") from None
        # Up to 1.2.6 it has no user of its own and runs as root.
        return Identity("root", 0, 0, (0,), as_detector=True)
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Identity(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, as_detector=True)


def run_hook(path: Path, who: Identity, arguments: list[str], stdin: str) -> Ended:
    """Run the hook once, as FastNetMon calls it, and return how it ended; never raises."""
    begun = time.monotonic()  # noqa: TID251 - a client has no hub.clock; the hook's own is this one
    status: int | None = None
    changes: dict[str, Any] = {}
    if who.groups is not None:
        changes = {"user": who.uid, "group": who.gid, "extra_groups": who.groups}
    try:
        done = subprocess.run(
            [str(path), *arguments],
            input=stdin.encode(),
            capture_output=True,
            cwd="/",
            env={"PATH": _PATH},
            timeout=_SECONDS,
            check=False,
            start_new_session=True,  # Ctrl-C is for us: the event in its hands goes its way
            **changes,
        )
        status, said = done.returncode, done.stderr.decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        said = f"no end after {_SECONDS:.0f} s"
    except OSError as error:
        said = f"{error.strerror or error}"
    seconds = time.monotonic() - begun  # noqa: TID251
    words = " / ".join(said.split("\n")).strip(" /")[-_LAST_WORDS:]
    return Ended(str(path), who.name, who.as_detector, seconds, status, words)


def _running(proc: Path) -> Identity | None:
    """Return the identity of the FastNetMon that runs, with the groups that it really has."""
    for status in proc.glob("[0-9]*/status"):
        try:
            lines = status.read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        fields = dict(line.partition(":")[::2] for line in lines)
        if fields.get("Name", "").strip() != FASTNETMON:
            continue
        uid, gid = (int(fields[key].split()[1]) for key in ("Uid", "Gid"))
        groups = tuple(int(one) for one in fields.get("Groups", "").split())
        return Identity(_name(uid), uid, gid, groups, as_detector=True)
    return None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user id {uid}"
