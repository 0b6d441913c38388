# SPDX-License-Identifier: Apache-2.0
"""The agent's listening socket, bound while it is still root."""

import errno
import socket
from typing import Final, cast

from hub.errors import HubError

_BACKLOG: Final = 128
_KERNEL_BUFFER: Final = 1 << 17


class ListenError(HubError):
    """The port cannot be bound."""


def listen(address: str, port: int) -> socket.socket:
    """Return a listening TCP socket; an empty address means all, of both families if possible."""
    try:
        if address:
            found = socket.getaddrinfo(
                address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )
            family, place = found[0][0], found[0][4]
        else:
            family, place = socket.AF_INET6, ("::", port)
        try:
            made = _bound(family, place, both=not address)
        except OSError as error:
            if address or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            # A kernel without IPv6.
            made = _bound(socket.AF_INET, ("", port), both=False)
    except OSError as error:
        raise ListenError(
            f"cannot listen: {error.strerror}",
            where=f"{address or 'all addresses'} port {port}",
            todo="choose another --port or --listen, or stop what is listening there",
        ) from None
    made.settimeout(0)
    return made


def _bound(family: int, place: object, *, both: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        # Inherited by each connection: the kernel's memory for it is bounded too.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BUFFER)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BUFFER)
        made.bind(cast("tuple[str, int]", place))
        made.listen(_BACKLOG)
    except BaseException:
        made.close()
        raise
    return made
