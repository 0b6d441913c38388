# SPDX-License-Identifier: Apache-2.0
"""The agent with a true kernel: a stock one, whose memory it reads after giving up its rights."""

import json

import asyncssh
import pytest

from scripts.lab.guest_image import VENV_PYTHON
from scripts.lab.guest_server import ECHO, PORTS
from tests.support.guest import Protected
from tests.support.guest_agent import agent_in
from tests.support.netns import SERVER4, SERVER6

CHECK = (VENV_PYTHON, "-m", "hub.agent.main", "check")
SECRETS = ("net_secret", "syncookie_secret", "syncookie6_secret")
LOOK = """
import json, os, sys
pid = sys.argv[1]
fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
names = ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapAmb", "NoNewPrivs")
files = [os.readlink(f"/proc/{pid}/fd/{one}") for one in os.listdir(f"/proc/{pid}/fd")]
said = {name: fields[name].split() for name in names}
user = int(said["Uid"][0])
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
try:
    os.close(os.open("/proc/kcore", os.O_RDONLY))
    anew = "opened"
except OSError as error:
    anew = error.strerror
print(json.dumps({**said, "files": files, "anew": anew}))
"""


TAKE = """
import json, os, socket, subprocess, sys
from pathlib import Path
from hub.agent.handover import unpacked
from hub.agent.kernel.sources import open_sources
expected = open_sources(Path("/proc")).read()
end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
end.bind("/run/store")
program = [sys.executable, "-m", "hub.agent.main", "open"]
said = subprocess.Popen(program, env={"NOTIFY_SOCKET": "/run/store"}, stdout=subprocess.PIPE)
files, message = {}, b""
while message != b"BARRIER=1":
    message, given, _, _ = socket.recv_fds(end, 4096, 1)
    if message.startswith(b"FDSTORE=1"):
        files[message.split(b"FDNAME=")[1].split()[0].decode()] = given[0]
os.close(given[0])
lines = said.communicate()[0].decode().splitlines()
os.unlink("/run/store")
os.setgroups([])
os.setresgid(900, 900, 900)
os.setresuid(900, 900, 900)
try:
    os.close(os.open("/proc/kcore", os.O_RDONLY))
    anew = "opened"
except OSError as error:
    anew = error.strerror
kernel = unpacked(files)
secrets = kernel.read()
print(json.dumps({
    "names": sorted(files), "anew": anew, "said": lines, "source": kernel.source,
    "same": secrets.net == expected.net and any(secrets.net),
    "hz": secrets.hz,
    "jiffies": [expected.jiffies, secrets.jiffies, kernel.read().jiffies],
}))
"""


async def check(protected: Protected) -> dict[str, str]:
    """Return what `fnm-agent check` says, by name; it must be all well."""
    done = await protected.run(*CHECK)
    return dict(line.split(": ", maxsplit=1) for line in done.text.splitlines())


async def lines(connection: asyncssh.SSHClientConnection, command: str) -> list[str]:
    """Return the lines of an answer."""
    done = await connection.run(command, encoding="utf-8")
    assert (done.exit_status, done.stderr) == (0, "")
    return str(done.stdout).splitlines()


async def get(connection: asyncssh.SSHClientConnection) -> dict[str, str]:
    """Return the fields of `get`."""
    return dict(line.split(": ") for line in await lines(connection, "get"))


async def test_check_when_the_kernel_is_stock_then_memory_hz_and_what_is_not_used_yet(
    protected: Protected,
) -> None:
    """Secrets are none before the first connection and cookie, and are there after them."""
    said = await check(protected)
    # Older kernels keep another for timestamps.
    unused = tuple(f"ok, {', '.join(names)}: " for names in (SECRETS, (*SECRETS, "ts_secret")))
    if not said.get("unused", "").startswith(unused):
        # Another test has used them.
        await protected.reboot()
        said = await check(protected)
    assert said["kernel"] == f"ok, {protected.guest.release}"
    assert (said["source"], said["clock"]) == ("ok, kcore", "ok, jiffies, 250 Hz")
    assert said["unused"].startswith(unused)
    await protected.sysctl("net.ipv4.tcp_syncookies", 2)
    await protected.prime()
    said = await check(protected)
    assert "unused" not in said
    assert said["syncookies"].startswith("ok, net.ipv4.tcp_syncookies is 2")


@pytest.mark.long
async def test_agent_when_it_has_no_rights_left_then_reads_by_what_it_holds(
    protected: Protected,
) -> None:
    """It cannot open the memory anew, and still tells secrets, listeners and connections."""
    async with agent_in(protected) as agent, await agent.connect() as hub:
        pid = agent._program.pid
        seen = json.loads((await protected.python("-c", LOOK, str(pid))).text)
        assert "0" not in {*seen["Uid"], *seen["Gid"]}
        assert seen["Groups"] == []
        assert {*seen["CapEff"], *seen["CapPrm"], *seen["CapAmb"]} == {"0" * 16}
        assert seen["NoNewPrivs"] == ["1"]
        assert seen["files"].count("/proc/kcore") == 1
        assert "/proc/kallsyms" not in seen["files"]
        assert seen["anew"] == "Permission denied"

        first = await get(hub)
        assert (first["source"], first["hz"]) == ("kcore", "250")
        assert any(bytes.fromhex(first["net_secret"]))  # made with the connection that asks
        second = await get(hub)
        assert [second[name] for name in SECRETS] == [first[name] for name in SECRETS]
        ticks = int(second["jiffies"]) - int(first["jiffies"])
        passed = int(second["timestamp_ms"]) - int(first["timestamp_ms"])
        assert abs(ticks * 4 - passed) <= 60
        assert ticks > 0

        told = await lines(hub, "listeners")
        ports = [*PORTS, 7100]
        assert {f"listener: {any_} {port}" for any_ in ("0.0.0.0", "::") for port in ports} == {
            *told
        }
        opened = [await protected.stand.connect(one, ECHO) for one in (SERVER4, SERVER6)]
        expected = set()
        for _, writer in opened:
            (client, sport), (server, port) = (
                writer.get_extra_info(name)[:2] for name in ("sockname", "peername")
            )
            expected.add(f"flow: {client} {sport} {server} {port}")
        assert {*await lines(hub, f"flows {ECHO}")} == {*expected, "flows: 2"}
        only = await lines(hub, f"flows [{SERVER6}]:{ECHO}")
        assert {*only} == {one for one in expected if SERVER6 in one} | {"flows: 1"}
        for _, writer in opened:
            writer.transport.abort()


async def test_source_when_root_hands_it_over_then_a_user_reads_the_true_memory(
    protected: Protected,
) -> None:
    """As by the unit: `fnm-agent open` gives it to the store, and what takes it out is nobody."""
    await protected.prime()
    taken = json.loads((await protected.run(VENV_PYTHON, "-c", TAKE)).text)
    assert taken["names"] == ["kernel", "kernel.kcore"]
    assert taken["anew"] == "Permission denied"
    assert "source: ok, kcore" in taken["said"]
    assert (taken["source"], taken["hz"]) == ("kcore", 250)
    assert taken["same"]
    first, second, third = taken["jiffies"]
    assert 0 < first < second <= third
