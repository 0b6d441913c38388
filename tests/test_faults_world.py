# SPDX-License-Identifier: Apache-2.0
"""Faults of the world around a hub: clocks that are set, name servers that do not answer."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.faults import (
    WallClock,
    aborted,
    ext4,
    in_kernel,
    learned,
    recovered,
    status,
    warned,
)
from tests.support.hub_process import RULES, HubProcess, pause, until

pytestmark = pytest.mark.long

SILENT = """
import socket

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 53))
print("bound", flush=True)
while True:
    sock.recvfrom(2048)
"""
NOTIFY = Path(__file__).parents[1] / "scripts" / "fnm-notify"
HOURS = 6 * 3600.0


@pytest.mark.beside
@pytest.mark.parametrize("step", [HOURS, -HOURS], ids=["forward", "back"])
def test_wall_clock_when_set_by_hours_then_deadlines_stay_where_they_are(
    folder: Path, step: float
) -> None:
    """Nothing ends early, nothing late, across a restart too; an unban counts; status says it."""
    clock = WallClock(folder)
    hub = HubProcess(folder, ttl="40s")
    hub.environment = clock.environment
    with hub:
        hub.send("ban", "192.0.2.10")
        hub.send("ban", "192.0.2.11")
        until("both active", lambda: len(hub.active()) == 2, 30)
        before = {row["id"]: row["deadline"] for row in hub.active()}
        clock.set(step)
        until("said", lambda: warned(hub, "the wall clock was set by"), 30)
        pause(2.0)
        assert {row["id"]: row["deadline"] for row in hub.active()} == before
        hub.kill()
        hub.start()
        assert warned(hub, "the wall clock was set by")
        now = hub.get("/v1/status")["now"]
        assert {row["id"] for row in hub.mitigations()} == before.keys()
        assert all(0 < row["deadline"] - now <= 41 for row in hub.mitigations())
        hub.send("unban", "192.0.2.11")
        until("one is over", lambda: len(hub.mitigations()) == 1, 30)
        until("the other at its deadline", lambda: not hub.mitigations(), 90)
        assert hub.kernel() == []
        clock.set(0.0)
        recovered(hub, "the wall clock was set by")


@contextmanager
def silent_resolver(namespace: str) -> Iterator[None]:
    """Give a namespace a name server that takes questions and answers none."""
    place = Path("/etc/netns") / namespace
    place.mkdir(parents=True)
    (place / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:10 attempts:3\n")
    argv = ["ip", "netns", "exec", namespace, sys.executable, "-c", SILENT]
    try:
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"bound\n"
                yield
            finally:
                process.kill()
    finally:
        shutil.rmtree(place)


@pytest.mark.beside
def test_names_when_the_resolver_hangs_then_nothing_else_waits(folder: Path) -> None:
    """Messages wait for it; protection, intake, operators and the end of the hub do not."""
    hub = HubProcess(folder)
    hub.config_text = hub.config_text.replace(
        "  nftables: {nft: NFT}",
        "  nftables: {nft: NFT}\n"
        "  webhook: {chat: {url: 'http://chat.example.test/', timeout: 20s, attempts: 10}}",
    )
    subprocess.run(["ip", "netns", "add", hub.namespace], check=True)
    try:
        hub.ip("link", "set", "lo", "up")
        with silent_resolver(hub.namespace):
            hub.begin()
            told = RULES.replace("then: [tcp]", "then: [tcp, notify: {to: chat}]")
            hub.write_rules(told)
            assert hub.post("/v1/reload")[0] == 200
            for number in range(100, 170):
                assert hub.send("ban", f"192.0.2.{number}")[0] == 202
            until(
                "all protected while every message hangs",
                lambda: sum(row["engine"] == "nftables" for row in hub.active()) == 70,
                60,
            )
            assert not [row for row in hub.active() if row["engine"] == "chat"]
            # Each of these needs a thread.
            assert hub.post("/v1/reload")[0] == 200
            assert hub.get("/v1/status")["counts"]["events"]["pending"] == 0
            assert hub.kill(15) == 0
    finally:
        hub.__exit__()


@pytest.mark.beside
def test_journal_when_its_file_system_goes_read_only_then_said_and_gone_on_with(
    folder: Path,
) -> None:
    """As ext4 does at a fault of the disk: protection stays, and it goes on from a fresh mount."""
    with (
        ext4(folder / "image", folder / "disk") as disk,
        HubProcess(folder, store=disk / "journal.sqlite3") as hub,
    ):
        hub.send("ban")
        until("active", hub.active, 30)
        still = in_kernel(hub, "192.0.2.10")
        aborted(disk)
        learned(hub, "the journal takes no writes", still)
        assert hub.send("ban", "192.0.2.11")[0] == 503
        assert hub.request("GET", "/readyz")[0] == 503
        # While somebody has it open, such a disk cannot be mended.
        hub.kill()
        subprocess.run(["umount", str(disk)], check=True)
        # Another namespace of mounts may hold the old one: what was saved of it is a new disk.
        mended = shutil.copy(folder / "image", folder / "mended")
        mend = ["e2fsck", "-f", "-y", str(mended)]
        assert subprocess.run(mend, check=False, capture_output=True).returncode <= 1
        subprocess.run(["mount", "-o", "loop", str(mended), str(disk)], check=True)
        still()
        hub.start()
        assert [row["target"] for row in hub.active()] == ["192.0.2.10/32"]
        assert hub.send("ban", "192.0.2.11")[0] == 202
        until("both active", lambda: len(hub.active()) == 2, 30)
        still()


@pytest.mark.beside
def test_descriptors_when_few_and_clients_many_then_operators_are_served(folder: Path) -> None:
    """Callers beyond a quarter of the descriptors wait; engines, journal and operators do not."""
    hub = HubProcess(folder)
    hub.prefix = ("prlimit", "--nofile=160:160")
    with hub, ExitStack() as stack:
        for _ in range(300):
            idle = stack.enter_context(socket.socket(socket.AF_UNIX))
            idle.connect(str(folder / "intake.sock"))
        until(
            "said whose they are",
            lambda: [one for one in hub.logged("intake.refused") if one["reason"] == "connections"],
            30,
        )
        assert status(hub).code == 0
        argv = [str(NOTIFY), "--socket", str(folder / "intake.sock"), "--spool"]
        argv += [str(folder / "spool"), "192.0.2.10", "incoming", "900", "ban"]
        subprocess.run(argv, input=b"", check=True, capture_output=True)
        until("protected by way of the spool", hub.active, 60)
        stack.close()
        until("served again", lambda: hub.send("ban", "192.0.2.11")[0] == 202, 30)
        until("both active", lambda: len(hub.active()) == 2, 30)
