# SPDX-License-Identifier: Apache-2.0
"""One agent over SSH: trust, keys, bounds, and every way in which the other side goes wrong."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest

from hub.clock import SystemClock
from hub.errors import HubError, RefusedError
from hub.isn_sync.files import FileError
from hub.isn_sync.identity import Identity, fingerprint
from hub.isn_sync.link import CommandError, DeniedError, HostKeyError, Link, Reply, UnreachableError
from hub.isn_sync.pins import Pins
from tests.support.ssh import (
    GET,
    Process,
    Server,
    agent_at,
    free_port,
    openssh,
    raw_server,
    say_get,
    ssh_server,
)

CLOCK = SystemClock()


class Hub:
    """The hub's side of links: a key and pins in a folder."""

    def __init__(self, identity: Identity, pins: Pins) -> None:
        self.identity, self.pins = identity, pins

    @asynccontextmanager
    async def link(
        self, server: Server, *, patience: float = 5.0, trusting: bool = True
    ) -> AsyncIterator[Link]:
        """Yield a link to `server`, whose host key is trusted unless told otherwise."""
        if trusting:
            await self.pins.trust(server.agent, server.host_key)
        link = Link(server.agent, self.identity, self.pins, CLOCK, patience)
        try:
            yield link
        finally:
            await link.close()

    @property
    def line(self) -> str:
        """The line that agents are to have."""
        return self.identity.public_line()


@pytest.fixture
async def hub(tmp_path: Path) -> Hub:
    """A hub with a new key that trusts nobody."""
    return Hub(
        await Identity.open(tmp_path / "hub" / "id_ed25519"),
        await Pins.open(tmp_path / "hub" / "known_hosts", CLOCK),
    )


async def test_run_when_trusted_and_known_then_what_the_agent_says(hub: Hub) -> None:
    """A command's output comes back whole, with times that enclose the agent's clock."""
    async with ssh_server([hub.line]) as server, hub.link(server) as link:
        before = CLOCK.monotonic()
        reply = await link.run("get")
        assert before < reply.sent <= reply.received <= CLOCK.monotonic()
        assert (reply.text, link.connected, link.used_previous_key) == (GET, True, False)
        assert link.host_key == fingerprint(server.host_key)
        assert link.offered == ""
        assert server.commands == ["get"]


async def test_run_when_repeated_and_at_once_then_on_one_connection(hub: Hub) -> None:
    """Commands share a connection, one after the other and at the same time."""
    waiting: list[str] = []
    together = asyncio.Event()

    async def answer(command: str, process: Process) -> None:
        waiting.append(command)
        if len(waiting) >= 8:
            together.set()
        await together.wait()
        process.stdout.write(f"said: {command}\n".encode())
        process.exit(0)

    async with ssh_server([hub.line], answer) as server, hub.link(server) as link:
        commands = [f"flows {port}" for port in range(8)]
        replies = await asyncio.gather(*(link.run(command) for command in commands))
        assert [reply.text for reply in replies] == [f"said: {one}\n" for one in commands]
        assert (await link.run("get")).text == "said: get\n"
        assert server.made == 1


async def test_run_when_the_host_key_is_unknown_then_refused_until_trusted(hub: Hub) -> None:
    """An unknown host key is reported with its fingerprint, and nothing is sent before trust."""
    async with ssh_server([hub.line]) as server, hub.link(server, trusting=False) as link:
        with pytest.raises(HostKeyError) as caught:
            await link.run("get")
        shown = fingerprint(server.host_key)
        assert (caught.value.offered, caught.value.changed, link.offered) == (shown, False, shown)
        assert (server.commands, link.connected, caught.value.retryable) == ([], False, False)
        with pytest.raises(RefusedError):
            await link.trust("SHA256:" + "A" * 43)
        await link.trust(shown)
        assert (await link.run("get")).text == GET
        assert (link.offered, link.host_key) == ("", shown)


async def test_run_when_the_host_key_has_changed_then_refused_with_both(hub: Hub) -> None:
    """A server with another key than the trusted one is refused; the trusted one stays."""
    other = asyncssh.generate_private_key("ssh-ed25519")
    async with ssh_server([hub.line]) as server, hub.link(server, trusting=False) as link:
        await hub.pins.trust(server.agent, other)
        with pytest.raises(HostKeyError) as caught:
            await link.run("get")
        assert (caught.value.offered, caught.value.changed) == (fingerprint(server.host_key), True)
        assert (link.host_key, server.commands) == (fingerprint(other), [])
        assert f"agents trust {server.agent.name}" in str(caught.value)


async def test_run_when_the_host_key_is_revoked_then_refused_without_an_offer(
    hub: Hub, tmp_path: Path
) -> None:
    """A revoked host key cannot be trusted by a slip."""
    async with ssh_server([hub.line]) as server, hub.link(server, trusting=False) as link:
        line = f"@revoked * {server.host_key.export_public_key().decode()}"
        await asyncio.to_thread((tmp_path / "hub" / "known_hosts").write_text, line)
        await CLOCK.sleep(1.1)
        with pytest.raises(HostKeyError, match="revoked"):
            await link.run("get")
        assert (link.offered, server.commands) == ("", [])


async def test_run_when_a_pin_is_forgotten_then_the_kept_connection_is_not_used(hub: Hub) -> None:
    """Trust that is taken back counts at once, also for a connection that stands."""
    async with ssh_server([hub.line]) as server, hub.link(server) as link:
        await link.run("get")
        await hub.pins.forget(server.agent)
        with pytest.raises(HostKeyError):
            await link.run("get")
        assert server.commands == ["get"]


async def test_run_when_known_hosts_is_writable_by_others_then_said(
    hub: Hub, tmp_path: Path
) -> None:
    """A file into which others can put keys is not believed."""
    async with ssh_server([hub.line]) as server, hub.link(server) as link:
        await asyncio.to_thread((tmp_path / "hub" / "known_hosts").chmod, 0o666)
        await CLOCK.sleep(1.1)
        for _ in range(2):
            with pytest.raises(FileError, match="write"):
                await link.run("get")


async def test_run_when_our_key_is_not_known_then_denied(hub: Hub) -> None:
    """An agent without our key is reported as such, with what to do."""
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    async with ssh_server([other]) as server, hub.link(server) as link:
        with pytest.raises(DeniedError, match="fnm-hub key show") as caught:
            await link.run("get")
        assert not caught.value.retryable


async def test_run_when_the_key_was_rotated_then_agents_with_either_work(hub: Hub) -> None:
    """During an exchange both agents with the old key and with the new one let us in."""
    old = hub.line
    await hub.identity.rotate()
    async with (
        ssh_server([old]) as first,
        ssh_server([hub.line]) as second,
        hub.link(first) as behind,
        hub.link(second) as ahead,
    ):
        assert (await behind.run("get")).text == (await ahead.run("get")).text == GET
        assert (behind.used_previous_key, ahead.used_previous_key) == (True, False)
        await hub.identity.drop_previous()
        with pytest.raises(DeniedError):
            await behind.run("get")
        assert (await ahead.run("get")).text == GET
        assert (first.made, second.made) == (2, 1)


async def test_run_when_rotated_while_connected_then_the_new_key_is_tried(hub: Hub) -> None:
    """After an exchange a kept connection gives way to one that shows which key counts."""
    lines = [hub.line]
    async with ssh_server(lines) as server, hub.link(server) as link:
        await link.run("get")
        await hub.identity.rotate()
        assert link.used_previous_key
        for _ in range(3):
            assert (await link.run("get")).text == GET
        assert (link.used_previous_key, server.made) == (True, 2)


async def test_run_when_the_kept_connection_is_lost_then_made_anew_at_once(hub: Hub) -> None:
    """A restarted agent costs no failed command."""
    async with ssh_server([hub.line]) as server, hub.link(server) as link:
        await link.run("get")
        server.cut()
        assert (await link.run("get")).text == GET
        assert server.made == 2


async def test_run_when_the_agent_dies_in_the_middle_then_once_more_and_no_more(hub: Hub) -> None:
    """A command during which the connection breaks is tried again once, not for ever."""
    deaths = 0

    async def die(command: str, process: Process) -> None:
        nonlocal deaths
        if command == "get":
            await say_get(command, process)
            return
        deaths += 1
        process.stdout.write(b"half an ans")
        await process.stdout.drain()
        process.get_extra_info("connection").abort()

    async with ssh_server([hub.line], die) as server, hub.link(server) as link:
        await link.run("get")
        with pytest.raises(UnreachableError, match="lost") as caught:
            await link.run("listeners")
        assert (deaths, caught.value.retryable) == (2, True)


async def test_run_when_nobody_listens_then_unreachable(hub: Hub) -> None:
    """A refused connection is said in the system's words, and may be tried again."""
    server = Server(free_port(), asyncssh.generate_private_key("ssh-ed25519"))
    async with hub.link(server) as link:
        with pytest.raises(UnreachableError, match="connect") as caught:
            await link.run("get")
        assert caught.value.retryable


async def close_after_banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say hello and go."""
    del reader
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    writer.close()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take everything and never answer."""
    while await reader.read(4096):
        pass
    writer.close()


async def talk_rubbish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say hello, then what is no SSH."""
    del reader
    writer.write(b"SSH-2.0-x\r\n" + bytes(range(256)) * 300)
    writer.close()


async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be a web server."""
    await reader.readline()
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\x1b[2J\r\n\r\n")
    writer.close()


async def talk_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send lines before the hello without end."""
    del reader
    try:
        while True:
            writer.write(b"welcome\r\n" * 1000)
            await writer.drain()
    except ConnectionError:
        writer.close()


@pytest.mark.parametrize(
    "handle", [close_after_banner, say_nothing, talk_rubbish, speak_http, talk_for_ever]
)
async def test_run_when_it_is_no_ssh_server_then_unreachable_in_time(
    hub: Hub, handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> None:
    """Whatever answers on the port costs no more than the timeout, and says nothing raw."""
    async with raw_server(handle) as port:
        server = Server(port, asyncssh.generate_private_key("ssh-ed25519"))
        async with hub.link(server, patience=1.0) as link:
            began = CLOCK.monotonic()
            with pytest.raises(UnreachableError) as caught:
                await link.run("get")
            assert CLOCK.monotonic() - began < 2.5
            assert str(caught.value).isprintable()


async def test_run_when_a_command_hangs_then_the_next_one_works(hub: Hub) -> None:
    """A command that never ends costs its time, and not the commands after it."""
    hangs = True

    async def answer(command: str, process: Process) -> None:
        if hangs:
            await process.stdin.read()
            await CLOCK.sleep(30)
        await say_get(command, process)

    async with ssh_server([hub.line], answer) as server, hub.link(server, patience=0.5) as link:
        with pytest.raises(UnreachableError, match="no answer within"):
            await link.run("get")
        hangs = False
        assert (await link.run("get")).text == GET


async def test_run_when_one_command_times_out_then_the_others_go_on(hub: Hub) -> None:
    """A long command on the same connection survives a short one that takes too long."""
    ended = asyncio.Event()

    async def answer(command: str, process: Process) -> None:
        await ended.wait() if command == "flows 80" else await CLOCK.sleep(30)
        process.stdout.write(b"flows: 0\n")
        process.exit(0)

    async with ssh_server([hub.line], answer) as server, hub.link(server, patience=0.5) as link:
        long = asyncio.gather(link.run("flows 80"))
        while not server.commands:
            await CLOCK.sleep(0.01)
        with pytest.raises(UnreachableError):
            await link.run("get")
        ended.set()
        assert [reply.text for reply in await long] == ["flows: 0\n"]
        assert server.made == 1


@pytest.mark.parametrize("to", ["stdout", "stderr"])
async def test_run_when_flooded_then_cut_off(hub: Hub, to: str) -> None:
    """An agent that prints without end is cut off long before the time is over."""

    async def answer(command: str, process: Process) -> None:
        if command == "listeners":
            await say_get(command, process)
        while True:
            getattr(process, to).write(b"x" * 30_000)
            await getattr(process, to).drain()

    async with ssh_server([hub.line], answer) as server, hub.link(server) as link:
        with pytest.raises(CommandError, match="more than it should"):
            await link.run("get")
        assert (await link.run("listeners")).text == GET


async def test_run_when_the_list_is_long_then_whole(hub: Hub) -> None:
    """A list of 200 000 connections comes through; so much in answer to `get` does not."""
    line = b"flow: 2001:db8:1234:5678:9abc:def0:1234:5678 65535 2001:db8::1 443\n"

    async def answer(_command: str, process: Process) -> None:
        for _ in range(200):
            process.stdout.write(line * 1000)
            await process.stdout.drain()
        process.exit(0)

    async with ssh_server([hub.line], answer) as server, hub.link(server, patience=20) as link:
        assert len((await link.run("flows 443")).text) == 200_000 * len(line)
        with pytest.raises(CommandError, match="more than it should"):
            await link.run("get")


async def test_run_when_slow_but_in_time_then_whole(hub: Hub) -> None:
    """An answer that comes in drops is put together."""

    async def answer(_command: str, process: Process) -> None:
        for line in GET.splitlines(keepends=True):
            process.stdout.write(line.encode())
            await process.stdout.drain()
            await CLOCK.sleep(0.02)
        process.exit(0)

    async with ssh_server([hub.line], answer) as server, hub.link(server) as link:
        assert (await link.run("get")).text == GET


@pytest.mark.parametrize(
    ("out", "err", "status", "said"),
    [
        (b"", b"Error: no such thing; ask for get\n", 2, "no such thing; ask for get"),
        (b"Error: invalid command X\n", b"", 1, "invalid command X"),
        (b"net_secret: 0001\n", b"", 1, "its command ended with 1"),
        (b"", b"", 3, "its command ended with 3"),
        (b"", b"\x1b[2J\xff\x07 evil\n" + b"x" * 9000, 1, "[2J evil"),
    ],
    ids=["ours", "mitigator", "secret", "silent", "hostile"],
)
async def test_run_when_the_agent_says_no_then_its_words_made_harmless(
    hub: Hub, out: bytes, err: bytes, status: int, said: str
) -> None:
    """The agent's reason is shown without control characters, short, and without its output."""

    async def answer(_command: str, process: Process) -> None:
        process.stdout.write(out)
        process.stderr.write(err)
        process.exit(status)

    async with ssh_server([hub.line], answer) as server, hub.link(server) as link:
        with pytest.raises(CommandError) as caught:
            await link.run("get")
        assert caught.value.what.startswith(said)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300
        assert "0001" not in str(caught.value)
        assert link.connected


async def test_run_when_killed_by_a_signal_then_no_answer_of_it(hub: Hub) -> None:
    """Output without an exit status is no answer."""

    async def answer(_command: str, process: Process) -> None:
        process.stdout.write(GET.encode())
        process.exit_with_signal("KILL")

    async with ssh_server([hub.line], answer) as server, hub.link(server) as link:
        with pytest.raises(CommandError, match="was killed"):
            await link.run("get")


async def test_run_when_the_output_is_no_text_then_still_a_reply(hub: Hub) -> None:
    """Bytes that are no UTF-8 are replaced; what they mean is the reader's affair."""

    async def answer(_command: str, process: Process) -> None:
        process.stdout.write(b"uname: \xff\xfe\n")
        process.exit(0)

    async with ssh_server([hub.line], answer) as server, hub.link(server) as link:
        assert (await link.run("get")).text == "uname: \ufffd\ufffd\n"


async def test_run_when_cancelled_then_nothing_is_left_running(hub: Hub) -> None:
    """Who stops waiting leaves no channel open on the agent."""

    async def answer(command: str, process: Process) -> None:
        if command == "get":
            await say_get(command, process)
        else:
            await process.wait_closed()

    async with ssh_server([hub.line], answer) as server, hub.link(server) as link:
        await link.run("get")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await link.run("flows 80")
        async with asyncio.timeout(5):
            await server.empty.wait()
        assert (await link.run("get")).text == GET


async def test_close_when_commands_run_then_they_end_and_do_not_come_back(hub: Hub) -> None:
    """Closing ends what runs at once; a command asked for afterwards connects anew."""

    async def answer(command: str, process: Process) -> None:
        if command == "get":
            await say_get(command, process)
        else:
            await process.wait_closed()

    async with ssh_server([hub.line], answer) as server, hub.link(server) as link:
        await link.run("get")
        running = asyncio.gather(link.run("flows 80"), return_exceptions=True)
        while len(server.commands) < 2:
            await CLOCK.sleep(0.01)
        await link.close()
        (error,) = await running
        assert isinstance(error, UnreachableError)
        assert (link.connected, server.commands, server.made) == (False, ["get", "flows 80"], 1)
        assert (await link.run("get")).text == GET
    assert len(asyncio.all_tasks()) == 1


async def test_reply_when_shown_then_without_its_text() -> None:
    """What may hold secrets shows none of them."""
    assert "0001" not in repr(Reply("net_secret: 0001", 0.0, 0.0))


async def test_logs_when_talking_then_nothing_of_it_is_written(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """The SSH library writes neither commands nor output into the log, at any level of ours."""
    caplog.set_level(logging.DEBUG, logger="")
    async with ssh_server([hub.line]) as server, hub.link(server) as link:
        await link.run("get")
    assert [one.name for one in caplog.records if one.name.startswith("asyncssh")] == []


SCRIPT = f"""\
case "$SSH_ORIGINAL_COMMAND" in
get) printf '%s' '{GET}';;
hang) sleep 60;;
*) echo "Error: invalid command $SSH_ORIGINAL_COMMAND"; exit 1;;
esac
"""


async def test_openssh_when_set_up_as_mitigator_s_agent_then_it_works(
    hub: Hub, tmp_path: Path
) -> None:
    """The link speaks to OpenSSH: answers, errors, a restart, another host key, a foreign key."""
    folder = tmp_path / "agent"
    await asyncio.to_thread(folder.mkdir)
    async with openssh(folder, hub.line, SCRIPT) as server:
        server.user = "root"
        async with hub.link(server) as link:
            replies = await asyncio.gather(*(link.run("get") for _ in range(8)))
            assert {reply.text for reply in replies} == {GET}
            with pytest.raises(CommandError, match="invalid command set;"):
                await link.run("set;A")
            await hub.identity.rotate()
            assert (await link.run("get")).text == GET
            assert link.used_previous_key
        await hub.pins.trust(server.agent, asyncssh.generate_private_key("ssh-ed25519"))
        async with hub.link(server, trusting=False) as link:
            with pytest.raises(HostKeyError):
                await link.run("get")
        await hub.identity.rotate(force=True)
        async with hub.link(server) as link:
            with pytest.raises(DeniedError):
                await link.run("get")


async def test_errors_when_raised_then_all_are_the_hub_s() -> None:
    """Callers catch one kind of error and read from it whether to try again."""
    kinds = (UnreachableError, HostKeyError, DeniedError, CommandError)
    assert all(issubclass(one, HubError) for one in kinds)
    assert [one.retryable for one in kinds] == [True, False, False, False]


async def test_agent_when_it_has_no_ed25519_host_key_then_said(hub: Hub) -> None:
    """A server with only another kind of host key is refused with the reason."""
    key = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    async with ssh_server([hub.line], host_key=key) as server:
        link = Link(agent_at(server.port), hub.identity, hub.pins, CLOCK)
        with pytest.raises(UnreachableError, match="must have an ed25519 host key"):
            await link.run("get")
