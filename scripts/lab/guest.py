# SPDX-License-Identifier: Apache-2.0
"""A protected server with a kernel of its own: a stock Debian kernel in qemu, behind a tap device.

The guest is driven over a virtio port, so that nothing of this is on the network under test.
"""

import base64
import signal
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hub.clock import SystemClock
from scripts.lab.built import Built
from scripts.lab.commands import LabError, run
from scripts.lab.guest_boot import initramfs
from scripts.lab.guest_image import CODE, PYTHON, VENV_PYTHON, image
from scripts.lab.guest_kernel import STOCK, kernel
from scripts.lab.guest_line import Line
from scripts.lab.guest_machine import CONSOLE, CONTROL, Hardware, Machine

SERVER_PROGRAM: Final = f"/{CODE}/scripts/lab/guest_server.py"
BOOT_S: Final = 60.0

_MAC: Final = "52:54:00:12:34:56"
_LAST_LINES: Final = 12
_GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Plug:
    """Where the guest is connected, and how it is to be configured.

    Attributes:
        namespace: the network namespace of the gateway.
        interface: the name that the tap device gets there.
        gateway: the gateway's addresses on it, with prefix lengths.
        guest: the guest's addresses, with prefix lengths.
    """

    namespace: str
    interface: str
    gateway: Sequence[str]
    guest: Sequence[str]

    def make(self) -> None:
        """Make the tap device with its addresses, ready for qemu."""
        self._ip("tuntap", "add", "dev", self.interface, "mode", "tap")
        for address in self.gateway:
            self._ip("address", "add", address, "dev", self.interface, *_at_once(address))
        self._ip("link", "set", self.interface, "up")

    def remove(self) -> None:
        """Remove the tap device, if it is there."""
        with suppress(LabError):
            self._ip("link", "delete", self.interface)

    def script(self) -> str:
        """Return the shell script with which the guest configures itself."""
        lines = [
            "mount -t tmpfs -o mode=755 tmpfs /run; mount -t tmpfs tmpfs /tmp",
            "mkdir -p /dev/shm /dev/pts; mount -t devpts devpts /dev/pts; hostname guest",
            "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad",
            "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad",
            # By its path, because busybox's shell would take its own; once, because each costs.
            "/usr/bin/ip -batch - <<END",
            *("link set lo up", "link set eth0 up"),
            *(f"address add {one} dev eth0 {' '.join(_at_once(one))}" for one in self.guest),
            *(f"route add default via {one.split('/', maxsplit=1)[0]}" for one in self.gateway),
            "END",
        ]
        return "\n".join(lines) + "\n"

    def _ip(self, *arguments: str) -> None:
        run("ip", "-n", self.namespace, *arguments)


def _at_once(address: str) -> tuple[str, ...]:
    """Return what makes an IPv6 address usable without the second of duplicate detection."""
    return ("nodad",) if ":" in address else ()


@dataclass(frozen=True, slots=True)
class Done:
    """How a program in the guest ended; what it printed may be secret, and is in no repr."""

    status: int
    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode()


class Guest(Built):
    """A running guest; use as a context manager. Every method blocks until it is done.

    Args:
        plug: where it is connected; its tap device is made and removed here.
        package: whose kernel it runs.
        memory_mib: how much memory it has.
    """

    def __init__(self, plug: Plug, package: str = STOCK, *, memory_mib: int = 256) -> None:
        self._plug = plug
        self._place = tempfile.TemporaryDirectory(prefix="fnm-guest-")
        self._folder = Path(self._place.name)
        self._kernel = kernel(package)
        self.release = self._kernel.release
        self._memory_mib = memory_mib
        self._machine: Machine | None = None
        self._line: Line | None = None
        self._clock = SystemClock()
        self.boots = 0
        self.boot_seconds = 0.0
        """What the last boot took, from the start of qemu or its reset."""

    def _build(self) -> None:
        """Plug it in and start it; returns when it takes commands."""
        self._plug.make()
        self.power_on()

    def close(self) -> None:
        """End it and remove all of it; closing twice does no harm."""
        self.power_off()
        self._plug.remove()
        self._place.cleanup()

    @property
    def pid(self) -> int:
        """The process id of its qemu."""
        return self._running().pid

    def console(self) -> str:
        """Return what the kernel and the first programs have printed."""
        return (self._folder / CONSOLE).read_text(errors="replace")

    # power

    def power_on(self) -> None:
        """Start it; returns when it takes commands."""
        began = self._clock.monotonic()
        ramdisk = self._folder / "initramfs"
        if not ramdisk.exists():
            ramdisk.write_bytes(initramfs(self._kernel, {"start": self._plug.script().encode()}))
        self._machine = Machine(
            Hardware(
                namespace=self._plug.namespace,
                tap=self._plug.interface,
                mac=_MAC,
                kernel=self._kernel.image,
                initramfs=ramdisk,
                disk=image(),
                memory_mib=self._memory_mib,
            ),
            self._folder,
        )
        self._machine.start()
        self._line = Line(self._folder / CONTROL)
        self._await_boot(began, self._line.up)

    def power_off(self) -> None:
        """Cut its power: what it had written to its disk is lost, too."""
        machine, line, self._machine, self._line = self._machine, self._line, None, None
        if machine is not None:
            machine.stop()
        if line is not None:
            line.close()

    def reboot(self) -> None:
        """Reset it; returns when it takes commands again.

        The kernel starts anew, and so do its secrets and its clocks. What had reached its disk
        stays; nothing gets a chance to say goodbye.
        """
        began = self._clock.monotonic()
        up = self._talk().expect_boot()
        self._running().reset()
        self._await_boot(began, up)

    def _await_boot(self, began: float, up: Future[None]) -> None:
        try:
            up.result(BOOT_S)
        except (TimeoutError, LabError) as error:
            last = "\n".join(self.console().splitlines()[-_LAST_LINES:])
            raise LabError(f"the guest did not come up: {error}\n{last}") from error
        self.boots += 1
        self.boot_seconds = self._clock.monotonic() - began

    # programs and files

    def run(
        self,
        *argv: str,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 20.0,
    ) -> Done:
        """Run a program to its end.

        Raises:
            LabError: it could not be started, took longer than `timeout` seconds, or `check` is set
                and its exit status is not 0.
        """
        answer = self._ask(
            "run",
            timeout + _GRACE_S,
            argv=argv,
            stdin=_text(stdin),
            env=dict(environment or {}),
            timeout=timeout,
        )
        done = Done(answer["status"], _bytes(answer["stdout"]), _bytes(answer["stderr"]))
        if check and done.status:
            said = done.stderr.decode(errors="replace").strip()
            raise LabError(f"exit status {done.status}: {said}", where=" ".join(argv))
        return done

    def python(self, *arguments: str, stdin: bytes = b"", timeout: float = 20.0) -> Done:
        """Run Python with the checkout's packages and those that they need."""
        return self.run(VENV_PYTHON, *arguments, stdin=stdin, timeout=timeout)

    def start(
        self, name: str, *argv: str, environment: Mapping[str, str] | None = None
    ) -> "Program":
        """Start a program that goes on; its output is kept under `name`."""
        answer = self._ask("start", name=name, argv=argv, env=dict(environment or {}))
        return Program(self, answer["pid"], answer["log"])

    def serve(self) -> "Program":
        """Start the server program on all its ports; returns when it listens."""
        program = self.start("server", PYTHON, "-I", "-S", SERVER_PROGRAM)
        program.expect("ready")
        return program

    def kill(self, pid: int, number: int = signal.SIGTERM) -> None:
        """Send a signal to a process of the guest."""
        self._ask("kill", pid=pid, signal=int(number), wait=False)

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a file and the folders above it."""
        self._ask("put", path=path, content=_text(content), mode=mode)

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        return self.run("cat", path).stdout

    # the kernel

    def sysctl(self, name: str, value: object = None) -> str:
        """Set a kernel setting such as `net.ipv4.tcp_syncookies` if asked to; return its value."""
        path = f"/proc/sys/{name.replace('.', '/')}"
        if value is not None:
            self.run("tee", path, stdin=f"{value}\n".encode())
        return self.read(path).decode().strip()

    def set_clock(self, ahead: float = 0.0) -> None:
        """Set its wall clock to this machine's, plus `ahead` seconds."""
        self._ask("clock", time=self._clock.time() + ahead)

    def clean(self, keep: Sequence[int] = ()) -> None:
        """End all programs but `keep`; put TCP's settings, fnm-agent's files and the clock back."""
        self._ask("clean", keep=list(keep), time=self._clock.time())

    def _ask(self, operation: str, seconds: float = 20.0, **fields: Any) -> dict[str, Any]:
        answer = self._talk().ask({"op": operation, **fields}, seconds)
        if "error" in answer:
            raise LabError(answer["error"], where=f"guest: {operation}")
        return answer

    def _talk(self) -> Line:
        if self._line is None:
            raise LabError("the guest is switched off")
        return self._line

    def _running(self) -> Machine:
        if self._machine is None:
            raise LabError("the guest is switched off")
        return self._machine


class Program:
    """A program that goes on in the guest."""

    def __init__(self, guest: Guest, pid: int, log: str) -> None:
        self._guest = guest
        self.pid = pid
        self._log = log

    def status(self) -> int | None:
        """Return its exit status; None while it runs."""
        status: int | None = self._guest._ask("poll", pid=self.pid)["status"]  # noqa: SLF001
        return status

    def expect(self, text: str, seconds: float = 60.0) -> None:
        """Return as soon as it has printed `text`.

        Raises:
            LabError: it has not within `seconds`, or has ended; with its last lines.
        """
        asked = {"pid": self.pid, "log": self._log, "text": text, "timeout": seconds}
        if not self._guest._ask("expect", seconds + _GRACE_S, **asked)["found"]:  # noqa: SLF001
            last = self.log().decode(errors="replace").splitlines()[-_LAST_LINES:]
            raise LabError(f"it has not said {text!r}:\n" + "\n".join(last), where=self._log)

    def log(self) -> bytes:
        """Return what it has printed."""
        return self._guest.read(self._log)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; return its exit status."""
        answer = self._guest._ask("kill", pid=self.pid, signal=int(number), wait=True)  # noqa: SLF001
        status: int = answer["status"]
        return status


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)
