# SPDX-License-Identifier: Apache-2.0
"""Two SYN proxies at the same work: the kernel's own, and synproxyd in mode splice."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from tests.support.netns import (
    ACK,
    CLIENT,
    CLIENT6,
    GATEWAY,
    INSIDE,
    OUTSIDE,
    SERVER,
    SERVER4,
    SERVER6,
    SYN,
    Capture,
)
from tests.support.stack import ECHO, Stand, tcp_of
from tests.support.stack_daemon import Daemon, plain_daemon
from tests.support.stack_raw import Seen, Stranger, Wires, wires
from tests.support.stack_talk import Client, Server

T = TypeVar("T")

KERNEL_WSCALE: Final = 7
"""What the kernel's proxy announces, whatever the server has."""
_LOOSE: Final = "sys/net/netfilter/nf_conntrack_tcp_loose"
_STRICT: Final = "ct state invalid counter drop"
_KERNELS: Final = f"""
table inet proxy {{
  chain before {{
    type filter hook prerouting priority raw;
    iifname {OUTSIDE} ip daddr {SERVER4} tcp flags syn / fin,syn,rst,ack notrack
    iifname {OUTSIDE} ip6 daddr {SERVER6} tcp flags syn / fin,syn,rst,ack notrack
  }}
  chain forward {{
    type filter hook forward priority filter;
    iifname {OUTSIDE} ip daddr {SERVER4} meta l4proto tcp ct state invalid,untracked \
synproxy mss 1460 wscale {KERNEL_WSCALE} timestamp sack-perm
    iifname {OUTSIDE} ip6 daddr {SERVER6} meta l4proto tcp ct state invalid,untracked \
synproxy mss 1440 wscale {KERNEL_WSCALE} timestamp sack-perm
    {_STRICT}
  }}
}}
"""
_OURS: Final = f"""
table inet proxy {{
  chain forward {{
    type filter hook forward priority filter;
    {_STRICT}
  }}
}}
"""
_LARGE: Final = "4096 131072 67108864"
_SMALL: Final = 100_000
_SILENT: Final = "table inet silent {{ chain input {{ type filter hook input priority filter; \
tcp dport {port} drop; }}; }}"
_AROUND: Final = "203.0.113"


class ForkedStand(Stand):
    """A stand with an ordinary server, and another link from it to the client, not in use."""

    def _build(self) -> None:
        super()._build()
        self._join(SERVER, "around", CLIENT, "around")
        self._address(SERVER, "around", f"{_AROUND}.1/24")
        self._address(CLIENT, "around", f"{_AROUND}.2/24")
        self.make_ordinary()

    @asynccontextmanager
    async def around(self, client: str) -> AsyncIterator[None]:
        """Have the server answer a client over that link meanwhile."""
        route = (client, "via", f"{_AROUND}.2")
        await self.run(SERVER, "ip", "route", "add", *route)
        try:
            yield
        finally:
            await self.run(SERVER, "ip", "route", "delete", *route)

    @asynccontextmanager
    async def scaling(self, change: str) -> AsyncIterator[None]:
        """Have the server need a larger or a smaller window scale than usual meanwhile."""
        if change == "larger":
            async with self.setting(SERVER, {"tcp_rmem": _LARGE}):
                yield
            return
        route = ("ip", "route", "replace", "default", "via", "192.0.2.1")
        await self.run(SERVER, *route, "window", str(_SMALL))
        try:
            yield
        finally:
            await self.run(SERVER, *route)

    @asynccontextmanager
    async def silence(self, port: int) -> AsyncIterator[None]:
        """Have the server answer nothing on a port meanwhile, not even with a RST."""
        await self.run(SERVER, "nft", _SILENT.format(port=port))
        try:
            yield
        finally:
            await self.run(SERVER, "nft", "delete table inet silent")


class BridgedStand(ForkedStand):
    """A stand whose gateway is a bridge: client and server are neighbours."""

    def _build(self) -> None:
        super()._build()
        self.ip(GATEWAY, "link", "add", "bridge", "type", "bridge")
        self.ip(GATEWAY, "link", "set", "bridge", "up")
        for name in (OUTSIDE, INSIDE):
            self.ip(GATEWAY, "address", "flush", "dev", name)
            self.ip(GATEWAY, "link", "set", name, "master", "bridge")
        self._address(GATEWAY, "bridge", "192.0.2.1/24", "2001:db8:2::1/64")
        self.ip(CLIENT, "route", "replace", "192.0.2.0/24", "dev", "eth0")
        self.ip(CLIENT, "-6", "route", "replace", "2001:db8:2::/64", "dev", "eth0")
        self.ip(SERVER, "route", "replace", "default", "dev", "eth0")
        self.ip(SERVER, "-6", "route", "replace", "2001:db8:1::/64", "dev", "eth0")
        self.ip(SERVER, "-6", "route", "replace", "default", "via", CLIENT6, "dev", "eth0")


class Proxy:
    """A gateway that protects a server which is at work, and drops what conntrack cannot place."""

    def __init__(
        self, stand: ForkedStand, server: Server, outside: Wires, daemon: Daemon | None
    ) -> None:
        self.stand = stand
        self.server = server
        self._outside = outside
        self._daemon = daemon

    @property
    def daemon(self) -> Daemon:
        """The synproxyd at work."""
        assert self._daemon is not None
        return self._daemon

    async def taught(self, family: int = 4, port: int = ECHO) -> None:
        """Let it see how the server answers on a port; the kernel learns nothing."""
        if self._daemon is not None:
            await self.forget()
            before = (await self.daemon.counts())["splice_probe"]
            await self.server.client(family, port)
            assert (await self.daemon.counts())["splice_probe"] == before + 1

    async def forget(self) -> None:
        """Have it know nothing of the server, as after half a minute."""
        await asyncio.to_thread(self.daemon.forget_servers)

    async def proven(self) -> int:
        """Return for how many clients that have proven themselves the server was asked."""
        if self._daemon is not None:
            return (await self.daemon.counts())["splice_open"]
        text = await self.stand.files(GATEWAY).read("net/stat/synproxy")
        names, *rows = (line.split() for line in text.splitlines())
        return sum(int(row[names.index("cookie_valid")], 16) for row in rows)

    async def invalid(self) -> int:
        """Return how many packets have been dropped as invalid."""
        shown = await self.stand.nft("list", "chain", "inet", "proxy", "forward")
        return int(shown.partition("ct state invalid counter packets ")[2].split()[0])

    @asynccontextmanager
    async def lenient(self) -> AsyncIterator[None]:
        """Drop nothing as invalid meanwhile."""
        await self.stand.nft("flush chain inet proxy forward")
        try:
            yield
        finally:
            await self.stand.nft(f"add rule inet proxy forward {_STRICT}")

    @asynccontextmanager
    async def watched(self, proven: int | None = 1) -> AsyncIterator["Watch"]:
        """Record both ends of the path; fail unless so many clients were proven meanwhile."""
        before = await self.proven()
        async with (
            self.stand.capture(SERVER, "eth0") as inner,
            self.stand.capture(CLIENT, "eth0") as outer,
        ):
            yield Watch(inner, outer)
        assert proven is None or await self.proven() - before == proven

    def stranger(self, family: int = 4, port: int = ECHO) -> Stranger:
        """Return a client without a kernel."""
        return self._outside.stranger(family, port)

    async def handshake(self, options: bytes, flags: int = SYN) -> tuple[Seen, Seen]:
        """Have a client open a connection; return the SYN-ACK it got, and the SYN of the server."""
        stranger = self.stranger()
        async with self.watched() as watch:
            stranger.send(flags, options=options, window=64240)
            told = await stranger.hears()
            stranger.send()
        (asked,) = watch.asked(stranger.name[1])
        return told, asked

    async def fate(self, port: int) -> str:
        """Return what becomes of a connection that is opened and read from."""
        try:
            client = await self.server.client(4, port)
            async with asyncio.timeout(5):
                await client.reader.read()
        except (OSError, TimeoutError) as error:
            return type(error).__name__
        return "closed"


@dataclass(frozen=True)
class Watch:
    """What was seen where the server is, and where the client is."""

    inner: Capture
    outer: Capture

    def sent(self, port: int) -> list[Seen]:
        """Return what the client with this port has sent."""
        return _segments(self.outer, port, 0)

    def received(self, port: int) -> list[Seen]:
        """Return what the server got of it."""
        return _segments(self.inner, port, 0)

    def answered(self, port: int) -> list[Seen]:
        """Return what the server has sent to that port."""
        return _segments(self.inner, port, 2)

    def heard(self, port: int) -> list[Seen]:
        """Return what the client got of it."""
        return _segments(self.outer, port, 2)

    def asked(self, port: int) -> list[Seen]:
        """Return the SYNs that have reached the server."""
        return [one for one in self.received(port) if one.flags & (SYN | ACK) == SYN]


def _segments(capture: Capture, port: int, at: int) -> list[Seen]:
    wanted = port.to_bytes(2, "big")
    packets = capture.packets()
    return [Seen.read(one) for one in packets if tcp_of(one)[at : at + 2] == wanted]


def port_of(client: Client) -> int:
    """Return the client's port."""
    return client.name[1]


def echo_of(seen: Seen) -> int:
    """Return the timestamp that a segment sends back."""
    return int.from_bytes(seen.options[8][4:], "big")


def mss_of(seen: Seen) -> int:
    """Return the largest segment that is announced."""
    return int.from_bytes(seen.options[2], "big")


@asynccontextmanager
async def _within(make: Callable[[], AbstractContextManager[T]]) -> AsyncIterator[T]:
    # Each of these waits for files or other programs.
    made = await asyncio.to_thread(make)
    entered = await asyncio.to_thread(made.__enter__)
    try:
        yield entered
    finally:
        await asyncio.to_thread(made.__exit__, None, None, None)


@asynccontextmanager
async def _serving(stand: ForkedStand, rules: str, daemon: Daemon | None) -> AsyncIterator[Proxy]:
    await stand.nft(rules)
    await stand.files(GATEWAY).write(_LOOSE, "0")
    async with Server(stand).running() as server, wires(stand) as outside:
        if daemon is not None:
            await daemon.protect(await stand.profiles(), mode="splice")
        yield Proxy(stand, server, outside, daemon)


@asynccontextmanager
async def kernel_proxy() -> AsyncIterator[Proxy]:
    """Yield a gateway with the kernel's SYN proxy, set up as its manual says."""
    async with _within(ForkedStand) as stand, _serving(stand, _KERNELS, None) as made:
        yield made


@asynccontextmanager
async def splice_proxy(kind: type[ForkedStand] = ForkedStand) -> AsyncIterator[Proxy]:
    """Yield a gateway with synproxyd in mode splice, which is told nothing of the server."""
    async with (
        _within(kind) as stand,
        _within(lambda: Daemon(stand, plain_daemon())) as daemon,
        _serving(stand, _OURS, daemon) as made,
    ):
        yield made
