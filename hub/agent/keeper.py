# SPDX-License-Identifier: Apache-2.0
"""The keeper: a process that keeps net.ipv4.tcp_syncookies at 2 while somebody holds a lease.

It outlives the agent. Its file of leases is always ahead of the sysctl: the old value is on
record before it is overwritten, and forgotten only after it has been put back. So it may be
killed at any point, and the next keeper goes on from the file.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from hub.agent.lease import ALWAYS, LONGEST_S, SHORTEST_S, Change, Leases
from hub.agent.peers import Peers
from hub.agent.place import HAND_OVER, SYSCTL, KeeperError, Place, boottime, read_sysctl
from hub.agent.window import EVERY_S, Window
from hub.clock import boot_id
from hub.errors import HubError
from hub.systemd import ALIVE, READY, Manager, status

_LONGEST_NAP_S: Final = 30.0
"""Deadlines go on while the machine sleeps, and the timer of a selector does not."""
_SHARE: Final = 6
"""Of the watchdog's patience, between two signs of life."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What a keeper works with, opened for it while it, or somebody before it, was root.

    Attributes:
        window: sends the SYNs that keep listeners ready.
        sysctl: descriptor of the sysctl, opened for writing; None: it is opened for each write.
        manager: who watches the process, if somebody does.
    """

    window: Window
    sysctl: int | None = None
    manager: Manager = field(default_factory=Manager)


class Keeper:
    """Gives leases to its peers, and ends them in time."""

    def __init__(self, place: Place, proc: Path, peers: Peers, means: Means) -> None:
        self._place = place
        self._proc = proc
        self._peers = peers
        self._means = means
        self._leases = Leases(boot_id())
        self._signals: set[int] = set()
        self._send_next = 0.0
        """When the listeners get the next SYN, CLOCK_BOOTTIME; they get one with each lease."""

    def serve(self) -> None:
        """Work until the agent is gone and the last lease is over, or a signal ends it."""
        with selectors.DefaultSelector() as selector, self._listening(selector):
            held = self._place.lock()
            try:
                self._leases = self._place.load()
                self._say_ready(selector)
                self._expire()
                while self._goes_on():
                    self._keep_open()
                    self._say_alive()
                    for key, _ in selector.select(self._nap()):
                        key.data()
                    self._expire()
            finally:
                self._peers.close()
                os.close(held)

    def _goes_on(self) -> bool:
        if HAND_OVER in self._signals:
            log.info("keeper.handed_over", leases=len(self._leases.until))
            return False
        if signal.SIGTERM in self._signals:
            self._forget()
            return False
        return self._peers.expected or bool(self._leases.until)

    def _nap(self) -> float:
        longest = _LONGEST_NAP_S
        if self._means.manager.watchdog_s is not None:
            longest = min(longest, self._means.manager.watchdog_s / _SHARE)
        end = self._leases.next_end()
        if end is None:
            return longest
        if self._leases.wanted():
            end = min(end, self._send_next)
        return min(longest, max(0.01, end - boottime()))

    def _say_ready(self, selector: selectors.BaseSelector) -> None:
        log.info(
            "keeper.started",
            leases=len(self._leases.until),
            tcp_syncookies=read_sysctl(self._proc),
            old_tcp_syncookies=self._leases.old,
            sends_syns=self._means.window.possible,
        )
        self._peers.begin(selector, self._asked)
        with contextlib.suppress(OSError):
            self._means.manager.say(READY)

    def _say_alive(self) -> None:
        with contextlib.suppress(OSError):
            self._means.manager.say(ALIVE, status(f"leases: {len(self._leases.until)}"))

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
            self._means.window.keep_open(ports)
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
        text = b"%d\n" % change.write
        if self._means.sysctl is not None:
            os.pwrite(self._means.sysctl, text, 0)
        else:
            # Unbuffered, so that the kernel's refusal comes out here, not when the file is closed.
            with (self._proc / SYSCTL).open("r+b", buffering=0) as file:
                file.write(text)
        log.info(event, tcp_syncookies=change.write)

    def _asked(self, message: bytes) -> dict[str, Any]:
        """Return the answer to a message; an empty one says that nobody is there any more."""
        if not message:
            log.warning(
                "keeper.alone", leases=len(self._leases.until), todo="systemctl status fnm-agent"
            )
            return {}
        try:
            return self._answer(json.loads(message))
        except (HubError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            what = error.what if isinstance(error, HubError) else str(error)
            log.error(
                "keeper.refused",
                why=str(error),
                todo="systemctl restart fnm-keeper; by hand it needs CAP_NET_ADMIN as root has it",
            )
            return {"error": what, "todo": getattr(error, "todo", "") or "look at its log"}

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
                todo="systemctl restart fnm-keeper; in a container /proc/sys must be writable",
            ) from None
        self._leases = fresh
        self._send_next = 0.0

    def _restore_record(self) -> None:
        with contextlib.suppress(OSError):
            if self._leases.until:
                self._place.save(self._leases)
            else:
                self._place.forget()

    @contextlib.contextmanager
    def _listening(self, selector: selectors.BaseSelector) -> Any:
        woken, waker = socket.socketpair()
        with woken, waker:
            woken.settimeout(0)
            waker.settimeout(0)
            signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
            for number in (HAND_OVER, signal.SIGTERM):
                signal.signal(number, lambda seen, _: self._signals.add(seen))
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            selector.register(woken, selectors.EVENT_READ, _drain(woken))
            yield
            signal.set_wakeup_fd(-1)


def _drain(woken: socket.socket) -> Callable[[], None]:
    def drain() -> None:
        with contextlib.suppress(BlockingIOError):
            woken.recv(4096)

    return drain
