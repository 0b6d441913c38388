# SPDX-License-Identifier: Apache-2.0
"""The event loop, whose name look-ups keep nobody else waiting.

asyncio looks names up in the same few threads in which it reads files. A resolver that does not
answer holds each of them for ten seconds and more, and soon nothing that needs a thread goes on.
"""

import asyncio
import socket
from contextlib import suppress
from threading import Thread
from typing import Any

_Key = tuple[Any, ...]


class Loop(asyncio.SelectorEventLoop):
    """Looks each name up in a thread of its own, once for all who wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: dict[_Key, asyncio.Future[list[Any]]] = {}

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - asyncio's own name
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Return what socket.getaddrinfo returns.

        Raises:
            OSError: the name cannot be looked up.
        """
        key = (host, port, family, type, proto, flags)
        shared = self._asked.get(key)
        if shared is None:
            shared = self._asked[key] = self.create_future()
            # The process may end while it hangs.
            Thread(target=self._look_up, args=(key, shared), name="resolver", daemon=True).start()
        return await asyncio.shield(shared)

    def _look_up(self, key: _Key, shared: "asyncio.Future[list[Any]]") -> None:
        found: list[Any] | Exception
        try:
            found = socket.getaddrinfo(*key)
        except (OSError, UnicodeError) as error:
            found = error
        with suppress(RuntimeError):  # closed meanwhile: nobody waits
            self.call_soon_threadsafe(self._tell, key, shared, found)

    def _tell(
        self, key: _Key, shared: "asyncio.Future[list[Any]]", found: list[Any] | Exception
    ) -> None:
        del self._asked[key]
        if shared.done():
            return
        if isinstance(found, Exception):
            shared.set_exception(found)
            # Whoever asked may have given up: then nobody looks at it, and asyncio would complain.
            shared.exception()
        else:
            shared.set_result(found)
