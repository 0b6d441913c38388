# SPDX-License-Identifier: Apache-2.0
"""The native engine between real TCP stacks: what a connection is like that it has let in.

The program under test takes its cookies from this machine's kernel, so that the server, which has
the same one, accepts connections whose SYN it has never seen.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from tests.support.netns import CLIENT, SERVER
from tests.support.stack import BOTH_FAMILIES, ECHO, TARGETS, Stand, fresh_client, tcp_of
from tests.support.stack_daemon import Daemon, oracle_daemon
from tests.support.stack_talk import BANNER, BULK, GOODBYE, GREETER, Server, end_by_reset, until

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
PORT = ECHO.to_bytes(2, "big")
MEGABYTES = 1_000_000
RTT_MOST_US = 200_000
"""Timestamps lag by 64 ms and are rounded down by as much again; a tick comes on top."""


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """Return one lab for all of them: each test comes from an address of its own."""
    with Stand() as made:
        yield made


@pytest.fixture(scope="module")
def engine(stand: Stand) -> Iterator[Daemon]:
    """Return the engine with this kernel's cookies, at work on the gateway."""
    with Daemon(stand, oracle_daemon()) as made:
        yield made


@pytest.fixture
async def server(stand: Stand) -> AsyncIterator[Server]:
    """Return the protected server at work."""
    async with Server(stand).running() as made:
        yield made


@dataclass(frozen=True)
class Case:
    """Settings of the kernels under which a handshake turns out differently."""

    client: Mapping[str, int] = field(default_factory=dict)
    server: Mapping[str, int] = field(default_factory=dict)
    has: Mapping[str, bool] = field(default_factory=dict)
    """What the engine is told of the server."""
    agreed: frozenset[str] = frozenset({"sack", "timestamps", "wscale"})
    reference: int = 1
    """`tcp_syncookies` of the connection to compare with."""


CASES = {
    "usual": Case(),
    "ecn": Case(
        client={"tcp_ecn": 1},
        server={"tcp_ecn": 1},
        has={"ecn": True},
        agreed=frozenset({"sack", "timestamps", "wscale", "ecn"}),
    ),
    "ecn-refused": Case(client={"tcp_ecn": 1}, server={"tcp_ecn": 0}),
    # Cookies keep the other options in the timestamp: the server's own cannot do more.
    "no-timestamps": Case(client={"tcp_timestamps": 0}, agreed=frozenset(), reference=2),
    "no-wscale": Case(client={"tcp_window_scaling": 0}, agreed=frozenset({"sack", "timestamps"})),
    "no-sack": Case(client={"tcp_sack": 0}, agreed=frozenset({"timestamps", "wscale"})),
    "server-no-wscale": Case(
        server={"tcp_window_scaling": 0},
        has={"wscale": False},
        agreed=frozenset({"sack", "timestamps"}),
    ),
    "server-no-sack": Case(
        server={"tcp_sack": 0},
        has={"sack": False},
        agreed=frozenset({"timestamps", "wscale"}),
    ),
}


@BOTH_FAMILIES
@pytest.mark.parametrize("name", list(CASES))
async def test_a_connection_has_what_a_direct_one_has(
    stand: Stand, engine: Daemon, server: Server, family: int, name: str
) -> None:
    """Scaling, SACK, timestamps, ECN, and MSS are those of a connection without us."""
    case = CASES[name]
    profiles = await stand.profiles()
    async with stand.setting(CLIENT, case.client), stand.setting(SERVER, case.server):
        await engine.release()
        async with stand.setting(SERVER, {"tcp_syncookies": case.reference}):
            direct = await server.client(family)
            assert await direct.says(b"hello") == b"hello"
        await engine.begin(profiles, has=case.has)
        before = await engine.in_force()
        ours = await server.client(family)
        assert await ours.says(b"hello") == b"hello"
        counted = await engine.in_force() - before
    assert counted["cookie_sent"] == counted["cookie_good"] == 1
    assert server.info(ours).options == case.agreed
    assert server.info(ours).agreed() == server.info(direct).agreed()
    assert ours.info.agreed() == direct.info.agreed()
    assert server.info(ours).rtt_us < RTT_MOST_US


@BOTH_FAMILIES
async def test_a_server_that_speaks_first_is_heard(
    stand: Stand, engine: Daemon, server: Server, family: int
) -> None:
    """The greeting arrives before the client has sent anything."""
    await engine.begin(await stand.profiles())
    client = await server.client(family, GREETER)
    async with asyncio.timeout(5):
        assert await client.reader.readline() == BANNER
    assert await client.says(b"EHLO") == b"EHLO"
    assert server.info(client).retransmitted == 0


@BOTH_FAMILIES
async def test_a_hundred_megabytes_pass_each_way(
    stand: Stand, engine: Daemon, server: Server, family: int
) -> None:
    """All of it arrives, no segment looks old to either side, and nobody waits for a timer."""
    await engine.begin(await stand.profiles())
    before = {role: await stand.netstat(role) for role in (CLIENT, SERVER)}
    counts = await engine.in_force()
    client = await server.client(family, BULK)
    answered, received = await client.exchange(100 * MEGABYTES)
    assert answered == received == 100 * MEGABYTES
    for role, old in before.items():
        new = await stand.netstat(role) - old
        assert {name: new[name] for name in new if "PAWS" in name} == {}
        assert new["TCPTimeouts"] == 0
    assert (await engine.in_force() - counts)["cookie_bad"] == 0


@BOTH_FAMILIES
async def test_a_half_closed_connection_goes_on_the_other_way(
    stand: Stand, engine: Daemon, server: Server, family: int
) -> None:
    """After one side's end of file the other one may still send, whichever was first."""
    await engine.begin(await stand.profiles())
    before = await engine.in_force()
    client = await server.client(family)
    client.writer.write(b"last words")
    client.writer.write_eof()
    async with asyncio.timeout(5):
        assert await client.reader.read() == b"last words" + GOODBYE
    other = await server.client(family)
    assert await other.says(b"hello") == b"hello"
    server.say_no_more(other)
    async with asyncio.timeout(5):
        assert await other.reader.read() == b""
    size = 3_000_000
    total = server.received[other.name]
    other.writer.write(bytes(size))
    await until(lambda: server.received[other.name] - total == size)
    assert (await engine.in_force() - before)["cookie_bad"] == 0


@BOTH_FAMILIES
async def test_a_reset_reaches_the_other_side(
    stand: Stand, engine: Daemon, server: Server, family: int
) -> None:
    """A client's RST ends the server's side, and a server's the client's."""
    await engine.begin(await stand.profiles())
    before = await engine.in_force()
    client = await server.client(family)
    assert await client.says(b"hello") == b"hello"
    client.reset()
    await until(lambda: server.ends.get(client.name) == "ConnectionResetError")
    other = await server.client(family)
    assert await other.says(b"hello") == b"hello"
    end_by_reset(server.side_of(other))
    with pytest.raises(ConnectionResetError):
        await other.says(b"hello?")
    counted = await engine.in_force() - before
    assert counted["rst_unknown"] == counted["cookie_bad"] == 0


@BOTH_FAMILIES
@pytest.mark.parametrize("end", ["client-resets", "server-resets", "server-closes"])
async def test_a_port_is_used_again_at_once(
    stand: Stand, engine: Daemon, server: Server, family: int, end: str
) -> None:
    """The same addresses and ports carry a new connection, with the old one in TIME_WAIT too."""
    await engine.begin(await stand.profiles())
    source = (fresh_client(family), 40000)
    client = await server.client(family, source=source)
    assert await client.says(b"first") == b"first"
    if end == "client-resets":
        client.reset()
        await until(lambda: server.ends.get(client.name) == "ConnectionResetError")
    elif end == "server-resets":
        end_by_reset(server.side_of(client))
        with pytest.raises(ConnectionResetError):
            await client.says(b"hello?")
    else:
        server.side_of(client).close()
        async with asyncio.timeout(5):
            assert await client.reader.read() == b""
    client.writer.close()
    again = await server.client(family, source=source)
    assert await again.says(b"second") == b"second"
    assert server.info(again).options == {"sack", "timestamps", "wscale"}


@BOTH_FAMILIES
async def test_a_flow_that_was_forgotten_goes_on(
    stand: Stand, engine: Daemon, server: Server, family: int
) -> None:
    """A proven source's segment passes when its flow has left the table, and enters it again."""
    await engine.begin(await stand.profiles())
    client = await server.client(family, GREETER)
    async with asyncio.timeout(5):
        await client.reader.readexactly(len(BANNER))
    await asyncio.to_thread(engine.forget_flows)
    before = await engine.in_force()
    assert await client.says(b"after") == b"after"
    counted = await engine.in_force() - before
    assert counted["proven_ack"] == 1
    assert counted["cookie_bad"] == counted["cookie_good"] == 0
    assert (await engine.entered()) == (2, 1)


@BOTH_FAMILIES
@pytest.mark.usefixtures("server")
async def test_a_request_may_come_with_the_third_packet(
    stand: Stand, engine: Daemon, family: int
) -> None:
    """A client that sends its request in the ACK of the handshake is answered."""
    await engine.begin(await stand.profiles())
    made = await stand.open_socket(CLIENT, FAMILIES[family], socket.SOCK_STREAM)
    made.bind((fresh_client(family), 0))
    # With these the kernel holds its ACK of the SYN-ACK back, to send it with data.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
    loop = asyncio.get_running_loop()
    before = await engine.in_force()
    with made:
        async with asyncio.timeout(5), stand.capture(CLIENT, "eth0") as capture:
            await loop.sock_connect(made, (TARGETS[family], ECHO))
            await loop.sock_sendall(made, b"GET /")
            assert await loop.sock_recv(made, 100) == b"GET /"
    sent = [one for one in capture.packets() if (ports := tcp_of(one)[:4]) and ports[2:] == PORT]
    assert [tcp_of(one)[32:] for one in sent[1:2]] == [b"GET /"]
    counted = await engine.in_force() - before
    assert counted["cookie_good"] == 1
    assert counted["cookie_bad"] == 0
