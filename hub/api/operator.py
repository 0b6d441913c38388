# SPDX-License-Identifier: Apache-2.0
"""The operator API: what is going on, and the few things a person may change."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from aiohttp import web

from hub.api.answers import Handler, answer, errors_as_json, failure
from hub.api.body import BodyError, read_fields
from hub.api.counters import Counters
from hub.api.daemon import Daemon, View
from hub.api.drills import DrillHandlers
from hub.api.gates import NotAllowedError
from hub.api.health import Health
from hub.api.limits import Limits
from hub.api.page.browsers import Visitors
from hub.api.page.serve import StatusPage, refused
from hub.api.peers import ACTOR, peer_of, user_name
from hub.api.stream import Stream
from hub.clock import Clock
from hub.errors import IntakeError

log = structlog.get_logger(__name__)

_LISTS: Final = {
    "attack": "list them: fnm-hub attacks --all",
    "event": "list the newest: fnm-hub events -n 100",
    "thing": "list with fnm-hub events, attacks --all or mitigations --all; old ones are pruned",
}
_MAX_BODY: Final = 64 * 2**10
_MAX_REASON: Final = 500
_FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_MAX_DIGITS: Final = 18
_LIMIT: Final = 500
_MAX_LIMIT: Final = 10_000


class _Operator:
    """Handlers of the operator's socket."""

    def __init__(self, daemon: Daemon, clock: Clock, limits: Limits) -> None:
        self._daemon, self._clock, self._limits = daemon, clock, limits

    async def status(self, _request: web.Request) -> web.Response:
        """Answer the state of the whole."""
        return answer(self._daemon.status())

    async def history(self, _request: web.Request) -> web.Response:
        """Answer what engines counted lately."""
        return self._done(self._daemon.history())

    async def attacks(self, request: web.Request) -> web.Response:
        """Answer attacks, newest first."""
        found = await self._daemon.attacks(include_ended=_all(request), limit=_limit(request))
        return self._items(found)

    async def attack(self, request: web.Request) -> web.Response:
        """Answer one attack with its events, mitigations and decisions."""
        found = await self._daemon.attack(request.match_info["id"])
        return self._one(found, "attack")

    async def mitigations(self, request: web.Request) -> web.Response:
        """Answer mitigations, newest first."""
        found = await self._daemon.mitigations(include_ended=_all(request), limit=_limit(request))
        return self._items(found)

    async def events(self, request: web.Request) -> web.Response:
        """Answer events, newest first."""
        before = _number(request, "before")
        return self._items(await self._daemon.events(before=before, limit=_limit(request)))

    async def event(self, request: web.Request) -> web.Response:
        """Answer one event, with its bytes."""
        return self._one(await self._daemon.event(int(request.match_info["number"])), "event")

    async def explain(self, request: web.Request) -> web.Response:
        """Answer why something was done, or nothing was."""
        return self._one(await self._daemon.explain(request.match_info["thing"]), "thing")

    async def release(self, request: web.Request) -> web.Response:
        """End one mitigation."""
        reason = await self._reason(request)
        actor = request[ACTOR]
        done = await self._daemon.release(request.match_info["id"], actor=actor, reason=reason)
        return self._done(done)

    async def agents(self, _request: web.Request) -> web.Response:
        """Answer the agents of isn_sync."""
        return self._items(self._daemon.agents())

    async def trust(self, request: web.Request) -> web.Response:
        """Pin the host key of one agent."""
        fields = await self._fields(request)
        reason = _reason(fields, more="fingerprint")
        fingerprint = fields.get("fingerprint")
        if not isinstance(fingerprint, str) or not _FINGERPRINT.fullmatch(fingerprint):
            raise IntakeError(
                "`fingerprint` is not one of a host key",
                todo="write it as ssh-keygen -l does: SHA256: and 43 characters",
            )
        name, actor = request.match_info["name"], request[ACTOR]
        return self._done(
            await self._daemon.trust_agent(
                name, fingerprint=fingerprint, actor=actor, reason=reason
            )
        )

    async def forget(self, request: web.Request) -> web.Response:
        """Trust one agent's host key no more."""
        reason = await self._reason(request)
        name, actor = request.match_info["name"], request[ACTOR]
        return self._done(await self._daemon.forget_agent(name, actor=actor, reason=reason))

    async def key(self, _request: web.Request) -> web.Response:
        """Answer the hub's own SSH key."""
        return self._done(self._daemon.key())

    def change(self, act: Callable[..., Awaitable[View]]) -> Handler:
        """Return a handler for a change of the whole hub, with an actor and a reason."""

        async def handle(request: web.Request) -> web.StreamResponse:
            reason = await self._reason(request)
            return self._done(await act(actor=request[ACTOR], reason=reason))

        return handle

    async def reload(self, request: web.Request) -> web.Response:
        """Read the rules again."""
        await self._reason(request)
        return self._done(await self._daemon.reload(actor=request[ACTOR]))

    def _items(self, found: list[View]) -> web.Response:
        return answer({"now": self._clock.time(), "items": found})

    def _one(self, found: View | None, what: str) -> web.Response:
        if found is None:
            return failure(f"there is no such {what}", status=404, todo=_LISTS[what])
        return self._done(found)

    def _done(self, view: View) -> web.Response:
        return answer({"now": self._clock.time(), **view})

    async def _reason(self, request: web.Request) -> str:
        return _reason(await self._fields(request))

    async def _fields(self, request: web.Request) -> Any:
        return await read_fields(request, _MAX_BODY, self._limits.body)


def build_operator_app(
    daemon: Daemon,
    *,
    clock: Clock,
    counters: Counters,
    allowed: frozenset[int],
    limits: Limits | None = None,
) -> web.Application:
    """Return the application of the operator's socket.

    Args:
        daemon: answers.
        clock: the daemon's own, in which its deadlines are.
        counters: counts answers; their text stands in /metrics.
        allowed: user ids that may connect.
        limits: of the connection.
    """
    operator = _Operator(daemon, clock, limits or Limits())
    stream = Stream(daemon, clock)
    app = web.Application(
        middlewares=[_counted(counters), errors_as_json, _known(allowed), _only_ours]
    )
    app.on_shutdown.append(stream.close)
    StatusPage(daemon, clock).add_to(app)
    Health(daemon, counters).add_to(app)
    app.router.add_get("/v1/status", operator.status)
    app.router.add_get("/v1/history", operator.history)
    app.router.add_get("/v1/attacks", operator.attacks)
    app.router.add_get("/v1/attacks/{id}", operator.attack)
    app.router.add_get("/v1/mitigations", operator.mitigations)
    app.router.add_get("/v1/events", operator.events)
    app.router.add_get(r"/v1/events/{number:[0-9]{1,18}}", operator.event)
    app.router.add_get("/v1/explain/{thing:.+}", operator.explain)
    app.router.add_get("/v1/stream", stream.handle)
    app.router.add_post("/v1/mitigations/{id}/release", operator.release)
    app.router.add_post("/v1/freeze", operator.change(daemon.freeze))
    app.router.add_post("/v1/unfreeze", operator.change(daemon.unfreeze))
    app.router.add_post("/v1/drain", operator.change(daemon.drain))
    app.router.add_post("/v1/reload", operator.reload)
    app.router.add_post("/v1/arm", operator.change(daemon.arm))
    DrillHandlers(daemon, clock, limits or Limits()).add_to(app)
    app.router.add_get("/v1/agents", operator.agents)
    app.router.add_post("/v1/agents/{name}/trust", operator.trust)
    app.router.add_post("/v1/agents/{name}/forget", operator.forget)
    app.router.add_get("/v1/key", operator.key)
    app.router.add_post("/v1/key/rotate", operator.change(daemon.rotate_key))
    return app


def _known(allowed: frozenset[int]) -> Any:
    @web.middleware
    async def known(request: web.Request, handler: Handler) -> web.StreamResponse:
        peer = peer_of(request)
        if peer is None or peer.uid not in allowed:
            who = "unknown" if peer is None else await asyncio.to_thread(user_name, peer.uid)
            log.warning(
                "api.refused",
                user=who,
                method=request.method,
                todo="name the user in api.allow_users and restart, or ask why",
            )
            return failure(
                f"user {who} may not use this socket",
                status=403,
                where="api.allow_users",
                todo="add the user there and restart the hub, or use sudo",
            )
        request[ACTOR] = await asyncio.to_thread(user_name, peer.uid)
        try:
            return await handler(request)
        except BodyError as error:
            return failure(error.what, status=error.status)

    return known


_VISITORS: Final = Visitors((), short=True)


@web.middleware
async def _only_ours(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what other sites cause in a browser that `ssh -L` leads here."""
    try:
        _VISITORS.check(request)
    except NotAllowedError as error:
        log.warning(
            "api.not_ours",
            user=request[ACTOR],
            reason=error.reason,
            why=error.detail,
            todo="use the commands for changes; else look what that browser has open",
        )
        return refused(error)
    return await handler(request)


def _counted(counters: Counters) -> Any:
    @web.middleware
    async def counted(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        counters.operator(response.status)
        return response

    return counted


def _reason(fields: Any, *, more: str = "") -> str:
    """Return the reason in a body that may also have the key `more`."""
    reason = fields.get("reason", "") if isinstance(fields, dict) else None
    if (
        not isinstance(reason, str)
        or len(reason) > _MAX_REASON
        or not fields.keys() <= {"reason", more}
    ):
        known = f"`{more}` and `reason`" if more else "`reason` alone"
        example = f'{{"reason": "at most {_MAX_REASON} characters"}}'
        raise IntakeError(
            f"the body is not an object with {known}",
            todo=f"send `{more}`, and a reason or none" if more else f"send {example} or nothing",
        )
    return reason


def _all(request: web.Request) -> bool:
    return request.query.get("all", "0") in {"1", "true", "yes"}


def _limit(request: web.Request) -> int:
    limit = _number(request, "limit")
    return _LIMIT if limit is None else max(1, min(limit, _MAX_LIMIT))


def _number(request: web.Request, key: str) -> int | None:
    text = request.query.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS:
        raise IntakeError(f"{key} is not a whole number: {text[:40]!r}")
    return int(text)
