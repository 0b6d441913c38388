# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a Unix socket."""

import os
import pwd
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from aiohttp import web

log = structlog.get_logger(__name__)

ACTOR: Final = web.RequestKey("actor", str)
"""The name of the user who asks, in a request that was let through."""
_UCRED: Final = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that opened the connection, as the kernel saw it then (unix(7))."""

    pid: int
    uid: int
    gid: int


def peer_of(request: web.Request) -> Peer | None:
    """Return the peer of a request on a Unix socket, None when it is gone already."""
    transport = request.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None:
        return None
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Peer(*_UCRED.unpack(raw))


def resolve_users(names: Sequence[str], *, key: str) -> frozenset[int]:
    """Return the user ids that may connect: `names`, root, and the hub's own.

    A name that the machine does not know is logged and left out: a package that is not
    installed yet must not keep the hub from starting.

    Args:
        names: user names, or numbers written as text.
        key: the configuration key they stand under, for the log line.
    """
    uids = {0, os.geteuid()}
    for name in names:
        try:
            uids.add(int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid)
        except KeyError:
            log.warning(
                "config.unknown_user",
                key=key,
                user=name,
                todo="create the user or take it out, then restart the hub",
            )
    return frozenset(uids)


def user_name(uid: int) -> str:
    """Return the name of a user for the audit trail, `uid 1234` where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
