# SPDX-License-Identifier: Apache-2.0
"""The agent's end of the keeper: finds the one that systemd runs or starts one, and asks it."""

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

from hub.agent.lease import LONGEST_S, SHORTEST_S
from hub.agent.peers import LARGEST_MESSAGE, SOCKET
from hub.agent.place import FOLDER, KeeperError
from hub.agent.privileges import account

_READY_S: Final = 20.0
_ANSWER_S: Final = 5.0
_RESTART: Final = "nothing: its watchdog ends it; or systemctl restart fnm-keeper"


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


def make_runtime(runtime: Path) -> None:
    """Make the runtime folder, which stays root's; what lies below it is the programs' own."""
    if not runtime.exists():
        runtime.mkdir(parents=True)
        runtime.chmod(0o755)  # whatever the umask: the keeper's user and clients pass through it


def make_folder(runtime: Path, user: pwd.struct_passwd) -> Path:
    """Make the keeper's folder below the runtime folder, which is root's work."""
    make_runtime(runtime)
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
    """The connection to a keeper: to one of systemd's, or one that was started for it."""

    def __init__(self, link: socket.socket, child: subprocess.Popen[bytes] | None = None) -> None:
        self._link = link
        self._child = child
        self._asked: deque[asyncio.Future[dict[str, Any]]] = deque()
        self._gone = False

    @classmethod
    def reach(cls, runtime: Path, proc: Path, user: str, *, detached: bool = False) -> Self:
        """Return the connection to the keeper that systemd runs; where it runs none, start one.

        Only root can start one. Blocks until the keeper is ready.

        Args:
            runtime: the agent's runtime folder.
            proc: as of `start`.
            user: as of `start`.
            detached: as of `start`.

        Raises:
            KeeperError: there is none and none can be started; says why.
            PrivilegeError: there is no such user.
        """
        path = runtime / FOLDER / SOCKET
        link = _connected(path)
        if link is not None:
            return cls(_ready(link, "it closed the connection: see journalctl -u fnm-keeper"))
        if os.geteuid() != 0:
            raise KeeperError(
                "no keeper of net.ipv4.tcp_syncookies runs",
                where=str(path),
                todo="systemctl start fnm-keeper; journalctl -u fnm-keeper says what keeps it away",
            )
        return cls.start(make_folder(runtime, account(user)), proc, user, detached=detached)

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
                    *("--fd", str(theirs.fileno()), "--runtime", str(folder.parent)),
                    *("--proc", str(proc), "--user", user),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
            )
        return cls(_ready(ours, "it ended"), child)

    def close(self) -> None:
        """Leave the keeper to itself."""
        self._link.close()
        if self._child is not None:
            self._child.poll()
            # Or Popen warns that it still runs.
            self._child.returncode = self._child.returncode or 0

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
            raise KeeperError("the keeper does not read", todo=_RESTART) from None
        except OSError:
            raise KeeperGoneError from None
        self._asked.append(waiter)
        try:
            async with asyncio.timeout(_ANSWER_S):
                said = await waiter
        except TimeoutError:
            raise KeeperError("the keeper does not answer", todo=_RESTART) from None
        if "error" in said:
            raise KeeperError(said["error"], todo=said["todo"])
        return Held(said["tcp_syncookies"], said["old"], said["engaged_s"])


def _connected(path: Path) -> socket.socket | None:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.settimeout(_READY_S)
    try:
        made.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        made.close()
        return None
    except OSError as error:
        made.close()
        raise KeeperError(
            f"the keeper cannot be reached: {error.strerror or error}",
            where=str(path),
            todo="systemctl restart fnm-keeper",
        ) from None
    return made


def _ready(link: socket.socket, ended: str) -> socket.socket:
    """Return the link once the keeper at its other end says that it is ready."""
    link.settimeout(_READY_S)
    try:
        message = link.recv(LARGEST_MESSAGE)
    except OSError:
        message = b""
    if not message or "error" in (said := json.loads(message)):
        link.close()
        raise KeeperError(
            f"the keeper did not start: {said['error'] if message else ended}",
            todo="see its log lines",
        )
    link.settimeout(0)
    return link
