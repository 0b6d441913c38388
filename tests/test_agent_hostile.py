# SPDX-License-Identifier: Apache-2.0
"""Clients that mean harm: the agent goes on answering hubs, and does not grow."""

import asyncio
import contextlib
import os
import signal
import socket
import struct
from collections.abc import Iterator
from functools import partial

import asyncssh
import pytest
from asyncssh.packet import Boolean, String

from hub.agent.limits import Door, Entry, Limits, Refusal, source_of
from hub.clock import SystemClock
from tests.support.agent import PORT, Agent, Home, ask, memory, soon
from tests.support.netns import inside

GROWTH = 20 << 20
GLOBAL_REQUEST = 80


@pytest.fixture(scope="module")
def key() -> asyncssh.SSHKey:
    """Return a hub's key."""
    return asyncssh.generate_private_key("ssh-ed25519", comment="hub1")


@pytest.fixture(scope="module")
def agent(key: asyncssh.SSHKey) -> Iterator[Agent]:
    """Return one agent for everything that is done to it here."""
    with Home() as home:
        home.allow(key)
        home.make_host_key()
        with Agent(home) as made:
            asyncio.run(answers(made, key))
            yield made


@pytest.fixture(autouse=True)
def unharmed(agent: Agent, key: asyncssh.SSHKey) -> Iterator[None]:
    """Whatever a test does: afterwards a hub is answered, and memory is what it was."""
    before = memory(agent.pid)
    yield
    asyncio.run(answers(agent, key))
    assert memory(agent.pid) < before + GROWTH
    assert agent.events("agent.defect") == agent.events("task.failed") == []


async def answers(agent: Agent, key: asyncssh.SSHKey) -> None:
    """Log in from where the hub always does, and ask."""
    async with asyncio.timeout(10):
        # New connections of one source have a rate; a hub tries again as well.
        for _ in range(5):
            with contextlib.suppress(OSError, asyncssh.ConnectionLost):
                async with await agent.connect(key) as hub:
                    assert (await ask(hub, "get"))[0] == 0
                    return
            await SystemClock().sleep(1)
    pytest.fail("a hub was not answered")


def strangers(agent: Agent, number: int, first: int = 0) -> list[socket.socket]:
    """Return connections from as many sources as there are; those refused at once too."""

    def work() -> list[socket.socket]:
        made = []
        for index in range(first, first + number):
            one = socket.socket()
            one.settimeout(5)
            one.bind((f"127.{1 + index // 250}.7.{1 + index % 250}", 0))
            with contextlib.suppress(OSError):
                one.connect(("127.0.0.1", PORT))
            made.append(one)
        return made

    return inside(agent.home.namespace, work)


def ended(one: socket.socket, seconds: float = 5) -> bool:
    """Return whether the agent closes a connection in time, whatever it says before."""
    one.settimeout(seconds)
    try:
        while one.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def close(connections: list[socket.socket]) -> None:
    """Close them."""
    for one in connections:
        one.close()


def send(one: socket.socket, data: bytes) -> None:
    """Send as much as is taken."""
    with contextlib.suppress(OSError):
        one.sendall(data)


def test_source_when_an_address_then_it_is_what_an_attacker_owns() -> None:
    """Sources are told apart as an attacker owns them: an IPv4 address, an IPv6 /64."""
    assert source_of("::ffff:192.0.2.1") == source_of("192.0.2.1") == "192.0.2.1"
    assert source_of("2001:db8::1") == source_of("2001:db8::ffff:2") != source_of("2001:db8:0:1::1")
    assert source_of("fe80::1%eth0") == "fe80::"


def test_door_when_full_of_strangers_then_a_known_source_still_enters() -> None:
    """A hub that has logged in before has places that strangers cannot take."""
    limits = Limits(burst=1000, source_burst=1000)
    door = Door(limits, 0)
    hub = door.knock("192.0.2.1", 0)
    assert isinstance(hub, Entry)
    door.prove(hub.ticket)
    door.leave(hub.ticket)

    inside_ = [door.knock(f"198.51.{index // 200}.{index % 200}", 1) for index in range(200)]
    assert all(isinstance(entry, Entry) for entry in inside_)
    assert len(door) == limits.waiting
    for _ in range(limits.waiting_per_source):
        entry = door.knock("192.0.2.1", 1)
        assert isinstance(entry, Entry)
        assert entry.evicted is None
    assert door.knock("192.0.2.1", 1) is Refusal.WAITING


def test_door_when_full_of_logged_in_then_a_stranger_is_refused() -> None:
    """Nobody who has logged in makes place for a stranger."""
    limits = Limits(burst=1000)
    door = Door(limits, 0)
    for index in range(limits.connections):
        entry = door.knock(f"198.51.100.{index}", 0)
        assert isinstance(entry, Entry)
        door.prove(entry.ticket)
    assert door.knock("192.0.2.1", 0) is Refusal.FULL
    assert isinstance(door.knock("198.51.100.1", 0), Entry)


def test_door_when_one_source_knocks_on_then_its_rate_and_its_places_are_bounded() -> None:
    """One source has few places before login, and few new connections a second."""
    limits = Limits()
    door = Door(limits, 0)
    got = [door.knock("192.0.2.1", 0) for _ in range(100)]
    assert sum(isinstance(entry, Entry) for entry in got) == limits.waiting_per_source
    assert got[limits.source_burst] is Refusal.SOURCE
    assert isinstance(door.knock("192.0.2.2", 0), Entry)


def test_door_when_sources_are_endless_then_its_memory_is_not() -> None:
    """What is remembered of sources has a bound."""
    limits = Limits(sources=100, known=10, burst=10**6)
    door = Door(limits, 0)
    for index in range(1000):
        entry = door.knock(f"10.0.{index // 250}.{index % 250}", index)
        assert isinstance(entry, Entry)
        door.prove(entry.ticket)
        door.leave(entry.ticket)
    assert len(door._sources) == 100
    assert len(door._known) == 10


def test_noise_when_sent_then_each_connection_ends(agent: Agent) -> None:
    """Random bytes, lines without end and packets of absurd length are all cut off."""
    version = b"SSH-2.0-x\r\n"
    noises = [
        os.urandom(4096),
        b"\0" * 100_000,
        b"A" * (1 << 20),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 500,
        b"SSH-1.5-old\r\n",
        b"SSH-2.0-" + b"y" * 5000 + b"\r\n",
        version + struct.pack(">I", 0x7FFFFFFF) + os.urandom(2000),
        version + struct.pack(">I", 0) + os.urandom(2000),
        version + struct.pack(">IB", 12, 255) + os.urandom(2000),
        version + os.urandom(60_000),
        b"x\n" * 5000,
    ]
    made = strangers(agent, len(noises))
    for one, noise in zip(made, noises, strict=True):
        send(one, noise)
    still = [noise[:20] for one, noise in zip(made, noises, strict=True) if not ended(one, 12)]
    close(made)
    assert still == []


def test_flood_when_from_many_sources_then_the_hub_gets_in(
    agent: Agent, key: asyncssh.SSHKey
) -> None:
    """Hundreds of connections that never log in do not keep a hub out that was there before."""
    made: list[socket.socket] = []
    for wave in range(4):
        made += strangers(agent, 150, 100 + 150 * wave)
        asyncio.run(answers(agent, key))
    open_now = sum(1 for one in made if not ended(one, 0.01))
    close(made)
    assert open_now <= Limits().waiting
    assert agent.events("agent.refused")


def test_flood_when_from_one_source_then_few_stay(agent: Agent) -> None:
    """One source holds at most four places before it has logged in."""

    def stay(source: str) -> int:
        made = [socket.create_connection(("127.0.0.1", PORT), 5, (source, 0)) for _ in range(12)]
        open_now = sum(1 for one in made if not ended(one, 0.2))
        close(made)
        return open_now

    most = 0
    # Another test's flood may have used up what all sources together may do in a second.
    for number in range(1, 20):
        source = f"127.9.9.{number}"
        most = max(most, inside(agent.home.namespace, partial(stay, source)))
        if most >= Limits().waiting_per_source:
            break
    assert most == Limits().waiting_per_source


async def test_keys_when_tried_without_end_then_the_connection_ends(agent: Agent) -> None:
    """A connection may try a dozen keys."""
    made = await asyncio.to_thread(agent.home.connect_socket)
    keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(40)]
    with pytest.raises((asyncssh.Error, OSError)):
        await asyncssh.connect(
            sock=made, client_keys=keys, known_hosts=None, config=None, agent_path=None
        )
    refused = await asyncio.to_thread(agent.events, "agent.refused")
    assert any(one["why"] == "tries too many keys" for one in refused)


def silence(agent: Agent) -> None:
    """Say nothing, or half of something: the place is kept for ten seconds."""
    made = strangers(agent, 3, 20)
    send(made[1], b"SSH-2.0-")
    send(made[2], b"SSH-2.0-x\r\n")
    began = SystemClock().monotonic()
    assert all(ended(one, 15) for one in made)
    close(made)
    assert 8 < SystemClock().monotonic() - began < 14


async def idle_sessions(agent: Agent, key: asyncssh.SSHKey) -> None:
    """Open channels without end: eight are had at once, and do not stay without a request."""
    async with await agent.connect(key) as hub:
        opened = [_open_idle(hub) for _ in range(60)]
        done = await asyncio.gather(*opened, return_exceptions=True)
        assert sum(isinstance(one, asyncssh.ChannelOpenError) for one in done) == 60 - 8
        await SystemClock().sleep(Limits().idle_s + 1)
        assert (await ask(hub, "get"))[0] == 0


async def test_time_when_wasted_then_silent_connections_and_idle_sessions_end(
    agent: Agent, key: asyncssh.SSHKey
) -> None:
    """Clients that do not log in lose their place in ten seconds, and hubs idle channels."""
    await asyncio.gather(asyncio.to_thread(silence, agent), idle_sessions(agent, key))


async def test_input_when_endless_then_the_connection_ends(
    agent: Agent, key: asyncssh.SSHKey
) -> None:
    """A client that sends without end to a command that is at work is cut off."""
    hub = await agent.connect(key)
    keeper = await asyncio.to_thread(agent.home.keeper_pid)
    os.kill(keeper, signal.SIGSTOP)  # so that the command waits
    try:
        channel, _ = await hub.create_session(asyncssh.SSHClientSession, "engage 60", encoding=None)
        channel.set_write_buffer_limits(4 * Limits().input_bytes)
        channel.write(b"y" * (2 * Limits().input_bytes))
        async with asyncio.timeout(10):
            await hub.wait_closed()
    finally:
        os.kill(keeper, signal.SIGCONT)
        hub.abort()
        await hub.wait_closed()
    refused = await asyncio.to_thread(agent.events, "agent.refused")
    assert any(one["why"] == "sends data without end" for one in refused)


async def _open_idle(hub: asyncssh.SSHClientConnection) -> asyncssh.SSHClientChannel[bytes]:
    channel: asyncssh.SSHClientChannel[bytes] = asyncssh.SSHClientChannel(
        hub, asyncio.get_running_loop(), "strict", None, "strict", 32768, 32768
    )
    await channel._open(b"session")
    return channel


async def test_answers_when_not_read_then_the_connection_ends(
    agent: Agent, key: asyncssh.SSHKey
) -> None:
    """A client that makes the agent answer and takes no answer is closed before it costs much."""
    hub = await agent.connect(key)
    transport = hub._transport
    assert transport is not None
    transport.pause_reading()
    for _ in range(500):
        for _ in range(200):
            hub.send_packet(GLOBAL_REQUEST, String(b"keepalive@openssh.com"), Boolean(True))  # noqa: FBT003
        await SystemClock().sleep(0)
        if await asyncio.to_thread(_unread, agent):
            break
    hub.abort()
    assert await asyncio.to_thread(soon, lambda: _unread(agent))


def _unread(agent: Agent) -> bool:
    return any(one["why"] == "does not read" for one in agent.events("agent.refused"))


async def test_keys_when_exchanged_without_end_then_another_hub_is_answered(
    agent: Agent, key: asyncssh.SSHKey
) -> None:
    """A storm of key exchanges on one connection does not stop the others."""
    async with await agent.connect(key, rekey_bytes=64) as storm, await agent.connect(key) as hub:
        busy = asyncio.gather(*(_repeat(storm, 10) for _ in range(4)), return_exceptions=True)
        for _ in range(5):
            assert (await ask(hub, "get"))[0] == 0
        await busy


async def _repeat(hub: asyncssh.SSHClientConnection, times: int) -> None:
    for _ in range(times):
        await ask(hub, "get")
