# SPDX-License-Identifier: Apache-2.0
"""Today's hub on what each release has left on disk, and on what a newer one has."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from hub.clock import SystemClock
from hub.intake.envelope import decode
from hub.isn_sync.inventory import Agent
from hub.isn_sync.pins import Pins
from hub.store import schema
from tests.support.cli import run_cli
from tests.support.hub_process import REPOSITORY, pause, until
from tests.support.release_fixture import PENDING, RELEASES, Release, place, rows
from tests.support.store import in_thread, sql

KEPT = sorted(path.name for path in RELEASES.iterdir())
OPEN = "SELECT id, doc FROM mitigations WHERE open = 1"
LASTING = {"tcp", "sorb", "acl"}


def documents(journal: Path, query: str = OPEN) -> dict[str, dict[str, Any]]:
    """Return documents of the journal by id."""
    return {name: json.loads(doc) for name, doc in rows(journal, query)}


@pytest.mark.beside
@pytest.mark.parametrize("release", KEPT)
def test_hub_when_started_on_what_a_release_left_then_nothing_is_lost(
    folder: Path, release: str
) -> None:
    """Attacks, mitigations in each state, settings, events, audit: all there, and gone on with."""
    place(folder, RELEASES / release)
    hub = Release(folder)
    journal = folder / "journal.sqlite3"
    before, attacks = documents(journal), documents(journal, "SELECT id, doc FROM attacks")
    audit = rows(journal, "SELECT * FROM audit ORDER BY seq")
    events = rows(journal, "SELECT number, raw FROM events ORDER BY number")
    assert {row["state"] for row in before.values()} == {
        "active", "applying", "releasing", "dry_run"
    }  # fmt: skip
    with hub:
        shown = {row["id"]: row for row in hub.mitigations(ended=True)}
        for name, row in before.items():
            assert shown[name]["deadline"] == row["deadline"]
            # What was being taken back may be so by now.
            over = "released" if row["state"] == "releasing" else row["state"]
            assert shown[name]["state"] in {row["state"], over}
        found = {one["id"]: one["state"] for one in hub.get("/v1/attacks?all=1")["items"]}
        assert {name: one["state"] for name, one in attacks.items()}.items() <= found.items()
        until("what waited is taken in", lambda: len(hub.attacks()) >= len(PENDING))
        status = hub.get("/v1/status")
        assert status["frozen"]["reason"] == "kept for the next release"
        assert status["store"]["recovered_from"] is None
        until("all is done", lambda: not hub.get("/v1/status")["counts"]["events"]["pending"])
        assert {f"{one}/32" for one in PENDING} <= {one["targets"][0] for one in hub.attacks()}
        hub.kill(signal.SIGTERM)
    after = rows(journal, "SELECT * FROM audit ORDER BY seq")
    assert after[: len(audit)] == audit
    assert rows(journal, "SELECT number, raw FROM events ORDER BY number") == events
    assert all(decode(raw).args for _, raw in events)


@pytest.mark.beside
@pytest.mark.parametrize("release", KEPT)
def test_hub_when_its_former_release_had_protection_in_force_then_it_stays(
    folder: Path, release: str
) -> None:
    """The elements of the former release stand at every moment, and are those of the ledger."""
    place(folder, RELEASES / release)
    hub = Release(folder)
    wanted = [
        one
        for one in documents(folder / "journal.sqlite3").values()
        if one["state"] == "active" and one["action"]["kind"] in LASTING
    ]
    assert len(wanted) >= 3
    targets = {one["target"].partition("/")[0] for one in wanted}
    subprocess.run(["ip", "netns", "add", hub.namespace], check=True)
    try:
        hub.ip("link", "set", "lo", "up")
        for order in (RELEASES / release / "orders.jsonl").read_bytes().splitlines():
            order_file = folder / "order"
            order_file.write_bytes(order)
            hub.nft("-j", "-f", str(order_file))
        (folder / "spool").mkdir()
        hub.spawn()

        def stands() -> bool:
            there = " ".join(hub.kernel())
            assert all(f'"{target}"' in there for target in targets), there
            return True

        until("ready", lambda: stands() and hub.ready(), seconds=60)
        for _ in range(10):
            stands()
            pause(0.2)
        active = {row["id"] for row in hub.active()}
        assert {one["id"] for one in wanted} <= active
        assert hub.logged("mitigation.missing") == []
        assert hub.logged("reconcile.withdrawn") == []
        assert hub.post("/v1/drain", reason="the end")[0] == 200
        until("today's hub takes it back", lambda: not hub.kernel())
    finally:
        hub.__exit__()


@pytest.mark.parametrize("release", KEPT)
def test_configuration_of_a_release_when_checked_then_it_is_good(
    tmp_path: Path, release: str
) -> None:
    """Configuration and rules that were good then are good now."""
    place(tmp_path, RELEASES / release)
    done = run_cli("config", "check", str(tmp_path / "config.yaml"))
    assert done.code == 0, done.out + done.err


@pytest.mark.parametrize("release", KEPT)
async def test_known_hosts_of_a_release_when_read_then_the_keys_are_trusted(
    tmp_path: Path, release: str
) -> None:
    """Nobody has to compare host keys again after an upgrade."""
    await in_thread(lambda: place(tmp_path, RELEASES / release))
    kept = tmp_path / "known_hosts"
    pins = await Pins.open(kept, SystemClock())
    agent = Agent(ip_address("192.0.2.10"), 7100, "fnm-agent", ())
    assert len(pins.pinned(agent)) == 1


def test_journal_of_a_newer_release_when_opened_then_refused_and_not_touched(
    tmp_path: Path,
) -> None:
    """A step back says what it needs, and leaves the newer journal as it is."""
    place(tmp_path, RELEASES / KEPT[-1])
    journal = tmp_path / "journal.sqlite3"
    newer = len(schema.MIGRATIONS) + 1
    sql(journal, "CREATE TABLE of_tomorrow (x INTEGER) STRICT", f"PRAGMA user_version = {newer}")
    before = journal.read_bytes()
    (tmp_path / "spool").mkdir()
    argv = [sys.executable, "-m", "hub", "--config", str(tmp_path / "config.yaml"), "run"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, timeout=30, check=False)
    assert done.returncode == 1
    (line,) = [json.loads(one) for one in done.stderr.splitlines() if b"hub.stopped" in one]
    assert f"version {newer}, this one knows {newer - 1}" in line["why"]
    assert "run the newer fnm-hub" in line["why"]
    assert "backup" in line["why"]
    assert journal.read_bytes() == before


def test_migration_when_killed_at_any_moment_then_the_next_start_finishes_it(
    tmp_path: Path,
) -> None:
    """Each step is whole or not there, all rows stay, and it comes to its end."""
    journal = tmp_path / "journal.sqlite3"
    shutil.copy(RELEASES / KEPT[0] / "journal.sqlite3", journal)
    (tmp_path / "journal.sqlite3.lock").write_text("1\n")
    with closing(sqlite3.connect(journal)) as connection, connection:
        connection.executemany(
            "INSERT INTO audit (at, kind, actor, attack, mitigation, doc)"
            " VALUES (1.0, 'kept', 'test', ?, ?, ?)",
            ((f"a-{n}", f"m-{n}", "x" * 200) for n in range(20_000)),
        )
    (count,) = sql(journal, "SELECT count(*) FROM audit")[0]
    first = sql(journal, "PRAGMA user_version")[0][0]
    argv = [sys.executable, "-m", "tests.support.store_migrator", str(journal)]
    met, wait = set(), 0.005
    for _ in range(14):
        with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begins\n"
            pause(wait)
            process.kill()
            over = process.stdout.readline() == b"done\n"
        version = sql(journal, "PRAGMA user_version")[0][0]
        met.add(version)
        columns = {name for (name,) in sql(journal, "SELECT name FROM pragma_table_info('audit')")}
        indexes = {name for (name,) in sql(journal, "SELECT name FROM sqlite_schema")}
        assert ("weight" in columns) == (version > first)
        assert ("audit_doc" in indexes) == ("audit_kind" in indexes) == (version > first + 1)
        assert sql(journal, "SELECT count(*) FROM audit") == [(count,)]
        if over:
            break
        wait *= 2
    assert met >= {first, first + 2}
    assert sql(journal, "PRAGMA integrity_check") == [("ok",)]
