# SPDX-License-Identifier: Apache-2.0
"""Whom a keeper answers: the process that started it, or those who connect to its socket."""

import contextlib
import json
import os
import selectors
import socket
import struct
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, Self

import structlog

from hub.agent.place import KeeperError

SOCKET: Final = "socket"
"""In the keeper's folder, where it serves whoever may ask."""
LARGEST_MESSAGE: Final = 8192

_MOST: Final = 16
_PEER: Final = struct.Struct("iII")

log = structlog.get_logger(__name__)

Answer = Callable[[bytes], dict[str, Any]]


class Peers:
    """The connections of a keeper; each message on one gets its answer there.

    Args:
        link: to the process that started it; None for a keeper that systemd has started.
        path: the socket that it listens at; None for one that somebody else has started.
        users: who may connect there.
    """

    def __init__(
        self,
        link: socket.socket | None = None,
        path: Path | None = None,
        users: Collection[int] = (),
    ) -> None:
        self._links = set() if link is None else {link}
        self._path, self._users = path, frozenset(users)
        self._listening: socket.socket | None = None
        self._selector: selectors.BaseSelector | None = None
        self._answer: Answer = lambda _: {}

    @classmethod
    def at(cls, path: Path, users: Collection[int]) -> Self:
        """Return those who connect to a socket at `path`, if they are `users`."""
        return cls(None, path, users)

    @property
    def expected(self) -> bool:
        """Tell whether anybody asks, or may come and ask."""
        return bool(self._links) or self._path is not None

    def begin(self, selector: selectors.BaseSelector, answer: Answer) -> None:
        """Tell those who are there that the keeper is ready; from now on everybody is answered.

        Args:
            selector: whose data are functions to call.
            answer: gives the answer to a message; gets an empty one at the end of the last link.

        Raises:
            KeeperError: the socket cannot be made.
        """
        self._selector, self._answer = selector, answer
        for link in self._links:
            self._greet(link)
        if self._path is not None:
            self._listening = _bound(self._path)
            selector.register(self._listening, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        """Close all of it."""
        for one in (*self._links, self._listening):
            if one is not None:
                one.close()

    def _greet(self, link: socket.socket) -> None:
        link.settimeout(0)
        if self._selector is not None:
            self._selector.register(link, selectors.EVENT_READ, lambda: self._take(link))
        _send(link, {"ready": True, "pid": os.getpid()})

    def _accept(self) -> None:
        if self._listening is None:
            return
        with contextlib.suppress(OSError):
            link, _ = self._listening.accept()
            _, uid, _ = _PEER.unpack(
                link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            )
            if uid not in self._users or len(self._links) >= _MOST:
                link.close()
                return
            self._links.add(link)
            self._greet(link)

    def _take(self, link: socket.socket) -> None:
        try:
            message = link.recv(LARGEST_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message:
            _send(link, self._answer(message))
            return
        if self._selector is not None:
            self._selector.unregister(link)
        self._links.discard(link)
        link.close()
        if not self._links:
            self._answer(b"")


def _bound(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Anybody may knock: who it is says the kernel, and modes say less than that.
    before = os.umask(0o111)
    try:
        path.unlink(missing_ok=True)
        made.bind(str(path))
        made.listen(_MOST)
    except OSError as error:
        made.close()
        raise KeeperError(
            f"cannot be bound: {error.strerror}", where=str(path), todo="see the unit's folders"
        ) from None
    finally:
        os.umask(before)
    made.settimeout(0)
    return made


def _send(link: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        link.send(json.dumps(message).encode())
