# SPDX-License-Identifier: Apache-2.0
"""The agent's end of the keeper: starts it with the privileges that it keeps, and asks it."""

import asyncio
import contextlib
import json
import os
import pwd
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from hub.agent.keeper import FOLDER, LARGEST_MESSAGE, KeeperError
from hub.agent.lease import LONGEST_S, SHORTEST_S

_READY_S: Final = 20.0
_ANSWER_S: Final = 5.0


class KeeperGoneError(KeeperError):
    """The keeper has ended; only a new start of the agent brings another."""

    def __init__(self) -> None:
        super().__init__(
            "the keeper of net.ipv4.tcp_syncookies is gone",
            todo="restart fnm-agent (systemd does by itself): a new keeper goes on from its leases",
        )


@dataclass(frozen=True, slots=True)
class Held:
    """What the keeper says.

    Attributes:
        syncookies: net.ipv4.tcp_syncookies now.
        old: what is put back at the end; None while nobody holds.
        engaged_s: seconds for which the asking holder keeps it at 2.
    """

    syncookies: int
    old: int | None
    engaged_s: int


def make_folder(runtime: Path, user: pwd.struct_passwd) -> Path:
    """Make the keeper's folder below the runtime folder; needs no CAP_CHOWN."""
    if not runtime.exists():
        runtime.mkdir(parents=True)
        runtime.chmod(0o755)  # whatever the umask: the keeper's user and clients pass through it
    folder = runtime / FOLDER
    with owned_by(user.pw_gid), contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o770)
        folder.chmod(0o770)
    found = folder.stat()
    if found.st_gid != user.pw_gid or found.st_uid not in (0, user.pw_uid):
        raise KeeperError(
            "belongs to somebody else", where=str(folder), todo="remove it while no agent runs"
        )
    return folder


@contextlib.contextmanager
def owned_by(group: int) -> Iterator[None]:
    """Let what is made inside belong to `group`, which root may do by CAP_SETGID alone."""
    before = os.getegid()
    os.setegid(group)
    try:
        yield
    finally:
        os.setegid(before)


class KeeperLink:
    """The connection to a keeper, which was started for it."""

    def __init__(self, link: socket.socket, child: subprocess.Popen[bytes]) -> None:
        self._link = link
        self._child = child
        self._asked: deque[asyncio.Future[dict[str, Any]]] = deque()
        self._gone = False

    @classmethod
    def start(cls, folder: Path, proc: Path, user: str, *, detached: bool = False) -> Self:
        """Start a keeper, which takes over from one that runs; blocks until it is ready.

        Args:
            folder: of `make_folder`.
            proc: where /proc is.
            user: whom the keeper becomes.
            detached: it may outlive whoever waits for our output, so it must not hold that open.

        Raises:
            KeeperError: it did not start; says why.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output = subprocess.DEVNULL if detached else None
        with theirs:
            # The child lives on its own; whoever is left collects it.
            child = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-m", "hub.agent.main", "keeper"),
                    *("--fd", str(theirs.fileno()), "--folder", str(folder)),
                    *("--proc", str(proc), "--user", user),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
            )
        ours.settimeout(_READY_S)
        try:
            message = ours.recv(LARGEST_MESSAGE)
        except OSError:
            message = b""
        if not message or "error" in (said := json.loads(message)):
            ours.close()
            raise KeeperError(
                f"the keeper did not start: {said['error'] if message else 'it ended'}",
                todo="see its log lines above",
            )
        ours.settimeout(0)
        return cls(ours, child)

    def close(self) -> None:
        """Leave the keeper to itself."""
        self._link.close()
        self._child.poll()
        self._child.returncode = self._child.returncode or 0  # or Popen warns that it still runs

    async def listen(self) -> None:
        """Take answers until the keeper is gone; then raises KeeperGoneError."""
        loop = asyncio.get_running_loop()
        try:
            while message := await loop.sock_recv(self._link, LARGEST_MESSAGE):
                if self._asked and not (waiter := self._asked.popleft()).done():
                    waiter.set_result(json.loads(message))
        except OSError:
            pass
        finally:
            self._gone = True
            for waiter in self._asked:
                if not waiter.done():
                    waiter.set_exception(KeeperGoneError())
        raise KeeperGoneError

    async def engage(self, holder: str, seconds: int, ports: Sequence[int] = ()) -> Held:
        """Give or renew a lease; raises KeeperError."""
        if not SHORTEST_S <= seconds <= LONGEST_S:
            raise KeeperError(f"SECONDS must be {SHORTEST_S} to {LONGEST_S}")
        return await self._ask("engage", holder, seconds=seconds, ports=list(ports))

    async def release(self, holder: str) -> Held:
        """End a lease; raises KeeperError."""
        return await self._ask("release", holder)

    async def restore(self) -> Held:
        """End all leases; raises KeeperError."""
        return await self._ask("restore", "")

    async def state(self, holder: str) -> Held:
        """Return what stands; raises KeeperError."""
        return await self._ask("state", holder)

    async def _ask(self, do: str, holder: str, **more: object) -> Held:
        if self._gone:
            raise KeeperGoneError
        # Answers come in the order of the questions, so each question has its place in a row.
        waiter: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        try:
            self._link.send(json.dumps({"do": do, "holder": holder, **more}).encode())
        except BlockingIOError:
            raise KeeperError("the keeper does not read", todo="restart fnm-agent") from None
        except OSError:
            raise KeeperGoneError from None
        self._asked.append(waiter)
        try:
            async with asyncio.timeout(_ANSWER_S):
                said = await waiter
        except TimeoutError:
            raise KeeperError("the keeper does not answer", todo="restart fnm-agent") from None
        if "error" in said:
            raise KeeperError(said["error"], todo=said["todo"])
        return Held(said["tcp_syncookies"], said["old"], said["engaged_s"])
