# SPDX-License-Identifier: Apache-2.0
"""The end of NOTIFY_SOCKET at which systemd sits."""

import contextlib
import socket
import time
from pathlib import Path
from typing import Self


class Listener:
    """Hears what a service says; use as a context manager.

    Args:
        address: a path, or `@` and a name that is no file.
    """

    def __init__(self, address: Path | str) -> None:
        self.address = str(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{self.address[1:]}" if self.address[0] == "@" else self.address)

    def __enter__(self) -> Self:
        """Listen already."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Hear no more."""
        self._socket.close()

    def environment(self, watchdog_s: float | None = None) -> dict[str, str]:
        """Return what systemd gives a service that it starts."""
        given = {"NOTIFY_SOCKET": self.address}
        if watchdog_s is not None:
            given["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        return given

    def heard(self) -> list[str]:
        """Return the lines that have come since the last look."""
        lines: list[str] = []
        self._socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                lines += self._socket.recv(65536).decode().split("\n")
        return lines

    def wait(self, line: str, seconds: float = 20) -> list[str]:
        """Wait for `line`; return all lines up to its message."""
        lines: list[str] = []
        end = time.monotonic() + seconds  # noqa: TID251 - bounds a test, decides nothing
        while line not in lines:
            self._socket.settimeout(max(0.01, end - time.monotonic()))  # noqa: TID251
            try:
                lines += self._socket.recv(65536).decode().split("\n")
            except TimeoutError:
                message = f"not within {seconds} s: {line}; heard {lines}"
                raise AssertionError(message) from None
        return lines

    def quiet(self, seconds: float) -> None:
        """Fail if anything is said within `seconds`."""
        self._socket.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            said = self._socket.recv(65536)
            message = f"said {said!r}"
            raise AssertionError(message)
