# SPDX-License-Identifier: Apache-2.0
"""The one kernel setting that SYNPROXY needs changed: recorded first, given back at the end.

Without `nf_conntrack_tcp_loose=0` conntrack takes a client's last ACK of the handshake for a
connection it has missed, and the proxy never sees it.
"""

import asyncio
import json
from pathlib import Path
from typing import Final, Protocol

import structlog

from hub.errors import EngineError, EnginePermanentError

log = structlog.get_logger(__name__)

LOOSE: Final = "sys/net/netfilter/nf_conntrack_tcp_loose"
SETTING: Final = "net.netfilter.nf_conntrack_tcp_loose"
STRICT: Final = "0"
STATE_KEY: Final = "nftables.sysctl"


class StateStore(Protocol):
    """Small values that survive the process, each durable once `put` has returned."""

    async def get(self, key: str) -> str | None:
        """Return what was put last, None where nothing was."""
        ...

    async def put(self, key: str, value: str) -> None:
        """Keep `value` durably."""
        ...


class KernelFiles(Protocol):
    """Files of /proc, as seen from the network namespace that is protected."""

    async def read(self, path: str) -> str:
        """Return the text of a file below /proc; raises OSError."""
        ...

    async def write(self, path: str, text: str) -> None:
        """Write a file below /proc; raises OSError."""
        ...


class Proc:
    """/proc of this process, and so of its own network namespace."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = root

    async def read(self, path: str) -> str:
        """Return the text of a file below /proc."""
        return await asyncio.to_thread((self._root / path).read_text)

    async def write(self, path: str, text: str) -> None:
        """Write a file below /proc."""
        await asyncio.to_thread((self._root / path).write_text, text)


class TcpTracking:
    """Keeps conntrack strict while a SYN proxy is on.

    Args:
        files: the kernel's settings.
        store: keeps the former value across crashes.
        manage: False leaves the setting to the operator.
    """

    def __init__(self, files: KernelFiles, store: StateStore, *, manage: bool) -> None:
        self._files, self._store, self._manage = files, store, manage
        self._nothing_kept = False

    async def check(self) -> str:
        """Say what `hold` would do; raises as it does."""
        current = await self._read()
        if current == STRICT:
            return f"{SETTING} is {STRICT} already"
        self._may_change(current)
        return f"set {SETTING} from {current} to {STRICT}, and back when the last SYN proxy ends"

    async def hold(self) -> None:
        """Make conntrack strict; what it was is durable before it is changed.

        Raises:
            EnginePermanentError: the setting is missing or must not be changed.
        """
        current = await self._read()
        if current == STRICT:
            return
        self._may_change(current)
        self._nothing_kept = False
        await self._store.put(STATE_KEY, json.dumps({SETTING: {"was": current, "set": STRICT}}))
        await self._write(STRICT)
        log.info("nftables.sysctl_set", setting=SETTING, was=current, now=STRICT)

    async def restore(self) -> None:
        """Give back what `hold` has changed, unless somebody else has changed it since."""
        if self._nothing_kept:
            return
        recorded = await self._recorded()
        if recorded is None:
            self._nothing_kept = True
            return
        current = await self._read()
        if current == STRICT:
            await self._write(recorded)
            log.info("nftables.sysctl_restored", setting=SETTING, was=current, now=recorded)
        await self._store.put(STATE_KEY, "{}")
        self._nothing_kept = True

    async def _recorded(self) -> str | None:
        text = await self._store.get(STATE_KEY)
        try:
            recorded = json.loads(text or "{}").get(SETTING, {}).get("was")
        except (ValueError, AttributeError):
            recorded = None
        return recorded if isinstance(recorded, str) else None

    def _may_change(self, current: str) -> None:
        if not self._manage:
            raise EnginePermanentError(
                f"is {current}, and SYNPROXY works only with {STRICT}",
                where=SETTING,
                todo=f"run sysctl -w {SETTING}={STRICT}, or set manage_sysctls: true",
            )

    async def _read(self) -> str:
        try:
            return (await self._files.read(LOOSE)).strip()
        except OSError as error:
            raise _unusable(error) from error

    async def _write(self, value: str) -> None:
        try:
            await self._files.write(LOOSE, value)
        except OSError as error:
            raise _unusable(error) from error


def _unusable(error: OSError) -> EngineError:
    if isinstance(error, FileNotFoundError):
        return EnginePermanentError(
            "does not exist", where=SETTING, todo="load the kernel module nf_conntrack"
        )
    return EnginePermanentError(
        f"cannot be read or changed: {error.strerror}",
        where=SETTING,
        todo="give the hub CAP_NET_ADMIN, and ReadWritePaths=/proc/sys/net (ProtectKernelTunables)",
    )
