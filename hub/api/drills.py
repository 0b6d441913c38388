# SPDX-License-Identifier: Apache-2.0
"""The part of the operator API that runs drills, and the way back into dry-run."""

from typing import Any, Final

from aiohttp import web

from hub.api.answers import answer
from hub.api.body import read_fields
from hub.api.daemon import Daemon, View
from hub.api.limits import Limits
from hub.api.peers import ACTOR
from hub.clock import Clock
from hub.drills.model import Hook
from hub.errors import IntakeError
from hub.pipeline.drilling import Wish

_MAX_BODY: Final = 64 * 2**10
_MAX_TEXT: Final = 500
_CALLS: Final = ("ban", "unban")


class DrillHandlers:
    """Handlers for `/v1/drills`, `/v1/drill` and `/v1/disarm`."""

    def __init__(self, daemon: Daemon, clock: Clock, limits: Limits) -> None:
        self._daemon, self._clock, self._limits = daemon, clock, limits

    async def begin(self, request: web.Request) -> web.Response:
        """Begin a drill."""
        fields = await self._fields(request)
        wish = Wish(
            kind=_text(fields, "kind") or "syn",
            target=_text(fields, "target") or None,
            enforce=_text(fields, "enforce") or None,
            notify_too=_flag(fields, "notify_too"),
            seconds=_number(fields, "seconds", 60.0),
        )
        reason = _text(fields, "reason")
        _nothing_else(fields)
        begun = await self._daemon.drills.begin(wish, actor=request[ACTOR], reason=reason)
        return self._done(begun)

    async def look(self, _request: web.Request) -> web.Response:
        """Answer the drill under way, or the newest."""
        return self._done(await self._daemon.drills.look())

    async def hook(self, request: web.Request) -> web.Response:
        """Take in how the hook ended."""
        fields = await self._fields(request)
        call = _text(fields, "call")
        status = fields.pop("status", None)
        if call not in _CALLS or not (status is None or isinstance(status, int)):
            raise IntakeError("`call` is not ban or unban, or `status` not a number or null")
        hook = Hook(
            path=_text(fields, "path"),
            user=_text(fields, "user"),
            as_detector=_flag(fields, "as_detector"),
            seconds=_number(fields, "seconds", 0.0),
            status=status,
            said=_text(fields, "said"),
        )
        _nothing_else(fields)
        self._daemon.drills.ran(request.match_info["id"], call, hook)
        return self._done({})

    async def finish(self, request: web.Request) -> web.Response:
        """End a drill."""
        fields = await self._fields(request)
        why = _text(fields, "why")
        _nothing_else(fields)
        drill_id, actor = request.match_info["id"], request[ACTOR]
        return self._done(await self._daemon.drills.finish(drill_id, actor=actor, why=why))

    async def disarm(self, request: web.Request) -> web.Response:
        """Go back to dry-run."""
        fields = await self._fields(request)
        reason, let_go = _text(fields, "reason"), _flag(fields, "release")
        _nothing_else(fields)
        done = await self._daemon.disarm(actor=request[ACTOR], reason=reason, let_go=let_go)
        return self._done(done)

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/v1/drills", self.begin)
        app.router.add_get("/v1/drill", self.look)
        app.router.add_post("/v1/drills/{id}/hook", self.hook)
        app.router.add_post("/v1/drills/{id}/finish", self.finish)
        app.router.add_post("/v1/disarm", self.disarm)

    async def _fields(self, request: web.Request) -> dict[str, Any]:
        fields = await read_fields(request, _MAX_BODY, self._limits.body)
        if not isinstance(fields, dict):
            raise IntakeError("the body is not an object")
        return fields

    def _done(self, view: View) -> web.Response:
        return answer({"now": self._clock.time(), **view})


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.pop(key, "") or ""
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise IntakeError(f"`{key}` is not text of at most {_MAX_TEXT} characters")
    return value


def _flag(fields: dict[str, Any], key: str) -> bool:
    value = fields.pop(key, False)
    if not isinstance(value, bool):
        raise IntakeError(f"`{key}` is not true or false")
    return value


def _number(fields: dict[str, Any], key: str, default: float) -> float:
    value = fields.pop(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise IntakeError(f"`{key}` is not a number")
    return float(value)


def _nothing_else(fields: dict[str, Any]) -> None:
    if fields:
        raise IntakeError(f"`{min(fields)}` is not known here")
