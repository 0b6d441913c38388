# SPDX-License-Identifier: Apache-2.0
"""The live stream: one JSON object a line for whatever happens, until the reader leaves."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

from aiohttp import web

from hub.api.daemon import Daemon, View
from hub.clock import Clock
from hub.tasks import Tasks

HEARTBEAT_SECONDS: Final = 15.0
"""A line comes at least this often: a reader tells a quiet hub from a dead one."""


class Stream:
    """Serves `GET /v1/stream`.

    Args:
        daemon: where things happen.
        clock: paces heartbeats.
    """

    def __init__(self, daemon: Daemon, clock: Clock) -> None:
        self._daemon, self._clock = daemon, clock
        self._closing = asyncio.Event()

    async def close(self, _app: web.Application) -> None:
        """End every stream; readers see the end of the answer."""
        self._closing.set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Write what happens until the reader or the hub goes away."""
        items = self._daemon.subscribe()
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async with Tasks() as tasks:
            for name, part in (
                ("items", _copy(items, response)),
                ("heartbeat", self._heartbeat(response)),
                ("closing", self._closing.wait()),
            ):
                tasks.run(f"api.stream.{name}", _then_finish(part, tasks))
            await tasks.wait()
        return response

    async def _heartbeat(self, response: web.StreamResponse) -> None:
        while await _write(response, {"type": "heartbeat", "time": self._clock.time()}):
            await self._clock.sleep(HEARTBEAT_SECONDS)


async def _then_finish(part: Coroutine[Any, Any, Any], tasks: Tasks) -> None:
    try:
        await part
    finally:
        tasks.finish()


async def _copy(items: AsyncIterator[View], response: web.StreamResponse) -> None:
    try:
        async for item in items:
            if not await _write(response, item):
                return
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


async def _write(response: web.StreamResponse, item: dict[str, Any]) -> bool:
    try:
        await response.write(json.dumps(item).encode("ascii") + b"\n")
    except ConnectionError:
        return False
    return True
