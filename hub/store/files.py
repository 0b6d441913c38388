# SPDX-License-Identifier: Apache-2.0
"""The journal's place on disk: what may hold it, who may use it, and moving it aside."""

import fcntl
import os
import re
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hub.errors import StoreError

MOUNTINFO: Path = Path("/proc/self/mountinfo")
"""Table of the mounts that this process sees, proc_pid_mountinfo(5)."""

MAGIC: Final = b"SQLite format 3\0"
"""What every SQLite file begins with."""
SIDE_FILES: Final = ("-wal", "-shm")
_LOCK: Final = ".lock"
_LOCK_TEXT: Final = re.compile(rb"[0-9\n\0]*")
"""A process id, or what a power cut may leave of it."""
_LOCK_SIZE: Final = 64
_FOREIGN: Final = "correct store.path, or move the file away yourself"
_NETWORK: Final = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs", "glusterfs", "gpfs", "lustre",
        "ncpfs", "nfs", "nfs4", "orangefs", "pvfs2", "smb2", "smb3", "smbfs", "vboxsf",
        "fuse.ceph", "fuse.ceph-fuse", "fuse.curlftpfs", "fuse.davfs", "fuse.gcsfuse",
        "fuse.glusterfs", "fuse.juicefs", "fuse.mfs", "fuse.nfs", "fuse.rclone", "fuse.s3fs",
        "fuse.seaweedfs", "fuse.smbnetfs", "fuse.sshfs", "fuse.vmhgfs-fuse",
    }
)  # fmt: skip
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def filesystem_of(path: Path, mountinfo: str) -> str:
    """Return the type of the file system that holds `path`, empty when none is found.

    Args:
        path: absolute, without symbolic links.
        mountinfo: text of the mount table.
    """
    found, best = "", -1
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:  # noqa: PLR2004 - the mount point is the fifth
            continue
        point = Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        # A later line lies over an earlier one with the same mount point.
        if path.is_relative_to(point) and len(point.parts) >= best:
            found, best = after.split(" ")[0], len(point.parts)
    return found


def refuse_network(path: Path) -> None:
    """Refuse a place where SQLite's locks and shared memory do not hold.

    Raises:
        StoreError: the file system is reached over a network.
    """
    kind = filesystem_of(path, MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape"))
    if kind in _NETWORK:
        raise StoreError(
            f"lies on a network file system ({kind}), where SQLite loses data",
            where=str(path),
            todo="set store.path to a file on a local disk",
        )


def make_place(path: Path) -> None:
    """Make the directory of `path` where there is none, mode 0700, and refuse what is no file.

    Raises:
        StoreError: there is something at `path` that is no file.
        OSError: the directory cannot be made.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        what = "a directory" if path.is_dir() else "no regular file"
        raise StoreError(f"is {what}", where=str(path), todo="set store.path to a file's path")


def has_traces(path: Path) -> bool:
    """Tell whether a hub's lock, or a write-ahead log, lies beside `path`.

    Ask before `lock`, which makes the first of them.

    Raises:
        OSError: the lock's file cannot be read.
    """
    if beside(path, SIDE_FILES[0]).exists():
        return True
    place = beside(path, _LOCK)
    if not place.is_file():
        return False
    with place.open("rb") as file:
        return _LOCK_TEXT.fullmatch(file.read(_LOCK_SIZE)) is not None


def refuse_foreign(path: Path) -> None:
    """Refuse a file that has no traces of a hub beside it, and does not look like a database.

    A damaged journal is moved aside; a file that never was one has to stay where it is. An empty
    one is nobody's loss.

    Raises:
        StoreError: it is somebody else's.
        OSError: it cannot be read.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
    if start not in (b"", MAGIC):
        raise StoreError("is no journal", where=str(path), todo=_FOREIGN)


def drop_empty(path: Path) -> None:
    """Delete the file at `path` if there is nothing in it."""
    if path.exists() and not path.stat().st_size:
        path.unlink()


def has_lock(path: Path) -> bool:
    """Tell whether there is a lock's file for the journal at `path`, held or not."""
    return beside(path, _LOCK).exists()


def lock(path: Path) -> int:
    """Return the descriptor that keeps every other hub off the journal at `path`.

    The lock ends with the process, however that ends; the file beside the journal stays.

    Raises:
        StoreError: another process holds it, or its file is somebody else's.
        OSError: the lock's file cannot be made.
    """
    while True:
        descriptor = os.open(beside(path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _take(descriptor, path)
            # Whoever held it may have deleted it before we had it: then it keeps nobody off.
            if holds(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                return descriptor
        except (OSError, StoreError):
            os.close(descriptor)
            raise
        os.close(descriptor)


def holds(descriptor: int, path: Path) -> bool:
    """Tell whether the lock's file that `descriptor` has open is the one others will find."""
    try:
        there = os.stat(f"{path}{_LOCK}")  # noqa: PTH116 - on the way of every commit
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


def delete_lock(path: Path) -> None:
    """Delete the lock's file, which must be held."""
    beside(path, _LOCK).unlink(missing_ok=True)


def _take(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        raise StoreError(
            f"in use by another fnm-hub, process {holder}",
            where=str(path),
            todo="stop that one, or give this one a store.path of its own",
        ) from None
    if not _LOCK_TEXT.fullmatch(os.pread(descriptor, _LOCK_SIZE, 0)):
        place = beside(path, _LOCK)
        raise StoreError("is no lock of fnm-hub's", where=str(place), todo=_FOREIGN)


def move_aside(
    path: Path, now: float, ends: Sequence[str] = ("", *SIDE_FILES), *, why: str = "corrupt"
) -> Path:
    """Rename the journal and its side files to `<name>.<why>-<UTC time>`; return that path.

    Args:
        path: the journal, which need not be there.
        now: Unix seconds.
        ends: which of the files, by what follows the journal's name.
        why: one word, for the new name.

    Raises:
        OSError: the directory cannot be written.
    """
    name = f".{why}-{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}"
    target, turn = beside(path, name), 1
    while any(beside(target, end).exists() for end in ("", *SIDE_FILES)):
        turn += 1
        target = beside(path, f"{name}-{turn}")
    for end in ends:
        try:
            beside(path, end).rename(beside(target, end))
        except FileNotFoundError:
            continue
    sync_directory(path.parent)
    return target


def discard(path: Path) -> None:
    """Delete a half-made database and its side files."""
    for end in ("", "-journal", *SIDE_FILES):
        beside(path, end).unlink(missing_ok=True)


def make_private(path: Path) -> None:
    """Make an empty file that only we can read, whatever the umask is."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR)
    finally:
        os.close(descriptor)


def put_in_place(new: Path, path: Path) -> None:
    """Give a finished database its name, durably: there is never a half-made one under it."""
    sync_file(new)
    new.rename(path)
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Wait until the file's contents are on the disk."""
    _sync(path, os.O_RDWR)


def sync_directory(path: Path) -> None:
    """Wait until the names in the directory are on the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def beside(path: Path, end: str) -> Path:
    """Return `path` with `end` added to its name."""
    return path.with_name(path.name + end)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
