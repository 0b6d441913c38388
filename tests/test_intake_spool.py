# SPDX-License-Identifier: Apache-2.0
"""hub.intake.spool: every spooled call is taken once, in order; nothing there is trusted."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.intake.envelope import Envelope, encode
from hub.intake.spool import MAX_FILE, Spool, SpoolFile

NOW = 1_790_000_000.0
NOBODY = 65534


class StillClock:
    """A clock that stands at NOW."""

    def time(self) -> float:
        """Return NOW."""
        return NOW

    def monotonic(self) -> float:
        """Return zero."""
        return 0.0

    async def sleep(self, seconds: float) -> None:
        """Wait for nothing."""


def put(directory: Path, number: int, stdin: bytes = b"") -> Path:
    """Write one call as fnm-notify does; return its file."""
    envelope = Envelope(f"call-{number:08d}", "fnm1", float(number), (str(number),), stdin)
    path = directory / f"{number:020d}-{envelope.id}.json"
    path.write_bytes(encode(envelope))
    return path


def numbers(files: list[SpoolFile]) -> list[int]:
    """Return which calls were taken."""
    return [int(file.envelope.args[0]) for file in files]


def names(directory: Path) -> list[str]:
    """Return what lies in `directory`."""
    return sorted(path.name for path in directory.iterdir())


def reasons(directory: Path) -> list[str]:
    """Return why files were set aside."""
    return [path.read_text() for path in sorted((directory / "bad").glob("*.reason"))]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return an empty spool directory."""
    path = tmp_path / "spool"
    path.mkdir(mode=0o770)
    return path


@pytest.fixture
def spool(directory: Path) -> Spool:
    """Return a spool over `directory`."""
    return Spool(directory, StillClock())


def take(spool: Spool, limit: int = 256) -> list[SpoolFile]:
    """Take from a loop of its own, so that the test itself may look at files."""
    return asyncio.run(spool.take(limit))


def done(spool: Spool, *files: SpoolFile) -> None:
    """Mark as done from a loop of its own."""
    asyncio.run(spool.done(*files))


async def test_take_when_run_in_a_loop_then_it_does_not_block_it(
    directory: Path, spool: Spool
) -> None:
    """All file work happens in threads; the autouse fixture fails this test otherwise."""
    await asyncio.to_thread(put, directory, 1, b"text")
    (file,) = await spool.take()
    await spool.done(file)
    assert file.envelope.stdin == b"text"
    assert await spool.take() == []


def test_take_when_files_wait_then_they_come_in_the_order_of_their_stamps(
    directory: Path, spool: Spool
) -> None:
    """Whatever the order they were written in; not more than asked for."""
    for number in (30, 4, 200, 1):
        put(directory, number)
    assert numbers(take(spool, 3)) == [1, 4, 30]
    assert spool.waiting == 4
    assert spool.problem is None


def test_take_when_files_were_not_done_then_they_come_again(directory: Path, spool: Spool) -> None:
    """What the journal did not take is not lost."""
    put(directory, 1)
    put(directory, 2)
    first, _ = take(spool)
    done(spool, first)
    assert numbers(take(spool)) == [2]
    assert len(names(directory)) == 1


def test_take_when_ten_thousand_files_wait_then_batches_reach_all(
    directory: Path, spool: Spool
) -> None:
    """The spool after a long night: each call once, in order."""
    for number in range(10_000):
        put(directory, number)
    taken: list[int] = []
    while files := take(spool, 1000):
        taken += numbers(files)
        done(spool, *files)
    assert taken == list(range(10_000))
    assert names(directory) == []


def test_take_when_files_are_large_then_a_batch_is_bounded(directory: Path, spool: Spool) -> None:
    """Memory is bounded by bytes too, and one large file always gets through."""
    for number in range(4):
        put(directory, number, bytes(11 * 2**20))
    assert numbers(take(spool)) == [0, 1, 2]


def test_take_when_foreign_files_lie_there_then_they_are_left_alone(
    directory: Path, spool: Spool
) -> None:
    """Only names that fnm-notify could have made are ours."""
    for name in ("README", "lost+found", ".hidden.json", "1.json.bak"):
        (directory / name).write_text("foreign")
    assert take(spool) == []
    assert names(directory) == [".hidden.json", "1.json.bak", "README", "lost+found"]
    assert (spool.waiting, spool.bad, spool.problem) == (0, 0, None)


def test_take_when_half_files_lie_there_then_only_old_ones_are_removed(
    directory: Path, spool: Spool
) -> None:
    """A writer may be at work; after an hour it is dead."""
    for name, age in ((".tmp-new", 3599.0), (".tmp-old", 3601.0)):
        (directory / name).write_text("{")
        os.utime(directory / name, (NOW - age, NOW - age))
    assert take(spool) == []
    assert names(directory) == [".tmp-new"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[]", b'{"v":2}', b"[" * 100_000])
def test_take_when_a_file_is_no_envelope_then_it_is_set_aside_with_its_reason(
    directory: Path, spool: Spool, content: bytes
) -> None:
    """Kept as it is, counted, and the calls behind it come through."""
    path = put(directory, 1)
    path.write_bytes(content)
    put(directory, 2)
    assert numbers(take(spool)) == [2]
    kept, reason = sorted((directory / "bad").iterdir())
    assert kept.read_bytes() == content
    assert reason.name == kept.name + ".reason"
    assert path.name in reason.read_text()
    assert "the envelope is not" in reason.read_text()
    assert (spool.bad, spool.problem) == (1, None)


def test_take_when_a_file_is_too_large_then_it_is_set_aside_unread(
    directory: Path, spool: Spool
) -> None:
    """A sparse file of terabytes costs nothing."""
    path = put(directory, 1)
    os.truncate(path, 2**40)
    assert take(spool) == []
    assert f"{2**40} bytes, more than {MAX_FILE}" in reasons(directory)[0]


def test_take_when_names_are_not_regular_files_then_none_is_opened(
    directory: Path, spool: Spool
) -> None:
    """Links, directories, FIFOs, sockets and devices are set aside, not followed or waited for."""
    outside = directory.parent / "outside.json"
    outside.write_bytes(encode(Envelope("outside-1", "fnm1", 1.0, ("666",), b"")))
    (directory / "1.json").symlink_to(outside)
    (directory / "2.json").mkdir()
    os.mkfifo(directory / "3.json")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(directory / "4.json"))
        (directory / "5.json").symlink_to("/dev/zero")
        put(directory, 6)
        assert numbers(take(spool)) == [6]
    assert (spool.bad, spool.problem) == (5, None)
    assert all("not a regular file" in reason for reason in reasons(directory))
    assert outside.exists()


def test_take_when_names_are_hostile_then_they_are_harmless(directory: Path, spool: Spool) -> None:
    """Any bytes, any length: set aside under a plain name, the real one in the reason."""
    hostile = b"\xff\n\x1b[31m $(reboot) ..json" + b".json"
    (directory / os.fsdecode(hostile)).write_bytes(b"{")
    (directory / ("x" * 250 + ".json")).write_bytes(b"{")
    (directory / "..json").write_bytes(b"{")
    assert take(spool) == []
    kept = [name for name in names(directory / "bad") if not name.endswith(".reason")]
    assert len(kept) == 2
    assert all(name.isascii() and name.isprintable() and " " not in name for name in kept)
    assert any("$(reboot)" in reason and reason.isascii() for reason in reasons(directory))
    assert names(directory) == ["..json", "bad"]


def test_take_when_bad_is_a_link_then_nothing_is_moved_through_it(
    directory: Path, spool: Spool
) -> None:
    """Whoever may write here cannot choose where we move files to."""
    elsewhere = directory.parent / "elsewhere"
    elsewhere.mkdir()
    (directory / "bad").symlink_to(elsewhere)
    (directory / "1.json").write_bytes(b"{")
    put(directory, 2)
    assert numbers(take(spool)) == [2]
    assert names(elsewhere) == []
    assert "cannot be moved to bad/" in str(spool.problem)


@pytest.mark.parametrize("mended", ["removed", "rewritten"])
def test_problem_when_the_file_is_mended_then_it_is_over(
    directory: Path, spool: Spool, mended: str
) -> None:
    """What an operator put right is not reported any longer."""
    (directory / "bad").write_text("in the way")
    path = put(directory, 1)
    good = path.read_bytes()
    path.write_bytes(b"{")
    assert take(spool) == []
    assert path.name in str(spool.problem)
    path.unlink()
    if mended == "rewritten":
        path.write_bytes(good)
    assert numbers(take(spool)) == ([1] if mended == "rewritten" else [])
    assert spool.problem is None


def test_take_when_the_directory_is_missing_then_it_says_how_to_make_it(tmp_path: Path) -> None:
    """No crash: a problem, once it is there files are read and the problem is gone."""
    directory = tmp_path / "missing"
    spool = Spool(directory, StillClock())
    assert take(spool) == []
    assert f"{directory}: No such file or directory" in str(spool.problem)
    assert f"install -d -o root -g fnm-hub -m 2770 {directory}" in str(spool.problem)
    directory.mkdir(mode=0o770)
    put(directory, 1)
    assert numbers(take(spool)) == [1]
    assert spool.problem is None


def test_take_when_every_user_may_write_there_then_nothing_is_read(
    directory: Path, spool: Spool
) -> None:
    """The socket asks who calls; the spool must not be a way around it."""
    put(directory, 1)
    directory.chmod(0o777)
    assert take(spool) == []
    assert "anybody could forge events" in str(spool.problem)
    assert len(names(directory)) == 1
    directory.chmod(0o770)
    assert numbers(take(spool)) == [1]


def test_done_when_the_file_is_gone_already_then_that_is_fine(
    directory: Path, spool: Spool
) -> None:
    """`fnm-notify --flush` may have delivered it meanwhile."""
    path = put(directory, 1)
    (file,) = take(spool)
    path.unlink()
    done(spool, file)
    assert (take(spool), spool.problem) == ([], None)


AS_NOBODY = """
import asyncio, os, sys
from pathlib import Path
from hub.clock import SystemClock
from hub.intake.spool import Spool

asyncio.run(Spool(Path("/nowhere"), SystemClock()).take())  # import all while we still may
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
spool = Spool(Path(sys.argv[1]), SystemClock())
for _ in range(2):
    files = asyncio.run(spool.take())
    asyncio.run(spool.done(*files))
    print([file.envelope.args[0] for file in files], spool.waiting, spool.problem)
"""


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Return a spool directory that other users can reach."""
    with tempfile.TemporaryDirectory(prefix=f"fnm-spool-{os.getpid()}-") as root:
        Path(root).chmod(0o755)
        directory = Path(root) / "spool"
        directory.mkdir()
        yield directory


def as_nobody(directory: Path) -> list[str]:
    """Take and finish twice as a user without rights; return what was taken and what is wrong."""
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, directory],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=root,
    )
    return [line for line in done.stdout.splitlines() if line.startswith("[")]


def test_take_when_a_file_is_unreadable_then_it_stays_and_the_rest_comes(
    open_directory: Path,
) -> None:
    """Wrong rights are the operator's to mend: the event is not set aside for them."""
    os.chown(open_directory, NOBODY, NOBODY)
    put(open_directory, 1).chmod(0o600)
    put(open_directory, 2).chmod(0o644)
    first, second = as_nobody(open_directory)
    assert first.startswith("['2'] 2")
    assert second.startswith("[] 1")
    assert "1 file(s) cannot be read or removed" in second
    assert "Permission denied" in second
    assert len(names(open_directory)) == 1


def test_done_when_the_file_cannot_be_removed_then_it_is_not_taken_again(
    open_directory: Path,
) -> None:
    """A spool that we may only read costs a problem, not the same event for ever."""
    open_directory.chmod(0o755)
    put(open_directory, 1).chmod(0o644)
    first, second = as_nobody(open_directory)
    assert first.startswith("['1'] 1")
    assert second.startswith("[] 1")
    assert "it is in the journal and cannot be removed" in second
