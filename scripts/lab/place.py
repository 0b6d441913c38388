# SPDX-License-Identifier: Apache-2.0
"""A lab's own folder: its files and logs, its name, and who is using it."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from scripts.lab.network import Network
from scripts.lab.synproxyd import PINS, unmount

PREFIX: Final = "fnm-lab-"
_LOCK: Final = "lock"


def create() -> Path:
    """Return a new empty folder that only its owner can read."""
    place = Path(tempfile.mkdtemp(prefix=PREFIX))
    (place / "logs").mkdir()
    (place / _LOCK).touch()
    return place


def tag(place: Path) -> str:
    """Return the part of the name that the lab's namespaces share."""
    return place.name.removeprefix(PREFIX)


@contextmanager
def in_use(place: Path) -> Iterator[bool]:
    """Claim the lab for this process; yields False when another one has it.

    The kernel gives the claim back when the process ends, however it ends.
    """
    fd = os.open(place / _LOCK, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def existing() -> list[Path]:
    """Return the folders of all labs on this machine that belong to this user."""
    found = Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{_LOCK}")
    return sorted(lock.parent for lock in found if lock.parent.lstat().st_uid == os.getuid())


def remove(place: Path) -> None:
    """End everything that runs in the lab and remove its namespaces, mounts and files."""
    Network(tag(place)).down()
    unmount(place / PINS)
    shutil.rmtree(place)
