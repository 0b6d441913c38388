# SPDX-License-Identifier: Apache-2.0
"""One agent over SSH: a kept connection, on which each command is a channel of its own.

Only host keys that a person has pinned are taken, only our own key is offered, and nothing is
read from anybody's ~/.ssh. What comes back is bounded in bytes and time.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import asyncssh
import structlog

from hub.clock import Clock
from hub.errors import HubError, RefusedError
from hub.isn_sync.channel import Channel, bounds_of, one_line
from hub.isn_sync.identity import ALGORITHM, Identity, fingerprint
from hub.isn_sync.inventory import Agent
from hub.isn_sync.pins import Pins
from hub.isn_sync.wire import Client, Wire

log = structlog.get_logger(__name__)

# At the level below it writes three lines for each command, with the command.
logging.getLogger("asyncssh").setLevel(logging.WARNING)

Work = Callable[[], None]

KEEPALIVE_S: Final = 4
KEEPALIVES: Final = 1
"""An agent that hangs is known within 8 s, and one connection's time limit."""
_TRY_CURRENT_S: Final = 60.0
"""How often an agent that knows only the previous key is offered the current one."""
_CIPHERS: Final = (
    # The first costs two thirds of the second here; see RFC 5647.
    "aes128-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
)
_WINDOW: Final = 2 * 2**20
_CLOSE_S: Final = 1.0
_STABLE_S: Final = 2.0
"""What is lost sooner is no sign of anything new: asking again at once would not end."""
_ERROR: Final = "Error:"
_SHOW_KEY: Final = "give the agent the line that this shows: fnm-hub key show"


class UnreachableError(HubError):
    """The agent does not answer, or not in time, or not in SSH: it may later."""

    retryable = True


class HostKeyError(HubError):
    """The agent's host key is not the pinned one; nothing was sent.

    Args:
        what: what went wrong, in one clause.
        offered: the fingerprint that it showed.
        changed: another key is pinned; False where none is.
        where: the agent.
        todo: the next step.
    """

    def __init__(self, what: str, *, offered: str, changed: bool, where: str, todo: str) -> None:
        self.offered, self.changed = offered, changed
        super().__init__(what, where=where, todo=todo)


class DeniedError(HubError):
    """The agent does not accept our key."""


class CommandError(HubError):
    """The agent answered that it will not or cannot, or not as agreed."""


@dataclass(frozen=True, slots=True, repr=False)
class Reply:
    """What a command printed; it may hold secrets and shows none of them.

    Attributes:
        text: standard output.
        sent: monotonic seconds just before the command left.
        received: the same when the last of the output came.
    """

    text: str
    sent: float
    received: float

    def __repr__(self) -> str:
        """Return the size alone."""
        return f"<Reply of {len(self.text)} characters>"


class Link:
    """The way to one agent. Commands may run at the same time.

    Args:
        agent: where it is.
        identity: our key.
        pins: the host keys that are trusted.
        clock: of the hub.
        timeout: seconds for connecting, and again for a command (six times that for long ones).
    """

    def __init__(
        self, agent: Agent, identity: Identity, pins: Pins, clock: Clock, timeout: float = 5.0
    ) -> None:
        self._agent, self._identity, self._pins = agent, identity, pins
        self._clock, self._timeout = clock, timeout
        self._wire: Wire | None = None
        self._wires: set[Wire] = set()
        self._connecting = asyncio.Lock()
        self._seen: asyncssh.SSHKey | None = None
        self.on_loss: Work = _nothing
        """Is called when a connection that stood for a while was lost, by whatever cause."""
        self.offered_key: asyncssh.SSHKey | None = None
        """The host key that was shown last and is not trusted; None once one was."""

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""
        return self._wire is not None and self._wire.is_open

    @property
    def host_key(self) -> str:
        """Fingerprint of the trusted host key, the one proved last if there are several."""
        pinned = self._pins.pinned(self._agent)
        if self._seen in pinned:
            return fingerprint(self._seen)
        return fingerprint(pinned[0]) if pinned else ""

    @property
    def offered(self) -> str:
        """Fingerprint of the host key that waits for trust; empty where none does."""
        return "" if self.offered_key is None else fingerprint(self.offered_key)

    @property
    def used_previous_key(self) -> bool:
        """Whether the agent let us in by a key that is not our current one."""
        return self._wire is not None and self._wire.used != self._identity.current

    async def run(self, command: str) -> Reply:
        """Have the agent carry out one command.

        A kept connection that turns out to be lost is made anew, once and at once.

        Raises:
            UnreachableError: no answer.
            HostKeyError: its host key is not trusted.
            DeniedError: it does not accept our key.
            CommandError: it says no, or too much.
            FileError: the file of trusted keys cannot be read.
        """
        wire, is_fresh = await self._connection()
        reply = await self._try(wire, command)
        if reply is None and not is_fresh and not wire.is_ended:
            wire, _ = await self._connection()
            reply = await self._try(wire, command)
        if reply is None:
            raise self._unreachable("the connection was lost")
        return reply

    async def trust(self, fingerprint: str) -> None:
        """Pin the host key that the agent has shown.

        Args:
            fingerprint: of the key that is meant.

        Raises:
            RefusedError: it has shown another key, or none that waits for trust.
            FileError: the file of trusted keys cannot be written.
        """
        if (key := self.offered_key) is None or fingerprint != self.offered:
            raise RefusedError(
                f"it has shown {self.offered or 'no key that is not trusted'}, not that one",
                where=self._agent.name,
                todo="ask again: fnm-hub agents",
            )
        await self._pins.trust(self._agent, key)
        self.offered_key = None

    async def close(self) -> None:
        """End the connection and all that runs on it; a later command makes a new one."""
        async with self._connecting:
            wires, self._wires, self._wire = self._wires, set(), None
        for wire in wires:
            wire.is_ended = True
            wire.ssh.close()
        for wire in wires:
            with contextlib.suppress(TimeoutError, OSError, asyncssh.Error):
                async with asyncio.timeout(_CLOSE_S):
                    await wire.ssh.wait_closed()
            wire.ssh.abort()

    async def _connection(self) -> tuple[Wire, bool]:
        """Return a connection, and whether it was made just now."""
        try:
            async with asyncio.timeout(self._timeout), self._connecting:
                await self._pins.refresh()
                if self._wire is not None and self._may_use(self._wire):
                    return self._wire, False
                self._retire(self._wire)
                self._wire = await self._connect()
                return self._wire, True
        except TimeoutError:
            raise self._unreachable(f"no connection within {self._timeout:g} s") from None

    def _may_use(self, wire: Wire) -> bool:
        if not wire.is_open or wire.host_key not in self._pins.pinned(self._agent):
            return False
        if wire.used == self._identity.current:
            return True
        # The agent may have got the current key meanwhile, and who changes keys waits for that.
        was_offered = wire.current == self._identity.current
        is_young = self._clock.monotonic() - wire.since < _TRY_CURRENT_S
        return wire.used == self._identity.previous and was_offered and is_young

    def _retire(self, wire: Wire | None) -> None:
        """Use `wire` no more, and end it when nothing runs on it any more."""
        if wire is not None and wire is self._wire:
            self._wire = None
        if wire is not None and not wire.running:
            wire.ssh.abort()
            self._wires.discard(wire)

    async def _connect(self) -> Wire:
        ours = self._identity.keys()
        client = Client(list(ours), self._note_loss)
        trusted, revoked = self._pins.pinned(self._agent), self._pins.revoked(self._agent)
        try:
            ssh = await asyncssh.connect(
                str(self._agent.host),
                self._agent.port,
                config=None,
                client_factory=lambda: client,
                username=self._agent.user,
                known_hosts=(trusted, (), revoked),
                server_host_key_algs=[ALGORITHM],
                x509_trusted_certs=None,
                x509_trusted_cert_paths=[],
                client_keys=None,
                agent_path=None,
                preferred_auth="publickey",
                password_auth=False,
                kbdint_auth=False,
                host_based_auth=False,
                gss_auth=False,
                gss_kex=False,
                encryption_algs=list(_CIPHERS),
                compression_algs=["none"],
                keepalive_interval=KEEPALIVE_S,
                keepalive_count_max=KEEPALIVES,
                connect_timeout=self._timeout,
                login_timeout=self._timeout,
            )
        except asyncssh.HostKeyNotVerifiable:
            raise self._not_trusted(client.offered, changed=bool(trusted)) from None
        except asyncssh.PermissionDenied:
            raise DeniedError(
                "it does not accept the hub's key", where=self._agent.name, todo=_SHOW_KEY
            ) from None
        except asyncssh.KeyExchangeFailed as error:
            raise self._unreachable(
                f"no common algorithm: {one_line(error.reason)}",
                todo="the agent's sshd must have an ed25519 host key",
            ) from None
        except TimeoutError:
            raise
        except (OSError, asyncssh.Error, ValueError, EOFError) as error:
            raise self._unreachable(_reason(error)) from None
        now = self._clock.monotonic()
        wire = Wire(ssh, client, client.used, current=ours[0], since=now)
        self._wires.add(wire)
        self._seen, self.offered_key = wire.host_key, None
        log.debug(
            "isn.connected",
            agent=self._agent.name,
            host_key=self.host_key,
            key="current" if wire.used == self._identity.current else "previous",
        )
        return wire

    def _note_loss(self, client: Client) -> None:
        wire = self._wire
        if wire is None or wire.client is not client:
            return  # given up by ourselves, or never used
        if self._clock.monotonic() - wire.since >= _STABLE_S:
            self.on_loss()

    async def _try(self, wire: Wire, command: str) -> Reply | None:
        """Run `command` on `wire`; None when the connection is lost."""
        bounds = bounds_of(command)
        channel = Channel(self._clock, bounds.most)
        patience = self._timeout * bounds.patience
        wire.running += 1
        try:
            async with asyncio.timeout(patience):
                chan, _ = await wire.ssh.create_session(
                    lambda: channel,
                    command,
                    encoding=None,
                    window=min(bounds.most, _WINDOW),
                    send_env=None,
                    env=None,
                    request_pty=False,
                )
                chan.write_eof()
                # Shielded: a wait that is cancelled would cancel what says whether it has ended.
                lost = await asyncio.shield(channel.over)
        except TimeoutError:
            raise self._unreachable(f"no answer within {patience:g} s") from None
        except asyncssh.ChannelOpenError as error:
            channel.abort()
            if not wire.is_open:
                return None
            raise self._refused(f"it refuses the command: {one_line(error.reason)}") from None
        except (OSError, asyncssh.Error):
            return None
        finally:
            wire.running -= 1
            # What was left in the middle may have left its channel open; the next command has a
            # better chance on a new connection.
            if not channel.over.done() or wire is not self._wire:
                channel.abort()
                self._retire(wire)
        ended_early = channel.status is None and not channel.flooded and not wire.is_open
        return None if lost is not None or ended_early else self._judged(channel)

    def _judged(self, channel: Channel) -> Reply:
        if channel.flooded:
            raise self._refused("it answers far more than it should")
        if channel.status == 0:
            return Reply(channel.output, channel.sent, channel.received)
        said = one_line(channel.errors.decode("utf-8", "replace"))
        if not said and (output := channel.output).startswith(_ERROR):
            said = one_line(output.partition("\n")[0])
        ended = "was killed" if channel.status is None else f"ended with {channel.status}"
        raise self._refused(said.removeprefix(_ERROR).strip() or f"its command {ended}")

    def _not_trusted(self, key: asyncssh.SSHKey | None, *, changed: bool) -> HostKeyError:
        self.offered_key = key
        what = "its host key is not the trusted one" if changed else "its host key is not known"
        return HostKeyError(
            what if key is not None else "its host key is revoked",
            offered=self.offered,
            changed=changed,
            where=self._agent.name,
            todo=f"compare it and then: fnm-hub agents trust {self._agent.name}",
        )

    def _refused(self, what: str) -> CommandError:
        return CommandError(what, where=self._agent.name)

    def _unreachable(self, what: str, todo: str = "") -> UnreachableError:
        return UnreachableError(what, where=self._agent.name, todo=todo)


def _nothing() -> None:
    return


def _reason(error: Exception) -> str:
    if isinstance(error, asyncssh.Error):
        return one_line(error.reason) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        return one_line(error.strerror).lower()
    return f"it does not speak SSH as it should ({type(error).__name__})"
