# SPDX-License-Identifier: Apache-2.0
"""Reading a request body with a cap and a time limit, before anything is believed."""

import asyncio
import json
from typing import Any, Final

from aiohttp import web

from hub.errors import IntakeError

_PLAIN: Final = frozenset({"", "identity"})


class BodyError(Exception):
    """A body is not taken.

    Args:
        status: the HTTP status that says why.
        reason: the same as a short word for the counter.
        what: the same for the sender.
    """

    def __init__(self, status: int, reason: str, what: str) -> None:
        super().__init__(what)
        self.status, self.reason, self.what = status, reason, what


async def read_body(request: web.Request, limit: int, seconds: float) -> bytes:
    """Return the body of `request`, at most `limit` bytes, as it came over the wire.

    Args:
        request: the request.
        limit: bytes.
        seconds: for the whole of it.

    Raises:
        BodyError: too long (by its Content-Length or by what came), too slow, compressed, or its
            sender has gone.
    """
    if request.headers.get("Content-Encoding", "").lower() not in _PLAIN:
        raise BodyError(415, "encoding", "a compressed body is not taken")
    if (request.content_length or 0) > limit:
        raise _too_long(limit)
    chunks: list[bytes] = []
    length = 0
    try:
        async with asyncio.timeout(seconds):
            while chunk := await request.content.readany():
                length += len(chunk)
                if length > limit:
                    raise _too_long(limit)
                chunks.append(chunk)
    except TimeoutError:
        raise BodyError(408, "slow", f"the body took longer than {seconds:g} s") from None
    except (web.RequestPayloadError, ConnectionError):
        raise BodyError(400, "broken", "the body ended early") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def read_fields(request: web.Request, limit: int, seconds: float) -> Any:
    """Return the JSON in the body of `request`, an empty object without a body.

    Raises:
        BodyError: as `read_body`.
        IntakeError: it is no JSON.
    """
    body = await read_body(request, limit, seconds)
    try:
        return json.loads(body) if body else {}
    except (ValueError, RecursionError):
        raise IntakeError("the body is not JSON") from None


def _too_long(limit: int) -> BodyError:
    return BodyError(413, "too_long", f"the body is longer than {limit} bytes")
