# SPDX-License-Identifier: Apache-2.0
"""The only place that starts background tasks: each has a name, an owner and an end."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

import structlog

from hub.errors import HubError

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Tasks:
    """Owner of named background tasks; use as an async context manager.

    A task that fails is logged and ends the owner: the first failure is raised by `wait`.
    Leaving the context cancels what still runs and waits for it.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._over: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        """Bind to the running loop."""
        self._over = asyncio.get_running_loop().create_future()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Cancel and await every task that still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._over is not None:
            if self._over.done() and not self._over.cancelled():
                # Retrieved here, or asyncio would complain that nobody looked at it.
                self._over.exception()
            self._over.cancel()

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start `work` under `name`, and keep a reference until it ends."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def run(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        """Do as `start` for work that nobody else has to wait for."""
        _ = self.start(name, work)

    def finish(self) -> None:
        """Let `wait` return: whoever owns these tasks wants to end."""
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    async def wait(self) -> None:
        """Return after `finish`, or raise the error of the first task that failed."""
        if self._over is None:
            msg = "Tasks is used outside its context"
            raise RuntimeError(msg)
        await asyncio.shield(self._over)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        known = error.todo if isinstance(error, HubError) else ""
        log.error(
            "task.failed",
            task=task.get_name(),
            exc_info=error,
            todo=known or "report it with this line; see systemctl status after the restart",
        )
        if self._over is not None and not self._over.done():
            self._over.set_exception(error)
