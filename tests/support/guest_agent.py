# SPDX-License-Identifier: Apache-2.0
"""fnm-agent in the guest, started as on a server, and asked over SSH from the gateway."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import asyncssh

from hub.agent.main import PORT
from scripts.lab.guest import Program
from scripts.lab.guest_image import VENV_PYTHON
from tests.support.guest import Protected
from tests.support.netns import GATEWAY, SERVER4, inside

KEYS: Final = "/etc/fnm-agent/keys"
HOST_KEY: Final = "/etc/fnm-agent/host_ed25519"
AGENT: Final = (VENV_PYTHON, "-m", "hub.agent.main", "run")
_KIND: Final = "ssh-ed25519"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the agent said to one command; it may hold secrets, and is in no repr."""

    status: int | None
    text: str = field(repr=False)
    error: str

    def fields(self) -> dict[str, str]:
        """Return the values by their names."""
        return dict(line.split(": ", maxsplit=1) for line in self.text.splitlines())


class GuestAgent:
    """The running agent.

    Attributes:
        key: the private key that it lets in.
        known_host: its line for known_hosts.
    """

    def __init__(
        self, protected: Protected, key: asyncssh.SSHKey, known_host: str, program: Program
    ) -> None:
        self._protected = protected
        self.key = key
        self.known_host = known_host
        self._program = program
        self._ended = False

    async def ask(self, command: str, address: str = SERVER4) -> Answer:
        """Return the answer to one command, asked on a new connection from the gateway."""
        async with await self.connect(address) as connection:
            done = await connection.run(command, encoding="utf-8")
        return Answer(done.exit_status, str(done.stdout), str(done.stderr))

    async def connect(self, address: str = SERVER4) -> asyncssh.SSHClientConnection:
        """Return a new connection from the gateway."""
        names = self._protected.stand.names
        made = await asyncio.to_thread(
            inside, names[GATEWAY], lambda: socket.create_connection((address, PORT), 5)
        )
        made.setblocking(False)  # noqa: FBT003 - the method's only argument
        return await asyncssh.connect(
            SERVER4,
            PORT,
            sock=made,
            config=None,
            username="hub",
            client_keys=[self.key],
            known_hosts=asyncssh.import_known_hosts(self.known_host),
        )

    async def expect(self, text: str) -> None:
        """Return as soon as it has logged `text`; raises LabError after a minute or its end."""
        await asyncio.to_thread(self._program.expect, text)

    async def log(self) -> str:
        """Return what it has logged."""
        return (await asyncio.to_thread(self._program.log)).decode()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; return its exit status."""
        self._ended = True
        return await self._protected.stop(self._program, number)

    async def start(self, *more: str) -> None:
        """Start it again, with more options if any are given; returns when it listens."""
        self._program = await self._protected.start("fnm-agent", *AGENT, *more)
        self._ended = False
        await self.expect("agent.started")

    async def running(self) -> bool:
        """Return whether it has not ended."""
        return not self._ended and await asyncio.to_thread(self._program.status) is None


def known_host(host_key: asyncssh.SSHKey) -> str:
    """Return the line for known_hosts of an agent with this key."""
    return f"[{SERVER4}]:{PORT} {host_key.export_public_key().decode()}"


@asynccontextmanager
async def agent_in(
    protected: Protected,
    key: asyncssh.SSHKey | None = None,
    host_key: asyncssh.SSHKey | None = None,
    *,
    options: Sequence[str] = (),
) -> AsyncIterator[GuestAgent]:
    """Set the agent up in the guest and start it; returns when it listens.

    Args:
        protected: whose guest.
        key: the hub's key that it lets in; None for a new one.
        host_key: its own; None for a new one.
        options: of its command line, besides the usual ones.
    """
    key = key or asyncssh.generate_private_key(_KIND)
    host_key = host_key or asyncssh.generate_private_key(_KIND)
    await protected.put(KEYS, key.export_public_key())
    await protected.put(HOST_KEY, host_key.export_private_key(), 0o600)
    program = await protected.start("fnm-agent", *AGENT, *options)
    agent = GuestAgent(protected, key, known_host(host_key), program)
    try:
        await agent.expect("agent.started")
        yield agent
    finally:
        if await agent.running():
            await agent.stop()
