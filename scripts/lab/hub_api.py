# SPDX-License-Identifier: Apache-2.0
"""The hub as its operator API shows it (docs/protocols.md)."""

import json
import socket
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

from scripts.lab.commands import LabError

Item = dict[str, Any]
_TIMEOUT: Final = 5.0
_OK: Final = 200


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("fnm-hub", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Connect, or leave no socket behind."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(str(self._path))


class HubApi:
    """Asks the hub behind the Unix socket `path`, over a new connection each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ready(self) -> bool:
        """Tell whether the hub answers and says that it is ready."""
        try:
            return self._get("/readyz")[0] == _OK
        except (OSError, HTTPException):
            return False

    def items(self, kind: str) -> list[Item]:
        """Return `events`, `attacks` or `mitigations`, those that are over as well, newest first.

        Raises:
            LabError: the hub does not answer, or not as documented.
        """
        try:
            status, body = self._get(f"/v1/{kind}?all=1")
            items: list[Item] = json.loads(body)["items"]
        except (OSError, HTTPException, ValueError, KeyError) as error:
            raise LabError(
                f"the hub did not answer /v1/{kind}: {error!r}",
                where=str(self._path),
                todo="look at the hub's log",
            ) from error
        if status != _OK:
            raise LabError(f"the hub answered {status} to /v1/{kind}", where=str(self._path))
        return items

    def _get(self, path: str) -> tuple[int, bytes]:
        with closing(_UnixConnection(self._path)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
