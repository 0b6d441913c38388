# SPDX-License-Identifier: Apache-2.0
"""The life of the agent: collects what it takes, is nobody much from then on, and serves.

By its unit it is nobody much from the start, and gets what only root can open from systemd's store,
into which `fnm-agent open` has put it. Started as root it opens that itself.
"""

import asyncio
import contextlib
import fcntl
import os
import platform
import pwd
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncssh
import structlog

from hub import __version__
from hub.agent import control, host_key, privileges, server, store
from hub.agent.commands import Commands
from hub.agent.handover import unpacked
from hub.agent.keeper_link import KeeperLink, make_runtime
from hub.agent.kernel.sources import Kernel, open_sources
from hub.agent.keys import KeysFile
from hub.agent.limits import Limits
from hub.agent.listening import listen
from hub.agent.place import KeeperError
from hub.clock import SystemClock
from hub.errors import HubError
from hub.systemd import ALIVE, READY, STOPPING, Manager, status
from hub.tasks import Tasks

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
        user: whom the agent becomes, if it is root.
        keeper_user: whom a keeper becomes that it starts.
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
    if os.geteuid() == 0:
        # Whatever the caller left open is not ours to keep.
        os.closerange(3, min(1 << 16, os.sysconf("SC_OPEN_MAX")))
        user, given = privileges.account(settings.user), None
    else:
        user, given = privileges.myself(), store.received(os.environ)
        privileges.settle()
    # Out of the environment before a keeper is started, which is not the service.
    _run(settings, Manager.of(os.environ), user, given)


def _run(
    settings: Settings, manager: Manager, user: pwd.struct_passwd, given: dict[str, int] | None
) -> None:
    """Collect what it takes and serve; `given` is what root has opened for one that is not root."""
    held = _alone(_make_folder(settings.runtime, user), user)
    kernel = open_sources(settings.proc) if given is None else unpacked(given)
    key = host_key.read(settings.host_key) if settings.port is not None else None
    limits = Limits()
    listening = listen(settings.listen, settings.port) if settings.port is not None else None
    made = control.bind(control.place(settings.runtime), user.pw_gid)
    keeper = KeeperLink.reach(settings.runtime, settings.proc, settings.keeper_user)
    try:
        if given is None:
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
            user=user.pw_name,
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
            log.error("agent.keeper_silent", why=error.what, todo="systemctl restart fnm-keeper")
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


def _make_folder(runtime: Path, user: pwd.struct_passwd) -> Path:
    """Return the agent's folder below the runtime folder; systemd has made its own before."""
    folder = runtime / control.FOLDER
    if os.geteuid() == 0:
        make_runtime(runtime)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o755)
            folder.chmod(0o755)
            os.chown(folder, user.pw_uid, user.pw_gid)
    return folder


def _alone(folder: Path, user: pwd.struct_passwd) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        held = os.open(folder / "agent.lock", flags, 0o600)
    except OSError as error:
        raise AlreadyRunningError(
            f"its folder cannot be used: {error.strerror}",
            where=str(folder),
            todo="start it by its unit, or as root",
        ) from None
    if os.geteuid() == 0 and os.fstat(held).st_nlink == 1:
        os.fchown(held, user.pw_uid, user.pw_gid)  # that user's own agent may come next
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise AlreadyRunningError(
            "another agent runs with this folder",
            where=str(folder),
            todo="stop it, or give this one another --runtime",
        ) from None
    return held


def _shown(listening: socket.socket | None) -> str:
    if listening is None:
        return "none: OpenSSH does the transport"
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
