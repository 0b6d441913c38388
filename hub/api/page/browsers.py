# SPDX-License-Identifier: Apache-2.0
"""What keeps other sites in the same browser out, and tells the browser to be strict."""

from collections.abc import Collection
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from hub.api.gates import NotAllowedError

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types hub-page"
)
HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "Server": "fnm-hub",
}
"""On every answer; without HSTS, which would bind the other ports of the host as well."""

_READING: Final = frozenset({"GET", "HEAD"})
_OWN: Final = frozenset({"same-origin", "none"})


async def harden(_request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers; a signal handler, so that no answer goes without them."""
    response.headers.update(HEADERS)


class Visitors:
    """Tells requests that a page of somebody else may have caused.

    Another site can send a browser to any address, under a name of its own that it lets point
    here (DNS rebinding), or with what the browser knows of us (cross-site requests). An address,
    `localhost` and a name without a dot can be nobody's; other names must be known.

    Args:
        names: by which we may be called, in lower case.
        short: whether any name without a dot is one of them.
    """

    def __init__(self, names: Collection[str], *, short: bool) -> None:
        self._names, self._short = frozenset(names), short

    def check(self, request: web.Request) -> None:
        """Refuse what is not for us, or not from our own page.

        Raises:
            NotAllowedError: reason `host` or `cross_site`.
        """
        # No browser leaves the header out.
        host = request.headers.get("Host")
        if host is not None and not self._is_ours(host):
            raise NotAllowedError(421, "host", "the Host of the request is no name of ours")
        site = request.headers.get("Sec-Fetch-Site")
        if request.method not in _READING:
            if site is not None or "Origin" in request.headers:
                raise NotAllowedError(403, "cross_site", "browsers may look, and change nothing")
        elif site is not None and site not in _OWN and not _is_visit(request):
            raise NotAllowedError(403, "cross_site", "another site asked for it")

    def _is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
        except ValueError:
            return False
        try:
            ip_address(name)
        except ValueError:
            local = name == "localhost" or name.endswith(".localhost")
            return local or name in self._names or (self._short and bool(name) and "." not in name)
        return True


def _is_visit(request: web.Request) -> bool:
    """Tell whether a person has followed a link to us."""
    headers = request.headers
    mode, what = headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")
    return (mode, what) == ("navigate", "document")
