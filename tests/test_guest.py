# SPDX-License-Identifier: Apache-2.0
"""The protected server with a kernel of its own: what every test that uses it relies on."""

import asyncio
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from hub.clock import SystemClock, boot_id
from scripts.lab.commands import LabError, wait_until
from scripts.lab.guest import Guest
from scripts.lab.guest_kernel import oldest
from scripts.lab.guest_server import BULK, ECHO, GREETER, INFO, NARROW
from tests.support.guest import Protected, plug_into
from tests.support.guest_agent import agent_in
from tests.support.guest_fixtures import protected as protected  # noqa: PLC0414 - a fixture
from tests.support.model_cookie import cookie, timestamp_offset, timestamp_offset_host
from tests.support.netns import CLIENT, GATEWAY, INSIDE, OUTSIDE, Lab, inside
from tests.support.packets import packed
from tests.support.stack import TARGETS, tcp_of
from tests.support.stack_raw import wires
from tests.support.stack_talk import BANNER, Client

FAMILIES = pytest.mark.parametrize("family", [4, 6])
SIZE = 1 << 21
CLOCK_S = 2.0
AGENT_MS = 5000
PORT = ECHO.to_bytes(2, "big")
BOOT_ID = "/proc/sys/kernel/random/boot_id"
OWNER = """
import sys, threading, time
from scripts.lab.commands import wait_until
from scripts.lab.guest import Guest
from tests.support.guest import plug_into
from tests.support.netns import Lab
lab = Lab()
lab.names = dict(zip(lab.names, sys.argv[1:], strict=True))
guest = Guest(plug_into(lab.__enter__()))
threading.Thread(target=guest.__enter__, daemon=True).start()
wait_until("qemu runs", (guest._folder / "control.sock").exists, seconds=20)
print(guest.pid, flush=True)
time.sleep(60)
"""


async def test_guest_when_it_has_booted_then_its_kernel_is_another_than_ours(
    protected: Protected,
) -> None:
    """Debian's kernel runs in it, with its own boot id, and commands come back whole."""
    release = (await protected.run("uname", "-r")).text.strip()
    ours = await asyncio.to_thread(boot_id)

    assert release == protected.guest.release != os.uname().release
    assert (await protected.read(BOOT_ID)).decode().strip() != ours
    assert (await protected.run("cat", stdin=bytes(range(256)) * 999)).stdout[-256:] == bytes(
        range(256)
    )


async def test_run_when_a_program_fails_then_status_and_words_come_back(
    protected: Protected,
) -> None:
    """What failed, is missing or takes too long is an error that says so."""
    done = await protected.run("sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (done.status, done.stdout, done.stderr) == (3, b"out\n", b"err\n")

    for argv in (("sh", "-c", "echo broken >&2; exit 1"), ("no-such-program",)):
        with pytest.raises(LabError, match=r"broken|no-such-program"):
            await protected.run(*argv)
    with pytest.raises(LabError, match=r"did not end within 0\.2 s"):
        await protected.run("sleep", "60", timeout=0.2)
    assert b"sleep 60" not in (await protected.run("ps")).stdout


@FAMILIES
async def test_network_when_asked_from_the_client_then_every_service_answers(
    protected: Protected, family: int
) -> None:
    """The client's connections go through the gateway to the guest, both ways, at length."""
    target = TARGETS[family]

    for port, greeting in ((ECHO, b""), (GREETER, BANNER)):
        client = Client(*await protected.stand.connect(target, port))
        assert await client.reader.readexactly(len(greeting)) == greeting
        assert await client.says(b"hello") == b"hello"
        client.reset()
    client = Client(*await protected.stand.connect(target, BULK))
    assert await client.exchange(SIZE) == (SIZE, SIZE)
    client.reset()


@FAMILIES
async def test_known_when_a_connection_is_asked_for_then_it_is_the_guests_side(
    protected: Protected, family: int
) -> None:
    """What the guest's kernel knows of a connection can be compared; a small buffer shows."""
    usual = await protected.known(family, INFO)
    narrow = await protected.known(family, NARROW)

    assert usual.info.options == narrow.info.options == {"timestamps", "sack", "wscale"}
    assert usual.info.rcv_wscale > narrow.info.rcv_wscale
    assert usual.rcvbuf > narrow.rcvbuf


@FAMILIES
async def test_packets_when_seen_on_the_gateway_then_they_are_as_on_a_wire(
    protected: Protected, family: int
) -> None:
    """No side leaves a checksum or a segmentation to a device, so that XDP sees what counts."""
    stand = protected.stand
    async with stand.capture(GATEWAY, INSIDE) as here, stand.capture(GATEWAY, OUTSIDE) as there:
        client = Client(*await stand.connect(TARGETS[family], BULK))
        assert await client.exchange(SIZE // 8) == (SIZE // 8, SIZE // 8)
        client.reset()

    packets = [one for seen in (here, there) for one in seen.packets() if tcp_of(one)]
    assert len(packets) > 100
    assert max(map(len, packets)) <= 1500
    assert {_sum(packet) for packet in packets} == {0xFFFF}


def _sum(packet: bytes) -> int:
    """Return the one's complement sum over segment and pseudo header: 0xffff when it is right."""
    segment = tcp_of(packet)
    version = packet[0] >> 4
    addresses = packet[12:20] if version == 4 else packet[8:40]
    assert ip_address(addresses[: len(addresses) // 2]).version == version
    data = addresses + len(segment).to_bytes(4, "big") + (6).to_bytes(4, "big") + segment
    data += bytes(len(data) % 2)
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


async def test_clean_when_a_test_has_left_its_traces_then_they_are_gone(
    protected: Protected,
) -> None:
    """The next test finds settings, clock, programs and files as after the boot."""
    before = await protected.sysctl("net.ipv4.tcp_syncookies")
    await protected.sysctl("net.ipv4.tcp_syncookies", 2)
    await protected.set_clock(-600)
    await protected.put("/etc/fnm-agent/key", b"secret", 0o600)
    await protected.start("stray", "sh", "-c", "sleep 1000 & sleep 1001")

    await asyncio.to_thread(protected.clean_now)

    assert await protected.sysctl("net.ipv4.tcp_syncookies") == before != "2"
    seconds = float((await protected.run("date", "+%s")).text)
    assert abs(seconds - SystemClock().time()) < CLOCK_S
    assert b"sleep 100" not in (await protected.run("ps")).stdout
    assert (await protected.run("ls", "/etc/fnm-agent", check=False)).status
    assert (await protected.known()).peer


@pytest.mark.long
async def test_reboot_when_the_guest_is_reset_then_only_its_disk_is_as_before(
    protected: Protected,
) -> None:
    """A reset is a new boot of the same machine: same disk, nothing of the running system."""
    boot = await protected.read(BOOT_ID)
    qemu = protected.guest.pid
    await protected.put("/run/running", b"")
    await protected.put("/var/lib/fnm-kept", b"kept")
    await protected.run("sync")
    waiting = asyncio.get_running_loop().create_task(protected.run("sleep", "30"))
    await protected.run("true")

    await protected.reboot()

    with pytest.raises(LabError, match="restarted"):
        await waiting
    assert await protected.read(BOOT_ID) != boot
    assert await protected.read("/var/lib/fnm-kept") == b"kept"
    assert (await protected.run("ls", "/run/running", check=False)).status
    assert protected.guest.pid == qemu
    assert (await protected.known()).peer


async def test_agent_when_asked_over_ssh_then_its_keys_make_the_cookies_of_this_kernel(
    protected: Protected,
) -> None:
    """From the agent's answer alone follow sequence number and timestamp of a real SYN-ACK."""
    async with agent_in(protected) as agent, wires(protected.stand) as all_wires:
        assert (await agent.ask("engage 60")).status == 0
        for family, name in ((4, "syncookie_secret"), (6, "syncookie6_secret")):
            stranger = all_wires.stranger(family, ECHO)
            stranger.syn()
            seen = await stranger.hears()
            told = (await agent.ask("get")).fields()

            keys = [struct.unpack("<QQ", part) for part in _halves(told[name])]
            tuple4 = (packed(stranger.address), packed(TARGETS[family]), stranger.port + PORT)
            minute = int(told["jiffies"]) // int(told["hz"]) // 60
            found = [
                cookie(keys, *tuple4, client_seq=stranger.first, count=count, index=index)
                for count in (minute, minute - 1)
                for index in range(4)
            ]
            assert seen.seq in found
            if "ts_secret" in told:
                (ts,) = struct.iter_unpack("<QQ", bytes.fromhex(told["ts_secret"]))
                offset = timestamp_offset_host(ts, *tuple4[:2])
            else:
                (net,) = struct.iter_unpack("<QQ", bytes.fromhex(told["net_secret"]))
                offset = timestamp_offset(net, *tuple4)
            clock = seen.tsval - offset & 0xFFFFFFFF
            assert 0 <= int(told["timestamp_ms"]) - clock < AGENT_MS


def _halves(digits: str) -> tuple[bytes, bytes]:
    return bytes.fromhex(digits[:32]), bytes.fromhex(digits[32:])


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Make a lab for a guest that is not everybody's."""
    with Lab() as made:
        yield made


@pytest.mark.long
def test_guest_when_its_context_ends_then_nothing_is_left(lab: Lab) -> None:
    """The older kernel, with the older timestamps, boots as well; afterwards all of it is gone."""
    with ExitStack() as ends:
        guest = ends.enter_context(Guest(plug_into(lab), oldest()))
        folder = guest._folder
        qemu = guest.pid
        assert guest.run("uname", "-r").text.strip() == guest.release
        assert b" ts_secret\n" in guest.read("/proc/kallsyms")
        assert (folder / "console.log").exists()
        assert INSIDE in lab.ip(GATEWAY, "link", "show")

    assert not Path(f"/proc/{qemu}").exists()
    assert not folder.exists()
    assert INSIDE not in lab.ip(GATEWAY, "link", "show")
    with pytest.raises(LabError, match="switched off"):
        guest.run("true")


def test_guest_when_its_owner_is_killed_then_qemu_ends_with_it(tmp_path: Path) -> None:
    """A test run that is killed leaves no virtual machine behind, not even half booted."""
    lab = Lab()
    command = [sys.executable, "-c", OWNER, *lab.names.values()]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as owner:
            try:
                assert owner.stdout is not None
                qemu = int(owner.stdout.readline())
                assert _runs(qemu)
            finally:
                owner.kill()
        wait_until("qemu ends", lambda: not _runs(qemu), seconds=5)
    finally:
        lab.close()


def _runs(pid: int) -> bool:
    """Whether it is a process that has not ended, waited for or not."""
    try:
        return "qemu" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def test_namespace_when_qemu_runs_then_it_is_in_the_gateway_only(protected: Protected) -> None:
    """Nothing of the guest is in any other network than that behind the gateway."""
    here = Path(f"/proc/{protected.guest.pid}/ns/net").stat().st_ino

    def number(role: str) -> int:
        return inside(
            protected.stand.names[role], lambda: Path("/proc/thread-self/ns/net").stat().st_ino
        )

    assert here == number(GATEWAY)
    assert here != number(CLIENT)
