# SPDX-License-Identifier: Apache-2.0
"""The doctor's look at disks, modes, journal and spool: real files, one wrong turn each."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.cli.doctor import disk, rights, store
from hub.cli.doctor.finding import Report, Status
from hub.cli.doctor.situation import Hub, Situation, read_config
from hub.store import files
from tests.support.doctor import NOBODY, found, only, place, worst
from tests.support.store import fill, spoil

CONFIG = """
dry_run: true
guard: {own_prefixes: [192.0.2.0/24]}
store: {path: PLACE/journal/journal.sqlite3}
intake:
  spool: PLACE/spool
"""
DOWN = Hub(trouble="down")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder with a journal's and a spool's, as an installation has them."""
    with place() as made:
        (made / "journal").mkdir(mode=0o700)
        (made / "spool").mkdir()
        for name in ("journal", "spool"):
            os.chown(made / name, NOBODY, NOBODY)
        (made / "spool").chmod(0o2770)
        (made / "config.yaml").write_text(CONFIG.replace("PLACE", str(made)))
        (made / "config.yaml").chmod(0o600)
        yield made


def situation(folder: Path, hub: Hub = DOWN) -> Situation:
    """Return where the checks look."""
    path = folder / "config.yaml"
    return Situation(path, read_config(path), Path("/nowhere"), hub)


def disks(folder: Path) -> Report:
    """Return what the doctor says of the disks."""
    report = Report("disk")
    disk.look(situation(folder), report)
    return report


def modes(folder: Path, more: str = "") -> Report:
    """Return what the doctor says of users and modes, with more in the configuration."""
    path = folder / "config.yaml"
    path.write_text(CONFIG.replace("PLACE", str(folder)) + more)
    report = Report("rights")
    rights.look(situation(folder), report)
    return report


def stores(folder: Path, hub: Hub = DOWN) -> Report:
    """Return what the doctor says of journal and spool."""
    report = Report("store")
    store.look(situation(folder, hub), report)
    return report


@pytest.fixture
def small(folder: Path) -> Iterator[Path]:
    """Lay a file system of one MiB with 64 inodes over the spool."""
    spool = folder / "spool"
    options = f"size=1m,nr_inodes=64,mode=2770,uid={NOBODY},gid={NOBODY}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(spool)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(spool)], check=True)


def test_disk_when_all_is_well_then_only_the_shared_one_is_said(folder: Path) -> None:
    """Room, inodes, kind and rights are ok; both places on one file system are not."""
    report = disks(folder)
    assert worst(report, "writable") == Status.OK
    assert "nobody may write" in found(report, "writable")[0].text
    assert only(report, "apart").status == Status.WARN
    assert "file system of its own" in only(report, "apart").todo


@pytest.mark.parametrize(("filled", "status"), [(0, "ok"), (960, "warn"), (1016, "fail")])
def test_disk_when_it_fills_then_warned_and_failed(small: Path, filled: int, status: str) -> None:
    """A small file system is judged by its share."""
    (small / "spool/ballast").write_bytes(bytes(filled * 1024))
    report = disks(small)
    (spool,) = [one for one in found(report, "space") if one.text.startswith("spool")]
    assert (spool.status, bool(spool.todo)) == (status, status != "ok"), spool
    assert only(report, "apart").status == Status.OK


def test_disk_when_inodes_run_out_then_failed(small: Path) -> None:
    """A spool without inodes takes no call, whatever room it has."""
    for number in range(63):
        (small / f"spool/{number}").touch()
    (spool,) = [one for one in found(disks(small), "inodes") if one.text.startswith("spool")]
    assert (spool.status, "delete small files" in spool.todo) == (Status.FAIL, True)


def test_disk_when_in_memory_or_read_only_then_said(small: Path) -> None:
    """What a restart of the machine empties, and what nobody can write."""
    lines = found(disks(small), "filesystem")
    assert [one.status for one in lines] == [Status.OK, Status.WARN]
    assert "a restart of the machine empties" in lines[1].text
    remount = ["mount", "-o", "remount,ro", str(small / "spool")]
    subprocess.run(remount, check=True)
    (spool,) = [one for one in found(disks(small), "writable") if one.text.startswith("spool")]
    assert (spool.status, "read-only" in spool.text) == (Status.FAIL, True)


def test_disk_when_over_a_network_then_failed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SQLite loses data there; by a mount table that says so, as no such server is here."""
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / {folder} rw - nfs4 server:/x rw\n")
    monkeypatch.setattr(files, "MOUNTINFO", table)
    lines = found(disks(folder), "filesystem")
    assert [one.status for one in lines] == [Status.FAIL, Status.WARN]
    assert lines[0].todo == "set store.path to a file on a local disk"


def test_disk_when_a_place_is_missing_then_how_to_make_it(folder: Path) -> None:
    """The command has the modes that operations.md gives reasons for."""
    (folder / "spool").rmdir()
    one = next(one for one in found(disks(folder), "space") if one.status == Status.FAIL)
    assert one.todo == f"install -d -o root -g fnm-hub -m 2770 {folder}/spool"


def test_disk_when_the_hubs_user_cannot_write_then_failed(folder: Path) -> None:
    """The kernel is asked as that user, so that every reason counts."""
    (folder / "spool").chmod(0o2750)
    os.chown(folder / "spool", 0, NOBODY)
    (spool,) = [one for one in found(disks(folder), "writable") if one.text.startswith("spool")]
    assert (spool.status, "the hub's user nobody may not write" in spool.text) == (
        Status.FAIL,
        True,
    )


@pytest.mark.parametrize(
    ("mode", "owner", "status", "words"),
    [
        (0o2770, (0, NOBODY), "ok", "mode 2770"),
        (0o2777, (0, NOBODY), "fail", "everybody may write"),
        (0o3770, (0, NOBODY), "fail", "sticky bit"),
        (0o2770, (0, 0), "fail", "is not in"),
        (0o0770, (0, NOBODY), "warn", "set-group-id"),
    ],
)
def test_spool_when_its_mode_is_wrong_then_chmod(
    folder: Path, mode: int, owner: tuple[int, int], status: str, words: str
) -> None:
    """Each of the mode's bits has a reason."""
    os.chown(folder / "spool", *owner)
    (folder / "spool").chmod(mode)
    one = only(modes(folder), "spool_mode")
    assert (one.status, words in one.text) == (status, True), one
    assert ("2770" in one.todo) == (status != "ok")


def test_secrets_when_open_or_unreadable_then_each_is_named_and_not_shown(folder: Path) -> None:
    """A secret that others may read is refused by the hub, one that it cannot read as well."""
    for name, mode, owner in (
        ("open", 0o644, NOBODY),
        ("good", 0o400, NOBODY),
        ("roots", 0o400, 0),
    ):
        (folder / name).write_text("4711" * 16)
        (folder / name).chmod(mode)
        os.chown(folder / name, owner, owner)
    keys = ", ".join(f"{{id: {name}, secret_file: {folder}/{name}}}" for name in ("open", "good"))
    webhook = f"{{detector: d, token_file: {folder}/roots}}"
    page = f"{{users: [{{name: noc, token_file: {folder}/good}}]}}"
    more = f"  tcp: {{hmac_keys: [{keys}]}}\n  webhooks: [{webhook}]\napi: {{page: {page}}}\n"
    report = modes(folder, more)
    lines = found(report, "secrets")
    assert [one.status for one in lines] == [Status.FAIL, Status.OK, Status.FAIL, Status.OK]
    assert lines[0].todo == f"chmod 0600 {folder}/open"
    assert lines[2].todo == f"chown nobody {folder}/roots"
    assert not any("4711" in one.text for one in report.findings())


def test_secret_when_systemd_hands_it_over_then_looked_for_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A credential is no path: it is in the folder of the running service, or missing there."""
    monkeypatch.setattr(rights, "CREDENTIALS", tmp_path)
    more = "  tcp: {hmac_keys: [{id: k, secret_file: 'credential:key-1'}]}\n"
    assert only(modes(folder, more), "secrets").status == Status.SKIP
    (tmp_path / "fnm-hub.service").mkdir()
    one = only(modes(folder, more), "secrets")
    assert (one.status, one.todo.startswith("in the unit: LoadCredential=key-1:")) == (
        Status.FAIL,
        True,
    )
    (tmp_path / "fnm-hub.service/key-1").touch()
    assert only(modes(folder, more), "secrets").status == Status.OK


def test_config_when_it_holds_a_secret_or_is_open_then_said(folder: Path) -> None:
    """Whoever can write it commands the hub; whoever can read it has the webhook's URL."""
    path = folder / "config.yaml"
    more = "engines: {webhook: {chat: {url: 'https://hooks.example.net/secret'}}}\n"
    path.chmod(0o644)
    assert only(modes(folder, more), "config").status == Status.WARN
    path.chmod(0o666)
    one = only(modes(folder, more), "config")
    assert (one.status, one.todo) == (Status.FAIL, f"chmod o-w {path}")
    path.chmod(0o640)
    assert only(modes(folder, more), "config").status == Status.OK


def journal(folder: Path) -> Path:
    """Make a journal with one pending event of long ago, as a hub would; return its path."""
    path = folder / "journal/journal.sqlite3"
    fill(path, 1)
    return path


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return every file of the journal's folder with its time of change."""
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in (folder / "journal").iterdir()
    }


def test_journal_when_closed_then_sound_and_not_a_byte_changes(folder: Path) -> None:
    """Looking makes no side files, which would be root's; what waits is counted."""
    journal(folder)
    before = contents(folder)
    report = stores(folder)
    assert contents(folder) == before
    assert only(report, "journal").status == Status.OK
    one = only(report, "pending")
    assert (one.status, one.text.startswith("1 events wait")) == (Status.FAIL, True)


KILLED = """
import os, sqlite3, sys
writer = sqlite3.connect(sys.argv[1])
writer.execute("PRAGMA journal_mode = WAL")
writer.execute("UPDATE events SET status = 'not_understood', received_at = unixepoch() - 60")
writer.commit()
os._exit(0)
"""


def test_journal_when_left_by_a_killed_hub_then_read_with_its_log(folder: Path) -> None:
    """What only stands in the write-ahead log is seen, and nothing is written either."""
    path = journal(folder)
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=True)
    before = contents(folder)
    assert len(before["journal.sqlite3-wal"][1]) > 0
    report = stores(folder)
    assert contents(folder) == before
    one = only(report, "not_understood")
    assert (one.status, one.todo) == (Status.WARN, "fnm-hub event 1")
    assert only(report, "pending").status == Status.OK
    assert only(report, "journal").status == Status.OK


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"SQLite format 3\0" + bytes(4096), ""),
        (b"to whom it may concern, a letter", "not a database"),
        (b"", ""),
    ],
)
def test_journal_when_it_is_none_then_failed(folder: Path, content: bytes, words: str) -> None:
    """Damage, and somebody else's file."""
    (folder / "journal/journal.sqlite3").write_bytes(content)
    one = only(stores(folder), "journal")
    assert (one.status, bool(one.todo), words in one.text) == (Status.FAIL, True, True), one


def test_journal_when_a_page_is_damaged_then_failed(folder: Path) -> None:
    """quick_check reads the whole file."""
    path = journal(folder)
    spoil(path)
    assert worst(stores(folder), "journal") == Status.FAIL


def test_journal_when_it_takes_too_long_then_skipped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that cannot be read in time is not called sound."""
    journal(folder)
    monkeypatch.setattr(store, "CHECK_SECONDS", -1.0)
    monkeypatch.setattr(store, "STEPS", 1)
    one = only(stores(folder), "journal")
    assert (one.status, "too large" in one.text) == (Status.SKIP, True)


def test_store_when_things_were_set_aside_then_said(folder: Path) -> None:
    """Damaged journals, bad files, and calls that wait for a hub that is not there."""
    (folder / "journal/journal.sqlite3.corrupt-20260101T000000Z").touch()
    (folder / "spool/bad").mkdir()
    (folder / "spool/bad/x.reason").touch()
    (folder / "spool/00000000000000000001-x.json").touch()
    report = stores(folder)
    assert only(report, "set_aside").status == Status.WARN
    assert only(report, "spool_bad").status == Status.WARN
    assert only(report, "spool").todo == "start the hub: it takes them first"
    running = Hub(status={"store": {"trouble": "no space is left"}})
    os.utime(folder / "spool/00000000000000000001-x.json", (1, 1))
    report = stores(folder, running)
    assert (only(report, "spool").status, only(report, "writes").status) == (Status.FAIL,) * 2
