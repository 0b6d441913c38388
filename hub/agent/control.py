# SPDX-License-Identifier: Apache-2.0
"""The agent's Unix socket: how `fnm-agent exec` reaches the running agent under OpenSSH."""

import asyncio
import contextlib
import grp
import json
import os
import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog

from hub.agent.commands import NOT_UNDERSTOOD, Commands, NotUnderstoodError, Outcome, failed
from hub.agent.keeper_link import KeeperLink, owned_by
from hub.errors import HubError

FOLDER: Final = "agent"
"""Below the runtime folder; the agent alone writes there."""

_LONGEST_LINE: Final = 16384
_TAG: Final = re.compile(r"[A-Za-z0-9._@:+-]{1,64}")
_MOST: Final = 16
_PATIENCE_S: Final = 30.0
_BACKLOG: Final = 16
_PEER: Final = struct.Struct("iII")
_SO_PEERGROUPS: Final = 59

log = structlog.get_logger(__name__)


class ControlError(HubError):
    """The control socket cannot be made or does not answer."""


def place(runtime: Path) -> Path:
    """Return where the socket is below the runtime folder: in a folder that is the agent's own."""
    return runtime / FOLDER / "control.sock"


def bind(path: Path, group: int) -> socket.socket:
    """Return the listening control socket: root and `group` may connect; replaces a dead one."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        before = os.umask(0o117)
        try:
            with owned_by(group):
                made.bind(str(path))
        finally:
            os.umask(before)
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        raise ControlError(f"cannot be bound: {error.strerror}", where=str(path)) from None
    made.settimeout(0)
    return made


class ControlServer:
    """Answers one request of each connection: a JSON line in, a JSON line and the text out."""

    def __init__(self, commands: Commands, keeper: KeeperLink, users: tuple[int, int]) -> None:
        self._commands = commands
        self._keeper = keeper
        self._uid, self._gid = users
        self._busy = 0

    async def serve(self, listening: socket.socket, now: Callable[[], float]) -> None:
        """Answer until cancelled; `now` gives monotonic seconds."""

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._handle(reader, writer, now)

        server = await asyncio.start_unix_server(handle, sock=listening, limit=_LONGEST_LINE)
        async with server:
            await server.serve_forever()

    async def _handle(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        now: Callable[[], float],
    ) -> None:
        self._busy += 1
        try:
            uid = self._allowed(writer.get_extra_info("socket"))
            if uid is None or self._busy > _MOST:
                return
            async with asyncio.timeout(_PATIENCE_S):
                await self._answer(reader, writer, uid, now)
        except (OSError, TimeoutError, ValueError, asyncio.LimitOverrunError):
            pass
        finally:
            self._busy -= 1
            writer.transport.abort() if writer.is_closing() else writer.close()

    async def _answer(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        uid: int,
        now: Callable[[], float],
    ) -> None:
        request: Any = json.loads(await reader.readline())
        tag, line = str(request["as"]), str(request["command"])
        began = now()
        if request.get("restore") is True:
            line = "restore"
            outcome = await self._restore(uid)
        else:
            outcome = await self._run(tag, line)
        header = {"status": outcome.status, "error": outcome.error}
        writer.write(json.dumps(header).encode() + b"\n" + outcome.text.encode())
        log.info(
            "agent.command",
            tag=tag if _TAG.fullmatch(tag) else "?",
            uid=uid,
            command=line.partition(" ")[0][:32],
            seconds=round(now() - began, 6),
            bytes=len(outcome.text),
            outcome=outcome.status,
        )
        await writer.drain()

    async def _restore(self, uid: int) -> Outcome:
        """End all leases; a word apart from the commands, so that no hub can say it."""
        if uid != 0:
            return failed(ControlError("only root may restore"))
        try:
            held = await self._keeper.restore()
        except HubError as error:
            return failed(error)
        return Outcome(f"tcp_syncookies: {held.syncookies}\n")

    async def _run(self, tag: str, line: str) -> Outcome:
        if not _TAG.fullmatch(tag):
            return failed(
                NotUnderstoodError("not a tag", todo="1 to 64 of A-Z a-z 0-9 . _ @ : + -"),
                NOT_UNDERSTOOD,
            )
        return await self._commands.run(line, f"local:{tag}")

    def _allowed(self, peer: socket.socket) -> int | None:
        """Return the caller's user id, None when it may not ask."""
        packed = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        uid: int
        _, uid, gid = _PEER.unpack(packed)
        if uid in (0, self._uid) or gid == self._gid or self._gid in _groups(peer):
            return uid
        log.warning(
            "agent.control_refused",
            uid=uid,
            todo="put the user into the group fnm-agent, if it should",
        )
        return None


def _groups(peer: socket.socket) -> tuple[int, ...]:
    packed = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * 1024)
    return struct.unpack(f"{len(packed) // 4}I", packed)


def ask(path: Path, tag: str, line: str, *, restore: bool = False) -> Outcome | None:
    """Return the running agent's outcome; None when no agent runs.

    Args:
        path: the control socket.
        tag: who asks.
        line: the request, unless
        restore: all leases shall end.

    Raises:
        ControlError: one runs and does not answer as it should, or does not let us in.
    """
    request = {"as": tag, "command": line, "restore": restore}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.settimeout(_PATIENCE_S)
        try:
            made.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise ControlError(
                f"cannot be reached: {error.strerror}",
                where=str(path),
                todo=f"run as root or as a member of the group {_group_of(path)}",
            ) from None
        try:
            made.sendall(json.dumps(request).encode() + b"\n")
            with made.makefile("rb") as answer:
                header = json.loads(answer.readline())
                return Outcome(answer.read().decode(), header["error"], header["status"])
        except (OSError, ValueError, KeyError) as error:
            raise ControlError(
                f"gave no answer ({error})", where=str(path), todo="look at the agent's log"
            ) from None


def _group_of(path: Path) -> str:
    with contextlib.suppress(OSError, KeyError):
        return grp.getgrgid(path.stat().st_gid).gr_name
    return "fnm-agent"
