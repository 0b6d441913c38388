# SPDX-License-Identifier: Apache-2.0
"""synproxyd as a process: start, restart, upgrade, end, and what outlives it."""

import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.manager import Listener
from tests.support.native_build import built
from tests.support.netns import run, udp_packet
from tests.support.synproxyd import OUTSIDE, TARGET, Daemon, Ground, eventually, ground, put


@pytest.fixture(name="place")
def _place() -> Iterator[Ground]:
    with ground() as made:
        yield made


def test_start_says_what_it_is_and_where_it_is_attached(place: Ground) -> None:
    """The greeting names the interface, its mode, the clock's HZ and the limits."""
    daemon = place.run()
    with daemon.client() as client:
        (interface,) = client.hello["interfaces"]
        assert interface["name"] == OUTSIDE
        assert interface["mode"] == "native"
        assert interface["verify_checksums"] is False
        assert client.hello["hz"] in {100, 250, 300, 1000}
        assert client.hello["pid"] == daemon.pid
        assert client.hello["limits"] == {"mitigations": 2047, "per_target": 4}
    (started,) = daemon.events("synproxyd.started")
    assert started["memory_bytes"] > 20_000_000
    assert place.xdp()["mode"] == 1
    assert (place.pins.stat().st_mode & 0o777) == 0o700
    assert daemon.end() == 0
    assert place.xdp(), "a daemon that ends must leave its program attached"


def test_restart_after_a_kill_finds_everything_in_force(place: Ground) -> None:
    """Mitigations, counters, revisions and deleted ids outlive kill -9."""
    daemon = place.run()
    with daemon.client() as client, place.wire() as wire:
        client.good(put("keep", revision=7))
        client.good(put("gone", kind="watch", revision=5))
        client.good({"op": "delete", "id": "gone", "revision": 6})
        client.good({"op": "load", "flows": [["198.51.100.7", 1, TARGET, 80]]})
        assert all(wire.answered(wire.syn()) for _ in range(3))
        before = client.listed()["keep"]
    link = place.xdp()
    assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    with place.wire() as wire:
        assert wire.answered(wire.syn()), "the program must work without the daemon"
    daemon = place.run()
    (attached,) = daemon.events("interface.attached")
    assert attached["how"] == "swapped"
    assert place.xdp()["prog"]["id"] != link["prog"]["id"]
    with daemon.client() as client:
        after = client.listed()["keep"]
        assert after["revision"] == 7
        assert after["target"] == f"{TARGET}/32"
        assert after["age_ms"] >= before["age_ms"]
        assert after["packets"]["cookie_sent"] == before["packets"]["cookie_sent"] + 1
        assert client.good({"op": "flows"})["total"] == 1
        assert client.ask(put("keep", revision=6))["error"] == "stale"
        assert client.ask(put("gone", revision=5))["error"] == "stale"
        assert client.good(put("keep", revision=7))["outcome"] == "renewed"


def test_upgrade_swaps_the_program_and_misses_no_packet(place: Ground) -> None:
    """Every SYN that comes while another program takes over is answered, none goes through."""
    place.run().end()
    daemon = place.run()
    with daemon.client() as client:
        client.good(put("web"))
    daemon.end()
    over = threading.Event()
    sent: list[int] = []
    with place.wire() as wire:

        def flood() -> None:
            while not over.is_set():
                sent.append(wire.syn())
                time.sleep(0.0005)

        thread = threading.Thread(target=flood, name="flood")
        thread.start()
        try:
            for binary in ("tests/synproxyd-oracle", "synproxyd", "tests/synproxyd-oracle"):
                daemon = place.run(binary=binary)
                (attached,) = daemon.events("interface.attached")
                assert attached["how"] == "swapped"
                daemon.end()
        finally:
            over.set()
            thread.join()
    daemon = place.run()
    with daemon.client() as client:
        stats = client.good({"op": "stats"})
        assert len(sent) > 300
        assert client.listed()["web"]["packets"] == {"cookie_sent": len(sent)}
        assert stats["packets"]["cookie_sent"] == len(sent)


def test_deadline_holds_while_the_daemon_is_dead(place: Ground) -> None:
    """Nothing is answered after the deadline, and the next daemon clears it away."""
    daemon = place.run()
    with daemon.client() as client:
        client.good(put("short", expires_ms=1500))
    daemon.end(signal.SIGKILL)
    with place.wire() as wire:
        assert wire.answered(wire.syn())
        time.sleep(1.6)
        assert not wire.answered(wire.syn())
    daemon = place.run()
    eventually(lambda: bool(daemon.events("mitigation.expired")), "it is cleared away")
    with daemon.client() as client:
        assert not client.listed()


def test_deadline_ends_a_mitigation_by_itself(place: Ground) -> None:
    """The list is empty, and what was counted stays in the totals."""
    daemon = place.run()
    with daemon.client() as client, place.wire() as wire:
        client.good(put("short", expires_ms=500))
        assert wire.answered(wire.syn())
        eventually(lambda: not client.listed(), "it is gone from the list", 3)
        eventually(lambda: bool(daemon.events("mitigation.expired")), "it is told", 3)
        time.sleep(1.2)
        assert client.good({"op": "stats"})["packets"]["cookie_sent"] == 1


def test_foreign_program_is_named_and_left_alone(place: Ground) -> None:
    """An XDP program of somebody else is no reason to force ours on."""
    pinned = place.bpf / "foreign"
    program = str(built() / "bpf" / "engine.bpf.o")
    run("bpftool", "prog", "loadall", program, str(pinned))
    foreign = ("pinned", str(pinned / "fnm_clock"))
    run(*place.within(), "bpftool", "net", "attach", "xdpdrv", *foreign, "dev", OUTSIDE)
    before = place.xdp()
    said = place.refused()
    assert "fnm_clock" in said["message"]
    assert OUTSIDE in said["message"]
    assert "bpftool net show" in said["todo"]
    assert "xdpdrv off" in said["todo"]
    assert place.xdp() == before
    assert not place.pins.exists(), "a start that fails must leave nothing behind"
    report = place.command(
        "check", "--interface", OUTSIDE, "--pin-dir", str(place.pins), check=False
    )
    assert "fnm_clock" in report


def test_second_daemon_is_refused(place: Ground) -> None:
    """Neither the pins nor the socket nor the interface of a running daemon are taken over."""
    daemon = place.run()
    before = place.xdp()
    assert "another synproxyd is running" in place.refused()["message"]
    elsewhere = ("--pin-dir", str(place.bpf / "other"))
    assert "is served already" in place.refused(*elsewhere)["message"]
    apart = (*elsewhere, "--socket", str(place.folder / "other.sock"))
    said = place.refused(*apart)
    assert "fnm_xdp" in said["message"]
    assert "bpftool link detach id" in said["todo"]
    assert place.xdp() == before
    with daemon.client() as client:
        client.good(put("web"))


def test_pin_dir_must_be_on_a_bpf_file_system(place: Ground) -> None:
    """The error names the place and the command that helps."""
    said = place.refused("--pin-dir", str(place.folder / "plain"))
    assert str(place.folder / "plain") in said["message"]
    assert "mount -t bpf" in said["todo"]
    assert not (place.folder / "plain").exists()


def test_state_of_another_abi_is_not_touched(place: Ground) -> None:
    """Another version's pins may be attached: what to do is told, and nothing done."""
    other = place.pins / "v999"
    other.mkdir(parents=True)
    said = place.refused()
    assert "v999" in said["message"]
    assert "synproxyd detach" in said["todo"]
    assert [path.name for path in place.pins.iterdir()] == ["v999"]


def test_unknown_interface_is_refused(place: Ground) -> None:
    """A name that does not exist is told, and nothing stays behind."""
    said = place.refused(interface="nowhere")
    assert "nowhere" in said["message"]
    assert not place.pins.exists()


def test_interface_without_ethernet_is_refused(place: Ground) -> None:
    """A tunnel's packets have no frame to read: attached to it, nothing would be protected."""
    run("ip", "-n", place.gateway, "tuntap", "add", "dev", "tunnel", "mode", "tun")
    said = place.refused("--allow-generic", interface="tunnel")
    assert said["error"] == "unsupported"
    assert "no Ethernet frames" in said["message"]
    assert "no Ethernet frames" in place.command("check", "--interface", "tunnel", check=False)


def test_generic_mode_only_where_it_is_allowed(place: Ground) -> None:
    """`lo` has no native mode: refused, or taken and shown everywhere."""
    assert "native" in place.refused(interface="lo")["message"]
    daemon = place.run("--allow-generic", interface="lo")
    assert daemon.events("interface.generic")
    with daemon.client() as client:
        assert client.hello["interfaces"][0]["mode"] == "generic"
        assert client.good({"op": "stats"})["programs"][0]["mode"] == "generic"
    daemon.end()
    # Without the permission the generic link does not stay either.
    assert "native" in place.refused(interface="lo")["message"]


def _cpu_seconds(daemon: Daemon) -> float:
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_connections_without_a_descriptor_wait_without_keeping_it_busy(place: Ground) -> None:
    """Not told of them again and again, it takes them once others have gone."""
    daemon = place.run()
    with daemon.client():
        used = {int(path.name) for path in Path(f"/proc/{daemon.pid}/fd").iterdir()}
        free = next(number for number in range(1024) if number not in used)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (free, free))
        with closing(socket.socket(socket.AF_UNIX)) as waiting:
            waiting.connect(str(daemon.path))
            eventually(lambda: bool(daemon.events("client.too_many")), "it is noticed")
            before = _cpu_seconds(daemon)
            time.sleep(1.5)
            assert _cpu_seconds(daemon) - before < 0.5
    with daemon.client() as client:
        client.good({"op": "list"})


def test_stats_do_not_show_a_program_whose_interface_is_gone(place: Ground) -> None:
    """The hub compares them with hello, and says where nothing is attached any more."""
    daemon = place.run()
    with daemon.client() as client:
        assert [one["interface"] for one in client.good({"op": "stats"})["programs"]] == [OUTSIDE]
        run("ip", "-n", place.gateway, "link", "delete", OUTSIDE)
        eventually(lambda: bool(daemon.events("interface.gone")), "it is noticed")
        assert client.good({"op": "stats"})["programs"] == []
        assert [one["name"] for one in client.ask({"op": "hello", "version": 1})["interfaces"]]


def test_interface_that_comes_back_is_attached_again(place: Ground) -> None:
    """The daemon ends with EX_TEMPFAIL then, and the next one replaces the dead link."""
    daemon = place.run()
    with daemon.client() as client:
        client.good(put("web"))
    run("ip", "-n", place.gateway, "link", "delete", OUTSIDE)
    eventually(lambda: bool(daemon.events("interface.gone")), "it is told")
    place.join()
    assert daemon.process.wait(10) == 75
    daemon = place.run()
    (attached,) = daemon.events("interface.attached")
    assert attached["how"] == "attached"
    with daemon.client() as client, place.wire() as wire:
        assert client.listed()
        assert wire.answered(wire.syn())


def test_interface_that_is_no_longer_named_is_released(place: Ground) -> None:
    """Two interfaces share mitigations; the one that is left out is free again."""
    run("ip", "-n", place.gateway, "link", "add", "second.1", "type", "veth", "peer", "name", "x")
    daemon = place.run("--interface", "second.1")
    with daemon.client() as client:
        assert [one["name"] for one in client.hello["interfaces"]] == [OUTSIDE, "second.1"]
    daemon.end()
    daemon = place.run()
    assert daemon.events("interface.released")
    text = run("ip", "-n", place.gateway, "-json", "link", "show", "dev", "second.1")
    assert "xdp" not in json.loads(text)[0]
    assert place.xdp()


def test_tables_keep_their_size_until_they_are_removed(place: Ground) -> None:
    """Another size would forget every flow: it is told, not done."""
    place.run("--flows", "5000").end()
    daemon = place.run("--flows", "100000")
    (told,) = daemon.events("table.size_kept")
    assert (told["table"], told["sets"], told["wanted"]) == ("flows4", 2048, 32768)
    assert "detach" in told["todo"]


def test_detach_removes_all_but_not_under_a_running_daemon(place: Ground) -> None:
    """The link, the program and the maps are gone, and nothing else."""
    daemon = place.run()
    where = ("--pin-dir", str(place.pins))
    with pytest.raises(RuntimeError, match="another synproxyd is running"):
        place.command("detach", *where)
    assert place.xdp()
    daemon.end()
    assert "detached" in place.command("detach", *where)
    assert not place.xdp()
    assert not place.pins.exists()
    assert "nothing" in place.command("detach", *where)


def test_systemd_hears_when_it_is_ready_and_alive(place: Ground) -> None:
    """READY comes once it is attached, WATCHDOG every second; not from one that hangs."""
    with Listener(place.folder / "notify") as manager:
        daemon = place.start(environment=manager.environment())
        said = manager.wait("READY=1")
        assert said[0] == "EXTEND_TIMEOUT_USEC=60000000"
        assert said[-2:] == ["STATUS=0 mitigations in force", "READY=1"]
        assert place.xdp()
        assert [manager.wait("WATCHDOG=1") for _ in range(2)] == [["WATCHDOG=1"]] * 2
        daemon.process.send_signal(signal.SIGSTOP)
        manager.heard()
        manager.quiet(2.5)
        daemon.process.send_signal(signal.SIGCONT)
        manager.wait("WATCHDOG=1")
        daemon.process.send_signal(signal.SIGTERM)
        manager.wait("STOPPING=1")


def test_commands_report_to_a_person(place: Ground) -> None:
    """The commands check and selftest say ok line by line; status shows what is in force."""
    where = ("--interface", OUTSIDE, "--pin-dir", str(place.pins))
    lines = place.command("check", *where).splitlines()
    assert f"ok   {OUTSIDE}: takes the program in native mode" in lines
    assert not [line for line in lines if line.startswith("no ")]
    assert not place.xdp()
    lines = place.command("selftest").splitlines()
    assert len(lines) >= 12
    assert all(line.startswith("ok ") for line in lines)
    daemon = place.run()
    with daemon.client() as client, place.wire() as wire:
        client.good(put("web-1"))
        assert wire.answered(wire.syn())
        shown = place.command("status", "--socket", str(place.socket))
        assert "web-1" in shown
        assert "cookie_sent" in shown
        assert f"{OUTSIDE} " in shown
    missing = place.folder / "nothing.sock"
    with pytest.raises(RuntimeError, match="is synproxyd running"):
        place.command("status", "--socket", str(missing))
    problem = place.command("check", "--pin-dir", str(place.folder), check=False)
    assert "no   " in problem
    assert "mount -t bpf" in problem


def test_rates_samples_and_blocks_show_what_happens(place: Ground) -> None:
    """What an operator asks first: how much, why, and who."""
    daemon = place.run()
    with daemon.client() as client, place.wire() as wire:
        client.good({"op": "sampling", "every": 1})
        client.good(put("web"))
        client.good(put("many", kind="sorb", sorb={"pps": 10, "block_ms": 30000}))
        for _ in range(20):
            wire.send(udp_packet("198.51.100.9", TARGET, 1, 2, b"x"))
        assert wire.answered(wire.syn())
        eventually(lambda: client.listed()["many"]["rates"]["pps"] > 0, "rates are taken", 4)
        rates = client.listed()["many"]["rates"]
        assert 900 <= rates["window_ms"] <= 1500
        assert 0 < rates["dropped_pps"] <= 10
        packets = client.listed()["many"]["packets"]
        assert (packets["sorb_over"], packets["sorb_blocked"]) == (1, 9)
        blocked = client.good({"op": "blocked", "id": "many"})
        assert blocked["total"] == 1
        ((address, left),) = blocked["sources"]
        assert address == "198.51.100.9"
        assert 20000 < left <= 30000
        samples = client.good({"op": "samples"})["samples"]
        one = next(each for each in samples if each["reason"] == "cookie_sent")
        assert (one["id"], one["interface"]) == ("web", OUTSIDE)
        assert bytes([192, 0, 2, 10]) in bytes.fromhex(one["header"])[26:34]
        stats = client.good({"op": "stats"})
        assert stats["work"]["talkers_inserted"] == 2
        assert stats["mitigations"] == 2
        assert stats["programs"][0]["instructions"] > 1000
        assert stats["limits"]["flows4"] >= 4096
        assert stats["limits"].keys() == {"flows4", "flows6", "sources", "mitigations"}
        assert stats["flows6"] == 0
        assert stats["logged"]["error"] == 0
