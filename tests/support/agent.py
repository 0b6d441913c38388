# SPDX-License-Identifier: Apache-2.0
"""A real fnm-agent in a network namespace of its own, with a recorded kernel or the real one."""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import asyncssh

from hub.agent import host_key
from hub.agent.keeper_link import KeeperLink, make_folder
from hub.agent.privileges import account
from hub.clock import SystemClock
from tests.support.hub_process import pause
from tests.support.netns import inside, run

USER: Final = "nobody"
KEEPER: Final = "daemon"
PORT: Final = 7100
NET_SECRET: Final = "00112233445566778899aabbccddeeff"
COOKIE_SECRET: Final = "a0" * 32
TS_SECRET: Final = "0f" * 16
TCP_SECRETS: Final = f"""time_sec 1764140000
time_ms 1764140000123
uptime_ms 123456
jiffies 4295012345
cookie_secret {COOKIE_SECRET}
net_secret {NET_SECRET}
timestamp_secret {TS_SECRET}
"""
SYSCTL: Final = "sys/net/ipv4/tcp_syncookies"
_numbers = itertools.count()


def soon(look: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Return whether something became true in time; other processes tell nobody."""
    clock = SystemClock()
    end = clock.monotonic() + seconds
    while not look():
        if clock.monotonic() > end:
            return False
        pause(0.02)
    return True


def memory(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def status(pid: int, name: str) -> str:
    """Return one field of /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(line for line in text.splitlines() if line.startswith(f"{name}:")).partition(":")[2]


class Home:
    """A namespace with its own sysctls, and folders that other users can look into.

    Attributes:
        folder: everything of one test.
        proc: /proc for the agent: the real sysctls, and a recorded /proc/tcp_secrets beside them.
        runtime: the agent's runtime folder.
        keys: its keys file.
        host_key: its host key.
        namespace: the network namespace.
    """

    def __init__(self) -> None:
        self.namespace = f"fnmagent{os.getpid()}x{next(_numbers)}"
        self.folder = Path(tempfile.mkdtemp(prefix="fnm-agent-"))
        self.proc = self.folder / "proc"
        self.runtime = self.folder / "run"
        self.keys = self.folder / "keys"
        self.host_key = self.folder / "host_ed25519"

    def __enter__(self) -> Self:
        """Make it."""
        self.folder.chmod(0o755)
        self.proc.mkdir()
        for name in ("sys", "net", "self", "thread-self", "uptime", "stat", "modules"):
            (self.proc / name).symlink_to(f"/proc/{name}")
        (self.proc / "tcp_secrets").write_text(TCP_SECRETS)
        self.keys.write_text("")
        self.keys.chmod(0o644)
        run("ip", "netns", "add", self.namespace)
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_exc: object) -> None:
        """Take it away, and with the folder any keeper's reason to stay."""
        lock = self.runtime / "keeper" / "lock"
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(lock.read_text()), signal.SIGTERM)
        run("ip", "netns", "delete", self.namespace, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def sysctl(self) -> int:
        """Return net.ipv4.tcp_syncookies of the namespace."""
        return int(inside(self.namespace, Path("/proc", SYSCTL).read_text))

    def set_sysctl(self, value: int) -> None:
        """Set it as an administrator would."""
        inside(self.namespace, lambda: Path("/proc", SYSCTL).write_text(f"{value}\n"))

    def fake_sysctl(self) -> None:
        """Put a file that the keeper's user cannot write in place of the sysctls."""
        (self.proc / "sys").unlink()
        folder = self.proc / "sys/net/ipv4"
        folder.mkdir(parents=True)
        (folder / "tcp_syncookies").write_text("1\n")

    def keeper(self) -> KeeperLink:
        """Start a keeper as the agent does."""

        def start() -> KeeperLink:
            folder = make_folder(self.runtime, account(KEEPER))
            return KeeperLink.start(folder, self.proc, KEEPER)

        return inside(self.namespace, start)

    def keeper_pid(self) -> int:
        """Return the process id of the present keeper."""
        return int((self.runtime / "keeper" / "lock").read_text())

    def leases(self) -> dict[str, Any]:
        """Return the leases on record."""
        document: dict[str, Any] = json.loads((self.runtime / "keeper" / "lease.json").read_text())
        return document

    def make_host_key(self) -> None:
        """Make the host key as the installer does."""
        host_key.read_or_make(self.host_key)

    def allow(self, *keys: asyncssh.SSHKey) -> None:
        """Write the keys file: exactly these may ask."""
        lines = [key.export_public_key().decode().strip() for key in keys]
        self.keys.write_text("\n".join(lines) + "\n")

    def connect_socket(self, port: int = PORT, host: str = "127.0.0.1") -> socket.socket:
        """Return a TCP connection from within the namespace."""
        return inside(self.namespace, lambda: socket.create_connection((host, port), 10))


class Agent:
    """A running `fnm-agent run`.

    Args:
        home: where.
        more: further arguments.
        proc: another /proc than that of `home`.
        environment: what it is started with besides this process's own.
    """

    def __init__(
        self,
        home: Home,
        *more: str,
        proc: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self._environment = os.environ | (environment or {})
        self._argv = [
            *("ip", "netns", "exec", home.namespace),
            *(sys.executable, "-I", "-m", "hub.agent.main", "run"),
            *("--keys", str(home.keys), "--host-key", str(home.host_key)),
            *("--user", USER, "--keeper-user", KEEPER, "--proc", str(proc or home.proc)),
            *("--runtime", str(home.runtime), *more),
        ]
        self._log_path = home.folder / f"log{next(_numbers)}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it and wait until it serves."""
        self.begin()
        if not soon(lambda: bool(self.events("agent.started")) or self.code is not None, 30):
            self.__exit__()
        if not self.events("agent.started"):
            raise AssertionError(self.log)
        return self

    def __exit__(self, *_exc: object) -> None:
        """Stop it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(20)

    def begin(self) -> None:
        """Start it."""
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._argv, env=self._environment, stderr=log, stdout=log
            )

    @property
    def pid(self) -> int:
        """Return its process id; `ip netns exec` has become it."""
        if self._process is None:
            msg = "it was not started"
            raise RuntimeError(msg)
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Return its exit status, None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def log(self) -> str:
        """Return what it has logged."""
        return self._log_path.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return its log lines of one event."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def kill(self) -> None:
        """Kill it as nothing can prepare for."""
        os.kill(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)

    async def connect(
        self, key: asyncssh.SSHKey, host: str = "127.0.0.1", **more: Any
    ) -> asyncssh.SSHClientConnection:
        """Return a logged-in connection, made as a hub makes it."""
        made = await asyncio.to_thread(self.home.connect_socket, PORT, host)
        known = await asyncio.to_thread(self._known, host)
        return await asyncssh.connect(
            sock=made,
            host=host,
            port=PORT,
            username="fnm-agent",
            client_keys=[key],
            known_hosts=known,
            config=None,
            agent_path=None,
            **more,
        )

    def _known(self, host: str) -> asyncssh.SSHKnownHosts:
        words = asyncssh.read_private_key(str(self.home.host_key)).export_public_key().decode()
        return asyncssh.import_known_hosts(f"[{host}]:{PORT} {' '.join(words.split()[:2])}\n")


async def ask(connection: asyncssh.SSHClientConnection, command: str) -> tuple[int, str, str]:
    """Return exit status, standard output and standard error of one command."""
    done = await connection.run(command, timeout=20)
    if done.exit_status is None:
        msg = "the connection ended before the answer"
        raise ConnectionError(msg)
    return done.exit_status, str(done.stdout), str(done.stderr)
