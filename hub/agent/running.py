# SPDX-License-Identifier: Apache-2.0
"""The life of the agent: collects as root what only root can, becomes nobody much, serves."""

import asyncio
import fcntl
import os
import platform
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncssh
import structlog

from hub import __version__
from hub.agent import control, host_key, privileges, server
from hub.agent.commands import Commands
from hub.agent.keeper import KeeperError
from hub.agent.keeper_link import KeeperLink, make_folder
from hub.agent.kernel.sources import Kernel, open_sources
from hub.agent.keys import KeysFile
from hub.agent.limits import Limits
from hub.agent.listening import listen
from hub.clock import SystemClock
from hub.errors import HubError
from hub.systemd import ALIVE, READY, STOPPING, Manager, status
from hub.tasks import Tasks

CONTROL = "control.sock"

_PULSE_S: Final = 5.0
_SHARE: Final = 6

log = structlog.get_logger(__name__)


class AlreadyRunningError(HubError):
    """Two agents with one runtime folder would take each other's keeper."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says.

    Attributes:
        listen: address; empty for all.
        port: TCP port; None: OpenSSH does the transport.
        keys: the keys file.
        host_key: the private host key.
        user: whom the agent becomes.
        keeper_user: whom the keeper becomes.
        proc: where the server's /proc is.
        runtime: folder for the control socket and the keeper.
    """

    listen: str
    port: int | None
    keys: Path
    host_key: Path
    user: str
    keeper_user: str
    proc: Path
    runtime: Path


@dataclass(frozen=True, slots=True)
class _Parts:
    kernel: Kernel
    keeper: KeeperLink
    control: socket.socket
    listening: socket.socket | None
    options: asyncssh.SSHServerConnectionOptions | None
    users: tuple[int, int]
    manager: Manager


def run(settings: Settings) -> None:
    """Run the agent until it is told to end.

    Raises:
        HubError: it cannot start or go on; says why.
    """
    privileges.need_root("fnm-agent run")
    # Whatever the caller left open is not ours to keep.
    os.closerange(3, min(1 << 16, os.sysconf("SC_OPEN_MAX")))
    manager = Manager.of(os.environ)  # before the keeper is started, which is not the service
    user = privileges.account(settings.user)
    keeper_user = privileges.account(settings.keeper_user)
    folder = make_folder(settings.runtime, keeper_user)
    held = _alone(settings.runtime)
    kernel = open_sources(settings.proc)
    key = host_key.read(settings.host_key) if settings.port is not None else None
    limits = Limits()
    listening = listen(settings.listen, settings.port) if settings.port is not None else None
    made = control.bind(settings.runtime / CONTROL, user.pw_gid)
    keeper = KeeperLink.start(folder, settings.proc, settings.keeper_user)
    try:
        privileges.become(user)
        keys = KeysFile(settings.keys, owners=(0,))
        log.info(
            "agent.started",
            version=__version__,
            release=platform.release(),
            source=kernel.source,
            hz=_hz(kernel),
            listen=_shown(listening),
            host_key=key.get_fingerprint() if key else "",
            keys=len(keys.keys()),
            user=settings.user,
        )
        base = server.options(key, limits) if key is not None else None
        asyncssh.set_log_level("CRITICAL")
        users = (user.pw_uid, user.pw_gid)
        parts = _Parts(kernel, keeper, made, listening, base, users, manager)
        asyncio.run(_serve(settings, parts, keys, limits))
    finally:
        manager.close()
        keeper.close()
        kernel.close()
        os.close(held)


async def _serve(settings: Settings, parts: _Parts, keys: KeysFile, limits: Limits) -> None:
    clock = SystemClock()
    commands = Commands(parts.kernel, settings.proc, parts.keeper)
    loop = asyncio.get_running_loop()
    async with Tasks() as tasks:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, tasks.finish)
        tasks.run("keeper", parts.keeper.listen())
        local = control.ControlServer(commands, parts.keeper, parts.users)
        tasks.run("control", local.serve(parts.control, clock.monotonic))
        if parts.listening is not None and parts.options is not None:
            ssh = server.Server(keys, commands, parts.options, clock, limits)
            tasks.run("ssh", ssh.serve(parts.listening))
        await parts.manager.tell(READY)
        tasks.run("watchdog", _feed(parts, clock))
        await tasks.wait()
        await parts.manager.tell(STOPPING)
    log.info("agent.ended")


async def _feed(parts: _Parts, clock: SystemClock) -> None:
    """Feed the watchdog for ever, each time after the keeper has answered."""
    patience = parts.manager.watchdog_s
    while parts.manager.listens:
        try:
            held = await parts.keeper.state("")
        except KeeperError as error:
            log.error("agent.keeper_silent", why=error.what, todo="systemctl restart fnm-agent")
        else:
            text = f"keys by {parts.kernel.source}; tcp_syncookies is {held.syncookies}"
            await parts.manager.tell(ALIVE, status(text))
        await clock.sleep(_PULSE_S if patience is None else min(_PULSE_S, patience / _SHARE))


def _hz(kernel: Kernel) -> int | None:
    try:
        return kernel.read().hz
    except HubError as error:
        # It was opened, so this may pass; get and selftest say the same until then.
        log.error("agent.source_unreadable", why=error.what, todo=error.todo)
        return None


def _alone(runtime: Path) -> int:
    held = os.open(runtime / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise AlreadyRunningError(
            "another agent runs with this folder",
            where=str(runtime),
            todo="stop it, or give this one another --runtime",
        ) from None
    return held


def _shown(listening: socket.socket | None) -> str:
    if listening is None:
        return "none: OpenSSH does the transport"
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
