# SPDX-License-Identifier: Apache-2.0
"""scripts/fnm-notify as real processes: what it hands over, and its surroundings."""

import ast
import os
import pty
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.intake.envelope import decode
from tests.support.notify import (
    COMMUNITY_BAN,
    COMMUNITY_UNBAN,
    LIMIT,
    SCRIPT,
    TEXT,
    Place,
    hub,
    load_script,
    raw_hub,
    run,
    silent,
)

DOCUMENT = b'{"action":"unban","alert_scope":"host","ip":"192.0.2.10"}'

notify = load_script()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return an own configuration, socket path and spool."""
    return Place(tmp_path)


def test_community_ban_when_the_hub_answers_then_all_of_it_is_handed_over(place: Place) -> None:
    """Arguments and standard input arrive as FastNetMon gave them, and nothing is said."""
    with hub(path=place.socket) as played:
        assert silent(place.call(*COMMUNITY_BAN, stdin=TEXT)) == (0, b"", "")
    (request,) = played.requests
    envelope = decode(request.body)
    assert (request.method, request.path) == ("POST", "/v1/events/fastnetmon")
    assert (envelope.args, envelope.stdin) == (COMMUNITY_BAN, TEXT)
    assert (envelope.detector, envelope.truncated) == ("fnm1", False)
    assert place.spooled() == []


def test_call_through_a_shell_when_made_as_fastnetmon_does_then_it_arrives(place: Place) -> None:
    """FastNetMon runs `sh -c "<path> <ip> <direction> <pps> <action>"`."""
    line = f"{SCRIPT} --config {place.config} {' '.join(COMMUNITY_BAN)}"
    with hub(path=place.socket) as played:
        assert silent(run(["sh", "-c", line], TEXT)) == (0, b"", "")
    assert [decode(body).args for body in played.bodies] == [COMMUNITY_BAN]


@pytest.mark.parametrize("args", [("unban", "192.0.2.10"), ()])
def test_advanced_unban_when_called_then_its_document_is_read(
    place: Place, args: tuple[str, ...]
) -> None:
    """FastNetMon Advanced gives JSON for an unban too, with two arguments or none."""
    with hub(path=place.socket) as played:
        assert silent(place.call(*args, stdin=DOCUMENT)) == (0, b"", "")
    envelope = decode(played.bodies[0])
    assert (args, DOCUMENT) == (envelope.args, envelope.stdin)


def test_stamps_when_calls_follow_each_other_then_they_grow(place: Place) -> None:
    """The hub orders calls by the stamp, so each is taken in its own process, with boot id."""
    with hub(path=place.socket) as played:
        for _ in range(3):
            place.call(*COMMUNITY_UNBAN)
    calls = [decode(body) for body in played.bodies]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert [boot] * 3 == [call.boot for call in calls]
    assert sorted(call.stamp for call in calls) == [call.stamp for call in calls]
    assert calls[0].order.before(calls[1].order)
    assert calls[1].order.before(calls[2].order)
    assert len({call.id for call in calls}) == 3


def test_hostile_arguments_when_handed_over_then_every_byte_arrives(place: Place) -> None:
    """Bytes that are no UTF-8, quotes, control characters: the hub gets them all."""
    hostile = [b'\xff\xfe"\\', b"\n\x1b[31m\x7f", "2001:0db8:000b::0010 ü €".encode(), b":0001"]
    with hub(path=place.socket) as played:
        assert silent(place.call(*hostile, stdin=b"\x00\xff")) == (0, b"", "")
    envelope = decode(played.bodies[0])
    assert hostile == [arg.encode("utf-8", "surrogateescape") for arg in envelope.args]
    assert envelope.stdin == b"\x00\xff"


def test_arguments_when_there_are_too_many_then_they_are_cut_and_marked(place: Place) -> None:
    """The envelope stays below the hub's limit whatever the caller does."""
    with hub(path=place.socket) as played:
        assert place.call("x" * 5000, *("y" * 30)).status == 0
    envelope = decode(played.bodies[0])
    assert (len(envelope.args), len(envelope.args[0]), envelope.truncated) == (16, 512, True)


@given(
    args=st.lists(st.binary(max_size=40), max_size=6),
    stdin=st.binary(max_size=200),
    truncated=st.booleans(),
)
def test_envelope_when_built_by_the_script_then_the_hub_reads_the_same(
    args: list[bytes], stdin: bytes, *, truncated: bool
) -> None:
    """The script's own encoder writes what the hub's decoder reads, for any bytes."""
    words = [arg.decode("utf-8", "surrogateescape") for arg in args]
    envelope = decode(notify.encode("0123456789abcdef", "fnm1", words, stdin, truncated=truncated))
    assert (envelope.id, envelope.detector) == ("0123456789abcdef", "fnm1")
    assert (tuple(words), stdin, truncated) == (envelope.args, envelope.stdin, envelope.truncated)


@given(st.text())
def test_detector_name_when_made_from_any_text_then_the_hub_takes_it(text: str) -> None:
    """A host name with odd characters never makes the hub refuse the event."""
    body = notify.encode("0123456789abcdef", notify.detector_name(text), [], b"", truncated=False)
    assert decode(body).detector == notify.detector_name(text)


def test_community_unban_when_something_is_on_stdin_then_it_is_left_there(place: Place) -> None:
    """Standard input of a Community unban belongs to the daemon."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "wb") as writer:
        writer.write(b"the daemon's own")
        writer.flush()
        with hub(path=place.socket) as played:
            assert silent(place.call(*COMMUNITY_UNBAN, stdin=read)) == (0, b"", "")
        writer.close()
        assert reader.read() == b"the daemon's own"
    assert decode(played.bodies[0]).stdin == b""


def test_stdin_when_it_is_never_closed_then_what_came_is_handed_over(place: Place) -> None:
    """A detector that keeps the pipe open delays its call, and cannot hold it."""
    read, write = os.pipe()
    try:
        os.write(write, TEXT)
        with hub(path=place.socket) as played:
            assert silent(place.call(*COMMUNITY_BAN, stdin=read)) == (0, b"", "")
    finally:
        os.close(read)
        os.close(write)
    envelope = decode(played.bodies[0])
    assert (envelope.stdin, envelope.truncated) == (TEXT, True)


@pytest.mark.parametrize("args", [COMMUNITY_BAN, COMMUNITY_UNBAN, ("ban", "192.0.2.10")])
def test_stdin_when_it_is_a_terminal_then_it_is_not_read(
    place: Place, args: tuple[str, ...]
) -> None:
    """What a person types into FastNetMon's terminal is neither waited for nor taken."""
    master, slave = pty.openpty()
    try:
        os.write(master, b"typed\n")
        with hub(path=place.socket) as played:
            assert silent(place.call(*args, stdin=slave)) == (0, b"", "")
        assert os.read(slave, 100) == b"typed\n"
    finally:
        os.close(master)
        os.close(slave)
    assert decode(played.bodies[0]).stdin == b""


def test_stdin_when_it_is_dev_null_then_the_call_is_handed_over(place: Place) -> None:
    """A daemon under systemd has /dev/null there."""
    with hub(path=place.socket) as played:
        assert silent(place.call(*COMMUNITY_BAN, stdin=subprocess.DEVNULL)) == (0, b"", "")
    assert decode(played.bodies[0]).stdin == b""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_descriptors_when_closed_then_the_call_is_handed_over(
    place: Place, closed: str
) -> None:
    """A closed descriptor's number is not given to the socket, so nothing is mixed up."""
    line = f"exec {SCRIPT} --config {place.config} {' '.join(COMMUNITY_BAN)} {closed}"
    with hub(path=place.socket) as played:
        assert silent(run(["sh", "-c", line], TEXT)) == (0, b"", "")
    expected = b"" if "<" in closed else TEXT
    assert [(COMMUNITY_BAN, expected)] == [
        (decode(body).args, decode(body).stdin) for body in played.bodies
    ]


def test_standard_descriptors_when_all_are_closed_then_they_lead_nowhere(place: Place) -> None:
    """No socket or file of ours gets the number of a standard descriptor."""
    found: list[str] = []

    def look(pid: int) -> None:
        found.extend(os.fspath(Path(f"/proc/{pid}/fd/{fd}").readlink()) for fd in range(3))

    line = f"exec {SCRIPT} --config {place.config} {' '.join(COMMUNITY_BAN)} <&- >&- 2>&-"
    with raw_hub(place.socket, b"", look):
        assert silent(run(["sh", "-c", line], TEXT)) == (0, b"", "")
    assert found == ["/dev/null"] * 3
    assert [decode(body).args for body in place.spooled()] == [COMMUNITY_BAN]


@pytest.mark.parametrize(
    ("mebibytes", "kept", "truncated"), [(10, 10 * 2**20, False), (12, 11 * 2**20, True)]
)
def test_stdin_when_it_is_huge_then_it_is_drained_and_capped(
    place: Place, mebibytes: int, kept: int, *, truncated: bool
) -> None:
    """All of it is read, so the detector's write never fails; 11 MiB are kept."""
    text = os.urandom(2**20) * mebibytes
    with hub(path=place.socket) as played:
        assert silent(place.call(*COMMUNITY_BAN, stdin=text)) == (0, b"", "")
    envelope = decode(played.bodies[0])
    assert (text[:kept] == envelope.stdin, truncated) == (True, envelope.truncated)


def test_descriptors_when_the_daemon_leaks_them_then_they_are_closed(place: Place) -> None:
    """A call that waits for the hub keeps none of the daemon's sockets, and has no child."""
    found: list[object] = []

    def look(pid: int) -> None:
        targets = [os.fspath(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
        found.append([target for target in targets if "leaked" in target])
        found.append(Path(f"/proc/{pid}/task/{pid}/children").read_text())

    leaked = place.root / "leaked"
    line = f"exec {SCRIPT} --config {place.config} {' '.join(COMMUNITY_BAN)} 7>{leaked} 9<{leaked}"
    with raw_hub(place.socket, b"HTTP/1.1 202 Accepted\r\n\r\n", look):
        assert silent(run(["sh", "-c", line], TEXT)) == (0, b"", "")
    assert found == [[], ""]


def test_syslog_when_it_listens_then_it_gets_the_report(place: Place) -> None:
    """Facility daemon, severity warning, one printable line."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(os.fspath(place.root / "log"))
        log.settimeout(LIMIT)
        place.configure(syslog=place.root / "log")
        assert place.call("192.0.2.10\n\x1b[0m", "incoming", "1", "unban").status == 0
        line = log.recv(4096)
    assert line.startswith(b"<28>fnm-notify[")
    assert b"192.0.2.10\\u000a\\u001b[0m" in line
    assert line.decode("ascii").isprintable()


def test_standard_error_when_nobody_reads_it_then_the_call_ends(place: Place) -> None:
    """A full pipe on standard error cannot hold the call."""
    read, write = os.pipe()
    try:
        os.set_blocking(write, False)
        with suppress(BlockingIOError):
            while True:
                os.write(write, bytes(4096))
        os.set_blocking(write, True)
        done = subprocess.run(
            place.argv(*COMMUNITY_UNBAN), stderr=write, timeout=LIMIT, check=False
        )
    finally:
        os.close(read)
        os.close(write)
    assert (done.returncode, len(place.spooled())) == (0, 1)


def test_start_when_the_hub_is_local_then_no_slow_module_is_imported(place: Place) -> None:
    """What would double the time to start is imported only where HTTPS needs it."""
    argv = ["/usr/bin/python3", "-I", "-S", "-X", "importtime", *place.argv(*COMMUNITY_UNBAN)]
    lines = run(argv).stderr.splitlines()
    modules = {line.rpartition("|")[2].strip() for line in lines if "|" in line}
    assert "_socket" in modules
    assert set() == modules & {"socket", "ssl", "json", "re", "enum", "pathlib", "typing"}


def test_source_when_an_old_python_reads_it_then_it_has_no_newer_syntax() -> None:
    """Debian 10's Python 3.7 runs it."""
    ast.parse(SCRIPT.read_text(), feature_version=(3, 7))
