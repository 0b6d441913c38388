# SPDX-License-Identifier: Apache-2.0
"""A thread with a database connection of its own, for work off the writer's way."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from threading import Lock
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Work = Callable[Concatenate[sqlite3.Connection, P], T]


class Lane:
    """One thread, one connection, made at first use and after each `drop`.

    Args:
        name: the thread's name.
        connect: makes the connection.
    """

    def __init__(self, name: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._lock = Lock()
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` returns in this lane's thread."""
        return await asyncio.wrap_future(self.start(work, *args, **kwargs))

    def start(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin `work` in this lane's thread, from any thread."""
        return self._threads.submit(self._run, lambda link: work(link, *args, **kwargs))

    def halt(self) -> AbstractContextManager[bool]:
        """Keep work out while the context lasts; called from another thread."""
        return self._lock

    def drop(self) -> None:
        """Close the connection; only inside `halt`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Wait for the work that has begun, and end the thread."""
        self._threads.shutdown(wait=True)
        with self._lock:
            self.drop()

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()
            return work(self._connection)
