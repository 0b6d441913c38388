# SPDX-License-Identifier: Apache-2.0
"""Where the leases are on record, and which process is the one keeper of them."""

import contextlib
import fcntl
import os
import signal
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from hub.agent.lease import LeaseError, Leases
from hub.clock import boot_id
from hub.errors import HubError

SYSCTL: Final = "sys/net/ipv4/tcp_syncookies"
FOLDER: Final = "keeper"
"""Below the agent's runtime folder; the keeper alone writes there."""
HAND_OVER: Final = signal.SIGUSR1

_TAKEOVER_S: Final = 10.0
_PATIENCE_S: Final = 3.0
"""Afterwards a keeper that does not hand over is killed: the next one goes on from its file."""
_LARGEST: Final = 1 << 17

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
                os.kill(pid, signal.SIGKILL if waited > _PATIENCE_S else HAND_OVER)
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
            return Leases.load(self._text(), boot_id(), boottime())
        except FileNotFoundError:
            return Leases(boot_id())
        except (OSError, UnicodeDecodeError, LeaseError) as error:
            log.error(
                "keeper.leases_lost",
                file=str(self.leases),
                why=error.what if isinstance(error, LeaseError) else str(error),
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

    def _text(self) -> str:
        # Root reads it, too, where no keeper runs: whatever lies there, that neither waits nor
        # follows a link, and ends.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(self.leases, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise LeaseError("this is no regular file")
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise LeaseError("the record is larger than any leases are")
        return data.decode("utf-8")


def _locked(held: int) -> bool:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
