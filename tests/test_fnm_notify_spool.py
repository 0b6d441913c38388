# SPDX-License-Identifier: Apache-2.0
"""scripts/fnm-notify as real processes: no failure of hub or disk loses or fails a call."""

import grp
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from hub.intake.envelope import decode
from tests.support.notify import (
    COMMUNITY_BAN,
    COMMUNITY_UNBAN,
    LIMIT,
    SCRIPT,
    TEXT,
    Call,
    Place,
    hub,
    load_script,
    raw_hub,
    run,
    silent,
)

NOBODY = 65534


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return an own configuration, socket path and spool."""
    return Place(tmp_path)


@pytest.fixture
def open_place() -> Iterator[Place]:
    """Return a place that every user can reach, with a copy of the script in it."""
    with tempfile.TemporaryDirectory(prefix=f"fnm-notify-{os.getpid()}-") as root:
        Path(root).chmod(0o755)
        shutil.copy(SCRIPT, root)
        yield Place(Path(root))


def test_hub_when_its_socket_is_missing_then_the_call_is_spooled(place: Place) -> None:
    """One file, readable by the hub's group, named for its stamp; and one line says so."""
    call = place.call(*COMMUNITY_BAN, stdin=TEXT)
    (path,) = place.spool.iterdir()
    envelope = decode(path.read_bytes())
    nanoseconds, _, rest = path.name.partition("-")
    assert (call.status, call.stdout) == (0, b"")
    assert (envelope.args, envelope.stdin) == (COMMUNITY_BAN, TEXT)
    assert (f"{envelope.id}.json", 20) == (rest, len(nanoseconds))
    assert envelope.stamp == pytest.approx(int(nanoseconds) / 1e9, abs=1e-6)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert len(call.stderr.splitlines()) == 1
    assert f"spooled as {path.name}" in call.stderr
    assert call.stderr.endswith(f" delivery={envelope.id}\n")


def test_spool_when_several_calls_are_in_it_then_names_sort_by_stamp(place: Place) -> None:
    """The hub takes the files by name, so a name starts with the stamp."""
    for number in range(4):
        place.call("192.0.2.10", "incoming", str(number), "unban")
    assert [decode(body).args[2] for body in place.spooled()] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("status", [400, 401, 404, 413, 429, 500, 503])
def test_hub_when_it_refuses_then_the_same_envelope_is_spooled(place: Place, status: int) -> None:
    """The id is the same in the spool, so a hub that took it after all knows it again."""
    with hub(status, path=place.socket) as played:
        call = place.call(*COMMUNITY_UNBAN)
    assert (call.status, call.stdout) == (0, b"")
    assert f"the hub answered {status}" in call.stderr
    assert played.bodies == place.spooled()


def test_hub_when_it_knows_the_event_already_then_nothing_is_spooled(place: Place) -> None:
    """200 means that an event of this id is in the journal."""
    with hub(200, path=place.socket):
        assert silent(place.call(*COMMUNITY_UNBAN)) == (0, b"", "")
    assert place.spooled() == []


@pytest.mark.parametrize(
    "answer", [b"", b"\xff\x00 no HTTP\r\n\r\n", b"HTTP/1.1 2", b"HTTP/1.1 xxx ok\r\n\r\n"]
)
def test_hub_when_it_answers_garbage_then_the_call_is_spooled(place: Place, answer: bytes) -> None:
    """Only a whole status line counts as an answer."""
    with raw_hub(place.socket, answer):
        call = place.call(*COMMUNITY_UNBAN)
    assert (call.status, call.stdout) == (0, b"")
    assert [decode(body).args for body in place.spooled()] == [COMMUNITY_UNBAN]


def test_hub_when_it_hangs_then_the_call_is_spooled(place: Place) -> None:
    """A hub that accepts and never answers costs two seconds, not the event."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(place.socket))
        listener.listen()
        call = place.call(*COMMUNITY_UNBAN)
    assert call.status == 0
    assert "no answer in time" in call.stderr or "timed out" in call.stderr
    assert len(place.spooled()) == 1


def test_hub_when_its_backlog_is_full_then_the_call_is_spooled(place: Place) -> None:
    """In a burst the call waits for its turn a second, then goes to the spool."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(os.fspath(place.socket))
        listener.listen(0)
        other.connect(os.fspath(place.socket))
        call = place.call(*COMMUNITY_UNBAN)
    assert call.status == 0
    assert len(place.spooled()) == 1


def test_hub_when_its_backlog_has_room_again_then_the_call_is_handed_over(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full backlog is waited for, not given up on."""
    script = load_script()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(os.fspath(place.socket))
        listener.listen(0)
        other.connect(os.fspath(place.socket))

        def answer() -> None:
            link, _ = listener.accept()
            with link:
                link.recv(65536)
                link.sendall(b"HTTP/1.1 202 Accepted\r\n\r\n")

        server = threading.Thread(target=answer)

        def make_room(_seconds: float) -> None:
            listener.accept()[0].close()
            server.start()

        monkeypatch.setattr(script, "time", SimpleNamespace(sleep=make_room))
        assert script.post_unix(os.fspath(place.socket), b"{}") == 202
        server.join(LIMIT)


def test_fastnetmon_when_it_is_stopped_during_a_call_then_the_event_survives(place: Place) -> None:
    """SIGTERM, SIGINT and SIGHUP to the process group do not end a call before it is safe."""

    def stop(pid: int) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)

    with raw_hub(place.socket, b"", stop):
        assert place.call(*COMMUNITY_UNBAN).status == 0
    assert [decode(body).args for body in place.spooled()] == [COMMUNITY_UNBAN]


def assert_said_lost(call: Call) -> None:
    """The last resort: exit 0, one line with the call in it."""
    assert (call.status, call.stdout) == (0, b"")
    (line,) = call.stderr.splitlines()
    assert "EVENT LOST" in line
    assert "192.0.2.10 incoming 300" in line


def test_spool_when_it_is_missing_then_the_loss_is_said(place: Place) -> None:
    """Nowhere to go: standard error gets the call, for a person to act on."""
    place.spool.rmdir()
    assert_said_lost(place.call(*COMMUNITY_BAN, stdin=TEXT))


def test_spool_when_the_disk_is_full_then_nothing_half_stays(place: Place) -> None:
    """A full file system leaves no half file behind and is said."""
    script = (
        f"mount -t tmpfs -o size=16k tmpfs {place.spool} &&"
        f" {SCRIPT} --config {place.config} {' '.join(COMMUNITY_BAN)};"
        f' echo "status $?"; ls -A {place.spool}'
    )
    call = run(["unshare", "--mount", "sh", "-c", script], os.urandom(100_000))
    assert call.stdout == b"status 0\n"
    assert "EVENT LOST" in call.stderr
    assert "No space left on device" in call.stderr


def test_spool_when_files_may_not_grow_then_nothing_half_stays(place: Place) -> None:
    """A size limit inherited from the daemon is no different from a full disk."""
    line = f"ulimit -f 1; exec {SCRIPT} --config {place.config} {' '.join(COMMUNITY_BAN)}"
    assert_said_lost(run(["sh", "-c", line], os.urandom(100_000)))
    assert list(place.spool.iterdir()) == []


def as_nobody(place: Place, groups: list[int]) -> Call:
    """Call the copy of the script as a user without rights."""
    done = subprocess.run(
        [place.root / SCRIPT.name, f"--config={place.config}", *COMMUNITY_BAN],
        input=TEXT,
        capture_output=True,
        timeout=LIMIT,
        check=False,
        user=NOBODY,
        group=NOBODY,
        extra_groups=groups,
        cwd="/",
    )
    return Call(done.returncode, done.stdout, done.stderr.decode())


def test_spool_when_the_user_may_not_write_there_then_the_loss_is_said(open_place: Place) -> None:
    """Wrong rights are said with the directory's name."""
    open_place.spool.chmod(0o700)
    call = as_nobody(open_place, [])
    assert_said_lost(call)
    assert f"{open_place.spool}: Permission denied" in call.stderr


def test_spool_when_it_is_set_up_as_documented_then_the_hubs_group_can_read(
    open_place: Place,
) -> None:
    """Mode 2770 and the group: the detector's user writes, the hub's group reads."""
    group = grp.getgrnam("daemon").gr_gid
    os.chown(open_place.spool, 0, group)
    open_place.spool.chmod(0o2770)
    assert as_nobody(open_place, [group]).status == 0
    (path,) = open_place.spool.iterdir()
    status = path.stat()
    assert (NOBODY, group, 0o640) == (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))


def test_umask_when_the_daemon_has_none_then_no_file_is_open_to_all(place: Place) -> None:
    """FastNetMon 1.2.4's unit has umask 000."""
    assert run(place.argv(*COMMUNITY_BAN), TEXT, umask=0).status == 0
    assert [stat.S_IMODE(path.stat().st_mode) for path in place.spool.iterdir()] == [0o640]
