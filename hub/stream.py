# SPDX-License-Identifier: Apache-2.0
"""The live stream: what happens from now on, for everyone who listens."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

_DEPTH: Final = 1000


class Stream:
    """Hands each item to every listener; one who is too slow loses the oldest, and is told."""

    def __init__(self) -> None:
        self._listeners: set[_Queue] = set()

    def publish(self, item: dict[str, Any]) -> None:
        """Give `item` to everyone who listens now."""
        for listener in self._listeners:
            listener.put(item)

    @property
    def heard(self) -> bool:
        """Tell whether anybody listens."""
        return bool(self._listeners)

    async def listen(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what is published from now on."""
        queue = _Queue()
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)


class _Queue:
    def __init__(self) -> None:
        self._items: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_DEPTH)
        self._lost = 0

    def put(self, item: dict[str, Any]) -> None:
        if self._items.full():
            self._items.get_nowait()
            self._lost += 1
        self._items.put_nowait(item)

    async def get(self) -> dict[str, Any]:
        if self._lost:
            lost, self._lost = self._lost, 0
            text = f"{lost} items were left out: this listener is too slow"
            return {"type": "notice", "level": "warning", "text": text}
        return await self._items.get()
