# SPDX-License-Identifier: Apache-2.0
"""SSH servers as links meet them: one in this process that does as told, and OpenSSH's."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import asyncssh

from hub.isn_sync.inventory import Agent

SSHD = Path("/usr/sbin/sshd")
Process = asyncssh.SSHServerProcess[bytes]
Answer = Callable[[str, Process], Awaitable[None]]

GET = """\
uname: Linux
version: 26.04
time: 1764140000
net_secret: 000102030405060708090a0b0c0d0e0f
syncookie_secret: 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
syncookie6_secret: 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
ts_secret: 000102030405060708090a0b0c0d0e0f
tcp_ecn: 2
tcp_sack: 1
tcp_timestamps: 1
tcp_window_scaling: 1
"""
"""What MITIGATOR's agent says to `get`, with secrets made up."""


@dataclass
class Server:
    """One that runs, and what it has seen.

    Attributes:
        port: on 127.0.0.1.
        host_key: it proves itself by it.
        commands: every command, in order.
        open: connections that stand now.
        made: connections ever made.
        empty: set while no connection stands.
        user: whom it lets in.
    """

    port: int
    host_key: asyncssh.SSHKey
    commands: list[str] = field(default_factory=list)
    open: set[asyncssh.SSHServerConnection] = field(default_factory=set)
    made: int = 0
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    user: str = "fnm-agent"

    @property
    def agent(self) -> Agent:
        """The agent that it plays."""
        return agent_at(self.port, self.user)

    def cut(self) -> None:
        """Break every connection."""
        for connection in list(self.open):
            connection.abort()


def agent_at(port: int, user: str = "fnm-agent") -> Agent:
    """Return an agent at `port` on 127.0.0.1."""
    host = ip_address("127.0.0.1")
    return Agent(host=host, port=port, user=user, services=(host,))


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 where nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


async def say_get(_command: str, process: Process) -> None:
    """Answer as an agent does."""
    process.stdout.write(GET.encode())
    process.exit(0)


@asynccontextmanager
async def ssh_server(
    lines: list[str],
    answer: Answer = say_get,
    *,
    host_key: asyncssh.SSHKey | None = None,
    port: int = 0,
) -> AsyncIterator[Server]:
    """Yield an SSH server in this process.

    Args:
        lines: authorized_keys.
        answer: is given every command; ends it by `process.exit`.
        host_key: a new one by default.
        port: any by default.
    """
    key = host_key or asyncssh.generate_private_key("ssh-ed25519")
    seen = Server(port, key)
    seen.empty.set()

    class Owner(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            self.conn = conn
            seen.open.add(conn)
            seen.empty.clear()
            seen.made += 1

        def connection_lost(self, exc: Exception | None) -> None:
            del exc
            seen.open.discard(self.conn)
            if not seen.open:
                seen.empty.set()

    async def handle(process: Process) -> None:
        seen.commands.append(process.command or "")
        with contextlib.suppress(asyncssh.Error, OSError):
            await answer(process.command or "", process)

    authorized = asyncssh.import_authorized_keys("".join(f"{line}\n" for line in lines))
    acceptor = await asyncssh.create_server(
        Owner,
        "127.0.0.1",
        port,
        server_host_keys=[key],
        authorized_client_keys=authorized,
        process_factory=handle,
        encoding=None,
    )
    try:
        seen.port = acceptor.get_port()
        yield seen
    finally:
        acceptor.close()
        seen.cut()
        await acceptor.wait_closed()
        await seen.empty.wait()


@asynccontextmanager
async def raw_server(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """Yield the port of a TCP server that hands each connection to `handle`."""
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def openssh(folder: Path, authorized: str, script: str) -> AsyncIterator[Server]:
    """Yield OpenSSH's sshd, set up as MITIGATOR's agent sets up its own.

    Args:
        folder: for its files; nobody else may write there.
        authorized: authorized_keys.
        script: run by /bin/sh for every command, which is in $SSH_ORIGINAL_COMMAND.
    """
    key = asyncssh.generate_private_key("ssh-ed25519")
    port = free_port()
    await asyncio.to_thread(_write_files, folder, key, port, authorized, script)
    process = await asyncio.create_subprocess_exec(
        str(SSHD),
        "-D",
        "-e",
        "-f",
        str(folder / "config"),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(20):
            while b"Server listening" not in (line := await process.stderr.readline()):
                assert line, "sshd did not start"
        yield Server(port, key)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


def _write_files(
    folder: Path, key: asyncssh.SSHKey, port: int, authorized: str, script: str
) -> None:
    # Where it puts its unprivileged half; systemd makes it where systemd is.
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name, content, mode in (
        ("host.ed25519", key.export_private_key().decode(), 0o600),
        ("keys", authorized, 0o600),
        ("server", f"#!/bin/sh\n{script}\n", 0o700),
        ("config", _CONFIG.format(port=port, folder=folder), 0o600),
    ):
        path = folder / name
        path.write_text(content)
        path.chmod(mode)
    assert os.access(SSHD, os.X_OK), "openssh-server is not installed"


_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
PidFile none
HostKey {folder}/host.ed25519
AuthorizedKeysFile {folder}/keys
ForceCommand {folder}/server
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitOpen none
AllowAgentForwarding no
AllowStreamLocalForwarding no
AllowTcpForwarding no
PrintMotd no
StrictModes no
UsePAM no
PermitRootLogin yes
"""
