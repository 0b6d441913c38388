# SPDX-License-Identifier: Apache-2.0
"""What systemd is told: sd_notify(3) without its library, and silent where nobody listens."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, MutableMapping, Sequence
from typing import Final, Self

from hub.clock import SystemClock
from hub.tasks import Tasks

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
ALIVE: Final = "WATCHDOG=1"

_LONGEST_PATH: Final = 107  # sockaddr_un.sun_path, unix(7)
_LONGEST_STATUS: Final = 1024
_PATIENCE_S: Final = 2.0
_EXTEND_EVERY_S: Final = 10.0
_EXTEND_BY_S: Final = 45
_LONGEST_START_S: Final = 1800.0


class Manager:
    """The service manager that started this process, if one did.

    Nothing here raises: that it cannot be told is no reason to stop working.

    Attributes:
        watchdog_s: seconds within which it wants to hear `ALIVE`, None when it does not.
    """

    def __init__(
        self,
        link: socket.socket | None = None,
        address: bytes = b"",
        watchdog_s: float | None = None,
    ) -> None:
        self._link, self._address, self.watchdog_s = link, address, watchdog_s

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Self:
        """Return the one that `environment` names, and take it out: children are not it.

        Args:
            environment: with NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, as sd_notify(3) and
                sd_watchdog_enabled(3) have them.
        """
        address = _address(environment.pop("NOTIFY_SOCKET", ""))
        microseconds = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        link = None if address is None else _socket(address)
        ours = pid in ("", str(os.getpid()))
        wanted = link is not None and ours and microseconds.isdigit() and int(microseconds) > 0
        return cls(link, address or b"", int(microseconds) / 1e6 if wanted else None)

    @property
    def listens(self) -> bool:
        """Tell whether there is one."""
        return self._link is not None

    async def tell(self, *lines: str) -> None:
        """Say `lines` in one message; waits a moment while the manager is behind."""
        if self._link is None:
            return
        message = "\n".join(lines).encode("utf-8", "replace")
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(_PATIENCE_S):
                await self._send(self._link, message)

    def say(self, *lines: str, files: Sequence[int] = ()) -> None:
        """Say `lines` and hand over `files`, as a program without an event loop does.

        Raises:
            OSError: it could not be said within two seconds.
        """
        if self._link is None:
            return
        message, data = "\n".join(lines).encode("utf-8", "replace"), list(files)
        self._link.settimeout(_PATIENCE_S)
        try:
            try:
                _ = socket.send_fds(self._link, [message], data)
            except ConnectionError:
                self._link.connect(self._address)
                _ = socket.send_fds(self._link, [message], data)
        finally:
            self._link.settimeout(0)

    async def reloading(self) -> None:
        """Say that the configuration is being read anew; `READY` says that it has been."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        await self.tell("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    @contextlib.asynccontextmanager
    async def waiting_for(self, what: str) -> AsyncIterator[None]:
        """Ask for more time, again and again for half an hour, while the context lasts."""
        if self._link is None:
            yield
            return
        async with Tasks() as tasks:
            tasks.run("ask for more time", self._ask_for_time(what))
            yield

    def close(self) -> None:
        """Let go of the socket."""
        if self._link is not None:
            self._link.close()
            self._link = None

    async def _send(self, link: socket.socket, message: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(link, message)
        except OSError:
            # Another socket stands at that name by now: the manager has started anew.
            link.connect(self._address)
            await loop.sock_sendall(link, message)

    async def _ask_for_time(self, what: str) -> None:
        clock, spent = SystemClock(), 0.0
        while spent < _LONGEST_START_S:
            await self.tell(f"EXTEND_TIMEOUT_USEC={_EXTEND_BY_S * 10**6}", status(what))
            await clock.sleep(_EXTEND_EVERY_S)
            spent += _EXTEND_EVERY_S


def status(text: str) -> str:
    """Return the line that `systemctl status` shows: one line, of plain characters."""
    plain = "".join(sign if sign.isprintable() else " " for sign in text)
    return f"STATUS={plain[:_LONGEST_STATUS]}"


def _address(path: str) -> bytes | None:
    if not path.startswith(("/", "@")) or len(os.fsencode(path)) > _LONGEST_PATH:
        return None
    # A leading @ stands for the zero byte of a name that is no file, unix(7).
    return b"\0" + os.fsencode(path[1:]) if path[0] == "@" else os.fsencode(path)


def _socket(address: bytes) -> socket.socket | None:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        link.settimeout(0)
        link.connect(address)
    except OSError:
        link.close()
        return None
    return link
