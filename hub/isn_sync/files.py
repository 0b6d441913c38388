# SPDX-License-Identifier: Apache-2.0
"""Small files that must be whole or absent, and that nobody else may change."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from hub.errors import HubError


class FileError(HubError):
    """A file of the ISN synchronization cannot be used as it is."""


def make_folder(path: Path) -> None:
    """Make the folder at `path`, for its owner alone, where there is none.

    Raises:
        FileError: it cannot be made, or others could put files of their own into it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        mode = path.stat().st_mode
    except OSError as error:
        raise failed(error, path) from error
    if not stat.S_ISDIR(mode):
        raise FileError("it is no folder", where=str(path), todo="move it away")
    if mode & 0o022:
        raise FileError(
            "group or others may write into the folder", where=str(path), todo=f"chmod go-w {path}"
        )


def read_guarded(path: Path, *, forbidden: int, most: int) -> tuple[bytes, os.stat_result] | None:
    """Return content and status of a regular file; None where there is none.

    Args:
        path: the file.
        forbidden: mode bits that it must not have.
        most: bytes.

    Raises:
        FileError: it cannot be read, or its owner, mode or size is not right.
    """
    try:
        # Not blocking: somebody may have put a pipe there.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise failed(error, path) from error
    try:
        status = os.fstat(descriptor)
        _judge(path, status, forbidden)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise failed(error, path) from error
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise FileError(
            f"it has more than {most} bytes", where=str(path), todo="is it the right file?"
        )
    return content, status


def _judge(path: Path, status: os.stat_result, forbidden: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileError("it is no regular file", where=str(path), todo="move it away")
    if status.st_uid not in (0, os.geteuid()):
        raise FileError(
            f"it belongs to user id {status.st_uid}",
            where=str(path),
            todo="give it to the hub's own user",
        )
    if status.st_mode & forbidden:
        may, rights = ("open", "rwx") if forbidden & 0o044 else ("write", "w")
        raise FileError(
            f"group or others may {may} it (mode {stat.S_IMODE(status.st_mode):04o})",
            where=str(path),
            todo=f"chmod go-{rights} {path}",
        )


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` at `path`, mode 0600; a reader sees the old or the new, also after a crash.

    Raises:
        FileError: it cannot be written; what stood there still stands.
    """
    try:
        # mkstemp makes it 0600 from the first moment.
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            Path(name).rename(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise failed(error, path) from error


def sync_folder(path: Path) -> None:
    """Make renamed and removed names in the folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def failed(error: OSError, path: Path) -> FileError:
    """Return the error that says what the system refused."""
    why = error.strerror or type(error).__name__
    return FileError(why.lower(), where=str(path), todo="give the hub's user access to it")
