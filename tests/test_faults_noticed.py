# SPDX-License-Identifier: Apache-2.0
"""Each process killed, hung and starved: `fnm-hub status` says so within 15 s, protection stays."""

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import asyncssh
import pytest

from hub.isn_sync.files import write_whole
from tests.support.agent import Agent, Home
from tests.support.faults import (
    fill,
    hanging,
    in_kernel,
    in_time,
    learned,
    put_nft,
    recovered,
    small_disk,
    status,
    without_descriptors,
)
from tests.support.hub_process import RULES, HubProcess, pause, until
from tests.support.synproxyd import TARGET, Ground, ground

pytestmark = pytest.mark.long

UNREACHABLE = 4
NOTIFY = Path(__file__).parents[1] / "scripts" / "fnm-notify"


def protected(hub: HubProcess) -> Callable[[], None]:
    """Put a target under protection in the kernel; return a check that it is."""
    hub.send("ban")
    until("active", hub.active, 30)
    check = in_kernel(hub, "192.0.2.10")
    check()
    return check


def says_unreachable(hub: HubProcess, still: Callable[[], None]) -> None:
    """Fail unless the one place says in time that the hub does not answer."""

    def look() -> bool:
        still()
        return status(hub).code == UNREACHABLE

    until("status cannot reach it", look, in_time())


@pytest.mark.beside
@pytest.mark.parametrize("fault", ["kill", "hang", "descriptors"])
def test_hub_when_it_does_not_work_then_status_says_so_by_its_exit_code(
    folder: Path, fault: str
) -> None:
    """What is in force stays in the kernel; afterwards it goes on."""
    with HubProcess(folder) as hub:
        still = protected(hub)
        if fault == "kill":
            hub.kill()
            says_unreachable(hub, still)
            hub.start()
        elif fault == "hang":
            with hanging(hub.pid):
                says_unreachable(hub, still)
        else:
            with without_descriptors(hub.pid):
                says_unreachable(hub, still)
        until("it answers again", lambda: status(hub).code == 0, 30)
        hub.send("ban", "192.0.2.11")
        until("and protects", lambda: len(hub.active()) == 2, 30)


@pytest.mark.beside
@pytest.mark.parametrize("place", ["journal", "spool", "both"])
def test_disk_when_full_and_nothing_happens_then_status_says_so(folder: Path, place: str) -> None:
    """Said in peace, before the event comes that cannot be kept; with space it is over."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(folder / "disk"))
        where = folder if place == "spool" else disk
        hub = HubProcess(folder, store=where / "journal.sqlite3")
        if place != "journal":
            hub.config_text = hub.config_text.replace("FOLDER/spool", "FOLDER/disk/spool")
            (disk / "spool").mkdir()
        stack.enter_context(hub)
        still = protected(hub)
        fill(disk / "filler")
        learned(hub, "KiB are left for the", still)
        if place != "spool":
            until("not ready", lambda: hub.request("GET", "/readyz")[0] == 503, in_time())
            assert hub.send("ban", "192.0.2.11")[0] == 503
        argv = [str(NOTIFY), "--socket", str(folder / "nobody"), "--spool"]
        argv += [str((disk if place != "journal" else folder) / "spool")]
        call = [*argv, "192.0.2.12", "incoming", "9", "ban"]
        lost = subprocess.run(call, input=b"", check=True, capture_output=True).stderr
        assert (b"EVENT LOST" in lost) == (place != "journal")
        (disk / "filler").unlink()
        recovered(hub, "KiB are left for the")
        until("ready", lambda: hub.request("GET", "/readyz")[0] == 200, 30)
        assert hub.send("ban", "192.0.2.13")[0] == 202
        still()


@pytest.mark.beside
@pytest.mark.parametrize("fault", ["hang", "kill"])
def test_nft_when_it_does_not_work_then_status_says_so(folder: Path, fault: str) -> None:
    """The kernel goes on by itself, events are taken, and what waited is done afterwards."""
    hub = HubProcess(folder, nft=str(folder / "nft"))
    said = put_nft(hub)
    with hub:
        still = protected(hub)
        said.write_text(fault)
        learned(hub, "engine nftables", still)
        assert hub.logged("engine.not_ready")
        assert hub.send("ban", "192.0.2.11")[0] == 202
        until("it waits", lambda: [row for row in hub.mitigations() if row["error"]], 30)
        still()
        said.write_text("")
        recovered(hub, "engine nftables")
        until("both in force", lambda: len(hub.active()) == 2, 30)
        in_kernel(hub, "192.0.2.10", "192.0.2.11")()


def native_hub(stack: ExitStack, place: Ground, folder: Path, namespace: str = "") -> HubProcess:
    """Run a hub whose SYN proxy is in XDP, with a target protected by it."""
    hub = HubProcess(folder, native=place.socket)
    stack.callback(hub.kill)
    if namespace:
        hub.namespace = namespace
        hub.config_text += (
            "isn_sync: {agents: [{host: 127.0.0.1}], key: FOLDER/isn/id_ed25519,"
            " known_hosts: FOLDER/isn/known_hosts}\n"
        )
        hub.begin()
    else:
        stack.enter_context(hub)
    hub.write_rules(RULES.replace("then: [tcp]", "then: [tcp: {mode: reset}]"))
    assert hub.post("/v1/reload")[0] == 200
    hub.send("ban", TARGET)
    until("active", hub.active, 30)
    return hub


@pytest.mark.beside
@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_synproxyd_when_it_does_not_work_then_status_says_so(folder: Path, fault: str) -> None:
    """XDP goes on answering, nftables and intake go on, and it is found again."""
    with ExitStack() as stack:
        place = stack.enter_context(ground())
        daemon = place.run()
        hub = native_hub(stack, place, folder)
        wire = stack.enter_context(place.wire())

        def answers() -> None:
            assert wire.answered(wire.syn())

        answers()
        if fault == "kill":
            daemon.end(signal.SIGKILL)
            learned(hub, "engine native", answers)
        else:
            with hanging(daemon.pid):
                learned(hub, "engine native", answers)
                assert hub.send("ban", "192.0.2.77", udp=True)[0] == 202
                answers()
        assert hub.logged("engine.not_ready")
        if fault == "kill":
            place.run()
        recovered(hub, "engine native")
        answers()
        assert [row["target"] for row in hub.active()].count(f"{TARGET}/32") == 1


@pytest.mark.beside
@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_agent_when_it_does_not_work_then_status_says_so(folder: Path, fault: str) -> None:
    """What is in force does not need it; it is asked again until it answers."""
    with ExitStack() as stack:
        home = stack.enter_context(Home())
        home.make_host_key()
        key = asyncssh.generate_private_key("ssh-ed25519")
        home.allow(key)
        agent = Agent(home)
        stack.enter_context(agent)
        place = stack.enter_context(ground())
        place.run()
        _pin(folder, home, key)
        hub = native_hub(stack, place, folder, home.namespace)
        wire = stack.enter_context(place.wire())
        until("agent ok", lambda: _agent(hub) == "ok", 30)

        def answers() -> None:
            assert wire.answered(wire.syn())

        if fault == "kill":
            agent.kill()
            learned(hub, "agent 127.0.0.1: unreachable", answers)
            agent.begin()
        else:
            with hanging(agent.pid):
                learned(hub, "agent 127.0.0.1: unreachable", answers)
        until("agent ok again", lambda: _agent(hub) == "ok", 30)
        answers()


def _agent(hub: HubProcess) -> str:
    state: str = hub.get("/v1/agents")["items"][0]["state"]
    return state


def _pin(folder: Path, home: Home, key: asyncssh.SSHKey) -> None:
    """Let hub and agent know each other's keys."""
    isn = folder / "isn"
    isn.mkdir(mode=0o700)
    write_whole(isn / "id_ed25519", key.export_private_key())
    words = asyncssh.read_private_key(str(home.host_key)).export_public_key().decode().split()
    write_whole(isn / "known_hosts", f"[127.0.0.1]:7100 {' '.join(words[:2])}\n".encode())


@pytest.mark.beside
@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_fnm_notify_when_it_does_not_come_to_its_end_then_the_log_says_so(
    folder: Path, fault: str
) -> None:
    """Cut in the middle of a call: the hub says whose, and everybody else is served."""
    with HubProcess(folder) as hub, ExitStack() as stack:
        still = protected(hub)
        argv = [str(NOTIFY), "--socket", str(folder / "intake.sock")]
        argv += ["--spool", str(folder / "spool"), "192.0.2.12", "incoming", "9", "ban"]
        with hanging(hub.pid):
            # More than the socket holds: it waits in the middle of its request.
            call = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
            stack.callback(call.wait, 10)
            stack.callback(call.kill)
            assert call.stdin is not None
            call.stdin.write(b"x" * 3_000_000)
            call.stdin.close()
            until("it waits in a system call", lambda: _sleeps(call.pid), 10)
            os.kill(call.pid, signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
        assert hub.send("ban", "192.0.2.13")[0] == 202
        reason = "broken" if fault == "kill" else "slow"
        until(
            f"refused as {reason}",
            lambda: [one for one in hub.logged("intake.refused") if one["reason"] == reason],
        )
        still()


def _sleeps(pid: int) -> bool:
    """Tell whether a process has a socket, and has been asleep for a while."""
    for _ in range(5):
        if "(sleeping)" not in Path(f"/proc/{pid}/status").read_text():
            return False
        pause(0.05)
    links = Path(f"/proc/{pid}/fd").iterdir()
    return any("socket" in str(link.readlink()) for link in links)
