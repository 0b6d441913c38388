# SPDX-License-Identifier: Apache-2.0
"""Mitigations, a clock that does not wait, and a real HTTP server, for tests of engines."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from ssl import SSLContext
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from hub.config import Service
from hub.mitigations.engine import Engine
from hub.mitigations.model import Mitigation, MitigationState
from hub.rules.actions import Action, Notify

SERVICE = Service.model_validate({"name": "web", "prefixes": ["192.0.2.0/24"]})


def mitigation(action: Action | None = None, **changes: Any) -> Mitigation:
    """Return a mitigation for a test."""
    values: dict[str, Any] = {
        "id": "m-0123456789",
        "target": ip_network("192.0.2.7/32"),
        "action": action or Notify(to="oncall"),
        "engine": "oncall",
        "service": SERVICE,
        "rule": "syn-flood",
        "state": MitigationState.APPLYING,
        "created_at": 1000.0,
        "deadline": 1900.0,
        "ttl": 900.0,
        "attacks": ("a-0123456789", "a-9876543210"),
        "revision": 3,
    }
    return Mitigation(**(values | changes))


def as_engine(engine: Engine) -> Engine:
    """Return what is behind the Protocol; the type checker holds the two together."""
    return engine


class FakeClock:
    """A clock that jumps instead of waiting, and remembers by how much."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.slept: list[float] = []

    def time(self) -> float:
        """Return what the clock shows."""
        return self.now

    def monotonic(self) -> float:
        """Return what the clock shows."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Jump ahead."""
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class Receiver:
    """What the server got, and what it answers: each answer once, the last one for ever."""

    answers: list[web.Response]
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Take one request."""
        self.bodies.append(await request.read())
        self.headers.append(dict(request.headers))
        self.paths.append(request.path_qs)
        answer = self.answers[min(len(self.bodies), len(self.answers)) - 1]
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


@asynccontextmanager
async def receiver(
    *answers: web.Response, tls: SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """Yield a server on loopback that answers POST requests."""
    got = Receiver(list(answers) or [web.Response()])
    app = web.Application()
    app.router.add_post("/{path:.*}", got.handle)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server(ssl=tls, access_log=None)
    got.url = str(server.make_url("/hook"))
    try:
        yield got
    finally:
        await server.close()
