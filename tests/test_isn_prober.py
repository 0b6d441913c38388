# SPDX-License-Identifier: Apache-2.0
"""Probes against this machine's own kernel, from a gateway to a server in namespaces."""

import asyncio
import os
import resource
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from ipaddress import ip_address
from typing import Any, TypeVar

import pytest

from hub.clock import SystemClock
from hub.isn_sync.exchange import Exchange
from hub.isn_sync.prober import Prober, UnroutableError, _Waiting
from hub.isn_sync.segments import Reset, Syn, SynAckSegment, build, parse
from hub.net import IPAddress
from tests.support.netns import (
    CLIENT4,
    GATEWAY,
    INSIDE,
    RST,
    SERVER,
    SERVER4,
    SERVER6,
    Lab,
    inside,
    ip_packet,
    run,
)

T = TypeVar("T")
Work = Callable[[Prober], Coroutine[Any, Any, T]]

PORT = 8080
GATEWAY_INSIDE4 = "192.0.2.1"
GATEWAY_INSIDE6 = "2001:db8:2::1"
BOTH = pytest.mark.parametrize("server", [SERVER4, SERVER6], ids=["v4", "v6"])


class Server:
    """The lab with one listener, and probes of it from the gateway."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.cookies(1)
        self.listener = inside(lab.names[SERVER], _listener)

    def cookies(self, mode: int) -> None:
        """Set net.ipv4.tcp_syncookies of the server."""
        self.set("sys/net/ipv4/tcp_syncookies", str(mode))

    def set(self, path: str, value: str) -> None:
        """Write a file below /proc as the server has it."""
        self.lab.files(SERVER).write_now(path, value)

    def nft(self, role: str, text: str) -> None:
        """Load rules."""
        run(*self.lab.prefix(role), "nft", text)

    def on_gateway(self, work: Work[T]) -> T:
        """Return what `work` returns, in an event loop of its own on the gateway."""

        async def with_prober() -> T:
            prober = Prober.open(SystemClock())
            try:
                return await work(prober)
            finally:
                prober.close()

        return inside(self.lab.names[GATEWAY], lambda: asyncio.run(with_prober()))

    def probe(self, target: str, port: int = PORT, **options: Any) -> Exchange:
        """Return one exchange."""
        return self.on_gateway(lambda prober: prober.probe(ip_address(target), port, **options))

    def sockets(self, role: str) -> str:
        """Return every TCP and raw socket of a namespace except the listener."""
        return run(*self.lab.prefix(role), "ss", "-Htnw", "state", "all", "exclude", "listening")


def _listener() -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.bind(("::", PORT))
    made.listen(1024)
    return made


async def begun(prober: Prober) -> list[_Waiting]:
    """Return the IPv4 probes under way, as soon as there are any."""
    while not prober._families[4].waiting:  # noqa: ASYNC110 - it tells nobody that it begins
        await asyncio.sleep(0)  # noqa: TID251 - one turn of the loop
    return list(prober._families[4].waiting.values())


async def descriptors() -> int:
    """Return how many files this process has open."""
    return len(await asyncio.to_thread(os.listdir, "/proc/self/fd"))


@pytest.fixture(scope="module")
def place() -> Iterator[Server]:
    """Return a lab with a server; built once."""
    with Lab() as lab:
        server = Server(lab)
        yield server
        server.listener.close()


@pytest.fixture
def server_side(place: Server) -> Iterator[Server]:
    """Return it as it was in the beginning."""
    yield place
    place.cookies(1)
    for name, value in (("sack", 1), ("timestamps", 1), ("window_scaling", 1), ("ecn", 2)):
        place.set(f"sys/net/ipv4/tcp_{name}", str(value))
    for role in (SERVER, GATEWAY):
        place.nft(role, "flush ruleset")


def syn_ack(exchange: Exchange) -> SynAckSegment:
    """Return the reply, which must be a SYN-ACK."""
    assert isinstance(exchange.reply, SynAckSegment)
    return exchange.reply


@BOTH
@pytest.mark.parametrize("mode", [1, 2])
def test_probe_when_something_listens_then_its_options_are_seen(
    server_side: Server, server: str, mode: int
) -> None:
    """Every option that the kernel grants comes back, with cookies and without."""
    server_side.cookies(mode)
    exchange = server_side.probe(server)
    reply, syn = syn_ack(exchange), exchange.syn
    assert (reply.mss, reply.sack, reply.ecn) == (1460 if server == SERVER4 else 1440, True, True)
    assert reply.wscale is not None
    assert reply.ttl == 64
    assert (reply.ack, reply.tsecr) == (syn.seq + 1, syn.tsval)
    assert str(syn.source) == (GATEWAY_INSIDE4 if server == SERVER4 else GATEWAY_INSIDE6)
    assert 0 < exchange.received - exchange.sent < 0.5


@BOTH
@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        ("sack", ("sack", False)),
        ("timestamps", ("tsval", None)),
        ("window_scaling", ("wscale", None)),
        ("ecn", ("ecn", False)),
    ],
)
def test_probe_when_server_has_an_option_off_then_it_is_missing(
    server_side: Server, server: str, setting: str, seen: tuple[str, object]
) -> None:
    """What the server does not take is seen as not taken."""
    server_side.set(f"sys/net/ipv4/tcp_{setting}", "0")
    reply = syn_ack(server_side.probe(server))
    assert getattr(reply, seen[0]) == seen[1]


@BOTH
def test_probe_when_cookie_is_sent_then_timestamp_hides_the_options(
    server_side: Server, server: str
) -> None:
    """Without offset the kernel's timestamp is its clock with our options in the low six bits."""
    server_side.cookies(2)
    server_side.set("sys/net/ipv4/tcp_timestamps", "2")
    for wscale, ecn in ((7, True), (3, False), (14, True)):
        exchange = server_side.probe(server, wscale=wscale, ecn=ecn)
        reply = syn_ack(exchange)
        assert reply.tsval is not None
        assert reply.tsval & 0x3F == wscale | 1 << 4 | ecn << 5
        # Both ends have this machine's clock: it lies between 63 ms before the SYN and the answer.
        early, late = int(exchange.sent * 1000) - 64, int(exchange.received * 1000) + 1
        assert (reply.tsval - early) & 0xFFFFFFFF <= late - early


@BOTH
def test_probe_when_cookie_has_no_timestamp_then_no_options(
    server_side: Server, server: str
) -> None:
    """A cookie without timestamps has nowhere to keep options: the kernel grants none."""
    server_side.cookies(2)
    server_side.set("sys/net/ipv4/tcp_timestamps", "0")
    reply = syn_ack(server_side.probe(server))
    assert (reply.tsval, reply.wscale, reply.sack, reply.ecn) == (None, None, False, False)


@BOTH
def test_probe_when_cookie_has_no_scaling_then_timestamp_hides_that(
    server_side: Server, server: str
) -> None:
    """All four bits of the shift are set where the server takes no window scaling."""
    server_side.cookies(2)
    server_side.set("sys/net/ipv4/tcp_timestamps", "2")
    server_side.set("sys/net/ipv4/tcp_window_scaling", "0")
    server_side.set("sys/net/ipv4/tcp_sack", "0")
    reply = syn_ack(server_side.probe(server))
    assert reply.tsval is not None
    assert (reply.wscale, reply.sack, reply.tsval & 0x3F) == (None, False, 0xF | 1 << 5)


@BOTH
def test_probe_when_nothing_listens_then_reset(server_side: Server, server: str) -> None:
    """A closed port is told from silence."""
    exchange = server_side.probe(server, PORT + 1)
    assert isinstance(exchange.reply, Reset)
    assert exchange.reply.ttl == 64


@BOTH
def test_probe_when_filtered_then_two_syns_and_silence(server_side: Server, server: str) -> None:
    """A SYN is repeated once, the same again, and silence ends in time."""
    server_side.nft(
        SERVER,
        "table inet t { chain c { type filter hook input priority 0; "
        f"tcp dport {PORT} counter drop; }}; }}",
    )
    exchange = server_side.probe(server, timeout=0.3)
    assert exchange.reply is None
    assert 0.29 <= exchange.received - exchange.sent < 0.6
    counted = run(*server_side.lab.prefix(SERVER), "nft", "list", "ruleset")
    assert "counter packets 2 " in counted


@BOTH
def test_probe_when_first_syn_is_lost_then_second_is_answered(
    server_side: Server, server: str
) -> None:
    """One lost packet is no silence."""
    server_side.nft(
        SERVER,
        "table inet t { chain c { type filter hook input priority 0; tcp flags syn "
        f"tcp dport {PORT} limit rate over 1/minute burst 1 packets accept; "
        f"tcp flags syn tcp dport {PORT} drop; }}; }}",
    )
    exchange = server_side.probe(server, timeout=0.6)
    assert syn_ack(exchange).ack == exchange.syn.seq + 1
    assert exchange.received - exchange.sent >= 0.3


def test_probe_when_family_or_route_is_missing_then_said(server_side: Server) -> None:
    """What cannot be sent is an error that may pass, not a silent server."""
    with pytest.raises(UnroutableError, match=r"203\.0\.113\.1.*no route") as caught:
        server_side.probe("203.0.113.1")
    assert caught.value.retryable
    assert caught.value.todo


def test_probe_when_own_rules_drop_it_then_said(server_side: Server) -> None:
    """A SYN that this machine's own rules refuse is no silent server."""
    server_side.nft(
        GATEWAY,
        "table inet t { chain c { type filter hook output priority 0; "
        f"tcp dport {PORT} drop; }}; }}",
    )
    with pytest.raises(UnroutableError, match="not sent"):
        server_side.probe(SERVER4)


@pytest.mark.parametrize("mode", [1, 2])
def test_probe_when_200_at_once_then_all_answered_and_nothing_is_left(
    server_side: Server, mode: int
) -> None:
    """Many probes do not mix, and leave no socket on either side."""
    server_side.cookies(mode)

    async def many(prober: Prober) -> tuple[list[Exchange], int]:
        files = await descriptors()
        jobs: list[Awaitable[Exchange]] = [
            prober.probe(ip_address(SERVER6 if number % 2 else SERVER4), PORT + number % 4 // 2)
            for number in range(200)
        ]
        exchanges = list(await asyncio.gather(*jobs))
        assert await descriptors() == files
        return exchanges, prober.ignored

    exchanges, ignored = server_side.on_gateway(many)
    assert [type(one.reply) for one in exchanges] == [
        Reset if number % 4 // 2 else SynAckSegment for number in range(200)
    ]
    assert len({(one.syn.target.version, one.syn.sport) for one in exchanges}) == 200
    assert ignored == 0
    assert server_side.sockets(SERVER) == ""
    assert server_side.sockets(GATEWAY) == ""


def test_probe_when_answers_are_forged_then_ignored_and_counted(server_side: Server) -> None:
    """Only what names addresses, ports and sequence number of the SYN is an answer to it."""
    server_side.nft(
        SERVER,
        "table inet t { chain c { type filter hook input priority 0; "
        f"tcp dport {PORT} drop; }}; }}",
    )

    async def forge(prober: Prober) -> tuple[Exchange, int]:
        def injector() -> socket.socket:
            return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

        job = asyncio.get_running_loop().create_task(
            prober.probe(ip_address(SERVER4), PORT, 0.5), name="probe"
        )
        (one,) = await begun(prober)
        raw = await asyncio.to_thread(inside, server_side.lab.names[SERVER], injector)
        with raw:
            raw.settimeout(0)
            ack = one.syn.seq + 1
            for source, sport, dport, number, flags in (
                (SERVER4, PORT, one.syn.sport, ack ^ 1, 0x12),
                (SERVER4, PORT, one.syn.sport, ack ^ 1, 0x14),
                (CLIENT4, PORT, one.syn.sport, ack, 0x12),
                (SERVER4, PORT + 1, one.syn.sport, ack, 0x12),
                (SERVER4, PORT, one.syn.sport ^ 1, ack, 0x12),
                # These the filter keeps away: another tag, and what answers no SYN.
                (SERVER4, PORT, one.syn.sport, ack ^ 1 << 16, 0x12),
                (SERVER4, PORT, one.syn.sport, ack, 0x10),
                (SERVER4, PORT, one.syn.sport, ack, 0x02),
                (SERVER4, PORT, one.syn.sport, ack, 0x04),
            ):
                head = struct.pack("!HHIIBBHHH", sport, dport, 7, number, 5 << 4, flags, 100, 0, 0)
                packet = ip_packet(source, GATEWAY_INSIDE4, socket.IPPROTO_TCP, head, 16)
                raw.sendto(packet, (GATEWAY_INSIDE4, 0))
            return await job, prober.ignored

    exchange, ignored = server_side.on_gateway(forge)
    assert exchange.reply is None
    assert ignored == 5


async def test_probe_when_answered_then_kernel_resets(server_side: Server) -> None:
    """The kernel here ends what the SYN began: exactly one RST goes out."""
    async with server_side.lab.capture(GATEWAY, INSIDE) as capture:
        await asyncio.to_thread(server_side.probe, SERVER4)
        await capture.quiet()
        assert capture.tcp(flags=RST) == 1


def test_probe_when_idle_then_nothing_is_read(server_side: Server) -> None:
    """Between probes the event loop does not look at the raw sockets at all."""

    async def twice(prober: Prober) -> list[bool]:
        loop = asyncio.get_running_loop()
        watched = []
        for _ in range(2):
            await prober.probe(ip_address(SERVER4), PORT)
            watched.append(loop.remove_reader(prober._families[4].raw))
        return watched

    assert server_side.on_gateway(twice) == [False, False]


def test_probe_when_cancelled_then_nothing_is_left(server_side: Server) -> None:
    """A caller who goes away takes port, reader and place with it."""

    async def cancel(prober: Prober) -> tuple[int, int]:
        files = await descriptors()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await prober.probe(ip_address("192.0.2.77"), PORT, 5)
        return len(prober._families[4].waiting), await descriptors() - files

    assert server_side.on_gateway(cancel) == (0, 0)


def test_close_when_a_probe_waits_then_it_ends(server_side: Server) -> None:
    """Closing answers whoever still waits, and may be done twice."""

    async def close(prober: Prober) -> None:
        job = asyncio.get_running_loop().create_task(
            prober.probe(ip_address("192.0.2.77"), PORT, 5), name="probe"
        )
        await begun(prober)
        prober.close()
        prober.close()
        with pytest.raises(UnroutableError, match="closed"):
            await job
        with pytest.raises(UnroutableError):
            await prober.probe(ip_address(SERVER4), PORT)

    server_side.on_gateway(close)


ALONE = """
import asyncio, os, sys
from ipaddress import ip_address
from hub.clock import SystemClock
from hub.errors import HubError
from hub.isn_sync.prober import Prober

async def main():
    when, target, port = sys.argv[1], ip_address(sys.argv[2]), int(sys.argv[3])
    if when == "before":
        os.setuid(65534)
    try:
        prober = Prober.open(SystemClock())
    except HubError as error:
        print(error)
        return
    os.setuid(65534)
    exchange = await prober.probe(target, port)
    print(type(exchange.reply).__name__)
    prober.close()

asyncio.run(main())
"""


def alone(server: Server, *arguments: str) -> str:
    """Return what a process of its own on the gateway prints."""
    return run(*server.lab.prefix(GATEWAY), sys.executable, "-c", ALONE, *arguments)


def test_open_when_not_permitted_then_says_what_to_give(server_side: Server) -> None:
    """Without CAP_NET_RAW the error names it."""
    assert "CAP_NET_RAW" in alone(server_side, "before", SERVER4, str(PORT))


@BOTH
def test_probe_when_capability_is_dropped_then_as_before(server_side: Server, server: str) -> None:
    """Only opening needs the capability."""
    assert alone(server_side, "after", server, str(PORT)) == "SynAckSegment\n"


def test_probe_when_measured_then_cheap(server_side: Server) -> None:
    """A probe costs well below two milliseconds of CPU."""

    async def measure(prober: Prober) -> float:
        before = resource.getrusage(resource.RUSAGE_THREAD)
        for _ in range(100):
            await prober.probe(ip_address(SERVER4), PORT)
        after = resource.getrusage(resource.RUSAGE_THREAD)
        return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 10

    assert server_side.on_gateway(measure) < 2


def test_build_when_captured_then_the_kernel_reads_it_as_meant(server_side: Server) -> None:
    """Our checksum is right: a wrong one would have been dropped before any answer."""
    assert isinstance(server_side.probe(SERVER4).reply, SynAckSegment)


def addresses(*texts: str) -> list[IPAddress]:
    """Return addresses."""
    return [ip_address(text) for text in texts]


@pytest.mark.parametrize("ends", [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")])
def test_build_when_parsed_back_then_no_answer(ends: tuple[str, str]) -> None:
    """Our own SYN is none of the segments that answer one."""
    source, target = addresses(*ends)
    assert parse(build(Syn(source, target, 1, 2, 3, 4, 1460))) is None
