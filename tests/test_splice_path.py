# SPDX-License-Identifier: Apache-2.0
"""Mode splice on paths that are not ideal: lossy, narrow, wide, filtered, or no path at all."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.support.netns import (
    CLIENT,
    CLIENT4,
    CLIENT6,
    GATEWAY,
    GATEWAY4,
    GATEWAY6,
    INSIDE,
    SERVER,
)
from tests.support.stack import BOTH_FAMILIES, ECHO, TARGETS, Stand, fresh_client
from tests.support.stack_daemon import Daemon, plain_daemon
from tests.support.stack_path import (
    JUMBO,
    MEGABYTES,
    NARROW,
    JumboStand,
    NarrowStand,
    RoughStand,
    exchange_over_bad_wire,
    exchange_over_narrow_link,
)
from tests.support.stack_talk import BULK, GREETER, Client, Server

CLIENTS = 4
STRICT = """
table inet strict {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state invalid counter drop
    ct state established,related accept
    ct state new tcp flags syn / syn,ack,rst accept
    meta l4proto icmp accept
    meta l4proto ipv6-icmp accept
  }
}
"""
STANDS = {"plain": Stand, "rough": RoughStand, "narrow": NarrowStand, "jumbo": JumboStand}


@pytest.fixture
def stand(request: pytest.FixtureRequest) -> Iterator[Stand]:
    """Return the lab that the test asks for, with an ordinary server."""
    with STANDS[getattr(request, "param", "plain")]() as made:
        made.make_ordinary()
        yield made


@pytest.fixture
def engine(stand: Stand) -> Iterator[Daemon]:
    """Return the engine on the gateway of that lab."""
    with Daemon(stand, plain_daemon()) as made:
        yield made


def on(name: str) -> pytest.MarkDecorator:
    """Choose the lab of a test."""
    return pytest.mark.parametrize("stand", [name], indirect=True)


@asynccontextmanager
async def protected(stand: Stand, engine: Daemon, family: int, port: int) -> AsyncIterator[Server]:
    """Yield a server one of whose ports has been seen to answer, protected by splice."""
    async with Server(stand).running() as server:
        await engine.protect(await stand.profiles(), mode="splice")
        await server.client(family, port)
        yield server


@BOTH_FAMILIES
@on("rough")
async def test_lost_and_overtaken_segments_are_made_good(
    stand: RoughStand, engine: Daemon, family: int
) -> None:
    """Data arrive whole over a wire that loses and delays 1 %, with SACK doing its work."""
    async with stand.wire() as wire, protected(stand, engine, family, BULK) as server:
        clients = [await server.client(family, BULK) for _ in range(CLIENTS)]
        await exchange_over_bad_wire(stand, wire, clients)
        counts = await engine.in_force()
    assert counts["splice_open"] >= CLIENTS
    assert counts["splice_over"] == 0


@on("rough")
async def test_handshakes_through_heavy_loss_come_to_their_end(
    stand: RoughStand, engine: Daemon
) -> None:
    """With one frame in ten lost towards the server, each client is served, also a silent one."""
    async with stand.wire() as wire, protected(stand, engine, 4, GREETER) as server:
        wire.lost = 0.1

        async def one() -> bytes:
            client = await server.client(4, GREETER)
            async with asyncio.timeout(20):
                return await client.reader.readline()

        heard = await asyncio.gather(*(one() for _ in range(20)))
        wire.lost = 0.0
    assert len(heard) == 20
    assert set(heard) == {b"220 at your service\r\n"}


@BOTH_FAMILIES
@on("narrow")
async def test_a_narrow_link_to_the_client_is_found_out(
    stand: NarrowStand, engine: Daemon, family: int
) -> None:
    """A router's report on the clients' side reaches the server in the server's numbers."""
    async with protected(stand, engine, family, BULK) as server:
        client = await exchange_over_narrow_link(stand, server, family)
        counts = await engine.in_force()
        assert server.last_info[client.name].pmtu == NARROW
        assert counts["splice_open"] == 1
        assert counts["splice_icmp"] >= 1


@BOTH_FAMILIES
async def test_a_narrow_link_to_the_server_is_found_out(
    stand: Stand, engine: Daemon, family: int
) -> None:
    """The gateway's own report that its link to the server is narrow reaches the client."""
    async with protected(stand, engine, family, BULK) as server:
        address = ("-6",) if family == 6 else ()
        route = ("route", "replace", TARGETS[family], "dev", INSIDE, "mtu", "lock", str(NARROW))
        await asyncio.to_thread(stand.ip, GATEWAY, *address, *route)
        client = await server.client(family, BULK)
        size = 2 * MEGABYTES
        assert await client.exchange(size) == (size, size)
        assert client.info.pmtu == NARROW
        assert (await engine.in_force())["splice_icmp"] >= 1


@BOTH_FAMILIES
@on("jumbo")
async def test_frames_of_several_pages_pass(stand: JumboStand, engine: Daemon, family: int) -> None:
    """With jumbo frames a connection is like a direct one."""
    size = 20 * MEGABYTES
    async with protected(stand, engine, family, ECHO) as server:
        direct = await server.client(family, GREETER)
        await direct.reader.readline()
        ours = await server.client(family)
        assert await ours.says(b"hello") == b"hello"
        assert server.info(ours).agreed() == server.info(direct).agreed()
        assert ours.info.agreed() == direct.info.agreed()
        await server.client(family, BULK)  # shows how the port answers
        bulk = await server.client(family, BULK)
        assert await bulk.exchange(size) == (size, size)
        assert server.last_info[bulk.name].pmtu == JUMBO
    assert (await engine.in_force())["splice_open"] >= 2


@BOTH_FAMILIES
async def test_a_gateway_that_tracks_connections_sees_them_whole(
    stand: Stand, engine: Daemon, family: int
) -> None:
    """Behind rules that drop what connection tracking finds invalid, everything works."""
    await stand.nft(STRICT)
    for name in ("be_liberal", "loose"):
        await stand.files(GATEWAY).write(f"sys/net/netfilter/nf_conntrack_tcp_{name}", "0")
    async with protected(stand, engine, family, BULK) as server:
        client = await server.client(family, BULK)
        size = 5 * MEGABYTES
        assert await client.exchange(size) == (size, size)
        await server.client(family, GREETER)  # shows how the port answers
        greeted = await server.client(family, GREETER)
        assert await greeted.reader.readline()
        assert (await engine.in_force())["splice_open"] >= 2
    shown = await stand.nft("list", "chain", "inet", "strict", "forward")
    assert "invalid counter packets 0 " in shown


@BOTH_FAMILIES
async def test_the_host_itself_is_protected(stand: Stand, engine: Daemon, family: int) -> None:
    """Servers on the machine where synproxyd runs: the same, without a gateway."""
    here = {4: GATEWAY4, 6: GATEWAY6}[family]
    served = 0

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
        writer.close()

    listening = await stand.listen(GATEWAY, here, ECHO)
    bits = 32 if family == 4 else 128
    await engine.ask(
        op="put",
        id="own",
        revision=1,
        target=f"{here}/{bits}",
        expires_ms=60_000,
        kind="tcp",
        tcp={"mode": "splice"},
    )
    async with await asyncio.start_server(echo, sock=listening):
        for number in range(3):
            source = (fresh_client(family), 0)
            made = Client(*await stand.connect(here, ECHO, source=source))
            text = bytes(3_000 + number)
            assert await made.says(text) == text
            made.writer.write_eof()
            assert await made.reader.read() == b""
            made.writer.close()
    counts = await engine.counts()
    assert served == 3
    assert counts["splice_probe"] == 1
    assert counts["splice_open"] == counts["splice_answered"] == 2


async def said(server: Server, family: int, source: tuple[str, int]) -> bool:
    """Return whether a client is served at its first try."""
    try:
        return await (await server.client(family, source=source)).says(b"hello") == b"hello"
    except (OSError, EOFError):
        return False


class AroundStand(Stand):
    """A stand whose server answers the clients by a link of its own, past the gateway."""

    def _build(self) -> None:
        super()._build()
        self._join(SERVER, "around", CLIENT, "around")
        self._address(SERVER, "around", "10.99.0.1/24", "fd99::1/64")
        self._address(CLIENT, "around", "10.99.0.2/24", "fd99::2/64")
        for network in ("198.18.0.0/16", f"{CLIENT4}/32"):
            self.ip(SERVER, "route", "replace", network, "via", "10.99.0.2", "dev", "around")
        for network in ("2001:db8:5::/64", f"{CLIENT6}/128"):
            self.ip(SERVER, "-6", "route", "replace", network, "via", "fd99::2", "dev", "around")


STANDS["around"] = AroundStand


@BOTH_FAMILIES
@on("around")
async def test_an_asymmetric_path_is_noticed_and_refused(
    stand: Stand, engine: Daemon, family: int
) -> None:
    """Where answers go by another way, clients are served as in mode reset, and plan says why."""
    async with Server(stand).running() as server:
        await engine.protect({family: (await stand.profiles())[family]}, mode="splice")
        first = await server.client(family)
        # It was let through to see what the server answers, and nothing of that came by here.
        for word in (b"hello", b"are you there?"):
            assert await first.says(word) == word
            await asyncio.sleep(1.1)  # noqa: TID251 - the program gives a server a second
        assert await first.says(b"still") == b"still"
        refused = await engine.refusal(target=TARGETS[family], mode="splice")
        assert refused["error"] == "unsupported"
        assert "another way" in refused["message"]
        assert "isn-sync" in refused["todo"]
        source = (fresh_client(family), 0)
        tries = [await said(server, family, (fresh_client(family), 0)) for _ in range(2)]
        # One SYN a second is let through, to see whether the answers come by here again.
        assert False in tries
        assert not await said(server, family, source)
        again = await server.client(family, source=source)
        assert await again.says(b"proven") == b"proven"
    assert (await engine.counts())["splice_open"] == 0
