# SPDX-License-Identifier: Apache-2.0
"""The native engine in front of a real server, with segments in orders that no kernel sends."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.netns import ACK, CLIENT, FIN, PSH, RST, SERVER, SYN, spoofed, tcp_packet
from tests.support.packets import EOL, NOP, SACK, apple, linux, mss, timestamps, windows, wscale
from tests.support.stack import ECHO, TARGETS, Stand, tcp_of
from tests.support.stack_daemon import Daemon, oracle_daemon
from tests.support.stack_raw import Seen, Stranger, Wires, wires
from tests.support.stack_talk import GOODBYE, Server

FAMILIES = (4, 6)
CHALLENGED = 2**20
"""Far beyond what a segment may be off to be taken for a retransmission."""
FORGED = 2000
BEHIND_MS = 400


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """Return one lab for all of them: each test comes from an address of its own."""
    with Stand() as made:
        yield made


@pytest.fixture(scope="module")
def attached(stand: Stand) -> Iterator[Daemon]:
    """Return the engine with this kernel's cookies on the gateway."""
    with Daemon(stand, oracle_daemon()) as made:
        yield made


@pytest.fixture
async def server(stand: Stand) -> AsyncIterator[Server]:
    """Return the protected server at work."""
    async with Server(stand).running() as made:
        yield made


@pytest.fixture
async def engine(stand: Stand, attached: Daemon, server: Server) -> Daemon:
    """Return the engine at work, with nothing known."""
    del server  # it is there to be asked for its profile
    await attached.begin(await stand.profiles())
    return attached


@pytest.fixture
async def outside(stand: Stand) -> AsyncIterator[Wires]:
    """Return the client's wire."""
    async with wires(stand) as made:
        yield made


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def stranger(request: pytest.FixtureRequest, outside: Wires) -> Stranger:
    """Return a client without a kernel."""
    return outside.stranger(request.param, ECHO)


async def test_data_stand_in_for_a_lost_ack(engine: Daemon, stranger: Stranger) -> None:
    """The first data segment proves the client as well as the ACK that never came."""
    stranger.syn()
    await stranger.hears()
    assert await stranger.asks(b"hello") == b"hello"
    assert (await engine.in_force())["cookie_good"] == 1


async def test_a_later_segment_opens_nothing(engine: Daemon, stranger: Stranger) -> None:
    """A segment that is not the first is dropped; sent again in order, both are answered."""
    stranger.syn()
    await stranger.hears()
    stranger.send(PSH | ACK, b"world", seq=stranger.seq + 6)
    assert await stranger.quiet()
    assert await engine.entered() == (0, 0)
    assert (await engine.in_force())["cookie_bad"] == 1
    assert await stranger.asks(b"hello world") == b"hello world"


async def test_a_replayed_ack_changes_nothing(engine: Daemon, stranger: Stranger) -> None:
    """The ACK of the handshake may come again, before and after data: the connection goes on."""
    await stranger.opens()
    seq, ack = stranger.seq, stranger.ack
    stranger.send(seq=seq, ack=ack)
    assert await stranger.asks(b"hello") == b"hello"
    stranger.send(seq=seq, ack=ack)
    assert await stranger.asks(b"again") == b"again"
    counts = await engine.in_force()
    assert counts["cookie_good"] == 1
    assert counts["cookie_bad"] == 0
    assert await engine.entered() == (1, 1)


async def test_a_keepalive_probe_is_answered(engine: Daemon, stranger: Stranger) -> None:
    """A probe one below the next sequence number reaches the server, which acknowledges it."""
    await stranger.opens()
    assert await stranger.asks(b"hello") == b"hello"
    stranger.send(seq=stranger.seq - 1)
    seen = await stranger.hears()
    assert (seen.flags, seen.ack) == (ACK, stranger.seq)
    assert (await engine.in_force())["cookie_bad"] == 0


async def test_a_closed_window_is_probed_and_opened(engine: Daemon, stranger: Stranger) -> None:
    """The answers to the server's window probes reach it, and then data flow again."""
    await stranger.opens()
    stranger.send(PSH | ACK, b"hello", window=0)
    probe = await stranger.hears()
    assert probe.data == b""
    probe = await stranger.hears(5)
    assert probe.ack == stranger.seq
    stranger.send(ack=probe.seq + 1, window=0)
    stranger.send(ack=probe.seq + 1, window=512)
    while not (seen := await stranger.hears()).data:
        pass
    assert seen.data == b"hello"
    assert (await engine.in_force())["cookie_bad"] == 0


async def test_a_syn_within_a_connection_is_challenged_by_the_server(
    engine: Daemon, stranger: Stranger
) -> None:
    """The server's own challenge ACK answers (RFC 5961), and the connection goes on."""
    await stranger.opens()
    assert await stranger.asks(b"hello") == b"hello"
    stranger.send(SYN, seq=stranger.seq + CHALLENGED, ack=0, options=linux(5000))
    seen = await stranger.hears()
    assert (seen.flags, seen.ack) == (ACK, stranger.seq)
    assert await stranger.asks(b"again") == b"again"
    assert (await engine.in_force())["cookie_sent"] == 1


async def test_a_fin_may_be_the_first(engine: Daemon, stranger: Stranger) -> None:
    """FIN+ACK with the right cookie opens the connection and ends the client's side of it."""
    stranger.syn()
    await stranger.hears()
    stranger.send(FIN | ACK)
    heard = b""
    while True:
        seen = await stranger.hears()
        heard += seen.data
        if seen.flags & FIN:
            break
    assert heard == GOODBYE
    assert (await engine.in_force())["cookie_good"] == 1


async def test_a_syn_sent_again_draws_the_same_answer(engine: Daemon, stranger: Stranger) -> None:
    """Within a minute the sequence number stays, and the timestamp does not go back."""
    stranger.syn()
    one = await stranger.hears()
    stranger.syn()
    other = await stranger.hears()
    if other.seq != one.seq:  # the minute has just passed
        stranger.syn()
        one, other = other, await stranger.hears()
    assert (other.seq, other.ack) == (one.seq, one.ack)
    assert other.tsval >= one.tsval
    stranger.send()
    assert await stranger.asks(b"hello") == b"hello"
    assert (await engine.in_force())["cookie_good"] == 1


async def test_data_in_a_syn_are_sent_again(engine: Daemon, stranger: Stranger) -> None:
    """A SYN with data and a Fast Open request is answered as one without either."""
    stranger.syn(linux(1000) + bytes([34, 2]) + NOP + NOP, b"GET /")
    seen = await stranger.hears()
    assert seen.ack == stranger.seq == stranger.first + 1 & 0xFFFFFFFF
    assert 34 not in seen.options
    assert await stranger.asks(b"GET /") == b"GET /"
    assert (await engine.in_force())["cookie_good"] == 1


MULTIPATH = bytes([30, 4, 1, 0])
LAYOUTS = {
    "linux": (linux(), {"sack", "timestamps", "wscale"}, 7),
    "apple": (apple(), {"sack", "timestamps", "wscale"}, 6),
    "windows": (windows(), set(), 0),
    "mss-only": (mss(1460), set(), 0),
    "none": (b"", set(), 0),
    "multipath": (linux() + MULTIPATH, {"sack", "timestamps", "wscale"}, 7),
    "odd-order": (
        timestamps(1000) + wscale(3) + NOP + SACK + mss(1460) + NOP + NOP,
        {"sack", "timestamps", "wscale"},
        3,
    ),
    "scale-too-large": (linux(shift=15), {"sack", "timestamps", "wscale"}, 14),
    "no-mss": (SACK + timestamps(1000) + EOL + EOL, {"sack", "timestamps"}, 0),
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
async def test_every_layout_of_options_is_served(
    engine: Daemon, server: Server, stranger: Stranger, layout: str
) -> None:
    """The server agrees on what the SYN offered, though it has never seen the SYN."""
    options, agreed, scale = LAYOUTS[layout]
    await stranger.opens(options)
    assert await stranger.asks(b"hello") == b"hello"
    info = server.info_of(stranger.name)
    assert info.options == agreed
    assert info.snd_wscale == scale
    assert (await engine.in_force())["cookie_good"] == 1


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "ipv6"])
async def test_the_syn_ack_looks_like_the_servers(
    stand: Stand, engine: Daemon, outside: Wires, family: int, layout: str
) -> None:
    """All that a client sees of it is the same, but for sequence number, time and hops."""
    options, agreed, _ = LAYOUTS[layout]
    ours, direct = outside.stranger(family, ECHO), outside.stranger(family, ECHO)
    seen = await ours.opens(options)
    assert (await engine.in_force())["cookie_sent"] == 1
    profile = (await stand.profiles())[family]
    await engine.release()
    expected = await direct.opens(options)
    assert appearance(seen) == appearance(expected)
    assert seen.ttl == profile.ttl == expected.ttl + 1  # a router is between
    assert abs(seen.tsval - expected.tsval) < BEHIND_MS if "timestamps" in agreed else True
    # Without timestamps the server's own window is a little smaller; the engine knows one only.
    assert seen.window == profile.window
    assert "timestamps" not in agreed or seen.window == expected.window


def appearance(seen: Seen) -> tuple[object, ...]:
    """Return what is to be the same in two answers."""
    packet = seen.packet
    # Traffic class, IPv4's identification and its flag against fragments; the engine may pad.
    head = packet[:2] + packet[4:8] if packet[0] >> 4 == 4 else (packet[0], packet[1] >> 4)
    order = [(kind, value[4:] if kind == 8 else value) for kind, value in seen.options.items()]
    return head, seen.flags, order, seen.data


@pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (ACK, "cookie_bad"),
        (PSH | ACK, "cookie_bad"),
        (FIN | ACK, "cookie_bad"),
        (FIN, "cookie_bad"),
        (RST, "rst_unknown"),
        (RST | ACK, "rst_unknown"),
        (SYN | FIN, "bad_flags"),
        (0, "bad_flags"),
    ],
    ids=["ack", "data", "fin-ack", "fin", "rst", "rst-ack", "syn-fin", "none"],
)
async def test_forged_segments_have_no_effect(
    stand: Stand, engine: Daemon, family: int, flags: int, reason: str
) -> None:
    """No answer, nothing that reaches the server, and no table that is any fuller."""
    target = TARGETS[family]
    sources = spoofed(target, flags)
    packets = [
        tcp_packet(next(sources), target, 1024 + at, ECHO, flags, b"x" * (flags & PSH))
        for at in range(FORGED)
    ]
    async with stand.capture(CLIENT, "eth0") as outside, stand.capture(SERVER, "eth0") as inside:
        await stand.send(packets, target)
    assert [one for one in outside.packets(incoming=True) if tcp_of(one)] == []
    assert [one for one in inside.packets() if tcp_of(one)] == []
    assert (await engine.in_force())[reason] == FORGED
    assert await engine.entered() == (0, 0)
