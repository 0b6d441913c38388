# SPDX-License-Identifier: Apache-2.0
"""The host's end of the virtio port to `scripts.lab.guest_inside`: requests, answers, boots."""

import itertools
import json
import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from scripts.lab.commands import LabError


class Line:
    """The host's end of the virtio port."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self.up: Future[None] = Future()
        self._reader = threading.Thread(target=self._read, name="guest-line", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Give up the connection; whoever waits for an answer is told."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    def expect_boot(self) -> Future[None]:
        """Return what is done as soon as the guest says that it is up again."""
        self.up = Future()
        return self.up

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            LabError: none came, because the guest was reset or does not answer.
        """
        number = next(self._numbers)
        future: Future[dict[str, Any]] = Future()
        data = json.dumps({"id": number, **request}).encode() + b"\n"
        with self._lock:
            self._waiting[number] = future
            self._socket.sendall(data)
        try:
            return future.result(seconds)
        except TimeoutError:
            raise LabError(
                f"no answer within {seconds:.0f} s", where=f"guest: {request['op']}"
            ) from None
        finally:
            self._waiting.pop(number, None)

    def _read(self) -> None:
        with suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                with suppress(ValueError):  # what a reset has cut off
                    self._take(json.loads(line))
        self._fail("qemu has ended")
        if not self.up.done():
            self.up.set_exception(LabError("qemu has ended"))

    def _take(self, document: dict[str, Any]) -> None:
        if "up" in document:
            self._fail("the guest was restarted")
            if not self.up.done():
                self.up.set_result(None)
        elif (future := self._waiting.get(document["id"])) is not None:
            future.set_result(document)

    def _fail(self, why: str) -> None:
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(LabError(why))
