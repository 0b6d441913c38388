# SPDX-License-Identifier: Apache-2.0
"""What the view shows: asked for once a second, and told by the stream as it happens."""

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event
from typing import Any, Final
from urllib.parse import quote

from hub.cli.client import Client
from hub.cli.tail import follow
from hub.errors import HubError

SECOND: Final = 1.0
_MOST: Final = 200


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the daemon: `/v1/status` and the lists beside it, or why there is none.

    Attributes:
        status: `/v1/status`, None when the daemon did not answer.
        trouble: why not, and what to do, in one line.
    """

    status: dict[str, Any] | None = None
    attacks: tuple[dict[str, Any], ...] = ()
    mitigations: tuple[dict[str, Any], ...] = ()
    agents: tuple[dict[str, Any], ...] = ()
    trouble: str = ""


class Feed:
    """Asks the daemon, from threads: the client blocks.

    Args:
        client: asks.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stop = Event()

    def close(self) -> None:
        """End `looks` within a second; `happenings` ends with the process."""
        self._stop.set()

    def looks(self) -> Iterator[Look]:
        """Yield one look a second until it is closed."""
        while not self._stop.is_set():
            yield self._look()
            self._stop.wait(SECOND)

    def happenings(self) -> Iterator[dict[str, Any]]:
        """Yield what happens, as `fnm-hub tail` does, also when nobody answers at first."""
        while not self._stop.is_set():
            try:
                yield from follow(self._client)
            except HubError:
                self._stop.wait(SECOND)

    def explain(self, name: str) -> dict[str, Any]:
        """Return why an attack or a mitigation is there.

        Raises:
            HubError: there is no such thing any more, or nobody answers.
        """
        return self._client.get(f"/v1/explain/{quote(name, safe='')}")

    def release(self, mitigation: str, reason: str) -> None:
        """End one mitigation; raises `HubError`."""
        path = f"/v1/mitigations/{quote(mitigation, safe='')}/release"
        self._client.post(path, {"reason": reason})

    def switch(self, what: str, reason: str) -> None:
        """Carry out `freeze` or `unfreeze`; raises `HubError`."""
        self._client.post(f"/v1/{what}", {"reason": reason})

    def _look(self) -> Look:
        try:
            return Look(
                self._client.get("/v1/status"),
                self._items(f"attacks?limit={_MOST}"),
                self._items(f"mitigations?limit={_MOST}"),
                self._items("agents"),
            )
        except HubError as error:
            todo = f"; {error.todo}" if error.todo else ""
            return Look(trouble=f"{error.what}{todo}")

    def _items(self, path: str) -> tuple[dict[str, Any], ...]:
        return tuple(self._client.get(f"/v1/{path}")["items"])
