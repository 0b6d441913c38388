# SPDX-License-Identifier: Apache-2.0
"""One SSH connection to an agent, and what was shown while it was made."""

from collections.abc import Callable

import asyncssh

from hub.isn_sync.identity import Key


class Client(asyncssh.SSHClient):
    """Notes the host key that is not trusted, and which of our keys was taken.

    Args:
        keys: to be offered, in order.
        lost: is called with this object when the connection has ended.
    """

    def __init__(self, keys: list[Key], lost: Callable[["Client"], None]) -> None:
        self._keys, self._lost = keys, lost
        self.offered: asyncssh.SSHKey | None = None
        self.used: Key | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that the connection has ended, for whatever reason."""
        del exc
        self._lost(self)

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Trust nothing beyond what is pinned."""
        del host, addr, port
        self.offered = key
        return False

    def public_key_auth_requested(self) -> list[asyncssh.SSHKey] | None:
        """Offer the next key; the last one offered is the one that was taken."""
        self.used = self._keys.pop(0) if self._keys else None
        return None if self.used is None else [self.used.private]


class Wire:
    """One connection, and how many commands run on it.

    Args:
        ssh: the connection.
        client: what it says goes there.
        used: the key of ours that was taken.
        current: our current key when it was made.
        since: monotonic seconds when it was made.
    """

    def __init__(
        self,
        ssh: asyncssh.SSHClientConnection,
        client: Client,
        used: Key | None,
        *,
        current: Key,
        since: float,
    ) -> None:
        self.ssh, self.client, self.used = ssh, client, used
        self.current, self.since = current, since
        self.host_key = ssh.get_server_host_key()
        self.running = 0
        self.is_ended = False

    @property
    def is_open(self) -> bool:
        """Whether a command may be started on it."""
        return not self.ssh.is_closed()
