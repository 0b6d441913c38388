# SPDX-License-Identifier: Apache-2.0
"""Finds a place where this kernel's secrets can be read, and keeps only what that takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from hub.agent.kernel.memory import MemorySource
from hub.agent.kernel.modules import (
    IsnSyncSource,
    IsnSyncTextSource,
    NotLoadedError,
    TcpSecretsSource,
)
from hub.agent.kernel.secrets import Handed, Secrets, SourceError
from hub.errors import HubError

__all__ = (
    "Handed",
    "Kernel",
    "NoSourceError",
    "Secrets",
    "SourceError",
    "Tried",
    "open_sources",
    "take_source",
)


class Source(Protocol):
    """One way to the secrets; reads by descriptors that were opened before."""

    def read(self) -> Secrets:
        """Return them as they are now.

        Raises:
            SourceError: they cannot be read any more.
        """
        ...

    def handed(self) -> Handed:
        """Return what another process needs to go on with it."""
        ...

    def close(self) -> None:
        """Close every descriptor."""
        ...


@dataclass(frozen=True, slots=True)
class Tried:
    """How it went with one source.

    Attributes:
        source: its name.
        ok: it works.
        why: or else what stands in its way, and what to do.
        absent: it is that of a kernel module that is not loaded, as on most servers.
    """

    source: str
    ok: bool
    why: str
    absent: bool = False


class NoSourceError(HubError):
    """No source works; says of each why, but of modules only those that are loaded.

    Args:
        tried: all that were looked at.
    """

    def __init__(self, tried: tuple[Tried, ...]) -> None:
        self.tried = tried
        super().__init__(
            "; ".join(f"{one.source}: {one.why}" for one in tried if not one.absent),
            todo="fnm-agent check says more; without a source this server is protected by `mode: "
            "reset`",
        )


class _Way(Protocol):
    """A kind of source."""

    def open(self, proc: Path, /) -> Source:
        """Return one that is opened here, by root."""
        ...

    def take(self, handed: Handed, /) -> Source:
        """Return one that another process has opened."""
        ...


_WAYS: Final[Mapping[str, _Way]] = {
    "tcp_secrets": TcpSecretsSource,
    "isn_sync": IsnSyncSource,
    "isn_sync_v22": IsnSyncTextSource,
    "kcore": MemorySource,
}
"""In the order in which they are tried."""


class Kernel:
    """The source that works here.

    Attributes:
        source: its name.
        tried: all that were looked at, in order.
    """

    def __init__(self, source: str, way: Source, tried: tuple[Tried, ...]) -> None:
        self.source, self._way, self.tried = source, way, tried

    def read(self) -> Secrets:
        """Return the secrets and clocks of now; needs no privilege any more.

        Raises:
            SourceError: they cannot be read any more.
        """
        return self._way.read()

    def handed(self) -> Handed:
        """Return what another process needs to read on; `take_source` is the other end."""
        return self._way.handed()

    def close(self) -> None:
        """Close every descriptor."""
        self._way.close()


def open_sources(proc: Path) -> Kernel:
    """Return the first source that works; to be called as root.

    Args:
        proc: where proc(5) is mounted.

    Raises:
        NoSourceError: none does.
    """
    tried: list[Tried] = []
    for name, kind in _WAYS.items():
        try:
            way = kind.open(proc)
        except HubError as error:
            absent = isinstance(error, NotLoadedError)
            tried.append(Tried(name, ok=False, why=str(error), absent=absent))
            continue
        try:
            _ = way.read()
        except HubError as error:
            way.close()
            tried.append(Tried(name, ok=False, why=str(error)))
            continue
        tried.append(Tried(name, ok=True, why="can be read"))
        return Kernel(name, way, tuple(tried))
    raise NoSourceError(tuple(tried))


def take_source(source: str, handed: Handed) -> Kernel:
    """Return the source that another process has found; needs no privilege.

    Args:
        source: its name.
        handed: what `Kernel.handed` has given there.

    Raises:
        SourceError: that is no source of this name, or cannot be read.
    """
    try:
        way = _WAYS[source].take(handed)
        _ = way.read()
    except SourceError:
        raise
    except HubError as error:
        raise SourceError(error.what, where=error.where, todo=error.todo) from None
    except (KeyError, TypeError, ValueError, AttributeError, OSError):
        raise SourceError("what was handed over is no source of keys", where=source) from None
    return Kernel(source, way, (Tried(source, ok=True, why="can be read"),))
