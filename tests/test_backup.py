# SPDX-License-Identifier: Apache-2.0
"""Backups taken while a hub works, and put back in the middle of an attack."""

import asyncio
import gzip
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.backup import bundle, snapshot
from hub.backup.parts import without_secrets
from hub.backup.restore import restore
from hub.clock import SystemClock
from hub.errors import StoreError
from hub.store import schema
from tests.support.cli import ROOT, Done, run_cli
from tests.support.hub_process import HubProcess, pause, until
from tests.support.store import append, fill, in_thread, opened, sql


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    """A hub that enforces, in a namespace of its own."""
    with HubProcess(tmp_path) as process:
        yield process


def command(hub: HubProcess, *words: str) -> Done:
    """Run `fnm-hub` on the hub's configuration."""
    return run_cli("--config", str(hub.folder / "config.yaml"), *words)


def backed_up(hub: HubProcess, name: str = "b.tar.gz", *more: str) -> Path:
    """Return a new backup of a hub."""
    path = hub.folder / name
    done = command(hub, "backup", str(path), *more)
    assert done.code == 0, done.err
    return path


def put_back(hub: HubProcess, path: Path) -> dict[str, Any]:
    """Put a backup back."""
    done = command(hub, "restore", str(path), "--json")
    assert done.code == 0, done.err
    answer: dict[str, Any] = json.loads(done.out)
    return answer


def test_backup_when_events_pour_in_then_consistent_and_nobody_waits(hub: HubProcess) -> None:
    """One moment's state: every event before the last one in it, none half; all are answered."""
    for number in range(200):
        assert hub.send("ban", f"192.0.2.{number % 50 + 100}", pps=number)[0] == 202
    argv = [sys.executable, "-c", "from hub.cli.main import main; raise SystemExit(main())"]
    argv += ["--config", str(hub.folder / "config.yaml"), "backup", str(hub.folder / "b")]
    sent = 200
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            assert hub.send("unban", f"192.0.2.{sent % 50 + 100}")[0] == 202
            sent += 1
    assert process.returncode == 0
    assert sent > 210
    copy = hub.folder / "copy"
    manifest = bundle.check(hub.folder / "b")
    bundle.unpack(hub.folder / "b", {bundle.JOURNAL: copy})
    numbers = [number for (number,) in sql(copy, "SELECT number FROM events ORDER BY number")]
    assert numbers == list(range(1, manifest.counts["events"] + 1))
    assert 200 <= len(numbers) <= sent
    assert stat.S_IMODE((hub.folder / "b").stat().st_mode) == 0o600
    assert [path.name for path in hub.folder.glob(".b.*")] == []


async def test_snapshot_when_written_to_all_the_time_then_of_one_moment(tmp_path: Path) -> None:
    """What is committed while it is copied in many pieces is not in it, and waits for nothing."""
    path, copy = tmp_path / "j", tmp_path / "copy"
    async with opened(path) as journal:
        await asyncio.gather(*(append(journal, f"old{n}", bytes(60_000)) for n in range(800)))
        taking = asyncio.ensure_future(  # noqa: TID251 - beside the writer, as another process is
            asyncio.to_thread(snapshot.take, path, copy)
        )
        written = 0
        while not taking.done():
            await append(journal, f"new{written}", bytes(60_000))
            written += 1
        await taking
    assert written > 5
    names = [
        name
        for (name,) in await in_thread(
            lambda: sql(copy, "SELECT delivery_id FROM events ORDER BY number")
        )
    ]
    assert len(names) >= 800
    assert names == sorted(names, key=lambda name: (name[0] == "n", int(name[3:])))
    assert len(names) < 800 + written


def test_backup_when_a_name_is_taken_or_no_place_then_nothing_is_overwritten(
    hub: HubProcess,
) -> None:
    """Not even the journal itself, by a slip of the hand."""
    before = hub.store.stat().st_ino
    done = command(hub, "backup", str(hub.store))
    assert (done.code, "is there already" in done.err) == (1, True)
    assert hub.store.stat().st_ino == before
    done = command(hub, "backup", str(hub.folder / "none" / "b"))
    assert (done.code, "install -d" in done.err) == (1, True)


def test_backup_when_the_disk_is_full_then_said_and_nothing_is_left(hub: HubProcess) -> None:
    """A backup that could not be written is not there."""
    disk = hub.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)], check=True)
    try:
        done = command(hub, "backup", str(disk / "b"))
        assert done.code == 1
        assert "space" in done.err
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_backup_when_there_are_secrets_then_only_on_request(tmp_path: Path) -> None:
    """Keys, tokens and URLs of webhooks are left out and named; on request they are there."""
    token, key = tmp_path / "token", tmp_path / "id_ed25519"
    for path in (token, key):
        path.write_text("s3cret-in-a-file\n")
        path.chmod(0o600)
    config = tmp_path / "config.yaml"
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{name: a, when: always, then: [tcp], ttl: 1h}]\n")
    config.write_text(
        "rules: [rules.yaml]\n"
        f"store: {{path: {tmp_path}/j}}\n"
        f"isn_sync: {{key: {key}, known_hosts: {tmp_path}/known_hosts}}\n"
        "engines:\n  webhook:\n"
        f"    chat: {{url: 'https://x.invalid/s3cret-url', token_file: {token}}}\n"
        "    other:\n      url: >-\n        https://y.invalid/s3cret-url\n      attempts: 2\n"
        "  command:\n    c: {argv: [/bin/true], environment: {PASS: s3cret-env}}\n"
    )
    (tmp_path / "known_hosts").write_text("# nobody yet\n")
    fill(tmp_path / "j", 3)
    for name, more in (("without", ()), ("with", ("--with-secrets",))):
        done = run_cli("--config", str(config), "backup", str(tmp_path / name), *more)
        assert done.code == 0, done.err
    plain = gzip.decompress((tmp_path / "without").read_bytes())
    assert b"s3cret" not in plain
    assert gzip.decompress((tmp_path / "with").read_bytes()).count(b"s3cret") == 5
    left = bundle.check(tmp_path / "without").left_out
    assert set(left) == {str(token), str(key), str(config)}
    done = run_cli("restore", str(tmp_path / "without"), "--files", str(tmp_path / "x"))
    assert done.code == 0, done.err
    there = tmp_path / "x" / str(tmp_path)[1:]
    assert sorted(path.name for path in there.iterdir()) == [
        "config.yaml", "known_hosts", "rules.yaml"
    ]  # fmt: skip
    assert run_cli("config", "check", str(there / "config.yaml")).code == 0
    done = run_cli("restore", str(tmp_path / "without"), "--files", str(tmp_path / "x"))
    assert (done.code, "is there already" in done.err) == (1, True)


def test_without_secrets_when_there_is_none_then_the_text_is_the_same() -> None:
    """Comments and layout stay."""
    text = Path(ROOT / "config.example.yaml").read_text()
    assert without_secrets(text) == (text, [])


@pytest.mark.parametrize("harm", ["cut", "bit", "other", "empty"])
def test_restore_when_the_file_is_no_sound_backup_then_nothing_is_changed(
    tmp_path: Path, harm: str
) -> None:
    """A damaged backup, or none, touches nothing."""
    journal, path = tmp_path / "j", tmp_path / "b"
    fill(journal, 1, os.urandom(200_000))
    copy = tmp_path / "copy"
    snapshot.take(journal, copy)
    found = snapshot.prove(copy)
    manifest = bundle.Manifest(1.0, "x", found.pop("schema"), "h", found)
    bundle.write(path, manifest, copy, [])
    data = path.read_bytes()
    spoiled = {
        "cut": data[:-2000],
        "bit": data[:90_000] + bytes([data[90_000] ^ 1]) + data[90_001:],
        "other": gzip.compress(b"not a backup at all" * 1000),
        "empty": b"",
    }[harm]
    path.write_bytes(spoiled)
    before = journal.read_bytes()
    with pytest.raises(bundle.BundleError):
        restore(path, journal, SystemClock(), "test")
    assert journal.read_bytes() == before
    assert not list(tmp_path.glob("j.re*"))


def test_restore_when_the_backup_is_of_a_newer_hub_then_refused(tmp_path: Path) -> None:
    """A step back needs a backup of before."""
    journal, path = tmp_path / "j", tmp_path / "b"
    fill(journal, 2)
    copy = tmp_path / "copy"
    snapshot.take(journal, copy)
    newer = len(schema.MIGRATIONS) + 1
    sql(copy, "CREATE TABLE later (x INTEGER)", f"PRAGMA user_version = {newer}")
    bundle.write(path, bundle.Manifest(1.0, "x", newer, "h", {}), copy, [])
    before = journal.read_bytes()
    with pytest.raises(StoreError, match="newer fnm-hub"):
        restore(path, journal, SystemClock(), "test")
    assert journal.read_bytes() == before


def test_restore_when_the_hub_runs_then_refused_with_what_to_do(hub: HubProcess) -> None:
    """The journal of a running hub is not touched."""
    path = backed_up(hub)
    done = command(hub, "restore", str(path))
    assert done.code == 1
    assert f"process {hub.pid}" in done.err
    assert "systemctl stop fnm-hub" in done.err
    assert hub.send("ban")[0] == 202


@pytest.mark.beside
def test_restore_when_in_the_middle_of_an_attack_then_protection_goes_on(folder: Path) -> None:
    """What began after the backup stays to its deadline; what it knows is gone on with."""
    with HubProcess(folder, ttl="30s") as hub:
        hub.send("ban", "192.0.2.10")
        until("active", hub.active)
        (known,) = hub.active()
        path = backed_up(hub)
        hub.send("ban", "192.0.2.11")
        until("both active", lambda: len(hub.active()) == 2)
        pause(1.5)
        hub.send("ban", "192.0.2.10")  # its deadline moves on
        until("renewed", lambda: hub.logged("mitigation.renewed"))
        until("in force", lambda: len(hub.active()) == 2)
        (later,) = [row for row in hub.active() if row["id"] == known["id"]]
        hub.kill(signal.SIGTERM)
        done = put_back(hub, path)
        assert done["counts"]["open_mitigations"] == 1
        assert Path(done["moved_to"]).is_file()
        hub.start()
        for _ in range(15):
            there = " ".join(hub.kernel())
            assert "192.0.2.10" in there
            assert "192.0.2.11" in there
            pause(0.2)
        (row,) = hub.active()
        assert row["id"] == known["id"]
        assert row["deadline"] >= later["deadline"] - 1.0
        assert hub.logged("store.orphans_kept")
        assert hub.logged("mitigation.taken_up")
        assert hub.send("unban", "192.0.2.10")[0] == 202
        until("over", lambda: not hub.mitigations())


@pytest.mark.beside
def test_restore_when_its_deadline_has_passed_then_not_brought_back(folder: Path) -> None:
    """Neither by the ledger, nor by the attack that asked for it."""
    with HubProcess(folder, ttl="2s") as hub:
        hub.send("ban", "192.0.2.10")
        until("active", hub.active)
        path = backed_up(hub)
        until("over", lambda: not hub.mitigations())
        hub.kill()
        put_back(hub, path)
        hub.start()
        pause(2.0)
        assert hub.mitigations() == []
        assert hub.attacks() == []
        assert hub.kernel() == []
        assert len(hub.logged("mitigation.past")) == 1
        assert hub.logged("attack.ended")[-1]["why"] == "restored"


@pytest.mark.beside
def test_restore_when_old_then_waiting_events_are_kept_and_not_acted_on(folder: Path) -> None:
    """A ban of an hour ago begins nothing; its row says why."""
    with HubProcess(folder) as hub:
        hub.send("ban", "192.0.2.10")
        until("active", hub.active)
        hub.send("unban", "192.0.2.10")
        until("over", lambda: not hub.mitigations())
        hub.kill()
        sql(hub.store, "UPDATE events SET status = 'pending', received_at = received_at - 3600")
        path = backed_up(hub)
        answer = put_back(hub, path)
        assert answer["too_old"] == 2
        hub.start()
        pause(2.0)
        assert hub.attacks() == []
        assert hub.kernel() == []
        assert "too old" in hub.get("/v1/events/1")["note"]
        audit = sql(hub.store, "SELECT kind, actor FROM audit WHERE kind = 'journal.restored'")
        assert audit == [("journal.restored", "uid 0")]
