# SPDX-License-Identifier: Apache-2.0
"""The page over HTTP: once as a whole, then what has changed as server-sent events."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from aiohttp import web

from hub.api.answers import Handler, errors_as_json, failure
from hub.api.counters import Counters
from hub.api.daemon import Daemon
from hub.api.gates import Gate, NotAllowedError
from hub.api.limits import log_refusal
from hub.api.page.browsers import Visitors, harden
from hub.api.page.document import document, parts
from hub.api.page.snapshot import Snapshot, take
from hub.clock import Clock

INTERVAL: Final = 2.0
"""Seconds between two events; one comes even when nothing has changed."""
_FRESH: Final = 1.0
_VIEWERS: Final = 64
_WRITE_SECONDS: Final = 10.0
_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_STATIC: Final = {
    one.name: one.read_bytes()
    for one in files("hub.api.page").joinpath("static").iterdir()
    if one.is_file()
}


@dataclass(frozen=True, slots=True)
class _Moment:
    """What was to be seen, and its words; `taken` is by the steady clock, seconds."""

    taken: float
    snapshot: Snapshot
    parts: Mapping[str, str]


class StatusPage:
    """Handlers of the page; none of them changes anything.

    Args:
        daemon: what is shown.
        clock: the daemon's own.
    """

    def __init__(self, daemon: Daemon, clock: Clock) -> None:
        self._daemon, self._clock = daemon, clock
        self._closing = asyncio.Event()
        self._taking = asyncio.Lock()
        self._newest: _Moment | None = None
        self._viewers = 0

    def add_to(self, app: web.Application) -> None:
        """Add its routes, and the headers that every answer of `app` gets."""
        app.on_shutdown.append(self._close)
        app.on_response_prepare.append(harden)
        app.router.add_get("/", self._page)
        app.router.add_get("/page/stream", self._stream, allow_head=False)
        app.router.add_get("/page/{name}", self._file)

    async def _close(self, _app: web.Application) -> None:
        self._closing.set()

    async def _page(self, _request: web.Request) -> web.Response:
        moment = await self._moment()
        page = document(moment.snapshot, moment.parts)
        return web.Response(text=page, content_type="text/html", charset="utf-8")

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        body = _STATIC.get(name)
        if body is None:
            raise web.HTTPNotFound
        kind = _TYPES[name.rpartition(".")[2]]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if self._viewers >= _VIEWERS:
            return failure(
                f"{self._viewers} browsers look already",
                status=503,
                todo="close some of them",
                headers={"Retry-After": "10"},
            )
        self._viewers += 1
        try:
            return await self._tell(request)
        finally:
            self._viewers -= 1

    async def _tell(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type, response.charset = "text/event-stream", "utf-8"
        await response.prepare(request)
        said: Mapping[str, str] = {}
        while not self._closing.is_set():
            moment = await self._moment()
            now, version = moment.parts, moment.snapshot.status["version"]
            news = {name: text for name, text in now.items() if said.get(name) != text}
            said = now
            if not await _write(response, {"version": version, "parts": news}):
                break
            await self._pause()
        return response

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(INTERVAL):
                await self._closing.wait()
        except TimeoutError:
            return

    async def _moment(self) -> _Moment:
        """Return the present moment; all who look within a second share one."""
        async with self._taking:
            begun = self._clock.monotonic()
            if self._newest is None or begun - self._newest.taken >= _FRESH:
                snapshot = await take(self._daemon, self._clock.time())
                self._newest = _Moment(begun, snapshot, parts(snapshot))
            return self._newest


async def _write(response: web.StreamResponse, item: dict[str, Any]) -> bool:
    """Send one event; tell whether there is still somebody who reads."""
    try:
        async with asyncio.timeout(_WRITE_SECONDS):
            await response.write(b"data: " + json.dumps(item).encode("ascii") + b"\n\n")
    except (ConnectionError, TimeoutError):
        return False
    return True


def build_page_app(
    daemon: Daemon,
    *,
    clock: Clock,
    gates: Sequence[Gate],
    visitors: Visitors,
    counters: Counters,
) -> web.Application:
    """Return the application of the listener for browsers.

    Args:
        daemon: what is shown.
        clock: the daemon's own.
        gates: all of them must let a request through.
        visitors: tells what other sites cause.
        counters: counts refusals.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            visitors.check(request)
            for gate in gates:
                gate.before_body(request)
        except NotAllowedError as error:
            # A browser asks once without a password, to be told that it needs one.
            if error.reason != "login" or "Authorization" in request.headers:
                counters.refused("page", error.reason)
                log_refusal(
                    source=str(request.remote),
                    reason=error.reason,
                    via="page",
                    detail=error.detail,
                )
            return refused(error)
        return await handler(request)

    app = web.Application(middlewares=[errors_as_json, guarded])
    StatusPage(daemon, clock).add_to(app)
    return app


def refused(error: NotAllowedError) -> web.Response:
    """Return the answer to a request that may not be; a browser asks for a password then."""
    ask = {"WWW-Authenticate": 'Basic realm="fnm-hub", charset="UTF-8"'}
    todo = {
        "host": "call it by its address, or add the name to api.page.names",
        "cross_site": "open the page by itself; changes are made by the fnm-hub commands",
        "login": "give the name and token of one of api.page.users",
        "certificate": "show a certificate of api.page.tls.client_ca",
    }.get(error.reason, "")
    headers = ask if error.reason == "login" else None
    return failure(error.detail, status=error.status, todo=todo, headers=headers)
