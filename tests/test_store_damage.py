# SPDX-License-Identifier: Apache-2.0
"""A damaged journal or a full disk: what is lost is said, and the work goes on."""

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from hub.clock import SystemClock
from hub.errors import StoreError
from hub.store import Batch, EventResult, Journal, Row
from hub.store.database import Database
from tests.support.store import (
    PAGE,
    append,
    append_all,
    fill,
    in_thread,
    opened,
    overwrite,
    spoil,
    sql,
)

ROOT = Path(__file__).parents[1]


def no_database(path: Path) -> None:
    """Put plain text in the journal's place."""
    path.write_text("this is no database, it is long enough to hold a header " * 10)


def broken_header(path: Path) -> None:
    """Overwrite the first bytes."""
    overwrite(path, 0, random.Random(3).randbytes(100))


def overwritten_marks(path: Path) -> None:
    """Overwrite version and owner in the header, and nothing else."""
    overwrite(path, 60, b"\xff" * 12)


def unknown_format(path: Path) -> None:
    """Overwrite the format for writing, which would make the file read-only."""
    overwrite(path, 18, b"\x07")


def unknown_schema_format(path: Path) -> None:
    """Overwrite the number of the schema's format."""
    overwrite(path, 44, b"\x07\x07\x07\x07")


def impossible_version(path: Path) -> None:
    """Overwrite the version with one that nobody wrote."""
    overwrite(path, 60, b"\x7f")


def negative_version(path: Path) -> None:
    """Overwrite the version with minus two."""
    overwrite(path, 60, b"\xff\xff\xff\xfe")


def broken_middle(path: Path) -> None:
    """Overwrite one page in the middle."""
    pages = path.stat().st_size // PAGE
    overwrite(path, pages // 2 * PAGE, b"\xff" * PAGE)


def broken_schema(path: Path) -> None:
    """Zero the first page behind its header."""
    overwrite(path, 100, bytes(PAGE - 100))


def truncated(path: Path) -> None:
    """Cut the file in half."""
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    """Cut the file to nothing."""
    os.truncate(path, 0)


def dropped_table(path: Path) -> None:
    """Take a table out."""
    sql(path, "DROP TABLE audit", "PRAGMA wal_checkpoint(TRUNCATE)")


def dropped_index(path: Path) -> None:
    """Take an index out."""
    sql(path, "DROP INDEX audit_at", "PRAGMA wal_checkpoint(TRUNCATE)")


DAMAGE: list[Callable[[Path], None]] = [
    no_database,
    broken_header,
    overwritten_marks,
    unknown_format,
    unknown_schema_format,
    impossible_version,
    negative_version,
    broken_middle,
    broken_schema,
    truncated,
    emptied,
    dropped_table,
    dropped_index,
]


class FixedClock(SystemClock):
    """A clock whose date stands still."""

    def time(self) -> float:
        """Return one moment of 2026."""
        return datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_open_when_damaged_then_moved_aside_and_a_new_one_begun(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """P9: a corrupted store stops nothing, is kept for study, and says so."""
    path = tmp_path / "j"
    fill(path, 300, b"x" * 1000)
    damage(path)
    spoiled = path.read_bytes()

    async def run() -> None:
        for _ in range(2):
            journal = await Journal.open(path, clock=FixedClock())
            try:
                moved.append(journal.recovered_from)
                await append(journal, f"after {len(moved)}")
                names.append([event.delivery_id for event in await journal.events()])
            finally:
                await journal.close()

    moved: list[Path | None] = []
    names: list[list[str]] = []
    with capture_logs() as logs:
        asyncio.run(run())
    aside = tmp_path / "j.corrupt-20260304T050607Z"
    assert [aside, None] == moved
    assert names == [["after 1"], ["after 2", "after 1"]]
    assert spoiled == aside.read_bytes()
    assert [entry["event"] for entry in logs] == ["journal.damaged"]
    assert str(aside) == logs[0]["moved_to"]


@settings(max_examples=25, deadline=None)
@given(
    start=st.integers(0, 10**6),
    junk=st.binary(min_size=1, max_size=5000),
    length=st.one_of(st.just(10**9), st.integers(0, 10**6)),
)
def test_open_when_damaged_anywhere_then_the_journal_works_or_says_that_it_is_newer(
    tmp_path_factory: pytest.TempPathFactory, start: int, junk: bytes, length: int
) -> None:
    """Whatever is overwritten or cut off, events are taken again, in the old file or a new one."""
    path = tmp_path_factory.mktemp("any") / "j"
    fill(path, 200, b"x" * 1000)
    size = path.stat().st_size
    overwrite(path, start % size, junk)
    os.truncate(path, min(length, size))

    async def run() -> None:
        async with opened(path) as journal:
            await append_all(journal, ["new", "e7"])
            results = tuple(EventResult(number, "done") for number in range(1, 200))
            await journal.write(Batch(events=results))
            # Where an index is wrong it may show only now, and a fresh file be begun.
            await journal.prune(events_before=2000.0, audit_before=2000.0)
            await journal.write(Batch(settings={"freeze": "on"}))
            await append(journal, "later")
            assert "later" in {event.delivery_id for event in await journal.events(limit=1000)}
            assert await journal.settings() == {"freeze": "on"}

    try:
        asyncio.run(run())
    except StoreError as error:
        assert "newer fnm-hub" in str(error)  # noqa: PT017 - one byte can do that


def test_open_when_damaged_twice_in_a_second_then_both_are_kept(tmp_path: Path) -> None:
    """No damaged file takes the place of another."""
    path = tmp_path / "j"
    fill(path, 1)
    for _ in range(3):
        path.write_text("no database")
        database = Database(path, FixedClock())
        database.open().close()
        database.close()
    name = "j.corrupt-20260304T050607Z"
    expected = [f"{name}", f"{name}-2", f"{name}-3"]
    assert expected == sorted(item.name for item in tmp_path.glob("*corrupt*"))


def test_open_when_only_the_log_is_left_then_it_is_not_played_into_the_new_file(
    tmp_path: Path,
) -> None:
    """A log without its file goes aside too, or it would fill the new one with old pages."""
    path = tmp_path / "j"
    log = tmp_path / "j-wal"

    async def run() -> None:
        async with opened(path) as journal:
            await append(journal, "old")
            kept.append(await in_thread(log.read_bytes))
        await in_thread(path.unlink)
        await in_thread(lambda: log.write_bytes(kept[0]))
        async with opened(path) as journal:
            assert journal.recovered_from is not None
            assert await journal.events() == []
            assert kept[0] == await in_thread(Path(f"{journal.recovered_from}-wal").read_bytes)

    kept: list[bytes] = []
    asyncio.run(run())


def test_open_when_killed_while_making_it_then_the_half_made_one_is_dropped(
    tmp_path: Path,
) -> None:
    """A half-made file never stands under the journal's name, nor in the way of the next start."""
    for end in ("", "-journal", "-wal"):
        (tmp_path / f"j.new{end}").write_text("half")
    fill(tmp_path / "j", 1)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["j", "j.lock"]


async def test_append_event_when_damaged_at_run_time_then_kept_in_a_fresh_file(
    tmp_path: Path,
) -> None:
    """Requests in flight meet the fresh file; numbers go on, and the hub is told once."""
    path = tmp_path / "j"
    told: list[Path] = []
    async with opened(path) as journal:
        journal.on_recovery = told.append
        before = await append_all(journal, [f"d{number}" for number in range(3000)], b"x" * 500)
        assert len(await journal.events(limit=5)) == 5
        await in_thread(lambda: spoil(path))
        results = await asyncio.gather(
            *(append(journal, f"new{number}") for number in range(50)),
        )
        assert all(is_new for _, is_new in results)
        assert before[-1] < results[0][0]
        assert journal.recoveries == 1
        assert [journal.recovered_from] == told
        assert not journal.taken_away
        assert len(await journal.events(limit=1000)) == 50
        await journal.write(Batch(attacks=(Row("a-1", open=True, updated_at=1.0, doc="{}"),)))
    async with opened(path) as journal:
        assert journal.recovered_from is None
        assert [row.id for row in await journal.open_attacks()] == ["a-1"]
        assert len(await journal.events(limit=1000)) == 50
    assert path.with_name(told[0].name) == told[0]
    assert await in_thread(told[0].exists)


async def test_events_when_damaged_at_run_time_then_read_from_a_fresh_file(
    tmp_path: Path,
) -> None:
    """A read that meets the damage first sets the same in motion."""
    path = tmp_path / "j"
    async with opened(path) as journal:
        await append_all(journal, [f"d{number}" for number in range(3000)], b"x" * 500)
        await in_thread(lambda: spoil(path))
        assert await journal.events() == []
        assert journal.recoveries == 1
        assert await append(journal, "new") == (3001, True)


def taken_away(path: Path) -> None:
    """Delete the file, and not its log."""
    path.unlink()


def all_taken_away(path: Path) -> None:
    """Delete the file and all that belongs to it."""
    for end in ("", "-wal", "-shm", ".lock"):
        path.with_name(path.name + end).unlink()


def exchanged(path: Path) -> None:
    """Put something else in the file's place."""
    (path.parent / "other").write_text("no database")
    (path.parent / "other").rename(path)


def overwritten_in_use(path: Path) -> None:
    """Write over the file as a shell does."""
    path.write_text("no database")


@pytest.mark.parametrize(
    "damage",
    [taken_away, all_taken_away, exchanged, emptied, overwritten_in_use, broken_header],
    ids=lambda damage: damage.__name__,
)
async def test_append_event_when_the_file_is_gone_then_kept_where_a_restart_finds_it(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """What is acknowledged after the file was spoiled is there after the next start."""
    path = tmp_path / "j"
    told: list[Path] = []
    async with opened(path) as journal:
        journal.on_recovery = told.append
        await append_all(journal, ["before1", "before2"])
        await journal.settings()
        await in_thread(lambda: damage(path))
        assert await append_all(journal, ["after1", "after2"]) == [3, 4]
        gone = damage in (taken_away, all_taken_away)
        assert journal.recoveries == 1
        assert gone == journal.taken_away
        assert gone == (journal.recovered_from is None)
        assert told == [journal.recovered_from or path]
        assert await in_thread(told[0].exists)
        assert [event.number for event in await journal.events()] == [4, 3]
    async with opened(path) as journal:
        assert journal.recovered_from is None
        assert [event.delivery_id for event in await journal.events()] == ["after2", "after1"]


async def test_append_event_when_taken_away_after_a_damage_then_only_the_last_is_told(
    tmp_path: Path,
) -> None:
    """What is said of the old file is true of the newest one, and no place is named twice."""
    path = tmp_path / "j"
    async with opened(path) as journal:
        seen: list[tuple[bool, bool]] = []
        for turn, damage in enumerate((emptied, all_taken_away, emptied)):
            await append(journal, f"before{turn}")
            await asyncio.to_thread(damage, path)
            await append(journal, f"after{turn}")
            seen.append((journal.taken_away, journal.recovered_from is not None))
        assert seen == [(False, True), (True, False), (False, True)]


@pytest.mark.parametrize("ends", [("", "-wal", "-shm", ".lock"), (".lock",)], ids=["all", "lock"])
async def test_append_event_when_the_lock_is_taken_away_then_a_second_hub_is_still_refused(
    tmp_path: Path, ends: tuple[str, ...]
) -> None:
    """The hub that writes has the lock that others find, whatever was deleted."""
    path = tmp_path / "j"

    def take_away() -> None:
        for end in ends:
            path.with_name(path.name + end).unlink()

    async with opened(path) as journal:
        await append(journal, "before")
        await in_thread(take_away)
        await append(journal, "after")
        with pytest.raises(StoreError, match=f"in use by another fnm-hub, process {os.getpid()};"):
            await Journal.open(path, clock=SystemClock())
        assert await append(journal, "later") == (3, True)
    async with opened(path) as journal:
        assert (await journal.events())[0].delivery_id == "later"


async def test_append_event_when_a_second_hub_came_first_then_the_first_one_is_refused(
    tmp_path: Path,
) -> None:
    """Who has the lock has the journal: the other one writes nothing, and spoils nothing."""
    path = tmp_path / "j"
    async with opened(path) as first:
        await append(first, "lost")
        await in_thread(lambda: all_taken_away(path))
        async with opened(path) as second:
            await append(second, "kept1")
            for _ in range(2):
                with pytest.raises(StoreError, match="in use by another fnm-hub"):
                    await append(first, "refused")
            await first.close()
            await append(second, "kept2")
            assert await in_thread(path.with_name("j-wal").exists)
    async with opened(path) as journal:
        assert [event.delivery_id for event in await journal.events()] == ["kept2", "kept1"]
        assert journal.recovered_from is None


async def test_append_event_when_a_good_copy_is_put_back_then_it_is_gone_on_with(
    tmp_path: Path,
) -> None:
    """A journal that the operator puts back under a running hub is used, not moved aside."""
    path, copy = tmp_path / "j", tmp_path / "copy"
    await in_thread(lambda: fill(path, 3))
    await in_thread(lambda: copy.write_bytes(path.read_bytes()))
    async with opened(path) as journal:
        await append(journal, "lost")
        await in_thread(lambda: copy.rename(path))
        assert await append(journal, "new") == (4, True)
        assert journal.recoveries == 0
    async with opened(path) as journal:
        names = [event.delivery_id for event in await journal.events()]
        assert names == ["new", "e2", "e1", "e0"]


def run_in_small_disk(tmp_path: Path) -> dict[str, object]:
    """Run the full-disk program in a mount namespace of its own; return what it saw."""
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *rights, "--mount", "--propagation", "private", sys.executable]
    command += ["-m", "tests.support.store_full_disk", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_append_event_when_disk_is_full_then_refused_whole_until_there_is_space(
    tmp_path: Path,
) -> None:
    """A full disk loses nothing that was acknowledged, and the journal goes on by itself."""
    seen = run_in_small_disk(tmp_path)
    assert seen == {
        "full_error": "StoreFullError",
        "full_retryable": True,
        "says_what_to_do": True,
        "batch_error": "StoreFullError",
        "burst_errors": ["StoreFullError"],
        "small_beside_large_kept": True,
        "after_space": True,
        "acknowledged_lost": [],
        "refused_kept": [],
        "batch_half_written": [],
        "recovered_from": None,
        "open_error": "StoreFullError",
        "left_over": [],
        "log_events": ["journal.write_failed", "journal.write_works_again"],
    }


def test_open_when_place_cannot_be_written_then_the_error_says_what_to_do(
    tmp_path: Path,
) -> None:
    """A read-only place is named as such."""
    place = tmp_path / "place"
    place.mkdir()
    program = (
        "import asyncio, sys; from pathlib import Path; from tests.support.store import opened\n"
        "async def run():\n"
        "    async with opened(Path(sys.argv[1])): pass\n"
        "asyncio.run(run())"
    )
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    shell = 'mount -t tmpfs -o ro none "$2" && exec "$0" -c "$1" "$2/j"'
    command = ["unshare", *rights, "--mount", "--propagation", "private", "sh", "-c", shell]
    done = subprocess.run(
        [*command, sys.executable, program, str(place)],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("hub.errors.StoreError:")
    assert last.endswith("Read-only file system; set store.path to a place that can be written")


async def test_attacks_when_a_letter_is_broken_then_everything_is_still_read(
    tmp_path: Path,
) -> None:
    """What no check can find spoils its own row alone."""
    path = tmp_path / "j"

    async def write() -> None:
        async with opened(path) as journal:
            rows = (Row(f"a-{n}", open=True, updated_at=1.0, doc=f'"text {n}"') for n in (1, 2))
            await journal.write(Batch(attacks=tuple(rows)))

    def spoil_letter() -> None:
        overwrite(path, path.read_bytes().index(b'"text 1"'), b"\xff")

    await write()
    await in_thread(spoil_letter)
    async with opened(path) as journal:
        assert journal.recovered_from is None
        docs = [row.doc for row in await journal.open_attacks()]
        assert docs == ['\ufffdtext 1"', '"text 2"']


async def test_open_when_the_operator_made_an_index_then_the_file_is_sound(
    tmp_path: Path,
) -> None:
    """What somebody has added does no harm and is no damage."""
    path = tmp_path / "j"
    await in_thread(lambda: fill(path, 1))
    await in_thread(lambda: sql(path, "CREATE INDEX mine ON events (detector)"))
    async with opened(path) as journal:
        assert journal.recovered_from is None
        assert await append(journal, "e1") == (2, True)


async def test_open_when_damaged_and_in_use_then_it_is_not_moved(tmp_path: Path) -> None:
    """The second hub does not take the first one's file away."""
    path = tmp_path / "j"
    async with opened(path) as journal:
        await append(journal, "d1")
        await in_thread(lambda: overwrite(path, 0, b"\0" * 16))
        with pytest.raises(StoreError, match="in use"):
            await Journal.open(path, clock=SystemClock())
        assert await in_thread(lambda: list(tmp_path.glob("*corrupt*"))) == []
