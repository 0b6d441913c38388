# SPDX-License-Identifier: Apache-2.0
"""Two namespaces joined by a veth pair: the world outside, and the device under test."""

import fcntl
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any, Final, Self

from tests.support.netns import inside, run

REPOSITORY: Final = Path(__file__).parents[2]
BUILT: Final = REPOSITORY / "native" / "build" / "bench"
SERVER: Final = "192.0.2.10"
PORT: Final = 80
CLIENTS: Final = "198.18.0.0/16"
ATTACK_CPU: Final = 0
OTHER_CPU: Final = 1
# As native/bench/frames.c has them: of the device under test, and of the world outside.
_MACS: Final = ("02:00:00:00:00:01", "02:00:00:00:00:02")
_GATEWAY: Final = "192.0.2.1"
_BACKLOG: Final = 4096
_COMM_LENGTH: Final = 15

_numbers = count()

_RAW_DROP: Final = """
table inet bench {
  chain raw { type filter hook prerouting priority raw; tcp dport 80 counter drop; }
}
"""
_SYNPROXY: Final = """
table inet bench {
  chain raw {
    type filter hook prerouting priority raw;
    tcp dport 80 tcp flags & (fin|syn|rst|ack) == syn notrack
  }
  chain input {
    type filter hook input priority filter;
    tcp dport 80 ct state invalid,untracked synproxy mss 1460 wscale WSCALE timestamp sack-perm
    tcp dport 80 ct state invalid drop
  }
}
"""


def build() -> None:
    """Build the programs of native/bench; several processes may ask at the same time."""
    folder = REPOSITORY / "native" / "bench"
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        argv = ["make", "--silent", "-C", str(folder)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    finally:
        os.close(lock)
    if done.returncode:
        msg = f"native/bench does not build: {done.stderr.strip()}"
        raise RuntimeError(msg)


class Program:
    """A program of ours that says `ready`, works, and ends with one line of JSON."""

    def __init__(self, argv: Sequence[str], errors: int | IO[str] | None = None) -> None:
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        said = self._line()
        if said != "ready":
            self.kill()
            msg = f"{' '.join(argv)} said {said!r} instead of ready"
            raise RuntimeError(msg)

    def result(self) -> dict[str, Any]:
        """Let it come to its end and return what it says then."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        said = self._line()
        self._process.wait(timeout=30)
        self._close()
        found: dict[str, Any] = json.loads(said)
        return found

    def begin(self) -> None:
        """Let a program begin that waits for it."""
        if self._process.stdin is not None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """End it at once; nothing happens when it has ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(timeout=10)
        self._close()

    def _line(self) -> str:
        return "" if self._process.stdout is None else self._process.stdout.readline().strip()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


class Veth:
    """The two namespaces; the device under test can be given one of several defences."""

    def __init__(self) -> None:
        number = f"{os.getpid()}x{next(_numbers)}"
        self.outside = f"fnmb{number}out"
        self.dut = f"fnmb{number}dut"
        self._links = {self.outside: f"bo{number}", self.dut: f"bd{number}"}

    def __enter__(self) -> Self:
        """Build it."""
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        """Remove it."""
        self.close()

    def close(self) -> None:
        """Remove both namespaces, and so the link and the rules in them."""
        for name in (self.outside, self.dut):
            run("ip", "netns", "delete", name, check=False)

    def sysctl(self, name: str, value: str) -> None:
        """Set a sysctl of the device under test."""
        path = Path("/proc/sys") / name
        inside(self.dut, lambda: path.write_text(value))

    def in_dut(self, *argv: str) -> tuple[str, ...]:
        """Return the argument vector that runs a program on the device under test."""
        return ("ip", "netns", "exec", self.dut, *argv)

    def in_outside(self, *argv: str) -> tuple[str, ...]:
        """Return the argument vector that runs a program outside."""
        return ("ip", "netns", "exec", self.outside, *argv)

    @contextmanager
    def listener(self) -> Iterator[None]:
        """Let a socket of the device under test listen."""

        def listen() -> socket.socket:
            made = socket.socket()
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((SERVER, PORT))
            made.listen(_BACKLOG)
            return made

        with inside(self.dut, listen):
            yield

    @contextmanager
    def rules(self, text: str) -> Iterator[None]:
        """Let nftables rules be in force on the device under test."""
        path = f"/tmp/{self.dut}.nft"  # noqa: S108 - the name carries our process id
        Path(path).write_text(text)
        try:
            run(*self.in_dut("nft", "-f", path))
            yield
        finally:
            Path(path).unlink()
            run(*self.in_dut("nft", "flush", "ruleset"), check=False)

    @contextmanager
    def program(self, kind: str, *arguments: str) -> Iterator[Program]:
        """Let a program sit on the link of the device under test."""
        argv = self.in_dut(
            str(BUILT / "bench-dut"), str(BUILT), self._links[self.dut], kind, *arguments
        )
        program = Program(argv)
        try:
            yield program
        finally:
            program.kill()

    @contextmanager
    def defence(self, name: str, wscale: int = 7) -> Iterator[Program | None]:
        """Put one defence in force: none, cookies, synproxy, raw drop, or a program by its name."""
        with ExitStack() as stack:
            cookies = {"none": "0", "cookies": "2", "oracle": "2"}.get(name, "1")
            self.sysctl("net/ipv4/tcp_syncookies", cookies)
            if name in {"none", "cookies"}:
                yield None
            elif name == "raw drop":
                stack.enter_context(self.rules(_RAW_DROP))
                yield None
            elif name == "synproxy":
                self.sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")
                stack.enter_context(self.rules(_SYNPROXY.replace("WSCALE", str(wscale))))
                yield None
            else:
                arguments = [str(wscale)] if name == "oracle" else []
                yield stack.enter_context(self.program(name, *arguments))

    def generator(self, per_second: float, seconds: float) -> Program:
        """Start the flood and its sink."""
        argv = (
            str(BUILT / "bench-generator"),
            str(BUILT),
            self._links[self.outside],
            str(ATTACK_CPU),
        )
        return Program(self.in_outside(*argv, f"{per_second:.0f}", f"{seconds:.3f}"))

    def own_threads(self) -> None:
        """Give each side a CPU of its own, as a network card with interrupts would.

        What comes in is then judged by one CPU however fast the other sends: a defence that is
        too slow loses packets, those of good clients among them.
        """
        for name, cpu in ((self.outside, ATTACK_CPU), (self.dut, OTHER_CPU)):
            link = self._links[name]
            file = f"/sys/class/net/{link}/threaded"
            run("ip", "netns", "exec", name, "sh", "-c", f"echo 1 >{file}")
            for pid in _kernel_threads(f"napi/{link}"[:_COMM_LENGTH]):
                os.sched_setaffinity(pid, {cpu})
                os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))

    def raw_dropped(self) -> int:
        """Return what the raw drop rule has counted."""
        ruleset = json.loads(run(*self.in_dut("nft", "-j", "list", "table", "inet", "bench")))
        return sum(
            part["counter"]["packets"]
            for item in ruleset["nftables"]
            for part in item.get("rule", {}).get("expr", [])
            if "counter" in part
        )

    def _build(self) -> None:
        for name in (self.outside, self.dut):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        peer = ("type", "veth", "peer", "name", self._links[self.dut], "netns", self.dut)
        run("ip", "-n", self.outside, "link", "add", self._links[self.outside], *peer)
        for name, mac, address in (
            (self.dut, _MACS[0], SERVER),
            (self.outside, _MACS[1], _GATEWAY),
        ):
            link = self._links[name]
            run("ip", "-n", name, "link", "set", link, "address", mac, "up")
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", link)
            for key in ("all", link):
                self._write(name, f"net/ipv4/conf/{key}/rp_filter", "0")
            # GRO gives the link a NAPI without XDP; checksums are to be true on the wire.
            run("ip", "netns", "exec", name, "ethtool", "-K", link, "gro", "on", "tx", "off")
        neighbours = ((self.dut, _GATEWAY, _MACS[1]), (self.outside, SERVER, _MACS[0]))
        for name, address, mac in neighbours:
            fixed = ("lladdr", mac, "dev", self._links[name], "nud", "permanent")
            run("ip", "-n", name, "neighbour", "add", address, *fixed)
        run("ip", "-n", self.dut, "route", "add", "default", "via", _GATEWAY)
        run("ip", "-n", self.outside, "route", "add", "local", CLIENTS, "dev", "lo")
        self.sysctl("net/ipv4/tcp_max_syn_backlog", str(_BACKLOG))
        self.sysctl("net/core/somaxconn", str(_BACKLOG))
        self.sysctl("net/ipv4/tcp_timestamps", "2")

    def _write(self, namespace: str, name: str, value: str) -> None:
        inside(namespace, lambda: (Path("/proc/sys") / name).write_text(value))


def _kernel_threads(begin: str) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            name = path.read_text()
        except OSError:  # it has ended meanwhile
            continue
        if name.startswith(begin):
            yield int(path.parent.name)


def measure(veth: Veth, name: str, seconds: float) -> float:
    """Return how many SYNs a second one core sends, judges and sees answered (or dropped)."""
    with veth.defence(name) as program:
        before = veth.raw_dropped() if name == "raw drop" else 0
        generator = veth.generator(-1, seconds)
        try:
            found = generator.result()
        finally:
            generator.kill()
        done = found["answered"]
        if name == "raw drop":
            done = veth.raw_dropped() - before
        elif name in {"drop", "swap"} and program is not None:
            judged = program.result()["judged"]
            done = judged if name == "drop" else found["other"]
    rate: float = done / found["seconds"]
    return rate
