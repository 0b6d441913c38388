# SPDX-License-Identifier: Apache-2.0
"""The agent's SSH server: ed25519 keys from a file, commands, and no other service of SSH."""

import asyncio
import contextlib
import errno
import socket
import struct
from collections import Counter
from contextvars import ContextVar
from typing import Final, cast

import asyncssh
import structlog
from asyncssh.kex import get_kex_algs

from hub.agent.channel import Channel, Session
from hub.agent.commands import Commands
from hub.agent.keys import Key, KeysFile, fingerprint
from hub.agent.limits import Door, Limits, Refusal, Ticket
from hub.clock import Clock
from hub.tasks import Tasks

_KEX: Final = (b"mlkem768x25519-sha256", b"curve25519-sha256", b"curve25519-sha256@libssh.org")
"""Cheap for us: a stranger can make us do one of these for each connection."""
_CIPHERS: Final = (
    "chacha20-poly1305@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-gcm@openssh.com",
    "aes256-ctr",
)
_MACS: Final = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256")
_WINDOW: Final = 32768
_BEFORE_LOGIN_BYTES: Final = 1 << 18
"""More than any login needs, and less than a storm of key exchanges."""
_KEEPALIVE_S: Final = 15
_KEEPALIVES: Final = 3
_QUIET_S: Final = 10.0
_NO_FILES_S: Final = 0.2
_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)

_arriving: ContextVar["Peer"] = ContextVar("arriving")

log = structlog.get_logger(__name__)


def options(host_key: asyncssh.SSHKey, limits: Limits) -> asyncssh.SSHServerConnectionOptions:
    """Return asyncssh's options: everything off but public keys and exec."""
    return asyncssh.SSHServerConnectionOptions(
        server_factory=_arriving.get,
        server_host_keys=[host_key],
        server_version="fnm-agent",
        kex_algs=[name.decode() for name in _KEX if name in get_kex_algs()],
        encryption_algs=list(_CIPHERS),
        mac_algs=list(_MACS),
        compression_algs=["none"],
        signature_algs=["ssh-ed25519"],
        login_timeout=limits.login_s,
        keepalive_interval=_KEEPALIVE_S,
        keepalive_count_max=_KEEPALIVES,
        public_key_auth=True,
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        allow_pty=False,
        line_editor=False,
        agent_forwarding=False,
        x11_forwarding=False,
        sftp_factory=None,
        allow_scp=False,
        encoding=None,
        window=_WINDOW,
    )


class Complaints:
    """Says the same thing at most every ten seconds, with how often it happened."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._said: dict[str, float] = {}

    def note(self, event: str, why: str, **detail: object) -> None:
        """Count one `why`, which must come from a fixed set; perhaps say so."""
        self._counts[why] += 1
        now = self._clock.monotonic()
        if now - self._said.get(why, -_QUIET_S) < _QUIET_S:
            return
        self._said[why] = now
        log.warning(
            event,
            why=why,
            times=self._counts.pop(why),
            **detail,
            todo="open TCP 7100 for the hubs alone; fnm-hub key show tells their key",
        )


class Connection(asyncssh.SSHServerConnection):
    """An SSH connection that is given up when it costs more than a client may."""

    def __init__(
        self, base: asyncssh.SSHServerConnectionOptions, peer: "Peer", limits: Limits
    ) -> None:
        super().__init__(asyncio.get_running_loop(), base)
        self._peer = peer
        self._bounds = limits
        self._wire: asyncio.Transport | None = None
        self._before_login = 0
        self._flowing = asyncio.Event()
        self._flowing.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make the peer that waits for this connection its owner."""
        self._wire = cast("asyncio.Transport", transport)
        self._peer.connection = self
        kept = _arriving.set(self._peer)
        try:
            super().connection_made(transport)
        finally:
            _arriving.reset(kept)
        if self._peer.unwanted:
            self.abort()

    def connection_lost(self, exc: Exception | None = None) -> None:
        """Give the place back."""
        super().connection_lost(exc)
        self._flowing.set()
        self._peer.gone()

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        """Look at what it costs before looking at what it says."""
        if self._wire is not None:
            if not self._peer.ticket.proven:
                self._before_login += len(data)
                if self._before_login > _BEFORE_LOGIN_BYTES:
                    self._peer.abort("sends too much before its login")
                    return
            if self._wire.get_write_buffer_size() > self._bounds.backlog_bytes:
                self._peer.abort("does not read")
                return
        super().data_received(data, datatype)

    def pause_writing(self) -> None:
        """Note that the client is behind."""
        self._flowing.clear()

    def resume_writing(self) -> None:
        """Note that the client takes more."""
        self._flowing.set()

    async def drained(self) -> None:
        """Wait until the client has taken most of what was sent."""
        await self._flowing.wait()


class Peer(asyncssh.SSHServer):
    """Whoever is at the other end of one connection."""

    def __init__(self, server: "Server", ticket: Ticket, address: str) -> None:
        self.ticket = ticket
        self.address = address
        self.key: Key | None = None
        self.connection: Connection | None = None
        self.unwanted = False
        self._server = server
        self._tried: Key | None = None
        self._attempts = 0
        self._sessions = 0

    def begin_auth(self, username: str) -> bool:
        """Ask everybody for a key, whatever the name."""
        del username
        return True

    def public_key_auth_supported(self) -> bool:
        """Take public keys."""
        return True

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Look the key up; that its owner holds it, asyncssh proves."""
        del username
        self._attempts += 1
        if self._attempts > self._server.limits.attempts:
            self.abort("tries too many keys")
            return False
        blob = key.public_data
        self._tried = await asyncio.to_thread(self._server.keys.find, blob)
        if self._tried is None:
            self._server.complaints.note(
                "agent.key_refused",
                "the key is not in the keys file",
                address=self.address,
                fingerprint=fingerprint(blob),
            )
        return self._tried is not None

    def auth_completed(self) -> None:
        """Remember who it is."""
        self.key = self._tried
        self._server.door.prove(self.ticket)
        if self.key is not None:
            log.info(
                "agent.login",
                tag=self.key.tag,
                fingerprint=self.key.fingerprint,
                address=self.address,
            )

    def session_requested(self) -> bool | tuple[Channel, Session]:
        """Open a channel for one command."""
        if self.connection is None or self._sessions >= self._server.limits.sessions:
            self._server.complaints.note("agent.refused", "too many sessions", address=self.address)
            return False
        self._sessions += 1
        channel = Channel(
            self.connection,
            asyncio.get_running_loop(),
            allow_pty=False,
            line_editor=False,
            line_echo=False,
            line_history=0,
            max_line_length=0,
            encoding=None,
            errors="strict",
            window=_WINDOW,
            max_pktsize=_WINDOW,
        )
        return channel, Session(self._server.limits, self._start, self._over, self.abort)

    def connection_requested(self, *_: object) -> bool:
        """Refuse to connect to anything, and say that it is a matter of principle."""
        raise asyncssh.ChannelOpenError(
            asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "nothing is forwarded"
        )

    def unix_connection_requested(self, dest_path: str) -> bool:
        """Refuse the same to a Unix socket."""
        return self.connection_requested(dest_path)

    def abort(self, why: str) -> None:
        """Close the connection at once."""
        self._server.complaints.note("agent.refused", why, address=self.address)
        self.unwanted = True
        if self.connection is not None:
            self.connection.abort()

    def gone(self) -> None:
        """Give the place back; may be called again."""
        self._server.leave(self)

    def _start(self, session: Session, line: str) -> None:
        self._server.command(self, session, line)

    def _over(self, _: Session) -> None:
        self._sessions -= 1


class Server:
    """Lets connections in and carries their commands out."""

    def __init__(
        self,
        keys: KeysFile,
        commands: Commands,
        base: asyncssh.SSHServerConnectionOptions,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self.keys = keys
        self.limits = limits
        self.door = Door(limits, clock.monotonic())
        self.complaints = Complaints(clock)
        self._commands = commands
        self._base = base
        self._clock = clock
        self._peers: dict[Ticket, Peer] = {}
        self._tasks = Tasks()

    async def serve(self, listening: socket.socket) -> None:
        """Accept connections until cancelled, then close all."""
        async with self._tasks:
            try:
                await self._accept(listening)
            finally:
                for peer in list(self._peers.values()):
                    if peer.connection is not None:
                        peer.connection.abort()

    def leave(self, peer: Peer) -> None:
        """Forget a connection."""
        self.door.leave(peer.ticket)
        self._peers.pop(peer.ticket, None)

    def command(self, peer: Peer, session: Session, line: str) -> None:
        """Begin to carry out a request."""
        self._tasks.run("command", self._command(peer, session, line))

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                made, place = await loop.sock_accept(listening)
            except OSError as error:
                # Out of descriptors or memory, or a client that was gone already.
                if error.errno != errno.ECONNABORTED:
                    self.complaints.note("agent.refused", "accept failed", error=str(error))
                    await self._clock.sleep(_NO_FILES_S)
                continue
            self._admit(made, str(place[0]))

    def _admit(self, made: socket.socket, address: str) -> None:
        entry = self.door.knock(address, self._clock.monotonic())
        if isinstance(entry, Refusal):
            self.complaints.note("agent.refused", entry.value, address=address)
            with contextlib.suppress(OSError):
                # A reset leaves no state behind, however many they are.
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            made.close()
            return
        if entry.evicted is not None and (other := self._peers.get(entry.evicted)) is not None:
            other.abort("its place was needed before it had logged in")
        peer = Peer(self, entry.ticket, address)
        self._peers[entry.ticket] = peer
        self._tasks.run("connection", self._connect(peer, made))

    async def _connect(self, peer: Peer, made: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                lambda: Connection(self._base, peer, self.limits), made
            )
        except OSError:
            made.close()
            peer.gone()

    async def _command(self, peer: Peer, session: Session, line: str) -> None:
        began = self._clock.monotonic()
        key, connection = peer.key, peer.connection
        if key is None or connection is None:
            return
        if await asyncio.to_thread(self.keys.find, key.blob) is None:
            peer.abort("its key is no longer in the keys file")
            return
        outcome = await self._commands.run(line, key.fingerprint)
        sent = False
        try:
            async with asyncio.timeout(self.limits.answer_s):
                sent = await session.answer(outcome, connection.drained)
        except TimeoutError:
            peer.abort("does not read")
        except OSError:
            pass  # the channel was closed by the client meanwhile
        log.info(
            "agent.command",
            tag=key.tag,
            fingerprint=key.fingerprint,
            address=peer.address,
            command="".join(sign for sign in line.partition(" ")[0][:32] if sign.isalnum()),
            seconds=round(self._clock.monotonic() - began, 6),
            bytes=len(outcome.text),
            outcome=outcome.status if sent else "not taken",
        )
