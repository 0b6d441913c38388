# SPDX-License-Identifier: Apache-2.0
"""The journal and the spool: sound, not behind, nothing set aside."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from hub.cli.doctor.finding import Report
from hub.cli.doctor.situation import Situation
from hub.clock import Clock
from hub.errors import StoreError
from hub.intake.spool import BAD, SUFFIX
from hub.store import files, schema
from hub.store.faults import explain
from hub.units import format_duration

CHECK_SECONDS: Final = 5.0
"""What the check of the whole file may take."""
STEPS: Final = 20_000
"""Steps of SQLite's machine between two looks at the clock: some milliseconds."""
_BEHIND: Final = 60.0
_STUCK: Final = 30.0
_DAY: Final = 86400.0
_LARGE: Final = 8 * 2**30


def look(situation: Situation, report: Report) -> None:
    """Look at journal and spool."""
    config = situation.config
    if config is None:
        report.skip("journal", "the configuration cannot be read, so its place is unknown")
        return
    path = config.store.path
    report.look(str(path))
    try:
        _journal(situation, path, report)
    except PermissionError:
        report.skip("journal", f"{path} cannot be read by this user", "run as root")
    except (sqlite3.Error, OSError, StoreError) as error:
        told = explain(error, path)
        todo = (
            told.todo or "fnm-hub status; the hub moves a damaged journal aside at its next start"
        )
        report.fail("journal", f"{path}: {told.what}", todo)
    _set_aside(path, report)
    report.look(str(config.intake.spool))
    _spool(situation, config.intake.spool, report)


def _journal(situation: Situation, path: Path, report: Report) -> None:
    status = situation.hub.status
    if status is not None and status["store"]["trouble"]:
        trouble = str(status["store"]["trouble"])
        report.fail("writes", f"the hub cannot write its journal: {trouble}", "see disk, above")
    elif status is not None:
        report.ok("writes", "the hub can write its journal")
    if not path.exists():  # raises where this user cannot see
        report.skip("journal", f"{path} is not there yet; the hub makes it at its first start")
        return
    _size(path, report)
    with closing(_open(path)) as connection:
        fault = schema.identify(connection, path)
        if fault:
            todo = "the hub moves it aside at its next start; keep a copy"
            report.fail("journal", f"{path}: {fault}", todo)
            return
        _events(connection, situation.clock, report)
        _quick_check(connection, path, situation.clock, report)


def _open(path: Path) -> sqlite3.Connection:
    """Return a connection that can write nothing, not even SQLite's side files."""
    with path.open("rb"):  # SQLite would not say why it cannot
        pass
    # Without a log nobody has it open, and SQLite would make side files to find that out.
    has_log = files.beside(path, files.SIDE_FILES[0]).exists()
    how = "mode=ro&readonly_shm=1" if has_log else "mode=ro&immutable=1"
    return sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, timeout=1.0)


def _size(path: Path, report: Report) -> None:
    size = sum(
        beside.stat().st_size
        for end in ("", *files.SIDE_FILES)
        if (beside := files.beside(path, end)).exists()
    )
    text = f"{path} holds {size / 2**20:.1f} MiB"
    if size > _LARGE:
        report.warn("size", text, "lower store.keep_events and store.keep_audit")
    else:
        report.ok("size", text)


def _events(connection: sqlite3.Connection, clock: Clock, report: Report) -> None:
    query = "SELECT count(*), min(received_at) FROM events WHERE status = 'pending'"
    waiting, oldest = connection.execute(query).fetchone()
    age = clock.time() - oldest if waiting else 0.0
    if age > _BEHIND:
        text = f"{waiting} events wait to be taken in, the oldest for {format_duration(age)}"
        report.fail("pending", text, "is the hub running? see its log for task.failed")
    else:
        report.ok("pending", f"{waiting} events wait to be taken in")
    query = (
        "SELECT count(*), max(number) FROM events WHERE received_at > ?"
        " AND status = 'not_understood'"
    )
    count, newest = connection.execute(query, (clock.time() - _DAY,)).fetchone()
    if count:
        text = f"{count} events of the last day were not understood, the newest is {newest}"
        report.warn("not_understood", text, f"fnm-hub event {newest}")
    else:
        report.ok("not_understood", "every event of the last day was understood")


def _quick_check(connection: sqlite3.Connection, path: Path, clock: Clock, report: Report) -> None:
    end = clock.monotonic() + CHECK_SECONDS
    connection.set_progress_handler(lambda: int(clock.monotonic() > end), STEPS)
    try:
        (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        text = f"{path} is too large to be checked within {CHECK_SECONDS:g} s"
        report.skip("journal", text, f"at leisure: sqlite3 -readonly {path} 'PRAGMA quick_check'")
        return
    if said == "ok":
        report.ok("journal", f"{path} is sound")
    else:
        todo = "take a backup; the hub moves a damaged journal aside and goes on with a new one"
        report.fail("journal", f"{path} is damaged: {said}", todo)


def _set_aside(path: Path, report: Report) -> None:
    try:
        aside = sorted(path.parent.glob(f"{path.name}.corrupt-*"))
    except OSError:
        return
    if aside:
        text = f"{len(aside)} files of damaged journals lie beside it, the last is {aside[-1]}"
        report.warn("set_aside", text, "look at the disk's log; delete them when you know why")


def _spool(situation: Situation, path: Path, report: Report) -> None:
    try:
        ages = [situation.clock.time() - changed for changed in _waiting(path)]
        bad = sum(1 for _ in (path / BAD).iterdir()) if (path / BAD).is_dir() else 0
    except PermissionError:
        report.skip("spool", f"{path} cannot be read by this user", "run as root")
        return
    except OSError as error:
        report.skip("spool", f"{path}: {error.strerror}")
        return
    text, oldest = f"{len(ages)} calls wait in {path}", max(ages, default=0.0)
    if oldest > _STUCK and situation.hub.status is not None:
        text += f", the oldest for {format_duration(oldest)}, and the hub runs"
        report.fail("spool", text, "fnm-hub status says why; mend owner and mode of the files")
    elif ages and situation.hub.status is None:
        report.warn("spool", text, "start the hub: it takes them first")
    else:
        report.ok("spool", text)
    if bad:
        text = f"{bad} files lie in {path / BAD}: what could not be an event, and why"
        report.warn("spool_bad", text, "look who wrote them; delete them when you know")
    else:
        report.ok("spool_bad", "nothing was set aside in the spool")


def _waiting(path: Path) -> Iterator[float]:
    for one in path.iterdir():
        if one.name.endswith(SUFFIX):
            with suppress(FileNotFoundError):  # taken meanwhile
                yield one.lstat().st_mtime
