# SPDX-License-Identifier: Apache-2.0
"""Commands without a running agent: what root can do by itself, once."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from hub.agent.commands import Commands, Outcome
from hub.agent.keeper_link import Held, KeeperLink
from hub.agent.kernel.sources import open_sources
from hub.agent.place import FOLDER, KeeperError, Place, boottime, read_sysctl
from hub.agent.privileges import PrivilegeError
from hub.errors import HubError
from hub.tasks import Tasks


class DetachedLeases:
    """Leases through systemd's keeper, or one that is started for the request and its lease."""

    def __init__(self, proc: Path, runtime: Path, user: str) -> None:
        self._proc = proc
        self._runtime = runtime
        self._user = user

    async def engage(self, holder: str, seconds: int, ports: Sequence[int]) -> Held:
        """Give or renew a lease."""
        async with self._keeper() as keeper:
            return await keeper.engage(holder, seconds, ports)

    async def release(self, holder: str) -> Held:
        """End a lease."""
        async with self._keeper() as keeper:
            return await keeper.release(holder)

    async def restore(self) -> Held:
        """End all leases."""
        async with self._keeper() as keeper:
            return await keeper.restore()

    async def state(self, holder: str) -> Held:
        """Return what stands, as the keeper's file says."""
        return await asyncio.to_thread(self._state, holder)

    def _state(self, holder: str) -> Held:
        try:
            leases = Place(self._runtime / FOLDER).load()
        except OSError as error:
            raise KeeperError(f"the leases cannot be read: {error.strerror}") from None
        return Held(read_sysctl(self._proc), leases.old, leases.left(holder, boottime()))

    @contextlib.asynccontextmanager
    async def _keeper(self) -> AsyncIterator[KeeperLink]:
        keeper = await asyncio.to_thread(self._start)
        try:
            async with Tasks() as tasks:
                tasks.run("keeper", keeper.listen())
                yield keeper
        finally:
            keeper.close()

    def _start(self) -> KeeperLink:
        return KeeperLink.reach(self._runtime, self._proc, self._user, detached=True)


def run(line: str, tag: str, proc: Path, runtime: Path, keeper_user: str) -> Outcome:
    """Carry out a request line as root.

    Raises:
        HubError: not as root, or the kernel's keys cannot be read.
    """
    if os.geteuid() != 0:
        raise PrivilegeError(
            "no agent runs here", todo="start it: systemctl start fnm-agent, or run this as root"
        )
    leases = DetachedLeases(proc, runtime, keeper_user)
    kernel = open_sources(proc)
    try:
        return asyncio.run(Commands(kernel, proc, leases).run(line, f"local:{tag}"))
    finally:
        kernel.close()


def restore(proc: Path, runtime: Path, keeper_user: str) -> Outcome:
    """End all leases as root, and put the sysctl back."""
    try:
        held = asyncio.run(DetachedLeases(proc, runtime, keeper_user).restore())
    except HubError as error:
        return Outcome("", f"Error: {error}\n", 1)
    return Outcome(f"tcp_syncookies: {held.syncookies}\n")
