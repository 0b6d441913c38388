# SPDX-License-Identifier: Apache-2.0
"""Lines to systemd's journal: real datagrams, to a socket of the test's own."""

import array
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub import journald

CODE = """
import sys
import structlog
from pathlib import Path
from hub.log import configure

configure("info", "{form}", journal=Path("{path}"))
log = structlog.get_logger()
log.info("mitigation.active", mitigation="m-1", attacks=["a-1", "a-2"], why="", number=7)
log.warning("engine.not_ready", why="two\\nlines", todo="restart it")
log.error("spool.bad", why="x" * {size})
try:
    raise KeyError("answer")
except KeyError:
    log.exception("engine.defect")
"""


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket in the journal's place."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(os.fspath(tmp_path / "socket"))
        server.settimeout(10)
        yield server


def read(server: socket.socket) -> dict[str, list[str]]:
    """Return the fields of one entry, as journald reads them: by datagram or by sealed file."""
    size = array.array("i").itemsize
    data, control, _, _ = server.recvmsg(2**20, socket.CMSG_LEN(size))
    if control:
        (file,) = array.array("i", control[0][2])
        with os.fdopen(file, "rb") as stream:
            stream.seek(0)
            data = stream.read()
    fields: dict[str, list[str]] = {}
    while data:
        head, _, rest = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            length = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        fields.setdefault(name.decode(), []).append(value.decode())
        data = rest
    return fields


def run(tmp_path: Path, form: str, size: int = 10, *, matches: bool = True) -> str:
    """Log a few lines as under systemd; return what came on standard error instead."""
    place = tmp_path / "socket"
    with (tmp_path / "stderr").open("w+b") as stream:
        found = os.fstat(stream.fileno())
        inode = found.st_ino if matches else found.st_ino + 1
        subprocess.run(
            [sys.executable, "-c", CODE.format(form=form, path=place, size=size)],
            stderr=stream,
            env={**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{inode}"},
            check=True,
            timeout=60,
        )
        stream.seek(0)
        return stream.read().decode()


def test_line_when_under_systemd_then_fields_in_the_journal(
    tmp_path: Path, journal: socket.socket
) -> None:
    """Message for people, fields for `journalctl FNM_ATTACK=...`, priority by level."""
    assert run(tmp_path, "auto") == ""
    active, not_ready, bad, defect = (read(journal) for _ in range(4))
    assert active["MESSAGE"] == ['mitigation.active mitigation=m-1 attacks=["a-1", "a-2"] number=7']
    assert active["PRIORITY"] == ["6"]
    assert active["SYSLOG_IDENTIFIER"] == ["fnm-hub"]
    assert active["FNM_EVENT"] == ["mitigation.active"]
    assert active["FNM_MITIGATION"] == ["m-1"]
    assert active["FNM_ATTACK"] == ["a-1", "a-2"]
    assert active["FNM_NUMBER"] == ["7"]
    assert not_ready["PRIORITY"] == ["4"]
    assert not_ready["FNM_WHY"] == ["two\nlines"]
    assert bad["PRIORITY"] == ["3"]
    assert "KeyError" in defect["MESSAGE"][0]


def test_line_when_json_is_asked_for_then_the_message_is_json(
    tmp_path: Path, journal: socket.socket
) -> None:
    """`log.format: json` keeps what programs read from the journal as it is on standard error."""
    run(tmp_path, "json")
    line = json.loads(read(journal)["MESSAGE"][0])
    assert (line["event"], line["attacks"]) == ("mitigation.active", ["a-1", "a-2"])


def test_line_when_larger_than_a_datagram_then_by_a_sealed_file(
    tmp_path: Path, journal: socket.socket
) -> None:
    """No line is too long: its descriptor is sent instead."""
    run(tmp_path, "auto", size=12 * 2**20)
    entries = [read(journal) for _ in range(4)]
    assert entries[2]["FNM_WHY"] == ["x" * 12 * 2**20]


def test_line_when_the_journal_is_gone_then_on_standard_error(tmp_path: Path) -> None:
    """What the journal does not take is not lost: systemd reads standard error as well."""
    said = run(tmp_path, "auto").splitlines()
    assert said[0].startswith("mitigation.active mitigation=m-1")


def test_line_when_standard_error_is_elsewhere_then_json_there(
    tmp_path: Path, journal: socket.socket
) -> None:
    """A variable inherited from a service does not take the lines away from a file."""
    said = run(tmp_path, "auto", matches=False).splitlines()
    assert json.loads(said[0])["event"] == "mitigation.active"
    journal.setblocking(False)  # noqa: FBT003 - positional by its definition
    with pytest.raises(BlockingIOError):
        journal.recv(1)


@pytest.mark.parametrize("value", ["", "nonsense", "1:x", "0:0"])
def test_wanted_when_the_variable_fits_nothing_then_not(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """Only systemd's own word for this very descriptor counts."""
    monkeypatch.setenv("JOURNAL_STREAM", value)
    assert not journald.wanted()
