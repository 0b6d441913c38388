# SPDX-License-Identifier: Apache-2.0
"""The journal's file: where it may lie, who may open it, and how old files are brought up."""

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hub.clock import SystemClock
from hub.errors import StoreError
from hub.store import Journal, files, schema
from tests.support.store import append, fill, in_thread, opened, sql

ROOT = Path(__file__).parents[1]

# A frozen copy of what version 1 wrote: it must stay readable for ever.
VERSION_1 = """
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT, delivery_id TEXT NOT NULL UNIQUE,
    detector TEXT NOT NULL, stamp REAL NOT NULL, received_at REAL NOT NULL, via TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'done', 'not_understood')),
    action TEXT NOT NULL DEFAULT '', target TEXT NOT NULL DEFAULT '',
    attack TEXT NOT NULL DEFAULT '', note TEXT NOT NULL DEFAULT '', raw BLOB NOT NULL) STRICT;
CREATE INDEX events_pending ON events (number) WHERE status = 'pending';
CREATE INDEX events_attack ON events (attack) WHERE attack <> '';
CREATE INDEX events_received_at ON events (received_at);
CREATE TABLE attacks (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
    open INTEGER NOT NULL CHECK (open IN (0, 1)), updated_at REAL NOT NULL,
    doc TEXT NOT NULL) STRICT;
CREATE INDEX attacks_open ON attacks (number) WHERE open = 1;
CREATE INDEX attacks_updated_at ON attacks (updated_at);
CREATE TABLE mitigations (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
    open INTEGER NOT NULL CHECK (open IN (0, 1)), updated_at REAL NOT NULL,
    doc TEXT NOT NULL) STRICT;
CREATE INDEX mitigations_open ON mitigations (number) WHERE open = 1;
CREATE INDEX mitigations_updated_at ON mitigations (updated_at);
CREATE TABLE audit (seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT NOT NULL,
    actor TEXT NOT NULL, event INTEGER, attack TEXT NOT NULL, mitigation TEXT NOT NULL,
    doc TEXT NOT NULL) STRICT;
CREATE INDEX audit_at ON audit (at);
CREATE INDEX audit_event ON audit (event) WHERE event IS NOT NULL;
CREATE INDEX audit_attack ON audit (attack) WHERE attack <> '';
CREATE INDEX audit_mitigation ON audit (mitigation) WHERE mitigation <> '';
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO events VALUES (7, 'd7', 'edge1', 1.0, 2.0, 'unix', 'pending', '', '', '', '', x'00ff');
INSERT INTO attacks VALUES (1, 'a-1', 1, 3.0, '{}');
INSERT INTO mitigations VALUES (1, 'm-1', 0, 3.0, '{}');
INSERT INTO audit VALUES (3, 4.0, 'kind', 'actor', 7, 'a-1', 'm-1', '{}');
INSERT INTO settings VALUES ('freeze', 'on');
PRAGMA application_id = 0x464E4D48;
PRAGMA user_version = 1;
"""


def make_version_1(path: Path) -> None:
    """Make a journal as version 1 did."""
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1)
    connection.close()


def mount_table(path: Path, kind: str) -> str:
    """Return a mount table in which `path` lies on `kind`."""
    point = str(path).replace(" ", "\\040")
    return (
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        f"40 22 0:50 / {point} rw - ext4 /dev/vdb rw\n"
        f"41 40 0:51 / {point} rw,noatime shared:7 master:1 - {kind} server:/x rw\n"
    )


async def open_and_close(path: Path) -> None:
    """Open the journal and close it again."""
    async with opened(path):
        pass


async def test_open_when_directory_is_missing_then_it_is_made_private(tmp_path: Path) -> None:
    """Nobody else can read what was received, whatever the umask is."""
    path = tmp_path / "new" / "j"
    before = os.umask(0)
    try:
        async with opened(path) as journal:
            await append(journal, "d1")

            def modes() -> dict[str, int]:
                return {
                    item.name: stat.S_IMODE(item.stat().st_mode) for item in path.parent.iterdir()
                }

            found = await in_thread(modes)
            directory = await in_thread(lambda: stat.S_IMODE(path.parent.stat().st_mode))
    finally:
        os.umask(before)
    assert dict.fromkeys(("j", "j-wal", "j-shm", "j.lock"), 0o600) == found
    assert directory == 0o700


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph"])
async def test_open_when_on_a_network_file_system_then_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite loses data there, so nothing is made, and the error says what to do."""
    place = tmp_path / "my share"
    table = tmp_path / "mountinfo"
    await in_thread(lambda: table.write_text(mount_table(place, kind)))
    monkeypatch.setattr(files, "MOUNTINFO", table)
    with pytest.raises(StoreError, match="local disk") as caught:
        await Journal.open(place / "j", clock=SystemClock())
    assert kind in str(caught.value)
    assert await in_thread(lambda: list(place.iterdir())) == []


def test_filesystem_of_when_mounts_are_nested_then_the_innermost_newest_counts() -> None:
    """The mount that really holds the path decides, not a sibling with a similar name."""
    table = mount_table(Path("/srv/my data"), "nfs4")
    assert files.filesystem_of(Path("/srv/my data/j"), table) == "nfs4"
    assert files.filesystem_of(Path("/srv/my data2/j"), table) == "ext4"
    assert files.filesystem_of(Path("/srv"), "broken line\n") == ""


async def test_open_when_already_open_then_refused_with_the_process_that_has_it(
    tmp_path: Path,
) -> None:
    """Two hubs never share a journal, and the first one is not disturbed."""
    path = tmp_path / "j"
    async with opened(path) as journal:
        with pytest.raises(StoreError, match=f"process {os.getpid()};"):
            await Journal.open(path, clock=SystemClock())
        assert await append(journal, "d1") == (1, True)
    await open_and_close(path)


def test_open_when_another_process_has_it_then_refused_until_that_ends(tmp_path: Path) -> None:
    """The lock holds between processes, and ends with its process however that ends."""
    path = tmp_path / "j"
    command = [sys.executable, "-m", "tests.support.store_appender", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline()
            with pytest.raises(StoreError, match=f"process {other.pid};"):
                fill(path, 1)
        finally:
            other.kill()
    fill(path, 1)


async def test_open_when_path_is_a_directory_then_refused(tmp_path: Path) -> None:
    """A directory is left as it is."""
    with pytest.raises(StoreError, match=r"is a directory; set store\.path"):
        await Journal.open(tmp_path, clock=SystemClock())
    assert await in_thread(lambda: list(tmp_path.iterdir())) == []


async def test_open_when_path_is_a_device_then_refused() -> None:
    """What is no file is not opened."""
    with pytest.raises(StoreError, match="is no regular file"):
        await Journal.open(Path("/dev/null"), clock=SystemClock())


async def test_open_when_path_goes_through_a_link_then_the_file_itself_is_used(
    tmp_path: Path,
) -> None:
    """Two names of one journal are one journal."""
    await in_thread(lambda: (tmp_path / "link").symlink_to(tmp_path / "real"))
    async with opened(tmp_path / "link") as journal:
        assert tmp_path / "real" == journal.path
        with pytest.raises(StoreError, match="in use"):
            await Journal.open(tmp_path / "real", clock=SystemClock())


async def test_open_when_written_by_a_newer_hub_then_refused_and_untouched(
    tmp_path: Path,
) -> None:
    """A downgrade does not spoil what the newer version wrote."""
    path = tmp_path / "j"

    def prepare() -> bytes:
        fill(path, 1)
        sql(path, "PRAGMA user_version = 99", "PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()

    before = await in_thread(prepare)
    with pytest.raises(StoreError, match=r"newer fnm-hub: version 99.*nothing was changed"):
        await Journal.open(path, clock=SystemClock())
    assert before == await in_thread(path.read_bytes)


async def test_open_when_it_is_another_programs_database_then_refused_and_untouched(
    tmp_path: Path,
) -> None:
    """A wrong path in the configuration costs nobody their data."""
    path = tmp_path / "mail.db"
    await in_thread(lambda: sql(path, "CREATE TABLE mails (text TEXT)"))
    before = await in_thread(path.read_bytes)
    with pytest.raises(StoreError, match="another program"):
        await Journal.open(path, clock=SystemClock())
    assert before == await in_thread(path.read_bytes)


@pytest.mark.parametrize(
    "text", ["name: syn\nthen: drop\n", "x", "SQLite format 2\0"], ids=["rules", "short", "old"]
)
async def test_open_when_it_is_a_foreign_file_then_refused_and_untouched_every_time(
    tmp_path: Path, text: str
) -> None:
    """A wrong path costs nobody a file, also at the restart: the refusal leaves no trace."""
    path = tmp_path / "rules.yaml"
    await in_thread(lambda: path.write_text(text))
    said = r"rules\.yaml: is no journal; correct store\.path, or move the file away yourself"
    for _ in range(2):
        with pytest.raises(StoreError, match=said):
            await Journal.open(path, clock=SystemClock())
        assert await in_thread(lambda: list(tmp_path.iterdir())) == [path]
    assert text == await in_thread(path.read_text)


async def test_open_when_another_database_is_spoiled_after_a_refusal_then_still_refused(
    tmp_path: Path,
) -> None:
    """A refusal leaves no lock that would make another program's file look like a journal."""
    path = tmp_path / "mail.db"
    await in_thread(lambda: sql(path, "CREATE TABLE mails (text TEXT)"))
    with pytest.raises(StoreError, match="another program"):
        await Journal.open(path, clock=SystemClock())
    await in_thread(lambda: path.write_text("mail, in another format by now"))
    with pytest.raises(StoreError, match="is no journal"):
        await Journal.open(path, clock=SystemClock())
    assert await in_thread(lambda: list(tmp_path.iterdir())) == [path]


@pytest.mark.parametrize(
    ("name", "text"),
    [("j.lock", "123\n"), ("j.lock", ""), ("j.lock", "\0" * 5), ("j-wal", "left over")],
    ids=["lock", "empty lock", "lock after a power cut", "log"],
)
async def test_open_when_there_are_traces_of_a_hub_then_the_file_is_a_damaged_journal(
    tmp_path: Path, name: str, text: str
) -> None:
    """Where a hub has been, a file without a header is moved aside, and the work goes on."""
    path = tmp_path / "j"
    await in_thread(lambda: path.write_text("no database"))
    await in_thread(lambda: (tmp_path / name).write_text(text))
    async with opened(path) as journal:
        assert journal.recovered_from is not None
        assert await in_thread(journal.recovered_from.read_text) == "no database"
        assert not journal.taken_away
        assert await append(journal, "d1") == (1, True)


@pytest.mark.parametrize("there", [True, False], ids=["with file", "without file"])
async def test_open_when_the_lock_is_another_programs_then_refused_and_untouched(
    tmp_path: Path, *, there: bool
) -> None:
    """A file that only has the name of our lock is no sign of a hub, and is not written to."""
    path, lock = tmp_path / "poetry", tmp_path / "poetry.lock"
    text = "[[package]]\n"
    await in_thread(lambda: lock.write_text(text))
    if there:
        await in_thread(lambda: path.write_text("no database"))
    with pytest.raises(StoreError, match="is no journal" if there else "is no lock of fnm-hub"):
        await Journal.open(path, clock=SystemClock())
    assert text == await in_thread(lock.read_text)
    assert there == await in_thread(path.exists)


async def test_open_when_an_empty_file_is_there_then_it_is_replaced_and_nothing_is_said(
    tmp_path: Path,
) -> None:
    """A file made by `touch` held nothing, so no loss is reported."""
    path = tmp_path / "j"
    await in_thread(path.touch)
    async with opened(path) as journal:
        assert journal.recovered_from is None
        assert await append(journal, "d1") == (1, True)
    assert await in_thread(lambda: list(tmp_path.glob("*corrupt*"))) == []


async def test_open_when_file_is_of_version_1_then_everything_in_it_is_read(
    tmp_path: Path,
) -> None:
    """What the first release wrote stays readable, and is written on."""
    path = tmp_path / "j"
    await in_thread(lambda: make_version_1(path))
    async with opened(path) as journal:
        assert journal.recovered_from is None
        assert [(e.number, e.raw) for e in await journal.pending_events(9)] == [(7, b"\x00\xff")]
        assert [row.id for row in await journal.open_attacks()] == ["a-1"]
        assert [row.id for row in await journal.mitigations(limit=9)] == ["m-1"]
        assert [row.seq for row in await journal.audit(event=7)] == [3]
        assert await journal.settings() == {"freeze": "on"}
        assert await append(journal, "d8") == (8, True)
        assert await append(journal, "d7") == (7, False)


async def test_open_when_a_newer_version_is_known_then_the_file_is_brought_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step from the file's version to ours is taken once."""
    path = tmp_path / "j"
    await in_thread(lambda: make_version_1(path))
    step = ("ALTER TABLE settings ADD COLUMN since REAL",)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, step))
    for _ in range(2):
        async with opened(path) as journal:
            assert journal.recovered_from is None
            assert await journal.settings() == {"freeze": "on"}
    rows = await in_thread(lambda: sql(path, "SELECT name, since FROM settings"))
    assert rows == [("freeze", None)]
    assert await in_thread(lambda: sql(path, "PRAGMA user_version")) == [(2,)]


async def test_open_when_a_step_fails_then_the_file_stays_at_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step is whole or not at all, and the hub that cannot take it does not start."""
    path = tmp_path / "j"
    await in_thread(lambda: make_version_1(path))
    step = ("CREATE TABLE half (x INTEGER) STRICT", "ALTER TABLE missing ADD COLUMN y")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, step))
        with pytest.raises(StoreError, match="no such table: missing"):
            await Journal.open(path, clock=SystemClock())
    query = "SELECT name FROM sqlite_schema WHERE name = 'half'"
    assert await in_thread(lambda: sql(path, query)) == []
    async with opened(path) as journal:
        assert await journal.settings() == {"freeze": "on"}


def test_version_1_when_made_today_then_it_is_what_the_first_release_made(
    tmp_path: Path,
) -> None:
    """A released version of the tables is never edited: this fails when somebody does."""
    make_version_1(tmp_path / "old")
    new = sqlite3.connect(tmp_path / "new", isolation_level=None)
    for statement in schema.MIGRATIONS[0]:
        new.execute(statement)
    new.close()
    query = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"

    def shape(path: Path) -> list[tuple[str, str]]:
        return [(name, "".join(text.split())) for name, text in sql(path, query)]

    assert shape(tmp_path / "old") == shape(tmp_path / "new")
