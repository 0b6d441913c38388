# SPDX-License-Identifier: Apache-2.0
"""One command of an agent as one SSH channel: what it prints, up to a bound."""

import asyncio
from dataclasses import dataclass
from typing import Final

import asyncssh

from hub.clock import Clock

_MOST_ERRORS: Final = 4096
_MOST_WORDS: Final = 200
_SLOWER: Final = 6.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many bytes a command may print, and how many times the usual time it may take."""

    most: int
    patience: float = 1.0


_BOUNDS: Final = {
    "get": Bounds(64 * 2**10),
    "listeners": Bounds(4 * 2**20),
    "flows": Bounds(32 * 2**20, _SLOWER),
    "selftest": Bounds(64 * 2**10, _SLOWER),
}
_OTHER: Final = Bounds(64 * 2**10)


def bounds_of(command: str) -> Bounds:
    """Return the bounds of a command by its first word."""
    return _BOUNDS.get(command.partition(" ")[0], _OTHER)


class Channel(asyncssh.SSHClientSession[bytes]):
    """Collects what one command prints.

    Args:
        clock: stamps.
        most: bytes of output; with more it lets go of the channel.

    Attributes:
        errors: the beginning of standard error.
        status: exit status; None where none came.
        flooded: it printed more than that; what it printed is thrown away.
        sent: monotonic seconds just before the command left.
        received: the same when the last of the output came.
        over: the channel has ended; holds the reason when the connection ended with it.
    """

    def __init__(self, clock: Clock, most: int) -> None:
        self._clock, self._most = clock, most
        self._chan: asyncssh.SSHClientChannel[bytes] | None = None
        self._out: list[bytes] = []
        self._size = 0
        self.errors = b""
        self.status: int | None = None
        self.flooded = False
        self.sent = self.received = clock.monotonic()
        self.over: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    @property
    def output(self) -> str:
        """All of standard output."""
        return b"".join(self._out).decode("utf-8", "replace")

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """Note the time: the command leaves next."""
        self._chan = chan
        self.sent = self.received = self._clock.monotonic()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Keep output, and the beginning of errors."""
        self._size += len(data)
        if self._size > self._most:
            self.flooded = True
            self._out.clear()
            self.abort()
        elif datatype is None:
            self._out.append(data)
            self.received = self._clock.monotonic()
        else:
            self.errors += data[: _MOST_ERRORS - len(self.errors)]

    def exit_status_received(self, status: int) -> None:
        """Keep the exit status."""
        self.status = status

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end of the channel, and whether the connection ended with it."""
        if not self.over.done():
            self.over.set_result(exc)

    def abort(self) -> None:
        """Let go of the channel, unless it is over."""
        if self._chan is not None and not self.over.done():
            self._chan.abort()
        self.connection_lost(None)


def one_line(text: str) -> str:
    """Return what the other side said, in one line without controls, not too long."""
    kept = "".join(char if char.isascii() and char.isprintable() else " " for char in text)
    return " ".join(kept.split())[:_MOST_WORDS]
