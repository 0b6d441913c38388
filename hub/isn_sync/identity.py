# SPDX-License-Identifier: Apache-2.0
"""The hub's own SSH key, which agents know it by, and its exchange without a gap.

The key lies in OpenSSH's format, for its owner alone. After an exchange the old one stays beside
it under the name with `.previous` and is offered after the new one, until every agent knows that.
"""

import asyncio
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncssh
import structlog

from hub.errors import RefusedError
from hub.isn_sync.files import (
    FileError,
    failed,
    make_folder,
    read_guarded,
    sync_folder,
    write_whole,
)

log = structlog.get_logger(__name__)

ALGORITHM: Final = "ssh-ed25519"
_MOST: Final = 64 * 2**10
_OTHERS: Final = 0o077
_OTHER_KEY: Final = "move it away; the next start makes a new one"
_TAG: Final = re.compile(r"[^A-Za-z0-9._@-]+")


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """One of the hub's keys; shows its public half alone."""

    private: asyncssh.SSHKey

    @property
    def fingerprint(self) -> str:
        """`SHA256:` and 43 characters, as ssh-keygen -l shows it."""
        return fingerprint(self.private)

    def public_line(self, tag: str = "") -> str:
        """Return the public half as a line of authorized_keys(5).

        Args:
            tag: its comment; empty: as in the file, by default `fnm-hub@HOSTNAME`.
        """
        kind, data, *_ = self.private.export_public_key().decode("ascii", "replace").split()
        comment = _TAG.sub("-", tag or self.private.get_comment(errors="replace") or "")
        return f"{kind} {data} {comment or _own_tag()}"

    def __repr__(self) -> str:
        """Return the fingerprint."""
        return f"<Key {self.fingerprint}>"


class Identity:
    """The key in use, and the one before it while that is still offered; see `open`."""

    def __init__(self, path: Path, current: Key, previous: Key | None) -> None:
        self._path, self._current, self._previous = path, current, previous
        self._lock = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path) -> "Identity":
        """Read the key at `path`; make one where there is none.

        Raises:
            FileError: it cannot be used, or others may open it.
        """
        current, previous, made = await asyncio.to_thread(_load, path)
        if made:
            log.info("isn.key_made", path=str(path), fingerprint=current.fingerprint)
        return cls(path, current, previous)

    @property
    def current(self) -> Key:
        """The key that agents are to know."""
        return self._current

    @property
    def previous(self) -> Key | None:
        """The key before it, while it is still offered."""
        return self._previous

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the current key."""
        return self._current.fingerprint

    def keys(self) -> list[Key]:
        """Return the keys to offer, in order."""
        return [self._current] if self._previous is None else [self._current, self._previous]

    def public_line(self, tag: str = "") -> str:
        """Return the current key as a line of authorized_keys(5)."""
        return self._current.public_line(tag)

    async def rotate(self, *, force: bool = False) -> None:
        """Make a new key the current one; the old one becomes the previous one.

        Args:
            force: also when that drops a previous key which is still offered.

        Raises:
            RefusedError: there is a previous key.
            FileError: the new key cannot be written; the old one stays in use.
        """
        async with self._lock:
            if self._previous is not None and not force:
                raise RefusedError(
                    "the key before this one is still offered to agents",
                    where=str(self._path),
                    todo="give the new one to the agents that use the old one: fnm-hub key show",
                )
            fresh = await asyncio.to_thread(_rotate, self._path)
            self._previous, self._current = self._current, fresh

    async def drop_previous(self) -> None:
        """Offer the previous key no more and remove it; nothing happens where there is none.

        Raises:
            FileError: its file cannot be removed; it is still offered.
        """
        async with self._lock:
            if (gone := self._previous) is None:
                return
            await asyncio.to_thread(_remove, _previous_path(self._path))
            self._previous = None
        log.info("isn.key_dropped", path=str(self._path), fingerprint=gone.fingerprint)


def fingerprint(key: asyncssh.SSHKey) -> str:
    """Return the fingerprint of a key, private or public, as ssh-keygen -l shows it."""
    return key.get_fingerprint("sha256")


def _own_tag() -> str:
    return "fnm-hub@" + (_TAG.sub("-", socket.gethostname()) or "localhost")


def _previous_path(path: Path) -> Path:
    return path.with_name(path.name + ".previous")


def _load(path: Path) -> tuple[Key, Key | None, bool]:
    make_folder(path.parent)
    previous = _read(_previous_path(path))
    current = _read(path)
    made = current is None
    if current is None:
        current = _make(path)
    if previous is not None and previous.fingerprint == current.fingerprint:
        previous = None  # a crash in the middle of `rotate`
    return current, previous, made


def _read(path: Path) -> Key | None:
    found = read_guarded(path, forbidden=_OTHERS, most=_MOST)
    if found is None:
        return None
    try:
        key = asyncssh.import_private_key(found[0])
    # Without `from`: the error below may hold parts of the file.
    except ValueError as error:
        locked = "assphrase" in str(error)
        raise FileError(
            "the key has a passphrase"
            if locked
            else "it holds no private key as OpenSSH writes it",
            where=str(path),
            todo=f"ssh-keygen -p -N '' -f {path}" if locked else _OTHER_KEY,
        ) from None
    if key.get_algorithm() != ALGORITHM:
        raise FileError(
            f"it is a key for {key.get_algorithm()}, not {ALGORITHM}",
            where=str(path),
            todo=_OTHER_KEY,
        )
    return Key(key)


def _make(path: Path) -> Key:
    key = asyncssh.generate_private_key(ALGORITHM, comment=_own_tag())
    write_whole(path, key.export_private_key("openssh"))
    return Key(key)


def _rotate(path: Path) -> Key:
    kept = read_guarded(path, forbidden=_OTHERS, most=_MOST)
    if kept is None:
        raise FileError("the key's file has gone", where=str(path), todo="restart the hub")
    # In this order a crash leaves the same key twice, never none.
    write_whole(_previous_path(path), kept[0])
    return _make(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise failed(error, path) from error
