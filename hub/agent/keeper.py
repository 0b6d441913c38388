# SPDX-License-Identifier: Apache-2.0
"""The keeper: a process that keeps net.ipv4.tcp_syncookies at 2 while somebody holds a lease.

It outlives the agent. Its file of leases is always ahead of the sysctl: the old value is on
record before it is overwritten, and forgotten only after it has been put back. So it may be
killed at any point, and the next keeper goes on from the file.
"""

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from hub.agent.lease import ALWAYS, LONGEST_S, SHORTEST_S, Change, LeaseError, Leases
from hub.agent.window import EVERY_S, Window
from hub.clock import boot_id
from hub.errors import HubError

SYSCTL: Final = "sys/net/ipv4/tcp_syncookies"
LARGEST_MESSAGE: Final = 8192
FOLDER: Final = "keeper"
"""Below the agent's runtime folder; the keeper alone writes there."""

_HAND_OVER: Final = signal.SIGUSR1
_TAKEOVER_S: Final = 10.0
_PATIENCE_S: Final = 3.0
"""Afterwards a keeper that does not hand over is killed: the next one goes on from its file."""
_LONGEST_NAP_S: Final = 30.0
"""Deadlines go on while the machine sleeps, and the timer of a selector does not."""

log = structlog.get_logger(__name__)


class KeeperError(HubError):
    """The keeper cannot do what it is asked."""


def boottime() -> float:
    """Return CLOCK_BOOTTIME in seconds: it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read_sysctl(proc: Path) -> int:
    """Return net.ipv4.tcp_syncookies; raises KeeperError."""
    path = proc / SYSCTL
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError) as error:
        raise KeeperError(
            f"cannot be read: {error}",
            where=str(path),
            todo="this kernel needs CONFIG_SYN_COOKIES",
        ) from None


@dataclass(frozen=True, slots=True)
class Place:
    """The folder with the lock and the leases.

    Attributes:
        folder: a folder that only root and the keeper's user can write.
    """

    folder: Path

    @property
    def leases(self) -> Path:
        """Return where the leases are written."""
        return self.folder / "lease.json"

    def lock(self) -> int:
        """Become the only keeper, by asking the present one to hand over; return the lock.

        Raises:
            KeeperError: the present keeper does not go.
        """
        path = self.folder / "lock"
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        begun, killed = boottime(), False
        while not _locked(held):
            waited = boottime() - begun
            if waited > _TAKEOVER_S:
                os.close(held)
                raise KeeperError(
                    "another keeper does not let go",
                    where=str(path),
                    todo="look at the process named in this file",
                )
            # The number is its holder's as long as the lock is held, so it names nobody else.
            with contextlib.suppress(OSError, ValueError):
                pid = int(os.pread(held, 20, 0))
                os.kill(pid, signal.SIGKILL if waited > _PATIENCE_S else _HAND_OVER)
                if waited > _PATIENCE_S and not killed:
                    log.warning(
                        "keeper.killed",
                        pid=pid,
                        why="it hung and did not hand over",
                        todo="see the agent's log for what came before; report it",
                    )
                    killed = True
            time.sleep(0.05)
        os.ftruncate(held, 0)
        os.pwrite(held, b"%d\n" % os.getpid(), 0)
        return held

    def load(self) -> Leases:
        """Return the leases on record; none when there are none or they are damaged."""
        try:
            text = self.leases.read_text("utf-8")
        except FileNotFoundError:
            return Leases(boot_id())
        except (OSError, UnicodeDecodeError) as error:
            log.error(
                "keeper.leases_lost",
                file=str(self.leases),
                why=str(error),
                todo="look at sysctl net.ipv4.tcp_syncookies, and set it as it should be",
            )
            return Leases(boot_id())
        try:
            return Leases.load(text, boot_id(), boottime())
        except LeaseError as error:
            log.error(
                "keeper.leases_lost",
                file=str(self.leases),
                why=error.what,
                todo="look at sysctl net.ipv4.tcp_syncookies, and set it as it should be",
            )
            return Leases(boot_id())

    def save(self, leases: Leases) -> None:
        """Replace the leases on record; raises OSError, and then the old ones stand."""
        fresh = self.folder / "lease.json.new"
        fresh.write_text(leases.dump() + "\n", "utf-8")
        fresh.replace(self.leases)

    def forget(self) -> None:
        """Leave no leases on record."""
        self.leases.unlink(missing_ok=True)


class Keeper:
    """Gives leases to the agent at the other end of `link`, and ends them in time."""

    def __init__(self, place: Place, proc: Path, link: socket.socket, window: Window) -> None:
        self._place = place
        self._proc = proc
        self._link: socket.socket | None = link
        self._leases = Leases(boot_id())
        self._signals: set[int] = set()
        self._window = window
        self._send_next = 0.0
        """When the listeners get the next SYN, CLOCK_BOOTTIME; they get one with each lease."""

    def serve(self) -> None:
        """Work until the agent is gone and the last lease is over, or a signal ends it."""
        with selectors.DefaultSelector() as selector, self._listening(selector):
            held = self._place.lock()
            try:
                self._leases = self._place.load()
                self._say_ready()
                self._expire()
                while self._goes_on():
                    self._keep_open()
                    for key, _ in selector.select(self._nap()):
                        key.data()
                    self._expire()
            finally:
                os.close(held)

    def _goes_on(self) -> bool:
        if _HAND_OVER in self._signals:
            log.info("keeper.handed_over", leases=len(self._leases.until))
            return False
        if signal.SIGTERM in self._signals:
            self._forget()
            return False
        return self._link is not None or bool(self._leases.until)

    def _nap(self) -> float:
        end = self._leases.next_end()
        if end is None:
            return _LONGEST_NAP_S
        if self._leases.wanted():
            end = min(end, self._send_next)
        return min(_LONGEST_NAP_S, max(0.01, end - boottime()))

    def _say_ready(self) -> None:
        log.info(
            "keeper.started",
            leases=len(self._leases.until),
            tcp_syncookies=read_sysctl(self._proc),
            old_tcp_syncookies=self._leases.old,
            sends_syns=self._window.possible,
        )
        self._send({"ready": True, "pid": os.getpid()})

    def _expire(self) -> None:
        end = self._leases.next_end()
        if end is None or end > boottime():
            return
        fresh = self._leases.copy()
        try:
            self._end(fresh, fresh.expire(boottime(), read_sysctl(self._proc)))
        except (KeeperError, OSError) as error:
            # It must not be left behind: try again until it works.
            log.error(
                "keeper.not_restored",
                why=str(error),
                old=self._leases.old,
                todo="set it by hand: sysctl -w net.ipv4.tcp_syncookies=OLD",
            )
            time.sleep(1)

    def _keep_open(self) -> None:
        ports = self._leases.wanted()
        if ports and boottime() >= self._send_next:
            self._window.keep_open(ports)
            self._send_next = boottime() + EVERY_S

    def _forget(self) -> None:
        fresh = self._leases.copy()
        self._end(fresh, fresh.forget(read_sysctl(self._proc)))

    def _end(self, fresh: Leases, change: Change) -> None:
        """Put back first, then forget."""
        self._apply(change, "keeper.restored")
        if fresh.until:
            self._place.save(fresh)
        else:
            self._place.forget()
        self._leases = fresh

    def _apply(self, change: Change, event: str) -> None:
        if change.foreign is not None:
            log.warning(
                "keeper.foreign_value",
                tcp_syncookies=change.foreign,
                why="somebody else has changed net.ipv4.tcp_syncookies while it was held at 2",
                todo="find out who: a configuration tool, sysctl -p",
            )
        if change.write is None:
            return
        # Unbuffered, so that the kernel's refusal comes out here and not when the file is closed.
        with (self._proc / SYSCTL).open("r+b", buffering=0) as file:
            file.write(b"%d\n" % change.write)
        log.info(event, tcp_syncookies=change.write)

    def _asked(self) -> None:
        if self._link is None:
            return
        try:
            message = self._link.recv(LARGEST_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            log.warning(
                "keeper.alone", leases=len(self._leases.until), todo="systemctl status fnm-agent"
            )
            self._link.close()
            self._link = None
            return
        try:
            answer = self._answer(json.loads(message))
        except (HubError, OSError, ValueError, KeyError, TypeError) as error:
            what = error.what if isinstance(error, HubError) else str(error)
            log.error(
                "keeper.refused",
                why=str(error),
                todo="give it CAP_NET_ADMIN and a writable /proc/sys: see the unit",
            )
            answer = {"error": what, "todo": getattr(error, "todo", "") or "look at its log"}
        self._send(answer)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        holder = str(request.get("holder", ""))
        match request["do"]:
            case "engage":
                ports = [int(port) for port in request.get("ports", ())]
                self._engage(holder, float(request["seconds"]), ports)
            case "release":
                fresh = self._leases.copy()
                self._end(fresh, fresh.release(holder, read_sysctl(self._proc)))
            case "restore":
                self._forget()
            case "state":
                pass
            case other:
                raise KeeperError(f"does not know {other!r}", todo="update the agent")
        return {
            "tcp_syncookies": read_sysctl(self._proc),
            "old": self._leases.old,
            "engaged_s": self._leases.left(holder, boottime()),
            "leases": len(self._leases.until),
        }

    def _engage(self, holder: str, seconds: float, ports: list[int]) -> None:
        if not SHORTEST_S <= seconds <= LONGEST_S:
            raise KeeperError(f"SECONDS must be {SHORTEST_S} to {LONGEST_S}")
        fresh = self._leases.copy()
        change = fresh.engage(holder, boottime() + seconds, read_sysctl(self._proc), ports)
        try:
            self._place.save(fresh)
            self._apply(change, "keeper.engaged")
        except OSError as error:
            self._restore_record()
            raise KeeperError(
                f"cannot set net.ipv4.tcp_syncookies to {ALWAYS}: {error}",
                todo="start the agent as root with CAP_NET_ADMIN, and /proc/sys writable",
            ) from None
        self._leases = fresh
        self._send_next = 0.0

    def _restore_record(self) -> None:
        with contextlib.suppress(OSError):
            if self._leases.until:
                self._place.save(self._leases)
            else:
                self._place.forget()

    def _send(self, message: dict[str, Any]) -> None:
        if self._link is not None:
            with contextlib.suppress(OSError):
                self._link.send(json.dumps(message).encode())

    @contextlib.contextmanager
    def _listening(self, selector: selectors.BaseSelector) -> Any:
        woken, waker = socket.socketpair()
        with woken, waker:
            woken.settimeout(0)
            waker.settimeout(0)
            signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
            for number in (_HAND_OVER, signal.SIGTERM):
                signal.signal(number, lambda seen, _: self._signals.add(seen))
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            selector.register(woken, selectors.EVENT_READ, _drain(woken))
            if self._link is not None:
                self._link.settimeout(0)
                selector.register(self._link, selectors.EVENT_READ, self._asked)
            yield
            signal.set_wakeup_fd(-1)


def _drain(woken: socket.socket) -> Callable[[], None]:
    def drain() -> None:
        with contextlib.suppress(BlockingIOError):
            woken.recv(4096)

    return drain


def _locked(held: int) -> bool:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
