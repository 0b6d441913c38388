# SPDX-License-Identifier: Apache-2.0
"""The whole hub as a process: P1 to P9 with a real journal, a real kernel and real kills."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.burst import fill_spool
from tests.support.hub_process import RULES, HubProcess, pause, until


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    """A hub that enforces, in a namespace of its own."""
    with HubProcess(tmp_path) as process:
        yield process


def let_go(hub: HubProcess) -> bool:
    """Return whether the kernel has let go, a little later: each look starts a program."""
    pause(0.1)
    return not hub.kernel()


def test_ban_and_unban_when_sent_then_kernel_follows(hub: HubProcess) -> None:
    """The main job: a ban puts the SYN proxy in force, the unban takes it away."""
    assert hub.send("ban")[0] == 202
    until("active", hub.active)
    assert any("192.0.2.10" in one for one in hub.kernel())
    hub.send("unban")
    until("released", lambda: not hub.mitigations())
    assert hub.kernel() == []
    until("attack over", lambda: not hub.attacks())


def test_event_when_handed_over_twice_then_one_event(hub: HubProcess) -> None:
    """The same delivery, by socket or spool, is one event."""
    assert hub.send("ban", delivery="delivery-1")[0] == 202
    assert hub.send("ban", delivery="delivery-1")[0] == 200
    assert len(hub.get("/v1/events")["items"]) == 1


def test_accepted_event_when_hub_is_killed_then_still_acted_on(hub: HubProcess) -> None:
    """P1: whatever was answered with 202 is there after kill -9, wherever it stood."""
    numbers: list[int] = []
    for index in range(12):
        target = f"192.0.2.{100 + index}"
        status, answer = hub.send("ban", target)
        assert status == 202
        numbers.append(answer["event"])
        pause(0.004 * (index % 5))
        hub.kill()
        hub.start()
    until("all active", lambda: len(hub.active()) == 12)
    stored = {event["number"] for event in hub.get("/v1/events?limit=100")["items"]}
    assert set(numbers) <= stored
    kernel = " ".join(hub.kernel())
    assert all(f"192.0.2.{100 + index}" in kernel for index in range(12))


def test_release_when_hub_is_killed_in_between_then_finished_at_start(hub: HubProcess) -> None:
    """An unfinished release is finished by the next run; nothing of ours stays unknown."""
    hub.send("ban")
    until("active", hub.active)
    hub.send("unban")
    pause(1.0)
    hub.kill()
    hub.start()
    until("nothing in the kernel", lambda: not hub.kernel())
    until("nothing in the ledger", lambda: not hub.mitigations())


@pytest.mark.beside
def test_deadline_when_hub_is_dead_then_kernel_lets_go(folder: Path) -> None:
    """P2: with the hub dead nothing outlives its deadline by more than five seconds."""
    with HubProcess(folder, ttl="3s") as hub:
        hub.send("ban")
        until("active", hub.active)
        hub.kill()
        assert hub.kernel() != []
        until("the kernel let go", lambda: let_go(hub), seconds=8)


@pytest.mark.beside
def test_deadline_when_unban_never_comes_then_released(folder: Path) -> None:
    """P2 with the hub alive: the deadline ends protection, and the log says so."""
    with HubProcess(folder, ttl="3s") as hub:
        hub.send("ban")
        until("active", hub.active)
        until("released", lambda: not hub.mitigations(), seconds=8)
        assert hub.kernel() == []
        (line,) = hub.logged("mitigation.releasing")
        assert "deadline" in line["why"]


def test_never_block_when_target_is_listed_then_never_in_the_kernel(hub: HubProcess) -> None:
    """P3: neither a never-block address nor a foreign one is ever touched."""
    hub.send("ban", "192.0.2.66")
    hub.send("ban", "198.51.100.9")
    until("both refused", lambda: len(hub.logged("mitigation.refused")) == 2)
    assert hub.kernel() == []
    guards = {line["guard"] for line in hub.logged("mitigation.refused")}
    assert guards == {"never_block", "own_prefixes"}


def test_never_block_when_added_by_reload_then_live_one_is_withdrawn(hub: HubProcess) -> None:
    """P3 for what is in force already."""
    hub.send("ban")
    until("active", hub.active)
    hub.write_config(NEVER="192.0.2.10/32")
    assert hub.post("/v1/reload")[0] == 200
    until("withdrawn", lambda: not hub.kernel())


def test_caps_when_a_burst_arrives_in_parallel_then_they_hold(tmp_path: Path) -> None:
    """P4: with ten times as many attacks as the cap allows, the kernel has the cap at most."""
    with HubProcess(tmp_path, cap=5) as hub:
        targets = [f"192.0.2.{index}" for index in range(100, 150)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda target: hub.send("ban", target), targets))
        until("all taken in", lambda: len(hub.attacks()) == 50)
        until("five active", lambda: len(hub.active()) == 5)
        named = {target for target in targets if any(f'"{target}"' in one for one in hub.kernel())}
        assert len(named) == 5
        assert hub.logged("guard.cap_near")


@pytest.mark.beside
def test_ban_when_repeated_by_two_detectors_then_in_the_kernel_once(folder: Path) -> None:
    """P5 and holders: two detectors, one countermeasure, off when the last lets go."""
    with HubProcess(folder) as hub:
        hub.send("ban", detector="fnm1")
        until("active", hub.active)
        first = hub.kernel()
        hub.send("ban", detector="fnm2")
        hub.send("ban", detector="fnm1")
        until("three events", lambda: len(hub.logged("event.processed")) == 3)
        assert len(hub.kernel()) == len(first)
        hub.send("unban", detector="fnm1")
        pause(2.5)
        assert len(hub.active()) == 1
        hub.send("unban", detector="fnm2")
        until("off", lambda: let_go(hub))


def test_reload_when_rules_are_wrong_then_nothing_changes(hub: HubProcess) -> None:
    """P6: a failed reload names every mistake and changes nothing."""
    before = hub.get("/v1/status")["rules"]["version"]
    hub.write_rules("rules:\n  - name: x\n    when: {protcol: tcp}\n    then: [tpc]\n")
    status, answer = hub.post("/v1/reload")
    assert status in {400, 409, 422}
    assert "protcol" in json.dumps(answer)
    assert hub.get("/v1/status")["rules"]["version"] == before
    hub.hang_up()
    until("logged", lambda: len(hub.logged("rules.reload_failed")) == 2)
    hub.send("ban")
    until("still protects", hub.active)
    hub.write_rules(RULES.replace("linger: 1s", "linger: 2s"))
    failing = "tests: [{name: n, steps: [{at: 0s, event: {action: ban, target: 192.0.2.10}}]}]"
    (hub.folder / "rules.test.yaml").write_text(
        failing.replace("}}]}]", "}, expect: [{on: tcp}]}]}]")
    )
    assert hub.post("/v1/reload")[0] == 422
    assert hub.get("/v1/status")["rules"]["version"] == before
    (hub.folder / "rules.test.yaml").unlink()
    hub.hang_up()
    until("reloaded", lambda: hub.get("/v1/status")["rules"]["version"] != before)


def test_unban_when_it_overtakes_its_ban_across_a_kill_then_still_cancels(
    hub: HubProcess,
) -> None:
    """P7: an unban counts although its ban arrives later, and although the hub died between."""
    now = time.time()  # noqa: TID251 - as fnm-notify stamps
    hub.send("unban", stamp=now)
    hub.kill()
    hub.start()
    hub.send("ban", stamp=now - 0.5)
    until("both taken in", lambda: len(hub.get("/v1/events")["items"]) == 2)
    until("cancelled", lambda: hub.logged("event.processed")[-1]["outcome"] == "cancelled")
    assert hub.mitigations() == []


def test_unban_when_hub_is_overloaded_then_accepted_all_the_same(tmp_path: Path) -> None:
    """P7 under overload: bans are turned away to their spool, an unban never."""
    with HubProcess(tmp_path) as hub:
        path = tmp_path / "config.yaml"
        path.write_text(path.read_text().replace("  spool: ", "  queue: 16\n  spool: ", 1))
        hub.kill()
        hub.start()
        hub.send("ban")
        until("active", hub.active)
        with ThreadPoolExecutor(32) as pool:
            made = [
                pool.submit(hub.send, "ban", f"192.0.2.{index % 250 + 1}") for index in range(600)
            ]
            off = pool.submit(hub.send, "unban")
            assert off.result()[0] == 202
            assert {one.result()[0] for one in made} <= {202, 503}
        until(
            "unban taken in",
            lambda: any(
                e["action"] == "unban" and e["status"] == "done"
                for e in hub.get("/v1/events?limit=1000")["items"]
            ),
        )


def test_explanation_when_only_the_audit_record_is_left_then_complete(hub: HubProcess) -> None:
    """P8: what was done, why, on whose word and by which rule stands in the audit record."""
    hub.send("ban")
    until("active", hub.active)
    hub.send("unban")
    until("over", lambda: not hub.mitigations())
    (attack,) = hub.get("/v1/attacks?all=1")["items"]
    audit = hub.get(f"/v1/attacks/{attack['id']}")["audit"]
    told = [entry["what"] for entry in audit]
    for step in (
        "attack.began",
        "decision",
        "mitigation.applying",
        "mitigation.active",
        "attack.ending",
        "attack.ended",
        "mitigation.releasing",
        "mitigation.released",
    ):
        assert step in told
    decision = next(entry for entry in audit if entry["what"] == "decision")
    assert decision["reason"] == "matched: tcp"
    assert decision["event"] == 1


@pytest.mark.beside
@pytest.mark.parametrize("damage", ["header", "middle", "empty-wal", "no-database"])
def test_store_when_corrupted_then_protection_stays_and_it_says_so(
    folder: Path, damage: str
) -> None:
    """P9: moved aside, engines stay as they are, and status, log and warnings say it."""
    with HubProcess(folder) as hub:
        hub.send("ban")
        until("active", hub.active)
        before = hub.kernel()
        hub.kill()
        data = bytearray(hub.store.read_bytes())
        for extra in ("-wal", "-shm"):
            hub.store.with_name(hub.store.name + extra).unlink(missing_ok=True)
        if damage == "header":
            data[:64] = b"\xff" * 64
        elif damage == "middle":
            data[4096:] = b"\xa5" * (len(data) - 4096)
        elif damage == "empty-wal":
            data = data[:1000]
        else:
            data = bytearray(b"not a database at all\n" * 1000)
        hub.store.write_bytes(bytes(data))
        hub.start()
        assert len(hub.kernel()) == len(before)
        status = hub.get("/v1/status")
        assert status["store"]["recovered_from"]
        assert hub.logged("store.recovered")
        pause(3.0)
        assert len(hub.kernel()) == len(before)
        orphans = hub.logged("store.orphans_kept")[0]["mitigations"]
        assert hub.post(f"/v1/mitigations/{orphans[0]}/release", reason="test")[0] == 200
        until("released by hand", lambda: let_go(hub))


def test_store_when_disk_is_full_then_events_are_kept_by_the_sender(tmp_path: Path) -> None:
    """A full disk: no 202, no crash, protection stays, and the spool is taken in later."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        with HubProcess(tmp_path, store=disk / "journal.sqlite3") as hub:
            hub.send("ban")
            until("active", hub.active)
            filler = disk / "filler"
            fill(filler)
            assert hub.send("ban", "192.0.2.11")[0] == 503
            assert len(hub.active()) == 1
            notify = Path(__file__).parents[1] / "scripts" / "fnm-notify"
            argv = [str(notify), "--socket", str(tmp_path / "intake.sock")]
            argv += ["--spool", str(tmp_path / "spool"), "192.0.2.12", "incoming", "9", "ban"]
            subprocess.run(argv, input=b"", check=True)
            assert list((tmp_path / "spool").glob("*.json"))
            filler.unlink()
            until("the spool is taken in", lambda: not list((tmp_path / "spool").glob("*.json")))
            until("both protected", lambda: len(hub.active()) == 2)
            hub.kill()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.long
def test_burst_when_ten_thousand_are_spooled_then_none_is_lost(hub: HubProcess) -> None:
    """A burst that arrived while the hub was down is taken in completely, in order."""
    hub.kill()
    fill_spool(hub.folder / "spool", 10_000)
    hub.start()
    until(
        "all accepted",
        lambda: (
            hub.get("/v1/status")["spool"]["waiting"] == 0
            and not list((hub.folder / "spool").glob("*.json"))
        ),
        seconds=90,
    )
    until("all taken in", lambda: hub.get("/v1/status")["counts"]["events"]["pending"] == 0, 60)
    assert hub.get("/v1/events?limit=1")["items"][0]["number"] == 10_000


def test_kernel_when_flushed_by_somebody_then_reapplied(hub: HubProcess) -> None:
    """The reconciler puts back what has gone missing."""
    hub.send("ban")
    until("active", hub.active)
    hub.nft("flush", "ruleset")
    assert hub.kernel() == []
    until("back in the kernel", hub.kernel)
    assert hub.logged("mitigation.missing")


def test_freeze_when_hub_restarts_then_still_frozen(hub: HubProcess) -> None:
    """The brakes survive a kill."""
    assert hub.post("/v1/freeze", reason="maintenance")[0] == 200
    hub.kill()
    hub.start()
    assert hub.get("/v1/status")["frozen"]["reason"] == "maintenance"
    hub.send("ban")
    until("refused", lambda: hub.logged("mitigation.refused"))
    assert hub.kernel() == []
    assert hub.post("/v1/unfreeze")[0] == 200
    until("protected now", hub.active)


def test_drain_when_ordered_then_everything_is_off(hub: HubProcess) -> None:
    """Drain releases all, and nothing comes back by itself."""
    for index in range(5):
        hub.send("ban", f"192.0.2.{10 + index}")
    until("five active", lambda: len(hub.active()) == 5)
    assert hub.post("/v1/drain", reason="test")[0] == 200
    until("empty kernel", lambda: not hub.kernel())
    hub.send("ban", "192.0.2.10")
    until("refused", lambda: hub.logged("mitigation.refused"))
    assert hub.kernel() == []


def test_stop_when_asked_then_clean_exit_and_protection_stays(hub: HubProcess) -> None:
    """SIGTERM ends the hub with status 0; what protects stays in force."""
    hub.send("ban")
    until("active", hub.active)
    assert hub.kill(signal.SIGTERM) == 0
    assert hub.kernel() != []
    hub.start()
    assert len(hub.active()) == 1


def test_engine_when_nft_is_missing_then_said_and_mended_later(tmp_path: Path) -> None:
    """Without nft the hub runs, says what is wrong, and protects once it is there."""
    nft = tmp_path / "nft"
    with HubProcess(tmp_path) as hub:
        hub.kill()
        hub.write_config(NFT=str(nft))
        hub.spawn()
        until("not ready, and says why", lambda: hub.logged("engine.not_ready"))
        until("it runs all the same", lambda: len(hub.logged("hub.started")) == 2)
        assert hub.send("ban")[0] == 202
        nft.symlink_to("/usr/sbin/nft")
        until("protected", hub.active, seconds=40)


def test_second_hub_when_started_on_the_same_journal_then_refuses(hub: HubProcess) -> None:
    """Two hubs never share a journal; the second says who holds it and ends."""
    argv = ["ip", "netns", "exec", hub.namespace, sys.executable, "-m", "hub"]
    argv += ["--config", str(hub.folder / "config.yaml"), "run"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "journal" in done.stderr
    assert hub.ready()


def test_dry_run_when_on_then_planned_and_the_kernel_stays_empty(tmp_path: Path) -> None:
    """The shipped state: everything is decided and planned, nothing is applied."""
    with HubProcess(tmp_path, dry=True) as hub:
        hub.send("ban")
        until("planned", lambda: hub.logged("mitigation.would_apply"))
        assert [row["state"] for row in hub.mitigations()] == ["dry_run"]
        assert hub.kernel() == []


def test_hostile_bytes_when_sent_then_kept_and_hub_lives(hub: HubProcess) -> None:
    """Garbage is kept as it came, counted and pointed at; the next event works."""
    for body in (b"\xff" * 1000, b"{" * 100_000, b'{"v":1}', b""):
        assert hub.request("POST", "/v1/events/fastnetmon", body, sock="intake.sock")[0] == 400
    hub.send("no such action")
    until("kept", lambda: hub.get("/v1/status")["counts"]["events"]["not_understood"] == 1)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(hub.folder / "intake.sock"))
        raw.sendall(b"GET / HTTP/9.9\r\n\x00\r\n\r\n")
        raw.settimeout(5)
        raw.recv(100)
    hub.send("ban")
    until("active", hub.active)


def fill(filler: Path) -> None:
    """Write until the disk is full."""
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


@pytest.mark.beside
def test_row_when_its_document_is_damaged_then_hub_starts_and_kernel_keeps_it(
    folder: Path,
) -> None:
    """P9 for damage that SQLite cannot see: the row is skipped, what it protects stays."""
    with HubProcess(folder) as hub:
        hub.send("ban")
        until("active", hub.active)
        hub.kill()
        with sqlite3.connect(hub.store) as database:
            database.execute("UPDATE mitigations SET doc = 'no json at all'")
        database.close()
        hub.start()
        pause(2.5)
        assert hub.kernel() != []
        assert hub.logged("store.row_unreadable")


@pytest.mark.beside
def test_journal_when_it_is_gone_and_the_start_is_interrupted_then_protection_stays(
    folder: Path,
) -> None:
    """P9: whatever made the journal a new one, nothing in force is withdrawn for it."""
    with HubProcess(folder) as hub:
        hub.send("ban")
        until("active", hub.active)
        hub.kill()
        for path in hub.folder.glob("journal.sqlite3*"):
            path.unlink()
        for delay in (0.35, 0.5):
            hub.spawn()
            pause(delay)
            hub.kill()
        hub.start()
        pause(2.5)
        assert hub.kernel() != []
        assert not hub.logged("reconcile.withdrawn")


@pytest.mark.beside
def test_disk_when_full_at_the_end_of_protection_then_the_hub_lives(folder: Path) -> None:
    """Taking back the last SYN proxy restores a setting; a full disk must not make that fatal."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True)
    try:
        with HubProcess(folder, ttl="4s", store=disk / "journal.sqlite3") as hub:
            hub.send("ban")
            until("active", hub.active)
            fill(disk / "filler")
            until("the kernel let go", lambda: let_go(hub), seconds=10)
            pause(3.0)
            assert hub.request("GET", "/healthz")[0] == 200
            (disk / "filler").unlink()
            until("all written", lambda: not hub.get("/v1/status")["store"]["trouble"])
            hub.send("ban", "192.0.2.11")
            until("protects again", hub.active)
            hub.kill()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_reload_when_asked_for_while_starting_then_no_reason_to_die(tmp_path: Path) -> None:
    """From its first own line on a SIGHUP is ignored: the files are being read anyway."""
    with HubProcess(tmp_path) as hub:
        hub.kill()
        hub.spawn()
        until("the program itself runs", hub.heeds_no_hang_up)
        for _ in range(20):
            pause(0.05)
            hub.hang_up()
        until("ready", hub.ready)


def test_ban_when_nft_is_away_for_a_moment_then_protected_when_it_is_back(tmp_path: Path) -> None:
    """A package upgrade takes nft away for a while: nobody has to report the attack again."""
    nft = tmp_path / "nft"
    nft.symlink_to("/usr/sbin/nft")
    with HubProcess(tmp_path, nft=str(nft)) as hub:
        nft.unlink()
        hub.send("ban")
        until("it is tried", lambda: hub.logged("mitigation.apply_retry"))
        nft.symlink_to("/usr/sbin/nft")
        until("protected", hub.active, seconds=30)


def test_journal_when_deleted_under_the_running_hub_then_said_and_begun_anew(
    hub: HubProcess,
) -> None:
    """What is open is written into a fresh file, protection stays, and events go on."""
    hub.send("ban")
    until("active", hub.active)
    for path in hub.folder.glob("journal.sqlite3*"):
        path.unlink()
    assert hub.send("ban", "192.0.2.11")[0] == 202
    until("both protected", lambda: len(hub.active()) == 2)
    assert hub.logged("store.taken_away")
    until("nothing waits", lambda: hub.get("/v1/status")["counts"]["events"]["pending"] == 0)
    hub.kill()
    hub.start()
    assert len(hub.active()) == 2
    assert not hub.logged("reconcile.withdrawn")
