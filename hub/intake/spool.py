# SPDX-License-Identifier: Apache-2.0
"""Detector calls that fnm-notify could not hand over: one file each, taken oldest first.

The directory is written by other users (docs/protocols.md, "Spool directory"), so nothing in it
is trusted: no link is followed, nothing but a regular file is opened, sizes are capped.
"""

import asyncio
import errno
import os
import secrets
import stat
import string
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from hub.clock import Clock
from hub.errors import IntakeError
from hub.intake.envelope import Envelope, decode

SUFFIX: Final = ".json"
TMP_PREFIX: Final = ".tmp-"
BAD: Final = "bad"
MAX_FILE: Final = 16 * 2**20
STALE_TMP: Final = 3600.0

_BATCH_BYTES: Final = 2 * MAX_FILE
_PLAIN: Final = frozenset(string.ascii_letters + string.digits + "._-")
_MAX_NAME: Final = 200

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SpoolFile:
    """One call read from the spool.

    Attributes:
        name: of the file in the spool directory.
        envelope: what it holds.
    """

    name: str
    envelope: Envelope


class SpoolError(IntakeError):
    """The spool directory cannot be used as it is; what is in it stays there."""


class _BadFileError(Exception):
    """A file will never be an event; its text says why."""


class Spool:
    """The spool directory; one reader only.

    `take`, journal the calls, `done`, and again: what was taken and not done is taken again.
    Trouble with the directory or with one file raises nothing: it is logged once and stands in
    `problem`, and the next `take` tries again.

    Args:
        directory: writable by the detectors' users and by us.
        clock: tells the age of half-written files.
        max_file: bytes; a bigger file is bad.
    """

    def __init__(self, directory: Path, clock: Clock, *, max_file: int = MAX_FILE) -> None:
        self._directory, self._clock, self._max_file = directory, clock, max_file
        self._done: set[str] = set()
        self._stuck: dict[str, str] = {}
        self._trouble: SpoolError | None = None
        self._waiting = 0
        self._bad = 0
        self._lock = asyncio.Lock()  # one thread at a time works on the fields above

    @property
    def waiting(self) -> int:
        """Number of files that waited when the directory was last read."""
        return self._waiting

    @property
    def bad(self) -> int:
        """Number of files set aside as bad since the start."""
        return self._bad

    @property
    def problem(self) -> SpoolError | None:
        """What keeps the spool, or a file in it, from being read now; None when all is well."""
        if self._trouble is not None or not self._stuck:
            return self._trouble
        name, why = next(iter(sorted(self._stuck.items())))
        return SpoolError(
            f"{len(self._stuck)} file(s) cannot be read or removed, first {name!r}: {why}",
            where=str(self._directory),
            todo=f"chgrp fnm-hub {self._directory} and chmod 2770 it; the hub's user must be in"
            " its group, the files in it readable by that group",
        )

    async def take(self, limit: int = 256) -> list[SpoolFile]:
        """Return the oldest calls, at most `limit`, in the order of their stamps.

        Bad files are moved into the subdirectory `bad`, with their reason beside them. Not more
        than 32 MiB of files are read at once, or one file.
        """
        async with self._lock:
            return await asyncio.to_thread(self._take, limit)

    async def done(self, *files: SpoolFile) -> None:
        """Delete `files`; to be called once their events are in the journal."""
        async with self._lock:
            self._done.update(file.name for file in files)
            await asyncio.to_thread(self._delete_done)

    def _take(self, limit: int) -> list[SpoolFile]:
        try:
            with self._open() as directory:
                files = self._read_batch(directory, limit)
        except OSError as error:
            self._troubled(
                error.strerror or str(error),
                f"create it: install -d -o root -g fnm-hub -m 2770 {self._directory}",
            )
        except SpoolError as error:
            self._troubled(error.what, error.todo)
        else:
            if self._trouble is not None:
                log.info("spool.usable", directory=str(self._directory))
            self._trouble = None
            return files
        self._waiting = 0
        return []

    def _troubled(self, what: str, todo: str) -> None:
        trouble = SpoolError(what, where=str(self._directory), todo=todo)
        if str(trouble) != str(self._trouble):
            log.error(
                "spool.unusable",
                error=str(trouble),
                todo="mend owner and mode of the directory: root:fnm-hub, 2770",
            )
        self._trouble = trouble

    @contextmanager
    def _open(self) -> Iterator[int]:
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if os.fstat(directory).st_mode & stat.S_IWOTH:
                raise SpoolError(
                    "every user may write here, so anybody could forge events",
                    todo=f"chmod 2770 {self._directory}",
                )
            yield directory
        finally:
            os.close(directory)

    def _read_batch(self, directory: int, limit: int) -> list[SpoolFile]:
        present = os.listdir(directory)
        self._remove_stale(directory, present)
        names = sorted(name for name in present if _is_call(name))
        self._done.intersection_update(names)
        for gone in self._stuck.keys() - set(names):
            del self._stuck[gone]
        self._waiting = len(names)
        files: list[SpoolFile] = []
        size = 0
        for name in names:
            if len(files) >= limit or size >= _BATCH_BYTES:
                break
            if name in self._done:
                self._delete(directory, name)
            elif (body := self._read(directory, name)) is not None:
                size += len(body)
                self._decode(directory, name, body, files)
        return files

    def _read(self, directory: int, name: str) -> bytes | None:
        try:
            body = _read_regular(directory, name, self._max_file)
        except FileNotFoundError:
            return None
        except _BadFileError as error:
            self._set_aside(directory, name, str(error))
            return None
        except OSError as error:
            self._is_stuck(name, error.strerror or str(error))
            return None
        self._stuck.pop(name, None)
        return body

    def _decode(self, directory: int, name: str, body: bytes, files: list[SpoolFile]) -> None:
        try:
            files.append(SpoolFile(name, decode(body)))
        except IntakeError as error:
            self._set_aside(directory, name, str(error))

    def _set_aside(self, directory: int, name: str, reason: str) -> None:
        try:
            target = _move_to_bad(directory, name, reason)
        except OSError as error:
            self._is_stuck(name, f"{reason}; cannot be moved to {BAD}/: {error.strerror}")
            return
        self._bad += 1
        self._stuck.pop(name, None)
        log.error(
            "spool.bad",
            file=f"{self._directory}/{BAD}/{target}",
            name=ascii(name),
            reason=reason,
            todo="look who wrote it; delete it from bad/ when you know",
        )

    def _is_stuck(self, name: str, why: str) -> None:
        if self._stuck.get(name) != why:
            log.error(
                "spool.stuck",
                file=ascii(f"{self._directory}/{name}"),
                error=why,
                todo="mend owner and mode: group fnm-hub, directory 2770",
            )
        self._stuck[name] = why

    def _delete_done(self) -> None:
        with suppress(OSError, SpoolError), self._open() as directory:
            for name in sorted(self._done):
                self._delete(directory, name)

    def _delete(self, directory: int, name: str) -> None:
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._is_stuck(name, f"it is in the journal and cannot be removed: {error.strerror}")
            return
        self._done.discard(name)
        self._stuck.pop(name, None)

    def _remove_stale(self, directory: int, names: list[str]) -> None:
        before = self._clock.time() - STALE_TMP
        for name in names:
            if not name.startswith(TMP_PREFIX):
                continue
            with suppress(OSError):
                if os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime < before:
                    os.unlink(name, dir_fd=directory)


def _is_call(name: str) -> bool:
    return name.endswith(SUFFIX) and not name.startswith(".")


def _read_regular(directory: int, name: str, most: int) -> bytes:
    # Looked at before it is opened: opening a device or a FIFO can have effects of its own.
    _check(os.stat(name, dir_fd=directory, follow_symlinks=False), most)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        handle = os.open(name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _BadFileError("a symbolic link") from error
        raise
    with os.fdopen(handle, "rb") as file:
        _check(os.fstat(handle), most)
        body = file.read(most + 1)
    if len(body) > most:
        raise _BadFileError(f"it grew beyond {most} bytes")
    return body


def _check(status: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _BadFileError("not a regular file")
    if status.st_size > most:
        raise _BadFileError(f"{status.st_size} bytes, more than {most}")


def _move_to_bad(directory: int, name: str, reason: str) -> str:
    with suppress(FileExistsError):
        os.mkdir(BAD, 0o770, dir_fd=directory)
    # NOFOLLOW: a link there would let its maker choose where we move files to.
    bad = os.open(BAD, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        plain = "".join(c if c in _PLAIN else "_" for c in name.removesuffix(SUFFIX))
        target = f"{plain[:_MAX_NAME]}.{secrets.token_hex(4)}"
        os.rename(name, target, src_dir_fd=directory, dst_dir_fd=bad)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with suppress(OSError):  # the log has the reason too
            note = os.open(f"{target}.reason", flags, 0o640, dir_fd=bad)
            with os.fdopen(note, "w", encoding="ascii") as file:
                file.write(f"{name!a}: {reason!a}\n")
    finally:
        os.close(bad)
    return target
