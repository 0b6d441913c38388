# SPDX-License-Identifier: Apache-2.0
"""A small blocking HTTP client for the operator's Unix socket.

It speaks HTTP/1.0, in which an answer ends with its connection: `http.client` would do the same
and costs more than the rest of the start of the program.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from hub.errors import HubError

PATIENCE: Final = 30.0
_MAX_HEAD: Final = 64 * 2**10


class UnreachableError(HubError):
    """The daemon does not answer, or not to this user."""


class ApiError(HubError):
    """The daemon answered that it will not.

    Args:
        status: HTTP status.
        fields: the answer: `error`, `where`, `todo`, and more for some.
    """

    def __init__(self, status: int, fields: dict[str, Any]) -> None:
        self.status, self.fields = status, fields
        super().__init__(
            str(fields.get("error", f"HTTP status {status}")),
            where=str(fields.get("where", "")),
            todo=str(fields.get("todo", "")),
        )


class Client:
    """Asks the daemon, one connection a request.

    Args:
        path: the operator's socket.
        start: what to type to start the daemon, for the error.
        timeout: seconds without a byte after which the daemon counts as gone.
    """

    def __init__(self, path: Path, *, start: str, timeout: float = PATIENCE) -> None:
        self.path, self._start, self._timeout = path, start, timeout

    def get(self, path: str) -> dict[str, Any]:
        """Return the object at `path`.

        Raises:
            UnreachableError: nobody answers.
            ApiError: there is no such thing, or it is refused.
        """
        return self._ask("GET", path, b"")

    def post(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Send `fields` to `path` and return the answer; raises as `get`."""
        return self._ask("POST", path, json.dumps(fields).encode("ascii"))

    def lines(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield the objects of a stream until it ends; raises as `get`."""
        with self._answer("GET", path, b"") as (status, answer):
            if status != 200:  # noqa: PLR2004
                raise self._failed(status, answer.read())
            for line in answer:
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def _ask(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        with self._answer(method, path, body) as (status, answer):
            content = answer.read()
        if status >= 400:  # noqa: PLR2004
            raise self._failed(status, content)
        try:
            fields = json.loads(content)
        except ValueError as error:
            raise UnreachableError(
                "the answer ends early", where=str(self.path), todo="see the hub's log"
            ) from error
        if not isinstance(fields, dict):
            raise UnreachableError("the answer is no JSON object", where=str(self.path))
        return fields

    @contextmanager
    def _answer(self, method: str, path: str, body: bytes) -> Iterator[tuple[int, BinaryIO]]:
        """Yield status and body of the answer; however the connection breaks, it is said alike."""
        try:
            with self._open(method, path, body) as sock, sock.makefile("rb") as answer:
                yield _head(answer), answer
        except OSError as error:
            raise self._gone(error) from error

    def _open(self, method: str, path: str, body: bytes) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self._timeout)
            sock.connect(os.fspath(self.path))
            head = (
                f"{method} {path} HTTP/1.0\r\nHost: fnm-hub\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            sock.sendall(head.encode("ascii") + body)
        except OSError:
            sock.close()
            raise
        return sock

    def _gone(self, error: OSError) -> UnreachableError:
        if isinstance(error, PermissionError):
            return UnreachableError(
                f"permission denied{_owner(self.path)}",
                where=str(self.path),
                todo="use sudo, or join that group and have api.allow_users name you",
            )
        if isinstance(error, TimeoutError):
            return UnreachableError(
                f"no answer within {self._timeout:g} s",
                where=str(self.path),
                todo="is the daemon stuck? see its log",
            )
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return UnreachableError(
                f"nobody answers on {self.path}: is the daemon running?",
                todo=f"start it with: {self._start}",
            )
        return UnreachableError(
            f"the connection broke: {error.strerror or error}",
            where=str(self.path),
            todo="did the daemon stop? see its log",
        )

    def _failed(self, status: int, content: bytes) -> HubError:
        try:
            fields = json.loads(content)
        except ValueError:
            fields = {}
        error = ApiError(status, fields if isinstance(fields, dict) else {})
        if status == 403:  # noqa: PLR2004
            return UnreachableError(error.what, where=error.where, todo=error.todo)
        return error


def _head(answer: BinaryIO) -> int:
    line = answer.readline(_MAX_HEAD)
    parts = line.split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():  # noqa: PLR2004
        msg = "the answer is not HTTP" if line else "closed without an answer"
        raise ConnectionError(msg)
    while answer.readline(_MAX_HEAD) not in (b"\r\n", b"\n", b""):
        pass
    return int(parts[1])


def _owner(path: Path) -> str:
    import grp  # noqa: PLC0415 - only where it is needed: the program starts often
    import pwd  # noqa: PLC0415

    try:
        found = path.stat()
        owner, group = pwd.getpwuid(found.st_uid).pw_name, grp.getgrgid(found.st_gid).gr_name
        me = pwd.getpwuid(os.geteuid()).pw_name
    except (OSError, KeyError):
        return ""
    return f": it is for user {owner} and group {group}, you are {me}"
