# SPDX-License-Identifier: Apache-2.0
"""Serving an application on a socket that is open already, and closing it in order."""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import structlog
from aiohttp import web

from hub.api.answers import failure
from hub.api.counters import Counters
from hub.api.limits import Limits, log_refusal
from hub.api.sockets import inode, remove_own
from hub.clock import Clock
from hub.tasks import Tasks

log = structlog.get_logger(__name__)

_SHUTDOWN_SECONDS: Final = 5.0
_LINGER_SECONDS: Final = 1.0
_NO_RESOURCES_SECONDS: Final = 0.2
_NO_ROOM_SECONDS: Final = 0.02


def _silent() -> logging.Logger:
    # aiohttp logs request lines that it cannot parse; a webhook's may hold its token.
    logger = logging.getLogger("hub.api.silent")
    logger.disabled = True
    return logger


class _Protocol(web.RequestHandler):
    """HTTP on one connection; what is wrong with a request is answered by fixed words.

    aiohttp's own answers repeat the request, longer than it was, to whoever sent it.
    """

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request, or what went wrong outside every handler."""
        del exc, message
        if request.writer.output_size > 0:
            what = "an answer has begun already"
            raise ConnectionError(what)
        bad = status < 500  # noqa: PLR2004
        response = failure("this is not a valid request" if bad else "failed", status=status)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; aiohttp's own refusals, as of an `Expect`, in our words."""
        if isinstance(resp, web.HTTPError):
            resp = failure(resp.reason.lower(), status=resp.status)
        return await super().finish_response(request, resp, start_time)


class _Running:
    """A server that runs: its connections, and what makes the protocol of a new one."""

    def __init__(self, server: web.Server, options: dict[str, Any]) -> None:
        self._server, self._options = server, options
        self._loop = asyncio.get_running_loop()

    @property
    def connections(self) -> list[web.RequestHandler]:
        """Return the protocols of the open connections."""
        return self._server.connections

    def __call__(self) -> web.RequestHandler:
        """Return a protocol for a new connection."""
        return _Protocol(self._server, loop=self._loop, **self._options)


@asynccontextmanager
async def running(app: web.Application, limits: Limits) -> AsyncIterator[_Running]:
    """Run `app` until the context ends; requests in progress get five seconds to finish."""
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    server = runner.server
    if server is None:
        msg = "aiohttp made no server"
        raise RuntimeError(msg)
    options = {
        "access_log": None,
        "logger": _silent(),
        "keepalive_timeout": limits.head,
        "lingering_time": _LINGER_SECONDS,
        # Signatures and the journal want the bytes as they came; a body cannot unfold to more.
        "auto_decompress": False,
    }
    try:
        yield _Running(server, options)
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serve_unix(
    app: web.Application, sock: socket.socket, path: Path, limits: Limits
) -> AsyncIterator[None]:
    """Serve `app` on a listening Unix socket; at the end its file goes too."""
    ours = await asyncio.to_thread(inode, path)
    async with running(app, limits) as server:
        listener = await asyncio.get_running_loop().create_unix_server(
            server, sock=sock, backlog=limits.backlog
        )
        try:
            yield
        finally:
            # The file first: whoever comes now sees at once that nobody is there.
            await asyncio.to_thread(remove_own, path, ours)
            listener.close()


@asynccontextmanager
async def serve_intake(
    app: web.Application,
    sock: socket.socket,
    path: Path,
    limits: Limits,
    *,
    clock: Clock,
    counters: Counters,
) -> AsyncIterator[None]:
    """Serve `app` on the local detector's socket, with at most `limits.local` connections.

    Those beyond wait in the kernel: a burst of detector calls is one of connections, and each of
    them spools its event when its own time is up. At the end the socket's file goes too.
    """
    ours = await asyncio.to_thread(inode, path)
    async with running(app, limits) as server, Tasks() as tasks:
        accepting = _Waiting(server, sock, limits, tasks, name="unix", counters=counters)
        tasks.run("api.accept.unix", accepting.run(clock, None))
        try:
            yield
        finally:
            # The file first: whoever comes now sees at once that nobody is there.
            await asyncio.to_thread(remove_own, path, ours)


@asynccontextmanager
async def serve_tcp(
    app: web.Application,
    sock: socket.socket,
    limits: Limits,
    *,
    name: str,
    clock: Clock,
    counters: Counters,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[None]:
    """Serve `app` on a listening TCP socket, with at most `limits.connections` at a time.

    Args:
        app: the application.
        sock: listening, non-blocking.
        limits: of connections and handshakes.
        name: of the listener, for counters and the log.
        clock: paces the wait when the machine is out of descriptors.
        counters: counts connections that are turned away.
        context: TLS; None is plain text.
    """
    with sock:
        async with running(app, limits) as server, Tasks() as tasks:
            accepting = _Accepting(server, sock, limits, tasks, name=name, counters=counters)
            tasks.run(f"api.accept.{name}", accepting.run(clock, context))
            yield


class _Accepting:
    """The accept loop of one TCP listener.

    asyncio's own has no limit: idle connections would take every descriptor, and with them
    those of the journal and of the local socket.
    """

    def __init__(
        self,
        server: _Running,
        sock: socket.socket,
        limits: Limits,
        tasks: Tasks,
        *,
        name: str,
        counters: Counters,
    ) -> None:
        self._server, self._sock, self._limits, self._tasks = server, sock, limits, tasks
        self._name, self._counters = name, counters
        self._opening: Counter[str] = Counter()

    async def run(self, clock: Clock, context: ssl.SSLContext | None) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._until_room(clock)
            try:
                connection, address = await loop.sock_accept(self._sock)
            except ConnectionAbortedError:
                await clock.sleep(0)
                continue
            except OSError as error:
                log_refusal(source="-", reason="accept", via=self._name, detail=str(error))
                await clock.sleep(_NO_RESOURCES_SECONDS)
                continue
            source = str(address[0]) if address else ""
            if (reason := self._full(source)) is not None:
                connection.close()
                self._counters.refused(self._name, reason)
                log_refusal(source=source, reason=reason, via=self._name)
                continue
            self._opening[source] += 1
            self._tasks.run(f"api.open.{self._name}", self._open(connection, source, context))

    async def _until_room(self, clock: Clock) -> None:
        """Return at once: who comes in vain is turned away."""

    def _full(self, source: str) -> str | None:
        connections = self._server.connections
        total = len(connections) + self._opening.total()
        if total >= self._limits.connections:
            return "connections"
        if total < self._limits.per_source:
            return None
        own = self._opening[source] + sum(_address(item.peername) == source for item in connections)
        return "connections_of_source" if own >= self._limits.per_source else None

    async def _open(
        self, connection: socket.socket, source: str, context: ssl.SSLContext | None
    ) -> None:
        seconds = self._limits.handshake if context is not None else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._server,
                connection,
                ssl=context,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=seconds,
            )
        except OSError as error:
            # ssl.SSLError and ConnectionError are OSErrors: a stranger's failed handshake.
            connection.close()
            self._counters.refused(self._name, "handshake")
            log_refusal(source=source, reason="handshake", via=self._name, detail=str(error))
        finally:
            self._opening[source] -= 1
            if not self._opening[source]:
                del self._opening[source]


class _Waiting(_Accepting):
    """The same for a socket whose clients are known: they wait."""

    async def _until_room(self, clock: Clock) -> None:
        if self._has_room():
            return
        log_refusal(
            source="-",
            reason="connections",
            via=self._name,
            detail=f"{self._limits.local} are open; more wait, or go to the spool",
        )
        while not self._has_room():
            await clock.sleep(_NO_ROOM_SECONDS)

    def _has_room(self) -> bool:
        return len(self._server.connections) + self._opening.total() < self._limits.local

    def _full(self, source: str) -> str | None:
        del source
        return None


def _address(peername: object) -> object:
    return peername[0] if isinstance(peername, tuple) else peername
