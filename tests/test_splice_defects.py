# SPDX-License-Identifier: Apache-2.0
"""What is wrong with handshakes by the kernel's own SYN proxy, and not with those by mode splice.

Each scenario runs with both, side by side, in labs that differ in nothing else.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio

from tests.support.netns import ACK, CLIENT, PSH, SERVER, SERVER4, SYN
from tests.support.packets import CWR, ECE, linux, windows
from tests.support.splice import (
    KERNEL_WSCALE,
    Proxy,
    echo_of,
    kernel_proxy,
    mss_of,
    port_of,
    splice_proxy,
)
from tests.support.stack import ECHO
from tests.support.stack_talk import BANNER, GREETER

CLOSED = 9
LEFT = 7001
SILENT = 7002
RESET = "ConnectionResetError"
REFUSED = "ConnectionRefusedError"
MSG_FASTOPEN = 0x20000000
FAST_OPEN_WITHOUT_COOKIE = 5
UNUSUAL_MSS = 1299
PROBES = 3
SILENT_AFTER_S = 3

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


# timestamps


async def opening(proxy: Proxy, port: int) -> tuple[int, int, int, bool]:
    """Open a connection and let it rest.

    Return the timestamp of the SYN-ACK that the client got, that of the server's, what the server
    was sent as an echo of it, and whether its program has got the connection.
    """
    await proxy.taught(port=port)
    async with proxy.watched() as watch:
        client = await proxy.server.client(4, port)
    here = port_of(client)
    told, own = watch.heard(here)[0], watch.answered(here)[0]
    echoed = echo_of(watch.received(here)[1])
    return told.tsval, own.tsval, echoed, proxy.server.knows(client)


@pytest.mark.parametrize("port", [GREETER, ECHO], ids=["server-first", "client-first"])
async def test_a_server_is_sent_back_its_own_timestamp(
    kernel: Proxy, splice: Proxy, port: int
) -> None:
    """Adjusted twice it is another one, and the server waits: for its timer, or for data."""
    told, own, echoed, known = await opening(kernel, port)
    assert echoed == (own + own - told) % (1 << 32)
    assert not known
    told, own, echoed, known = await opening(splice, port)
    assert told != own
    assert echoed == own
    assert known


# servers that are not there


async def test_a_closed_port_refuses(kernel: Proxy, splice: Proxy) -> None:
    """The server's own RST tells the first client that nobody is there, and its successors too."""
    assert [await kernel.fate(CLOSED) for _ in range(3)] == [RESET] * 3
    assert [await splice.fate(CLOSED) for _ in range(3)] == [REFUSED] * 3


async def left(proxy: Proxy) -> list[str]:
    """Return what becomes of two clients of a port whose program has ended."""
    with await proxy.stand.listen(SERVER, SERVER4, LEFT):
        await proxy.taught(port=LEFT)
    return [await proxy.fate(LEFT) for _ in range(2)]


async def test_a_port_that_was_left_refuses_all_but_one(kernel: Proxy, splice: Proxy) -> None:
    """One client proves itself, as nobody can know; what it meets with is known from then on."""
    assert await left(kernel) == [RESET, RESET]
    assert await left(splice) == [RESET, REFUSED]


async def meets(proxy: Proxy) -> tuple[int, int]:
    """Come to a silent port; where that lets one in, ask for its window and acknowledge it again.

    Return how many SYN-ACKs the client got, and how many SYNs the server.
    """
    stranger = proxy.stranger(port=SILENT)
    async with proxy.watched(proven=None) as watch:
        stranger.syn()
        await stranger.quiet()
        if not stranger.heard.empty():
            assert (await stranger.hears()).window == 0
            stranger.send()
            for back in (1, 0):
                for _ in range(PROBES):
                    stranger.send(seq=stranger.seq - back)
                    assert await stranger.quiet(0.02)
    here = stranger.name[1]
    return len(watch.heard(here)), len(watch.asked(here))


async def test_a_silent_server_is_not_spoken_for(kernel: Proxy, splice: Proxy) -> None:
    """Nobody is let in where nobody answers; who comes is served when the server is back."""
    async with kernel.stand.silence(SILENT):
        # What asks for a window is no cookie to it; each acknowledgement is one more.
        assert await meets(kernel) == (1, 1 + PROBES)
    with await splice.stand.listen(SERVER, SERVER4, SILENT):
        async with splice.stand.silence(SILENT):
            assert await meets(splice) == (0, 1)
            await asyncio.sleep(SILENT_AFTER_S)  # noqa: TID251 - the program gives a server so long
            before = await splice.proven()
            assert [(await meets(splice))[0] for _ in range(PROBES)] == [0] * PROBES
            assert (await splice.daemon.counts())["splice_silent"] > 0
            waiting = asyncio.create_task(splice.server.client(4, SILENT))  # noqa: TID251 - awaited
            await asyncio.sleep(0.1)  # noqa: TID251 - its first SYN is lost
            assert not waiting.done()
        await waiting
        assert await splice.proven() == before


async def test_a_lost_syn_is_made_good(kernel: Proxy, splice: Proxy) -> None:
    """A client that waits for a greeting gets it, though the server has missed its SYN."""
    clients = []
    for proxy in (kernel, splice):
        await proxy.taught(port=GREETER)
        async with proxy.stand.silence(GREETER), proxy.watched():
            clients.append(await proxy.server.client(4, GREETER))
    async with asyncio.timeout(5):
        assert await clients[1].reader.readline() == BANNER
    assert not kernel.server.knows(clients[0])


# what a client says early


async def timers(proxy: Proxy) -> int:
    """Say something in a SYN (TCP Fast Open); return how often the client's timer had to help."""
    await proxy.taught()
    before = await proxy.stand.netstat(CLIENT)
    loop = asyncio.get_running_loop()
    async with (
        proxy.stand.setting(CLIENT, {"tcp_fastopen": FAST_OPEN_WITHOUT_COOKIE}),
        proxy.watched() as watch,
    ):
        with await proxy.stand.open_socket(CLIENT, socket.AF_INET, socket.SOCK_STREAM) as made:
            with suppress(BlockingIOError):
                made.sendto(b"hello", MSG_FASTOPEN, (SERVER4, ECHO))
            here = made.getsockname()[1]
            async with asyncio.timeout(5):
                assert await loop.sock_recv(made, 10) == b"hello"
    first = watch.sent(here)[0]
    assert (first.flags, first.data) == (SYN, b"hello")
    return (await proxy.stand.netstat(CLIENT) - before)["TCPTimeouts"]


async def test_data_in_a_syn_are_sent_again_at_once(kernel: Proxy, splice: Proxy) -> None:
    """The client's timer has to bring them where the SYN-ACK has left it no window."""
    assert await timers(kernel) > 0
    assert await timers(splice) == 0


async def filled(proxy: Proxy, mss: int) -> tuple[bool, bool]:
    """Have a client fill the first window before the server can answer, and say nothing after that.

    Return whether there was a window, and whether all that was in it came back.
    """
    await proxy.taught()
    stranger = proxy.stranger()
    async with proxy.stand.silence(ECHO):
        stranger.syn(linux(size=mss))
        window = (await stranger.hears()).window
        text = bytes(at % 251 for at in range(window))
        stranger.send()
        for at in range(0, window, mss - 12):
            stranger.send(PSH | ACK, text[at : at + mss - 12])
    answer = b""
    with suppress(TimeoutError):
        while len(answer) < window:
            answer += (await stranger.hears()).data
            stranger.send()
    return window > 0, answer == text


@pytest.mark.parametrize("mss", [1460, 536])
async def test_the_first_window_is_open(kernel: Proxy, splice: Proxy, mss: int) -> None:
    """What a client may send before the server has answered reaches it, and need not come twice."""
    assert await filled(kernel, mss) == (False, True)
    assert await filled(splice, mss) == (True, True)


# what is agreed on


@pytest.mark.parametrize(
    ("options", "best"),
    [(linux(size=UNUSUAL_MSS), 1296), (windows(size=UNUSUAL_MSS), 1220)],
    ids=["timestamps", "no-timestamps"],
)
async def test_a_client_keeps_its_mss(
    kernel: Proxy, splice: Proxy, options: bytes, best: int
) -> None:
    """Four values are few; with timestamps the next multiple of four is found."""
    await splice.taught()
    _, asked = await kernel.handshake(options)
    assert mss_of(asked) == 536
    _, asked = await splice.handshake(options)
    assert mss_of(asked) == best


async def test_a_client_without_timestamps_keeps_its_other_options(
    kernel: Proxy, splice: Proxy
) -> None:
    """SACK and the window scale of either side do not depend on timestamps."""
    await splice.taught()
    assert [set(one.options) for one in await kernel.handshake(windows())] == [{2}, {2}]
    told, asked = await splice.handshake(windows(shift=8))
    assert set(told.options) == set(asked.options) == {2, 3, 4}
    assert asked.options[3] == b"\x08"


async def test_a_client_that_wants_ecn_gets_it(kernel: Proxy, splice: Proxy) -> None:
    """The server is asked, and its consent passed on."""
    async with splice.stand.setting(CLIENT, {"tcp_ecn": 1}):
        await splice.taught()
    wish = SYN | ECE | CWR
    told, asked = await kernel.handshake(linux(), wish)
    assert (told.flags, asked.flags) == (SYN | ACK, SYN)
    told, asked = await splice.handshake(linux(), wish)
    assert (told.flags, asked.flags) == (SYN | ACK | ECE, wish)


async def scaled(proxy: Proxy) -> tuple[int, int, int, int]:
    """Return the server's window and its scale, and what a client takes these for."""
    async with proxy.watched() as watch:
        client = await proxy.server.client()
        assert await client.says(b"hello") == b"hello"
    here = port_of(client)
    found = []
    for side in (watch.answered(here), watch.heard(here)):
        scale = side[0].options[3][0]
        window = next(one.window for one in side if one.data == b"hello")
        found += [window << scale, scale]
    real, own, seen, told = found
    return real, own, seen, told


@pytest.mark.parametrize("change", ["larger", "smaller"])
async def test_windows_are_not_misread_where_the_scale_has_changed(
    kernel: Proxy, splice: Proxy, change: str
) -> None:
    """A client that was told the old scale sees the same window, to a unit; the next is told."""
    await splice.taught()
    async with kernel.stand.scaling(change):
        real, own, seen, told = await scaled(kernel)
    assert told == KERNEL_WSCALE != own
    assert seen << own == real << told
    async with splice.stand.scaling(change):
        real, own, seen, told = await scaled(splice)
        assert told != own
        assert 0 <= real - seen < 1 << told
        real, own, seen, told = await scaled(splice)
        assert (told, seen) == (own, real)
