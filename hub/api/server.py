# SPDX-License-Identifier: Apache-2.0
"""Every listener of the hub, opened and closed together."""

import asyncio
import resource
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web

from hub.api.counters import Counters
from hub.api.daemon import Daemon
from hub.api.gates import (
    ClientCertificateGate,
    Gate,
    PasswordGate,
    PeerGate,
    SignatureGate,
    Tokens,
)
from hub.api.health import build_metrics_app
from hub.api.intake import IntakeOptions, build_intake_app
from hub.api.limits import Limits
from hub.api.listeners import serve_intake, serve_tcp, serve_unix
from hub.api.operator import build_operator_app
from hub.api.page.browsers import Visitors
from hub.api.page.serve import build_page_app
from hub.api.peers import resolve_users
from hub.api.secure import check_intake, check_page, has_client_ca, load_token, server_context
from hub.api.sockets import bound_address, listen_tcp, listen_unix
from hub.clock import Clock, SystemClock
from hub.config import Config, Page, TcpIntake
from hub.errors import ConfigError
from hub.intake.signing import Verifier, load_key

log = structlog.get_logger(__name__)

_DESCRIPTORS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Bound:
    """Where the hub listens.

    Attributes:
        api: the operator's socket.
        intake: the local detector's socket.
        tcp: address and port of the TCP intake, None where there is none.
        metrics: address and port of the metrics listener, None where there is none.
        page: address and port of the status page, None where it is on the socket alone.
    """

    api: Path
    intake: Path
    tcp: tuple[str, int] | None = None
    metrics: tuple[str, int] | None = None
    page: tuple[str, int] | None = None


@asynccontextmanager
async def serve(
    config: Config,
    daemon: Daemon,
    clock: Clock,
    *,
    wall: Clock | None = None,
    limits: Limits | None = None,
) -> AsyncIterator[Bound]:
    """Listen on everything that `config` names until the context ends.

    The intake opens last and closes first: what arrives meets a hub that is whole, and what
    would arrive later goes to its sender's spool.

    Args:
        config: the whole file.
        daemon: answers.
        clock: the daemon's own, in which its deadlines are.
        wall: the clock that other machines share with us; the machine's own unless given.
        limits: of connections; the defaults unless given.

    Raises:
        ConfigError: a listener is open to strangers, or a secret cannot be read.
        ListenError: an address or path cannot be used.
    """
    descriptors = await asyncio.to_thread(_raise_descriptor_limit)
    granted = _within(limits or Limits(), descriptors)
    opening = _Opening(config, daemon, clock, wall or SystemClock(), granted)
    async with AsyncExitStack() as stack:
        api = await opening.operator(stack)
        metrics = await opening.metrics(stack)
        page = await opening.page(stack)
        tcp = await opening.tcp(stack)
        intake = await opening.unix(stack)
        bound = Bound(api=api, intake=intake, tcp=tcp, metrics=metrics, page=page)
        log.info(
            "api.listening",
            api=str(bound.api),
            intake=str(bound.intake),
            tcp=bound.tcp,
            metrics=bound.metrics,
            page=bound.page,
        )
        yield bound


class _Opening:
    """Opens one listener after the other on an exit stack."""

    def __init__(
        self, config: Config, daemon: Daemon, clock: Clock, wall: Clock, limits: Limits
    ) -> None:
        self._config, self._daemon, self._clock = config, daemon, clock
        self._wall, self._limits = wall, limits
        self._counters = Counters()

    async def operator(self, stack: AsyncExitStack) -> Path:
        """Open the operator's socket."""
        api = self._config.api
        allowed = await asyncio.to_thread(resolve_users, api.allow_users, key="api.allow_users")
        sock = await asyncio.to_thread(
            listen_unix, api.path, group=api.group, backlog=self._limits.backlog
        )
        stack.callback(sock.close)
        app = build_operator_app(
            self._daemon,
            clock=self._clock,
            counters=self._counters,
            allowed=allowed,
            limits=self._limits,
        )
        await stack.enter_async_context(serve_unix(app, sock, api.path, self._limits))
        return api.path

    async def metrics(self, stack: AsyncExitStack) -> tuple[str, int] | None:
        """Open the metrics listener, where one is configured."""
        api = self._config.api
        if api.metrics_port is None:
            return None
        app = build_metrics_app(self._daemon, self._counters)
        address = (api.metrics_host, api.metrics_port)
        return await self._open_tcp(stack, app, address, key="api.metrics_host", name="metrics")

    async def page(self, stack: AsyncExitStack) -> tuple[str, int] | None:
        """Open the listener for browsers, where one is configured and safe."""
        page = self._config.api.page
        problems = check_page(page, "the configuration")
        if problems:
            raise ConfigError(problems)
        if page is None:
            return None
        context = None
        if page.tls is not None:
            context = await asyncio.to_thread(server_context, page.tls, webhooks=False)
        app = build_page_app(
            self._daemon,
            clock=self._clock,
            gates=await asyncio.to_thread(_page_gates, page),
            visitors=Visitors(page.names, short=False),
            counters=self._counters,
        )
        return await self._open_tcp(
            stack, app, (page.host, page.port), key="api.page", name="page", context=context
        )

    async def _open_tcp(
        self,
        stack: AsyncExitStack,
        app: web.Application,
        address: tuple[str, int],
        *,
        key: str,
        name: str,
        context: ssl.SSLContext | None = None,
    ) -> tuple[str, int]:
        sock = await asyncio.to_thread(listen_tcp, *address, key=key, backlog=self._limits.backlog)
        bound = bound_address(sock)
        await stack.enter_async_context(
            serve_tcp(
                app,
                sock,
                self._limits,
                name=name,
                clock=self._clock,
                counters=self._counters,
                context=context,
            )
        )
        return bound

    async def unix(self, stack: AsyncExitStack) -> Path:
        """Open the local detector's socket."""
        unix = self._config.intake.unix
        key = "intake.unix.allow_users"
        allowed = await asyncio.to_thread(resolve_users, unix.allow_users, key=key)
        sock = await asyncio.to_thread(
            listen_unix, unix.path, group=unix.group, backlog=self._limits.backlog
        )
        stack.callback(sock.close)
        options = IntakeOptions(
            via="unix",
            gates=(PeerGate(allowed, key=key),),
            max_body=unix.max_body,
            limits=self._limits,
        )
        app = build_intake_app(
            self._daemon,
            options,
            clock=self._wall,
            counters=self._counters,
        )
        await stack.enter_async_context(
            serve_intake(
                app,
                sock,
                unix.path,
                self._limits,
                clock=self._clock,
                counters=self._counters,
            )
        )
        return unix.path

    async def tcp(self, stack: AsyncExitStack) -> tuple[str, int] | None:
        """Open the TCP intake, where one is configured and safe."""
        intake = self._config.intake
        problems = check_intake(intake, "the configuration")
        if problems:
            raise ConfigError(problems)
        tcp = intake.tcp
        if tcp is None:
            return None
        context = None
        if tcp.tls is not None:
            context = await asyncio.to_thread(
                server_context, tcp.tls, webhooks=bool(intake.webhooks)
            )
        options = await asyncio.to_thread(self._tcp_options, tcp)
        app = build_intake_app(
            self._daemon,
            options,
            clock=self._wall,
            counters=self._counters,
        )
        return await self._open_tcp(
            stack, app, (tcp.host, tcp.port), key="intake.tcp", name="tcp", context=context
        )

    def _tcp_options(self, tcp: TcpIntake) -> IntakeOptions:
        webhooks = self._config.intake.webhooks
        tokens = [(webhook.detector, load_token(webhook.token_file)) for webhook in webhooks]
        return IntakeOptions(
            via="tcp",
            gates=self._tcp_gates(tcp),
            max_body=tcp.max_body,
            tokens=Tokens(tokens) if tokens else None,
            limits=self._limits,
        )

    def _tcp_gates(self, tcp: TcpIntake) -> tuple[Gate, ...]:
        gates: list[Gate] = []
        if has_client_ca(tcp):
            gates.append(ClientCertificateGate())
        if tcp.hmac_keys:
            keys = {key.id: load_key(key.secret_file) for key in tcp.hmac_keys}
            gates.append(SignatureGate(Verifier(keys, tcp.max_clock_skew), self._wall))
        return tuple(gates)


def _page_gates(page: Page) -> tuple[Gate, ...]:
    gates: list[Gate] = []
    if page.tls is not None and page.tls.client_ca is not None:
        gates.append(ClientCertificateGate())
    if page.users:
        tokens = [(user.name, load_token(user.token_file)) for user in page.users]
        gates.append(PasswordGate(Tokens(tokens)))
    return tuple(gates)


def _raise_descriptor_limit() -> int:
    """Return how many descriptors we may have, after raising that as far as we can."""
    # A burst of detector calls is a burst of connections; the usual soft limit is 1024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return _DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def _within(limits: Limits, descriptors: int) -> Limits:
    """Return `limits`, cut so that connections leave descriptors to journal, engines, operators."""
    return replace(
        limits,
        connections=min(limits.connections, max(1, descriptors // 8)),
        local=min(limits.local, max(1, descriptors // 4)),
    )
