# SPDX-License-Identifier: Apache-2.0
"""What the kernel's own SYN proxy does to a path and to its gateway, and mode splice does not."""

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.netns import CLIENT, CLIENT4, CLIENT6, INSIDE, OUTSIDE
from tests.support.packets import ICMP, ICMP6, Datagram, icmp, packed, windows
from tests.support.splice import BridgedStand, Proxy, kernel_proxy, port_of, splice_proxy
from tests.support.stack import ECHO, TARGETS, fresh_client
from tests.support.stack_talk import GREETER

CLIENTS = {4: CLIENT4, 6: CLIENT6}
NARROW = 1280
WIDE = 1500
ELSEWHERE_S = 1.1
MARKS = f"""
table inet marks {{
  chain before {{
    type filter hook prerouting priority mangle;
    iifname {OUTSIDE} meta mark set 7
  }}
  chain after {{
    type filter hook postrouting priority mangle;
    oifname {INSIDE} meta mark 7 tcp flags syn / fin,syn,rst,ack counter
  }}
}}
"""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel() -> AsyncIterator[Proxy]:
    """Return the kernel's proxy at work."""
    async with kernel_proxy() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def splice() -> AsyncIterator[Proxy]:
    """Return mode splice at work."""
    async with splice_proxy() as made:
        yield made


async def told_of_a_narrow_link(proxy: Proxy, family: int) -> int:
    """Report to the server, as a client's router sees it, that its greeting was too big.

    Return what it holds the path for then.
    """
    await proxy.taught(family, GREETER)
    stranger = proxy.stranger(family, GREETER)
    async with proxy.watched():
        # With timestamps the kernel's server would keep its greeting back.
        await stranger.opens(windows())
        seen = await stranger.hears()
        while not seen.data:
            seen = await stranger.hears()
        await proxy.stand.send([too_big(family, seen.packet)], TARGETS[family])
    return proxy.server.info_of(stranger.name).pmtu


def too_big(family: int, packet: bytes) -> bytes:
    """Return a router's report about a packet of the server."""
    router, target = packed(CLIENTS[family]), packed(TARGETS[family])
    kind, code = (3, 4) if family == 4 else (2, 0)
    message = icmp(router, target, kind, code, struct.pack("!I", NARROW) + packet)
    protocol = ICMP if family == 4 else ICMP6
    return Datagram(source=router, destination=target, protocol=protocol, payload=message).packet()


async def test_a_report_of_a_narrow_link_is_believed(kernel: Proxy, splice: Proxy) -> None:
    """The packet that it quotes has the server's sequence number when it gets there."""
    # The kernel leaves it as it is, or takes the report itself for a segment and spoils it.
    assert await told_of_a_narrow_link(kernel, 4) == WIDE
    assert await told_of_a_narrow_link(splice, 4) == NARROW
    assert await told_of_a_narrow_link(splice, 6) == NARROW


@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
async def test_a_gateway_that_drops_what_is_invalid_drops_nothing(
    splice: Proxy, family: int
) -> None:
    """Connection tracking sees whole connections, which need none of its help."""
    await splice.taught(family)
    before = await splice.invalid()
    async with splice.watched():
        client = await splice.server.client(family)
        for size in (1, 100_000):
            assert await client.says(bytes(size)) == bytes(size)
        client.writer.write_eof()
        await client.reader.read()
    assert await splice.invalid() == before


async def marked(proxy: Proxy) -> int:
    """Return how many SYNs of a client reach the server's link with the mark that it was given."""
    await proxy.taught()
    await proxy.stand.nft(MARKS)
    async with proxy.watched():
        await proxy.server.client()
    shown = await proxy.stand.nft("list", "chain", "inet", "marks", "after")
    return int(shown.partition("counter packets ")[2].split()[0])


async def test_a_client_keeps_its_mark(kernel: Proxy, splice: Proxy) -> None:
    """The SYN for the server is the client's packet, by the interface that it came by."""
    assert await marked(kernel) == 0
    assert await marked(splice) == 1


async def test_ipv6_needs_no_network_card_that_checks(kernel: Proxy, splice: Proxy) -> None:
    """A SYN with a good checksum that nobody has looked at yet is answered."""
    answered = []
    for proxy in (kernel, splice):
        await proxy.taught(6)
        stranger = proxy.stranger(6)
        stranger.syn()
        answered.append(not await stranger.quiet())
    assert answered == [False, True]
    # It is the checksum: it answers a client whose link vouches for that.
    await asyncio.to_thread(kernel.stand.offload, CLIENT, "eth0", tx=True)
    async with kernel.watched():
        await kernel.server.client(6)


async def test_a_bridge_is_protected(kernel: Proxy) -> None:
    """Its port is an interface like any other; the kernel's proxy is not to be had there."""
    for rule in (
        "add table bridge proxy",
        "add chain bridge proxy forward { type filter hook forward priority filter; }",
    ):
        await kernel.stand.nft(rule)
    with pytest.raises(RuntimeError, match="Could not process rule"):
        await kernel.stand.nft("add rule bridge proxy forward tcp dport 1 synproxy mss 1460")
    async with splice_proxy(BridgedStand) as bridge:
        for family, address in CLIENTS.items():
            await bridge.taught(family)
            async with bridge.watched():
                client = await bridge.server.client(family, ECHO, (address, 0))
                assert await client.says(bytes(100_000)) == bytes(100_000)


async def test_a_server_that_answers_by_another_way_is_noticed(
    kernel: Proxy, splice: Proxy
) -> None:
    """The kernel's clients wait for ever; mode splice is refused there, and says why."""
    source = (fresh_client(), 0)
    async with (
        kernel.stand.around(source[0]),
        splice.stand.around(source[0]),
        kernel.watched(proven=None) as watch,
        splice.lenient(),
    ):
        stuck = await kernel.server.client(4, ECHO, source)
        stuck.writer.write(b"hello")
        await splice.forget()
        client = await splice.server.client(4, ECHO, source)
        assert await client.says(b"hello") == b"hello"
        await asyncio.sleep(ELSEWHERE_S)  # noqa: TID251 - the program gives a server a second
        assert await client.says(b"again") == b"again"
        refused = await splice.daemon.refusal(TARGETS[4], "splice")
    await splice.forget()
    assert refused["error"] == "unsupported"
    assert "another way" in refused["message"]
    assert not kernel.server.knows(stuck)
    # Each of the server's answers that the client does not understand makes it ask once more.
    assert len(watch.asked(port_of(stuck))) > 1
