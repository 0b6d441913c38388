# SPDX-License-Identifier: Apache-2.0
"""synproxyd between two network namespaces, its log, and connections to its control socket."""

import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final, Self

from tests.support.native_build import built
from tests.support.netns import SYN, inside, run, tcp_packet
from tests.support.stack_xdp import attach, passing_program

OUTSIDE: Final = "outside"
PEER: Final = "peer"
TARGET: Final = "192.0.2.10"
_ETH_P_ALL: Final = 3
_numbers = count()


def eventually(check: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Return once `check` holds; fails after so many seconds."""
    for _ in range(int(seconds / 0.02)):
        if check():
            return
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


class Client:
    """One connection to a control socket."""

    def __init__(self, path: Path, *, greet: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self._file = self.socket.makefile("rb")
        self.hello: dict[str, Any] = self.ask({"op": "hello", "version": 1}) if greet else {}

    def __enter__(self) -> Self:
        """Return it connected."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._file.close()
        self.socket.close()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request."""
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Return the next answer."""
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the connection ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def good(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request that must be taken."""
        answer = self.ask(request)
        assert answer["ok"], answer
        return answer

    def listed(self) -> dict[str, dict[str, Any]]:
        """Return what is in force, by id."""
        return {one["id"]: one for one in self.good({"op": "list"})["mitigations"]}


def put(name: str, kind: str = "tcp", revision: int = 1, **fields: Any) -> dict[str, Any]:
    """Return a put request; for `tcp`, in the mode `reset` and strict."""
    body = {"mode": "reset", "grace": {"for_ms": 0}, "unknown_pps": 0} if kind == "tcp" else {}
    request = {
        "op": "put",
        "id": name,
        "revision": revision,
        "target": f"{TARGET}/32",
        "expires_ms": 60000,
        "kind": kind,
        kind: body,
    }
    return request | fields


class Daemon:
    """One process of synproxyd, running or ended."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, path: Path) -> None:
        self.process = process
        self.path = path
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def text(self) -> str:
        """Return all that it has logged."""
        return self._log.read_text()

    def events(self, event: str = "") -> list[dict[str, Any]]:
        """Return its log, or the lines of one event."""
        lines: list[dict[str, Any]] = [json.loads(line) for line in self.text().splitlines()]
        return [line for line in lines if event in {"", line["event"]}]

    def client(self, *, greet: bool = True) -> Client:
        """Return a connection to it."""
        return Client(self.path, greet=greet)

    def status(self) -> dict[str, str]:
        """Return /proc/PID/status."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        pairs = (line.split(":", 1) for line in text.splitlines())
        return {name: value.strip() for name, value in pairs}

    def wait_ready(self) -> Self:
        """Return once it answers."""

        def answers() -> bool:
            assert self.process.poll() is None, self.text()
            with suppress(OSError, EOFError), self.client():
                return bool(self.events("synproxyd.started"))
            return False

        eventually(answers, "synproxyd answers")
        return self

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(20)


class Ground:
    """A gateway's interface `outside` and, in another namespace, its peer; a bpf file system."""

    def __init__(self, folder: Path) -> None:
        tag = f"fnma{os.getpid()}x{next(_numbers)}"
        self.folder = folder
        self.gateway, self.far = f"{tag}g", f"{tag}f"
        self.bpf = folder / "bpf"
        self.pins = self.bpf / "pins"
        self.socket = folder / "control.sock"
        self._daemons: list[Daemon] = []
        self._logs = count()

    def build(self, stack: ExitStack) -> None:
        """Make namespaces, link and mount; the stack removes them."""
        for name in (self.gateway, self.far):
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "delete", name, check=False)
            run("ip", "-n", name, "link", "set", "lo", "up")
        self.join()
        self.bpf.mkdir()
        run("mount", "-t", "bpf", "bpf", str(self.bpf))
        stack.callback(run, "umount", "--lazy", str(self.bpf), check=False)
        stack.callback(self.close)

    def join(self) -> None:
        """Make the pair of interfaces."""
        pair = ("add", OUTSIDE, "type", "veth", "peer", "name", PEER, "netns", self.far)
        run("ip", "-n", self.gateway, "link", *pair)
        run("ip", "-n", self.gateway, "link", "set", OUTSIDE, "up")
        run("ip", "-n", self.far, "link", "set", PEER, "up")
        # XDP_TX wakes a peer only where that has a program too, GRO or not.
        program = passing_program()
        try:
            inside(self.far, lambda: attach(PEER, program))
        finally:
            os.close(program)

    def close(self) -> None:
        """End every daemon that is left."""
        for daemon in self._daemons:
            daemon.end(signal.SIGKILL)

    def within(self, namespace: str = "") -> tuple[str, ...]:
        """Return the argument vector that runs a program in a namespace."""
        return ("ip", "netns", "exec", namespace or self.gateway)

    def start(
        self,
        *options: str,
        binary: str = "synproxyd",
        interface: str = OUTSIDE,
        prefix: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> Daemon:
        """Start a daemon; a repeated option overrides the one given here."""
        targets = () if binary == "synproxyd" else (f"build/{binary}",)
        program = built(*targets) / binary
        places = ("--pin-dir", str(self.pins), "--socket", str(self.socket))
        argv = [*self.within(), *prefix, str(program), "run", "--interface", interface, *places]
        log = self.folder / f"log-{next(self._logs)}"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*argv, *options],
                stdin=subprocess.DEVNULL,
                stderr=stream,
                env=os.environ | (environment or {}),
            )
        path = (
            Path(options[options.index("--socket") + 1]) if "--socket" in options else self.socket
        )
        daemon = Daemon(process, log, path)
        self._daemons.append(daemon)
        return daemon

    def run(self, *options: str, **others: Any) -> Daemon:
        """Start a daemon and wait until it answers."""
        return self.start(*options, **others).wait_ready()

    def refused(self, *options: str, **others: Any) -> dict[str, Any]:
        """Start a daemon that must refuse to run; return what it says."""
        daemon = self.start(*options, **others)
        assert daemon.process.wait(20) == 1, daemon.text()
        (event,) = daemon.events("synproxyd.refused")
        return event

    def command(self, *argv: str, check: bool = True) -> str:
        """Run a command of synproxyd on the gateway and return what it prints."""
        return run(*self.within(), str(built() / "synproxyd"), *argv, check=check)

    def xdp(self) -> dict[str, Any]:
        """Return what `ip` tells about the program on `outside`; empty where there is none."""
        text = run("ip", "-n", self.gateway, "-json", "link", "show", "dev", OUTSIDE)
        shown: dict[str, Any] = json.loads(text)[0].get("xdp", {})
        return shown

    def wire(self) -> "Wire":
        """Return the peer's end of the link."""
        return inside(self.far, lambda: Wire(self._mac(self.gateway, OUTSIDE)))

    @staticmethod
    def _mac(namespace: str, interface: str) -> bytes:
        text = run("ip", "-n", namespace, "-json", "link", "show", "dev", interface)
        return bytes.fromhex(json.loads(text)[0]["address"].replace(":", ""))


class Wire:
    """Frames to and from the gateway."""

    def __init__(self, gateway: bytes) -> None:
        self._ether = gateway + bytes.fromhex("020000000002") + b"\x08\x00"
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.bind((PEER, _ETH_P_ALL))
        self._socket.settimeout(0.5)
        self._ports = count(20000)

    def __enter__(self) -> Self:
        """Return it open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._socket.close()

    def send(self, packet: bytes) -> None:
        """Send an IPv4 packet."""
        self._socket.send(self._ether + packet)

    def syn(self, source: str = "198.51.100.7", target: str = TARGET) -> int:
        """Send a SYN and return its source port."""
        port = next(self._ports)
        self.send(tcp_packet(source, target, port, 80, SYN))
        return port

    def answered(self, port: int) -> bool:
        """Tell whether the SYN from that port gets a SYN-ACK within half a second."""
        with suppress(TimeoutError):
            while True:
                frame, address = self._socket.recvfrom(2048)
                if address[2] == socket.PACKET_OUTGOING or frame[12:14] != b"\x08\x00":
                    continue
                if frame[47] & 0x12 == 0x12 and struct.unpack("!H", frame[36:38])[0] == port:
                    return True
        return False


@contextmanager
def ground() -> Iterator[Ground]:
    """Build a place for daemons and remove all of it afterwards."""
    with ExitStack() as stack:
        # Not pytest's: it is the root's alone, and some daemons here run as nobody.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fnm-synproxyd-")))
        folder.chmod(0o755)
        made = Ground(folder)
        made.build(stack)
        yield made
