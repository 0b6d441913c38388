# SPDX-License-Identifier: Apache-2.0
"""One SSH channel of the agent: takes one exec request, and nothing else that SSH knows."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncssh
from asyncssh.packet import SSHPacket

from hub.agent.commands import Outcome
from hub.agent.limits import Limits

_CHUNK: Final = 16384
_HIGH_WATER: Final = 65536


class Channel(asyncssh.SSHServerChannel[bytes]):
    """A channel whose client cannot make the agent remember an environment."""

    def _process_env_request(self, packet: SSHPacket) -> bool:
        del packet
        return False


class Session(asyncssh.SSHServerSession[bytes]):
    """The requests and the answer of one channel.

    Args:
        limits: what the client may do.
        start: begins to carry out a request; returns without waiting for it.
        over: told once when the channel is gone.
        abort: ends the whole connection.
    """

    def __init__(
        self,
        limits: Limits,
        start: Callable[["Session", str], None],
        over: Callable[["Session"], None],
        abort: Callable[[str], None],
    ) -> None:
        self._limits = limits
        self._start = start
        self._over = over
        self._abort = abort
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._command: str | None = None
        self._taken = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Begin to wait for the request."""
        self._channel = chan
        chan.set_write_buffer_limits(_HIGH_WATER)
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self._limits.idle_s, self._waited)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let whoever writes find out."""
        del exc
        self._channel = None
        self._writable.set()
        self._calm()
        self._over(self)

    def pty_requested(self, *_: Any) -> bool:
        """Refuse a terminal."""
        return False

    def shell_requested(self) -> bool:
        """Refuse a shell."""
        return False

    def subsystem_requested(self, subsystem: str) -> bool:
        """Refuse a subsystem, sftp among them."""
        del subsystem
        return False

    def exec_requested(self, command: str) -> bool:
        """Take the request; what it says is judged when it runs."""
        self._command = command
        return True

    def session_started(self) -> None:
        """Carry the request out."""
        self._calm()
        if self._command is not None:
            self._start(self, self._command)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Throw input away, up to a bound: no command reads any."""
        del datatype
        self._taken += len(data)
        if self._taken > self._limits.input_bytes:
            self._abort("sends data without end")

    def eof_received(self) -> bool:
        """Go on after the end of input: OpenSSH's `ssh -n` sends it at once."""
        return True

    def pause_writing(self) -> None:
        """Wait: the client takes nothing."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on."""
        if self._channel is not None:
            self._writable.set()

    async def answer(self, outcome: Outcome, drained: Callable[[], Awaitable[None]]) -> bool:
        """Send an outcome in pieces, as fast as the client takes it; False when it is gone."""
        data = memoryview(outcome.text.encode())
        for start in range(0, len(data), _CHUNK):
            await self._writable.wait()
            await drained()
            if self._channel is None:
                return False
            self._channel.write(bytes(data[start : start + _CHUNK]))
        if self._channel is None:
            return False
        if outcome.error:
            self._channel.write_stderr(outcome.error.encode())
        self._channel.exit(outcome.status)
        return True

    def _waited(self) -> None:
        self._idle = None
        if self._channel is not None:
            self._channel.close()

    def _calm(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
