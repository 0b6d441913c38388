# SPDX-License-Identifier: Apache-2.0
"""Runs other programs for a look, each with a time limit, and as another user where need be."""

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hub.cli.doctor.people import Person
from hub.engines.process import Finished, run

LIMIT: Final = 3.0
"""Seconds that one program may take."""
PLACES: Final = (
    "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/opt/fastnetmon-community/app/bin"
)
"""Where programs of packages and of their vendors lie."""
_SETPRIV: Final = Path("/usr/bin/setpriv")
_TEST: Final = "/usr/bin/test"
_ENVIRONMENT: Final = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def call(argv: Sequence[str], limit: float = LIMIT) -> Finished:
    """Run `argv` to its end, or until its time is up.

    Raises:
        OSError: it cannot be started.
    """
    return asyncio.run(run(argv, environment=_ENVIRONMENT, stdin=b"", limit=limit))


def find(name: str) -> str | None:
    """Return the path of a program, None where it is not installed."""
    return shutil.which(name, path=PLACES)


def is_there(path: Path) -> bool:
    """Tell whether there is something at `path`; False where this user cannot see."""
    try:
        return path.exists()
    except OSError:
        return False


def text_of(finished: Finished) -> str:
    """Return what a program has said, without the blank at its ends."""
    return finished.output.decode("utf-8", "replace").strip()


def can_become(person: Person) -> bool:
    """Tell whether this process may act as `person`, with the very groups."""
    if os.geteuid() == 0:
        return person.uid == 0 or _SETPRIV.exists()
    return os.geteuid() == person.uid and {os.getegid(), *os.getgroups()} == person.groups


def as_person(person: Person, argv: Sequence[str]) -> tuple[str, ...]:
    """Return the argument vector that runs `argv` as `person`, without any capability."""
    if os.geteuid() == person.uid:
        return tuple(argv)
    groups = ",".join(str(gid) for gid in sorted(person.groups))
    return (
        str(_SETPRIV),
        f"--reuid={person.uid}",
        f"--regid={person.gid}",
        f"--groups={groups}" if groups else "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--",
        *argv,
    )


def may(person: Person, what: str, path: Path) -> bool:
    """Ask the kernel whether `person` may read (`r`), write (`w`) or enter and run (`x`) `path`.

    Raises:
        OSError: it cannot be asked.
    """
    return call(as_person(person, (_TEST, f"-{what}", str(path)))).code == 0
