# SPDX-License-Identifier: Apache-2.0
"""Listening sockets: Unix sockets that replace only the dead, TCP sockets that say why not."""

import contextlib
import errno
import fcntl
import grp
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hub.errors import HubError

_MODE: Final = 0o660
_MAX_PATH: Final = 107  # sockaddr_un.sun_path, unix(7)


class ListenError(HubError):
    """A socket cannot be opened."""


def listen_unix(path: Path, *, group: str | None, backlog: int) -> socket.socket:
    """Return a listening, non-blocking Unix socket at `path`, mode 0660.

    A socket that nobody listens on any more is replaced; anything else is left alone.

    Args:
        path: where; its folder must be there.
        group: who may connect besides the owner; None leaves the process's own group.
        backlog: connections the kernel keeps waiting.

    Raises:
        ListenError: with what to do.
    """
    if len(os.fsencode(path)) > _MAX_PATH:
        raise ListenError(
            f"the path is longer than {_MAX_PATH} bytes", where=str(path), todo="shorten it"
        )
    gid = _gid(group, path)
    with _locked_folder(path):
        _clear(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind(os.fspath(path))
            # Nobody can connect before listen(): the mode is right from the first moment on.
            path.chmod(_MODE)
            if gid is not None:
                os.chown(path, -1, gid)
            sock.listen(backlog)
        except OSError as error:
            sock.close()
            raise _refused(error, path, group) from error
    return sock


def inode(path: Path) -> tuple[int, int]:
    """Return what tells this file from any other at the same path later."""
    found = path.lstat()
    return found.st_dev, found.st_ino


def remove_own(path: Path, ours: tuple[int, int]) -> None:
    """Remove the socket at `path` unless another process has put its own there."""
    with contextlib.suppress(OSError):
        if inode(path) == ours:
            path.unlink()


def listen_tcp(host: str, port: int, *, key: str, backlog: int) -> socket.socket:
    """Return a listening, non-blocking TCP socket.

    Args:
        host: address or name; a name means its first address.
        port: 0 for any free one.
        key: the configuration key, for the error.
        backlog: connections the kernel keeps waiting.

    Raises:
        ListenError: with what to do.
    """
    where = f"{key} {host}:{port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ListenError(
            f"no such address: {error}", where=where, todo="write an address of this machine"
        ) from error
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        todo = {
            errno.EADDRINUSE: "another program listens there: stop it, or choose another port",
            errno.EADDRNOTAVAIL: "write an address of this machine",
            errno.EACCES: "choose a port above 1023",
        }.get(error.errno or 0, "")
        raise ListenError(f"cannot listen: {error.strerror}", where=where, todo=todo) from error
    return sock


def bound_address(sock: socket.socket) -> tuple[str, int]:
    """Return the address and port that a TCP socket listens on."""
    host, port = sock.getsockname()[:2]
    return str(host), int(port)


@contextlib.contextmanager
def _locked_folder(path: Path) -> Iterator[None]:
    # Two hubs that start at once would both find the old socket dead and replace each other's.
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ListenError(
            f"the folder is not there: {error.strerror}",
            where=str(path.parent),
            todo=f"install -d -m 0755 {path.parent}",
        ) from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _clear(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(
            "a file that is no socket is in the way", where=str(path), todo="move it away"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            raise ListenError(
                f"cannot tell whether somebody listens: {error.strerror or error}",
                where=str(path),
                todo="see who does: ss -xlp",
            ) from error
    raise ListenError(
        "another program listens there",
        where=str(path),
        todo="is a hub running already? see who it is: ss -xlp",
    )


def _gid(group: str | None, path: Path) -> int | None:
    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ListenError(
            f"there is no group {group!r}",
            where=str(path),
            todo=f"groupadd --system {group}, or take it out of the configuration",
        ) from None


def _refused(error: OSError, path: Path, group: str | None) -> ListenError:
    todo = ""
    if error.errno in (errno.EACCES, errno.EPERM):
        todo = f"let the hub's user write to {path.parent}"
        if group is not None:
            todo += f" and be a member of {group}"
    return ListenError(f"cannot listen: {error.strerror}", where=str(path), todo=todo)
