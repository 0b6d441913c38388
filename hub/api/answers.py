# SPDX-License-Identifier: Apache-2.0
"""How answers look: JSON objects, and errors as `{"error", "where", "todo"}`."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from aiohttp import web

from hub.errors import (
    ConfigError,
    HubError,
    IntakeError,
    NotReadyError,
    RefusedError,
    StoreError,
    StoreFullError,
)

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_RETRY_SECONDS: Final = 1
_RETRY_FULL_SECONDS: Final = 30


def answer(fields: Mapping[str, Any], *, status: int = 200) -> web.Response:
    """Return `fields` as a JSON answer."""
    return web.Response(
        body=json.dumps(fields).encode("ascii") + b"\n",
        status=status,
        content_type="application/json",
    )


def failure(
    what: str,
    *,
    status: int,
    where: str = "",
    todo: str = "",
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> web.Response:
    """Return an error answer that a person can act on."""
    response = answer({"error": what, "where": where, "todo": todo, **more}, status=status)
    response.headers.update(headers or {})
    return response


def of_error(error: HubError) -> web.Response:
    """Return the answer that fits `error`; what may work later carries Retry-After."""
    more: dict[str, Any] = {}
    headers: dict[str, str] = {}
    what, status = error.what, 500
    if isinstance(error, ConfigError):
        what, status = "the files have mistakes; nothing has changed", 422
        more["problems"] = [str(problem) for problem in error.problems]
    elif error.retryable or isinstance(error, StoreError):
        status = 503
        full = isinstance(error, StoreFullError)
        headers["Retry-After"] = str(_RETRY_FULL_SECONDS if full else _RETRY_SECONDS)
    elif isinstance(error, RefusedError):
        status = 409
        if isinstance(error, NotReadyError):
            more["problems"] = list(error.problems)
    elif isinstance(error, IntakeError):
        status = 400
    return failure(
        what,
        status=status,
        where=error.where,
        todo=error.todo,
        headers=headers,
        **more,
    )


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into an answer; what nobody foresaw is logged and says nothing outside."""
    try:
        return await handler(request)
    except HubError as error:
        return of_error(error)
    except web.HTTPException as error:
        if error.status < 400:  # noqa: PLR2004 - redirects and the like are answers already
            raise
        keep = {key: error.headers[key] for key in ("Allow",) if key in error.headers}
        return failure(error.reason.lower(), status=error.status, headers=keep)
    except ConnectionError:
        raise
    except Exception as error:
        log.exception(
            "api.failed",
            method=request.method,
            route=_route(request),
            exc_info=error,
            todo="report it with this line",
        )
        return failure("internal error", status=500, todo="see the hub's log for api.failed")


def _route(request: web.Request) -> str:
    # The route's pattern, not the path: a webhook's path may hold its token.
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown"
