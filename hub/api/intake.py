# SPDX-License-Identifier: Apache-2.0
"""The ways in for detector calls: 202 only after the call is durable."""

import uuid
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from structlog.contextvars import bind_contextvars, clear_contextvars

from hub.api.answers import answer, errors_as_json, failure, of_error
from hub.api.body import BodyError, read_body
from hub.api.counters import Counters
from hub.api.daemon import Daemon
from hub.api.gates import Gate, NotAllowedError, Tokens
from hub.api.limits import Limits, log_refusal
from hub.api.peers import peer_of
from hub.clock import Clock
from hub.errors import HubError, IntakeError
from hub.intake.envelope import Envelope, decode, encode

EVENTS_PATH: Final = "/v1/events/fastnetmon"
WEBHOOK_PATH: Final = "/v1/webhook/fastnetmon/{detector}"


@dataclass(frozen=True, slots=True)
class IntakeOptions:
    """How one intake listener behaves.

    Attributes:
        via: `unix` or `tcp`, for the journal and the counters.
        gates: what a sender of envelopes has to pass, each of them; empty lets all through.
        max_body: bytes.
        tokens: who may post FastNetMon Advanced's JSON; None switches that off.
        limits: of the connection.
    """

    via: str
    gates: tuple[Gate, ...]
    max_body: int
    tokens: Tokens | None = None
    limits: Limits = field(default_factory=Limits)


class _Intake:
    """Handlers of one intake listener."""

    def __init__(
        self,
        daemon: Daemon,
        options: IntakeOptions,
        *,
        clock: Clock,
        counters: Counters,
    ) -> None:
        self._daemon, self._options, self._clock = daemon, options, clock
        self._counters = counters
        self._tokens = options.tokens or Tokens(())

    async def event(self, request: web.Request) -> web.Response:
        """Take one envelope."""
        options = self._options
        clear_contextvars()  # of the request before on this connection
        try:
            for gate in options.gates:
                gate.before_body(request)
            body = await read_body(request, options.max_body, options.limits.body)
            for gate in options.gates:
                gate.with_body(request, body)
            return await self._accept(decode(body), body, options.via)
        except (NotAllowedError, BodyError, HubError) as error:
            return self._refuse(request, error, options.via)

    async def would_take(self, request: web.Request) -> web.Response:
        """Answer 200 to a sender whose envelope would be taken; nothing is recorded."""
        options = self._options
        try:
            for gate in options.gates:
                gate.before_body(request)
                gate.with_body(request, b"")
        except (NotAllowedError, HubError) as error:
            return self._refuse(request, error, options.via)
        return answer({"ok": True})

    async def webhook(self, request: web.Request) -> web.Response:
        """Take one document as FastNetMon Advanced posts it."""
        options = self._options
        clear_contextvars()
        stamp = self._clock.time()
        try:
            detector = self._tokens.check(request)
            body = await read_body(request, options.max_body, options.limits.body)
            if not body:
                raise IntakeError("the body is empty", todo="post FastNetMon's JSON")
            envelope = Envelope(
                id=uuid.uuid4().hex, detector=detector, stamp=stamp, args=(), stdin=body
            )
            return await self._accept(envelope, encode(envelope), "webhook")
        except (NotAllowedError, BodyError, HubError) as error:
            return self._refuse(request, error, "webhook")

    async def _accept(self, envelope: Envelope, raw: bytes, via: str) -> web.Response:
        bind_contextvars(delivery=envelope.id)
        accepted = await self._daemon.accept(envelope, raw=raw, via=via)
        return answer({"event": accepted.number}, status=202 if accepted.is_new else 200)

    def _refuse(
        self, request: web.Request, error: NotAllowedError | BodyError | HubError, via: str
    ) -> web.Response:
        if isinstance(error, NotAllowedError):
            reason, detail = error.reason, error.detail
            what = "not allowed" if error.status == 401 else detail  # noqa: PLR2004
            response = failure(what, status=error.status)
        elif isinstance(error, BodyError):
            reason, detail = error.reason, error.what
            response = failure(error.what, status=error.status)
        else:
            reason, detail = type(error).__name__.removesuffix("Error").lower(), str(error)
            response = of_error(error)
        self._counters.refused(via, reason)
        log_refusal(source=_source(request), reason=reason, via=via, detail=detail)
        return response


def build_intake_app(
    daemon: Daemon,
    options: IntakeOptions,
    *,
    clock: Clock,
    counters: Counters,
) -> web.Application:
    """Return the application of one intake listener.

    Args:
        daemon: takes the calls.
        options: who may post, and how much.
        clock: stamps what comes without a stamp; the clock that senders share with us.
        counters: counts what is refused.
    """
    intake = _Intake(daemon, options, clock=clock, counters=counters)
    app = web.Application(middlewares=[errors_as_json])
    app.router.add_post(EVENTS_PATH, intake.event)
    app.router.add_get(EVENTS_PATH, intake.would_take, allow_head=False)
    if options.tokens is not None:
        app.router.add_post(WEBHOOK_PATH, intake.webhook)
        # For senders that can set no header: the token stands in the path, which is never logged.
        app.router.add_post(WEBHOOK_PATH + "/{token}", intake.webhook)
    return app


def _source(request: web.Request) -> str:
    if request.remote:
        return request.remote
    peer = peer_of(request)
    return "unknown" if peer is None else f"uid {peer.uid}"
