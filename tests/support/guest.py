# SPDX-License-Identifier: Apache-2.0
"""A stand whose server is a guest with a kernel of its own (`scripts.lab.guest`).

Booting takes seconds, so one guest serves all tests of a run: take it by the fixture `protected`
of `tests.support.guest_fixtures`, which hands it out clean.
"""

import asyncio
import json
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from scripts.lab.built import Built
from scripts.lab.guest import Done, Guest, Plug, Program
from scripts.lab.guest_kernel import STOCK
from scripts.lab.guest_server import INFO, PORTS
from tests.support.netns import GATEWAY, INSIDE, SERVER, SERVER4, SERVER6, Lab, run
from tests.support.stack import TARGETS, Stand
from tests.support.stack_talk import TcpInfo

P = ParamSpec("P")
T = TypeVar("T")


def plug_into(lab: Lab) -> Plug:
    """Take the lab's server away; return where the guest that replaces it is plugged in."""
    lab.ip(GATEWAY, "link", "delete", INSIDE)
    run("ip", "netns", "delete", lab.names[SERVER])
    return Plug(
        namespace=lab.names[GATEWAY],
        interface=INSIDE,
        gateway=("192.0.2.1/24", "2001:db8:2::1/64"),
        guest=(f"{SERVER4}/24", f"{SERVER6}/64"),
    )


@dataclass(frozen=True, slots=True)
class Known:
    """What the guest's kernel knows of one connection."""

    info: TcpInfo
    rcvbuf: int
    sndbuf: int
    maxseg: int
    peer: tuple[str, int]


class Protected(Built):
    """A stand, the guest behind its gateway, and the server program in the guest.

    Everything that is asked of the guest is done by a thread, so that no event loop waits.
    """

    def __init__(self, package: str = STOCK) -> None:
        self.stand = Stand()
        self._package = package
        self._guest: Guest | None = None
        self._server: Program | None = None

    def _build(self) -> None:
        """Build the stand and boot the guest."""
        self.stand.__enter__()
        self._guest = Guest(plug_into(self.stand), self._package)
        self._guest.__enter__()
        self.serve_now()

    def close(self) -> None:
        """End and remove all of it."""
        if self._guest is not None:
            self._guest.close()
        self.stand.close()

    @property
    def guest(self) -> Guest:
        """The guest itself; what it does blocks."""
        if self._guest is None:
            msg = "the stand is not built"
            raise RuntimeError(msg)
        return self._guest

    def serve_now(self) -> None:
        """Start the server program."""
        self._server = self.guest.serve()

    def clean_now(self) -> None:
        """Put the guest back to how it was after its boot, with nothing but the server program."""
        alive = self._server is not None and self._server.status() is None
        self.guest.clean([self._server.pid] if alive and self._server else [])
        if not alive:
            self.serve_now()

    async def run(
        self,
        *argv: str,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 20.0,  # noqa: ASYNC109 - the program's, which ends in the guest
    ) -> Done:
        """Run a program in the guest to its end."""
        return await _aside(
            self.guest.run,
            *argv,
            stdin=stdin,
            environment=environment,
            check=check,
            timeout=timeout,
        )

    async def python(self, *arguments: str, stdin: bytes = b"") -> Done:
        """Run Python in the guest with the checkout's packages."""
        return await _aside(self.guest.python, *arguments, stdin=stdin)

    async def start(self, name: str, *argv: str) -> Program:
        """Start a program that goes on."""
        return await _aside(self.guest.start, name, *argv)

    async def stop(self, program: Program, number: int = signal.SIGTERM) -> int:
        """End it; return its exit status."""
        return await _aside(program.stop, number)

    async def kill(self, pid: int, number: int = signal.SIGTERM) -> None:
        """Send a signal to a process of the guest."""
        await _aside(self.guest.kill, pid, number)

    async def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a file of the guest."""
        await _aside(self.guest.put, path, content, mode)

    async def read(self, path: str) -> bytes:
        """Return a file of the guest."""
        return await _aside(self.guest.read, path)

    async def sysctl(self, name: str, value: object = None) -> str:
        """Set a kernel setting of the guest if asked to; return its value."""
        return await _aside(self.guest.sysctl, name, value)

    async def set_clock(self, ahead: float = 0.0) -> None:
        """Set the guest's clock so many seconds ahead of this machine's."""
        await _aside(self.guest.set_clock, ahead)

    async def reboot(self, *, serve: bool = True) -> None:
        """Reset the guest; it comes back with new secrets and, if asked to, the server program."""
        self._server = None
        await _aside(self.guest.reboot)
        if serve:
            await _aside(self.serve_now)

    async def serve_anew(self) -> None:
        """Start the server program again: listeners that no SYN has come to yet."""
        if self._server is not None:
            await _aside(self._server.stop, signal.SIGKILL)
        await _aside(self.serve_now)

    async def power_off(self) -> None:
        """Cut the guest's power."""
        self._server = None
        await _aside(self.guest.power_off)

    async def power_on(self) -> None:
        """Switch it on again, with a disk as if it were new, and the server program."""
        await _aside(self.guest.power_on)
        await _aside(self.serve_now)

    async def known(self, family: int = 4, port: int = INFO) -> Known:
        """Return what the guest's kernel makes of a new connection from the client."""
        reader, writer = await self.stand.connect(TARGETS[family], port)
        try:
            return await ask_known(reader, writer)
        finally:
            writer.transport.abort()

    async def prime(self) -> None:
        """Send each listener one ordinary SYN: the kernel takes cookies for 120 s after that."""
        for address in TARGETS.values():
            for port in PORTS:
                _, writer = await self.stand.connect(address, port, role=GATEWAY)
                writer.transport.abort()


@dataclass(frozen=True, slots=True)
class _Told:
    """Stands for a socket of the guest whose TCP_INFO has been read there."""

    raw: bytes

    def getsockopt(self, *_: int) -> bytes:
        return self.raw


async def ask_known(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Known:
    """Return what the guest's kernel knows of an open connection to `INFO` or `NARROW`."""
    writer.write(b"\n")
    async with asyncio.timeout(5):
        told = json.loads(await reader.readline())
    return Known(
        info=TcpInfo.of(_Told(bytes.fromhex(told["tcp_info"]))),
        rcvbuf=told["rcvbuf"],
        sndbuf=told["sndbuf"],
        maxseg=told["maxseg"],
        peer=(told["peer"][0], told["peer"][1]),
    )


async def _aside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.to_thread(partial(work, *args, **kwargs))
