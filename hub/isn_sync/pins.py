# SPDX-License-Identifier: Apache-2.0
"""The host keys of agents that a person has trusted, in a file of OpenSSH's known_hosts format.

An agent's name in it is `[ADDRESS]:PORT`, or the bare address for port 22, so that lines of
ssh-keyscan can be pasted. A bare address counts for no other port: behind it is the server's own
sshd, with a key of its own. Certificates are not used; `@revoked` is heeded.
"""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncssh
import structlog

from hub.clock import Clock
from hub.errors import RefusedError
from hub.isn_sync.files import FileError, make_folder, read_guarded, write_whole
from hub.isn_sync.identity import ALGORITHM
from hub.isn_sync.inventory import Agent

log = structlog.get_logger(__name__)

_MOST: Final = 16 * 2**20
_OTHERS_WRITE: Final = 0o022
_SSH_PORT: Final = 22
_LOOK_S: Final = 1.0
"""The file is looked at this often at most: a thousand agents ask within two seconds."""
_HASHED: Final = "|"
_PATTERN: Final = "*?!"


@dataclass(frozen=True, slots=True)
class _Line:
    """One line with a host key: what it is for, and what it holds."""

    number: int
    marker: str
    names: str
    data: str


@dataclass(frozen=True, slots=True)
class _State:
    """What the file said when it was read, and how to tell that it has changed."""

    stamp: tuple[int, ...] = ()
    hosts: asyncssh.SSHKnownHosts = field(default_factory=asyncssh.SSHKnownHosts)


class Pins:
    """The trusted host keys.

    Args:
        path: the file; made with the first trusted key.
        clock: limits how often the file is looked at.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._state = _State()
        self._looked = float("-inf")
        self._failure: FileError | None = None
        self._lock = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path, clock: Clock) -> "Pins":
        """Read the file at `path`; nobody is trusted where there is none.

        Raises:
            FileError: it cannot be read, or others may write it.
        """
        made = cls(path, clock)
        await made.refresh()
        return made

    async def refresh(self) -> None:
        """Read the file again if it has changed and was not looked at within the last second.

        Raises:
            FileError: it cannot be read, or others may write it; what was read before counts on.
        """
        async with self._lock:
            if self._clock.monotonic() - self._looked >= _LOOK_S:
                await self._look()
            elif self._failure is not None:
                raise self._failure

    def pinned(self, agent: Agent) -> tuple[asyncssh.SSHKey, ...]:
        """Return the keys that are trusted for `agent`, as last read; none that is revoked."""
        trusted, revoked = self._match(agent)
        return tuple(key for key in trusted if key not in revoked)

    def revoked(self, agent: Agent) -> tuple[asyncssh.SSHKey, ...]:
        """Return the keys that must never be taken for `agent`'s."""
        return self._match(agent)[1]

    async def trust(self, agent: Agent, key: asyncssh.SSHKey) -> None:
        """Trust `key`, and no other, for `agent`.

        Raises:
            RefusedError: `key` is revoked there, or of a kind that is not used, or a line with a
                pattern pins another one.
            FileError: the file cannot be written; nothing has changed.
        """
        async with self._lock:
            await self._look()
            key = key.convert_to_public()
            if key.get_algorithm() != ALGORITHM or key in self.revoked(agent):
                raise RefusedError(
                    "this key is revoked there, or no ed25519 key",
                    where=str(self._path),
                    todo="have the server make a new host key",
                )
            if self.pinned(agent) == (key,):
                return
            line = f"{host_name(agent)} {_public(key)}"
            await asyncio.to_thread(_rewrite, self._path, host_name(agent), line)
            await self._look()

    async def forget(self, agent: Agent) -> None:
        """Trust no key for `agent` any more; nothing happens where none is.

        Raises:
            RefusedError: a line with a pattern pins it, and others with it.
            FileError: the file cannot be written; nothing has changed.
        """
        async with self._lock:
            await self._look()
            if not self._match(agent)[0]:
                return
            await asyncio.to_thread(_rewrite, self._path, host_name(agent), "")
            await self._look()

    async def _look(self) -> None:
        # Looked at also when that fails: a broken file must not cost every agent a read.
        self._looked, self._failure = self._clock.monotonic(), None
        try:
            state, bad = await asyncio.to_thread(_read, self._path, self._state)
        except FileError as error:
            self._failure = error
            raise
        for number, why in bad:
            log.warning(
                "isn.known_hosts_line_skipped",
                file=str(self._path),
                line=number,
                why=why,
                todo="mend the line, or delete it and fnm-hub agents trust NAME",
            )
        self._state = state

    def _match(
        self, agent: Agent
    ) -> tuple[tuple[asyncssh.SSHKey, ...], tuple[asyncssh.SSHKey, ...]]:
        # The port stands in the name: asyncssh would also take lines for the bare address.
        trusted, _, revoked, *_ = self._state.hosts.match(host_name(agent), "", None)
        return tuple(key for key in trusted if key.get_algorithm() == ALGORITHM), tuple(revoked)


def host_name(agent: Agent) -> str:
    """Return the name under which the keys of `agent` stand in known_hosts."""
    return str(agent.host) if agent.port == _SSH_PORT else f"[{agent.host}]:{agent.port}"


def _public(key: asyncssh.SSHKey) -> str:
    return " ".join(key.export_public_key("openssh").decode("ascii", "replace").split()[:2])


def _read(path: Path, known: _State) -> tuple[_State, list[tuple[int, str]]]:
    try:
        status = path.stat()
    except OSError:
        status = None
    if status is not None and known.stamp == _stamp(status):
        return known, []
    found = read_guarded(path, forbidden=_OTHERS_WRITE, most=_MOST)
    if found is None:
        return _State(), []
    content, status = found
    state = _State(_stamp(status))
    bad: list[tuple[int, str]] = []
    for line in _lines(content.decode("utf-8", "replace"), bad):
        marker = f"@{line.marker} " if line.marker else ""
        try:
            state.hosts.load(f"{marker}{line.names} {line.data}")
        except ValueError:
            bad.append((line.number, "its names are not understood"))
    return state, bad


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    # Mode and owner too: who repairs them must be heard.
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
    )  # fmt: skip


def _lines(text: str, bad: list[tuple[int, str]]) -> Iterator[_Line]:
    for number, raw in enumerate(text.split("\n"), 1):
        line = _parse(number, raw.strip())
        if isinstance(line, str):
            bad.append((number, line))
        elif line is not None:
            yield line


def _parse(number: int, text: str) -> _Line | str | None:
    if not text or text.startswith("#"):
        return None
    marker = ""
    if text.startswith("@"):
        marker, _, text = text[1:].partition(" ")
        text = text.lstrip()
    names, _, data = text.partition(" ")
    if marker not in ("", "revoked", "cert-authority"):
        return "its marker is unknown"
    if not names.startswith(_HASHED) and "/" in names:
        return "prefixes are no host names"
    try:
        asyncssh.import_public_key(data.strip())
    except (asyncssh.KeyImportError, ValueError):
        return "it is not `NAMES KIND KEY`"
    return _Line(number, marker, names, data.strip())


def _rewrite(path: Path, name: str, more: str) -> None:
    """Take `name` out of all lines with trusted keys and put the line `more` behind them."""
    make_folder(path.parent)
    found = read_guarded(path, forbidden=_OTHERS_WRITE, most=_MOST)
    text = "" if found is None else found[0].decode("utf-8", "surrogateescape")
    kept = [
        left
        for number, raw in enumerate(text.split("\n"), 1)
        if (left := _without(_parse(number, raw.strip()), raw, name, path)) is not None
    ]
    while kept and not kept[-1].strip():
        kept.pop()
    content = "".join(f"{line}\n" for line in [*kept, *([more] if more else [])])
    write_whole(path, content.encode("utf-8", "surrogateescape"))


def _without(line: _Line | str | None, raw: str, name: str, path: Path) -> str | None:
    if not isinstance(line, _Line) or line.marker or not _covers(line, name):
        return raw
    if line.names.startswith(_HASHED):
        return None
    if any(sign in line.names for sign in _PATTERN):
        raise RefusedError(
            "a pattern pins this agent together with others",
            where=f"{path}:{line.number}",
            todo="change that line yourself",
        )
    rest = ",".join(one for one in line.names.split(",") if one != name)
    return f"{rest} {line.data}" if rest else None


def _covers(line: _Line, name: str) -> bool:
    hosts = asyncssh.import_known_hosts(f"{line.names} {line.data}")
    return bool(hosts.match(name, "", None)[0])
