# SPDX-License-Identifier: Apache-2.0
"""The agent over SSH: what a hub with a key gets, and that nobody gets anything else."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncssh
import pytest

from hub.agent.commands import NAMES, NotUnderstoodError, parse
from tests.support.agent import (
    COOKIE_SECRET,
    NET_SECRET,
    PORT,
    Agent,
    Home,
    ask,
    memory,
    soon,
    status,
)


@pytest.fixture
def key() -> asyncssh.SSHKey:
    """Return a hub's key."""
    return asyncssh.generate_private_key("ssh-ed25519", comment="hub1")


@pytest.fixture
def home(key: asyncssh.SSHKey) -> Iterator[Home]:
    """Return a server's folders, with the hub's key in place."""
    with Home() as made:
        made.allow(key)
        made.make_host_key()
        yield made


@pytest.fixture
def agent(home: Home) -> Iterator[Agent]:
    """Return a running agent."""
    with Agent(home) as made:
        yield made


@pytest.fixture
async def hub(agent: Agent, key: asyncssh.SSHKey) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """Return a hub's connection."""
    async with await agent.connect(key) as made:
        yield made


def lines(text: str) -> dict[str, str]:
    """Return the names and values of an answer."""
    return dict(line.split(": ", 1) for line in text.splitlines())


async def test_get_when_asked_then_the_secrets_and_the_lease_are_told(
    hub: asyncssh.SSHClientConnection,
) -> None:
    """The answer has the recorded kernel's secrets in memory order, and ours beside them."""
    code, out, err = await ask(hub, "get")

    said = lines(out)
    assert (code, err) == (0, "")
    assert said["uname"] == "Linux"
    assert said["net_secret"] == NET_SECRET
    assert said["syncookie_secret"] == COOKIE_SECRET
    assert said["source"] == "tcp_secrets"
    assert (said["tcp_syncookies"], said["engaged_s"]) == ("1", "0")


async def test_engage_when_renewed_and_released_then_get_tells_it(
    hub: asyncssh.SSHClientConnection, home: Home
) -> None:
    """A lease belongs to the key: get shows what is left of it, release ends it."""
    code, out, _ = await ask(hub, "engage 60 80 443")
    assert code == 0
    assert lines(out) == {
        "tcp_syncookies": "2",
        "old_tcp_syncookies": "1",
        "engaged_s": "60",
    }
    assert await asyncio.to_thread(home.sysctl) == 2
    said = lines((await ask(hub, "get"))[1])
    assert said["tcp_syncookies"] == "2"
    assert 50 <= int(said["engaged_s"]) <= 60

    assert lines((await ask(hub, "release"))[1]) == {"tcp_syncookies": "1", "engaged_s": "0"}
    assert await asyncio.to_thread(home.sysctl) == 1


async def test_engage_when_two_hubs_hold_then_the_first_release_changes_nothing(
    agent: Agent, home: Home, key: asyncssh.SSHKey
) -> None:
    """Each hub has a lease of its own."""
    other = asyncssh.generate_private_key("ssh-ed25519", comment="hub2")
    await asyncio.to_thread(home.allow, key, other)
    async with await agent.connect(key) as first, await agent.connect(other) as second:
        await ask(first, "engage 60")
        await ask(second, "engage 60")
        assert lines((await ask(first, "release"))[1])["tcp_syncookies"] == "2"
        assert lines((await ask(second, "release"))[1])["tcp_syncookies"] == "1"


async def test_listeners_when_asked_then_the_agents_own_port_is_among_them(
    hub: asyncssh.SSHClientConnection,
) -> None:
    """A dual-stack socket is told in both families."""
    _, out, _ = await ask(hub, "listeners")
    assert f"listener: 0.0.0.0 {PORT}" in out.splitlines()
    assert f"listener: :: {PORT}" in out.splitlines()


async def test_flows_when_asked_then_the_hubs_own_connection_is_among_them(
    hub: asyncssh.SSHClientConnection,
) -> None:
    """Established connections to a port are told with both ends."""
    port = hub.get_extra_info("sockname")[1]
    _, out, _ = await ask(hub, f"flows {PORT}")
    assert f"flow: 127.0.0.1 {port} 127.0.0.1 {PORT}" in out.splitlines()
    assert "flows: 1" in out.splitlines()


async def test_selftest_when_asked_then_the_keeper_is_among_the_checks(
    hub: asyncssh.SSHClientConnection,
) -> None:
    """Every line has the form of a check."""
    _, out, _ = await ask(hub, "selftest")
    assert all(line.startswith("check: ") for line in out.splitlines())
    assert "check: keeper ok tcp_syncookies is 1" in out.splitlines()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "set;1;2",
        "get all",
        " get",
        "get ",
        "get\n",
        "get\0",
        "engage",
        "engage 5",
        "engage 90000",
        "engage 1e3",
        "engage \u0661\u0662",
        "engage 60 0",
        "engage 60 65536",
        "flows",
        "flows  80",
        "flows " + "80 " * 64 + "80",
        "release now",
        "get" + "x" * 5000,
    ],
)
def test_parse_when_not_a_request_then_it_is_refused(line: str) -> None:
    """What is not exactly a command is none."""
    with pytest.raises(NotUnderstoodError) as caught:
        parse(line)
    assert caught.value.todo


async def test_request_when_not_understood_then_one_line_and_status_2(
    hub: asyncssh.SSHClientConnection,
) -> None:
    """The error says what and what to do, on standard error."""
    for wrong in ("set;1", "flows 80;reboot", "engage 1", "g" * 5000):
        code, out, err = await ask(hub, wrong)
        assert (code, out) == (2, ""), wrong
        assert err.startswith("Error: ")
        assert err.count("\n") == 1
        assert "; " in err
    named = (await ask(hub, "help"))[2]
    assert all(name in named for name in NAMES)


async def test_key_when_not_in_the_file_then_no_login(agent: Agent) -> None:
    """Another key is refused, and the log names it."""
    other = asyncssh.generate_private_key("ssh-ed25519")
    with pytest.raises(asyncssh.PermissionDenied):
        await agent.connect(other)
    said = await asyncio.to_thread(agent.events, "agent.key_refused")
    assert said[0]["fingerprint"] == other.get_fingerprint()


async def test_key_when_added_then_it_is_taken_without_a_restart(agent: Agent, home: Home) -> None:
    """The file is looked at again at each login."""
    other = asyncssh.generate_private_key("ssh-ed25519", comment="new hub")
    await asyncio.to_thread(home.allow, other)
    async with await agent.connect(other) as made:
        assert (await ask(made, "get"))[0] == 0
    said = await asyncio.to_thread(agent.events, "agent.command")
    assert said[-1]["tag"] == "new hub"
    assert said[-1]["fingerprint"] == other.get_fingerprint()
    assert (said[-1]["command"], said[-1]["outcome"]) == ("get", 0)


async def test_key_when_removed_then_its_connection_ends_at_the_next_command(
    agent: Agent, home: Home, hub: asyncssh.SSHClientConnection
) -> None:
    """Taking a key away takes effect on connections that stand."""
    assert (await ask(hub, "get"))[0] == 0
    await asyncio.to_thread(home.allow)
    with pytest.raises((OSError, asyncssh.Error)):
        await ask(hub, "get")
    await hub.wait_closed()
    assert await asyncio.to_thread(agent.events, "agent.refused")


async def test_login_when_not_by_an_ed25519_key_then_it_is_refused(
    agent: Agent, home: Home
) -> None:
    """Neither another type of key nor a password nor any other method is offered."""
    rsa = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    await asyncio.to_thread(home.allow, rsa)
    with pytest.raises(asyncssh.PermissionDenied):
        await agent.connect(rsa)
    made = await asyncio.to_thread(home.connect_socket)
    methods = await asyncssh.get_server_auth_methods(sock=made, config=None)
    assert methods == ["publickey"]


async def test_host_key_when_looked_at_then_it_is_ed25519_and_the_files(
    agent: Agent, home: Home
) -> None:
    """A hub can pin what the file says, and no other type of host key is there."""
    made = await asyncio.to_thread(home.connect_socket)
    offered = await asyncssh.get_server_host_key(sock=made, config=None)
    assert offered is not None
    assert offered.get_algorithm() == "ssh-ed25519"
    started = await asyncio.to_thread(agent.events, "agent.started")
    assert started[0]["host_key"] == offered.get_fingerprint()


async def test_session_when_a_shell_a_terminal_or_a_subsystem_then_it_is_refused(
    hub: asyncssh.SSHClientConnection, tmp_path: Path
) -> None:
    """A channel takes exec and nothing else."""
    with pytest.raises(asyncssh.ChannelOpenError):
        await hub.create_process()
    with pytest.raises(asyncssh.ChannelOpenError):
        await hub.create_process(subsystem="sftp")
    with pytest.raises((asyncssh.SFTPError, asyncssh.ChannelOpenError)):
        await hub.start_sftp_client()
    with pytest.raises(asyncssh.ChannelOpenError):
        await hub.create_process("get", term_type="xterm")
    await asyncssh.scp((hub, "/etc/hostname"), tmp_path / "copied")
    assert not await asyncio.to_thread((tmp_path / "copied").exists)
    assert (await ask(hub, "get"))[0] == 0


async def test_forwarding_when_asked_for_then_it_is_refused(
    agent: Agent, hub: asyncssh.SSHClientConnection, tmp_path: Path
) -> None:
    """No way through the agent into the server's network, of any kind."""
    with pytest.raises(asyncssh.ChannelOpenError):
        await hub.open_connection("127.0.0.1", PORT)
    with pytest.raises(asyncssh.ChannelOpenError):
        await hub.open_unix_connection(str(agent.home.runtime / "agent/control.sock"))
    with pytest.raises(asyncssh.ChannelListenError):
        await hub.forward_remote_port("", 0, "127.0.0.1", PORT)
    with pytest.raises(asyncssh.ChannelListenError):
        await hub.forward_remote_path(str(tmp_path / "socket"), str(tmp_path / "other"))
    with pytest.raises(asyncssh.ChannelOpenError):
        await hub.open_tun()
    assert (await ask(hub, "get"))[0] == 0


async def test_environment_when_sent_then_it_is_not_taken(
    hub: asyncssh.SSHClientConnection,
) -> None:
    """Variables of the client reach nothing, and the command runs all the same."""
    done = await hub.run("get", env={"LD_PRELOAD": "/x.so", "SSH_ORIGINAL_COMMAND": "engage"})
    assert done.exit_status == 0


async def test_input_when_sent_then_it_is_ignored(hub: asyncssh.SSHClientConnection) -> None:
    """A command reads nothing, and is not disturbed by what is sent to it."""
    assert (await hub.run("get", input="y" * 1000)).exit_status == 0


async def test_process_when_looked_at_then_it_has_no_privileges(agent: Agent) -> None:
    """The agent is an ordinary user without capabilities, and cannot get any."""

    def look() -> None:
        pid = agent.pid
        assert status(pid, "Uid").split() == ["65534"] * 4
        assert status(pid, "Gid").split() == ["65534"] * 4
        assert status(pid, "Groups").strip() == ""
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(status(pid, name), 16) == 0, name
        assert status(pid, "NoNewPrivs").strip() == "1"
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        assert next(line for line in limits if "core file" in line).split()[4:6] == ["0", "0"]

    await asyncio.to_thread(look)


async def test_secrets_when_told_then_they_are_in_no_log_and_no_argument(
    agent: Agent, hub: asyncssh.SSHClientConnection
) -> None:
    """The log has sizes and names; secrets go to the caller alone."""
    await ask(hub, "get")
    text = await asyncio.to_thread(lambda: agent.log)
    argv = await asyncio.to_thread(Path(f"/proc/{agent.pid}/cmdline").read_bytes)
    for secret in (NET_SECRET, COOKIE_SECRET):
        assert secret not in text
        assert secret.encode() not in argv


async def test_agent_when_killed_then_the_next_one_finds_the_lease(
    home: Home, key: asyncssh.SSHKey
) -> None:
    """Kill -9 of the agent does not end protection, and a new agent goes on where it was."""

    def first() -> Agent:
        made = Agent(home)
        made.__enter__()
        return made

    agent = await asyncio.to_thread(first)
    async with await agent.connect(key) as hub:
        await ask(hub, "engage 60")
        await asyncio.to_thread(agent.kill)
    assert await asyncio.to_thread(home.sysctl) == 2
    second = await asyncio.to_thread(first)
    try:
        async with await second.connect(key) as hub:
            said = lines((await ask(hub, "get"))[1])
            assert said["tcp_syncookies"] == "2"
            assert int(said["engaged_s"]) > 40
            await ask(hub, "release")
        assert await asyncio.to_thread(home.sysctl) == 1
    finally:
        await asyncio.to_thread(second.__exit__)


async def test_agent_when_its_keeper_is_killed_then_it_says_so_and_ends(
    agent: Agent, home: Home
) -> None:
    """An agent that could no longer restore the sysctl ends with an error, to be restarted."""
    await asyncio.to_thread(lambda: os.kill(home.keeper_pid(), 9))
    assert await asyncio.to_thread(soon, lambda: agent.code is not None)
    assert agent.code == 1
    assert (await asyncio.to_thread(agent.events, "agent.failed"))[0]["why"].startswith(
        "the keeper of net.ipv4.tcp_syncookies is gone"
    )


def test_agent_when_another_runs_then_it_refuses(agent: Agent, home: Home) -> None:
    """Two agents would take each other's keeper, so the second does not start."""
    other = Agent(home, "--port", "7101")
    other.begin()
    assert soon(lambda: other.code is not None)
    assert other.events("agent.failed")[0]["why"] == "another agent runs with this folder"
    assert agent.code is None


def test_agent_when_it_can_never_start_then_its_status_says_so(home: Home) -> None:
    """Without a source of keys, without a host key or without its user it ends with 78."""
    (home.proc / "tcp_secrets").rename(home.proc / "hidden")
    assert _failing(home).startswith("kcore: ")
    (home.proc / "hidden").rename(home.proc / "tcp_secrets")
    home.host_key.chmod(0o644)
    assert _failing(home) == "others than root can read it"
    home.host_key.chmod(0o600)
    assert _failing(home, "--user", "no-such-user") == "there is no user no-such-user"
    assert _failing(home, "--user", "root") == "root is root"


def _failing(home: Home, *more: str) -> str:
    agent = Agent(home, *more)
    agent.begin()
    assert soon(lambda: agent.code is not None)
    assert agent.code == os.EX_CONFIG
    why: str = agent.events("agent.failed")[0]["why"]
    return why


def test_agent_when_idle_then_it_is_small(agent: Agent, home: Home) -> None:
    """What protects a server may not cost it much memory."""
    assert memory(agent.pid) < 80 << 20
    assert memory(home.keeper_pid()) < 40 << 20


def test_agent_when_told_to_end_then_it_does_and_the_keeper_too(agent: Agent, home: Home) -> None:
    """Without leases nothing stays behind."""
    keeper = home.keeper_pid()
    agent.__exit__()
    assert agent.code == 0
    assert soon(lambda: not Path(f"/proc/{keeper}").exists() or status(keeper, "State")[0] == "Z")
