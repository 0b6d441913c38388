# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub events parse`: the body of the command."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from hub.cli.parse import run
from tests.support.fastnetmon import sample, text_report

ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys
from hub.cli.parse import run
sys.exit(run(sys.argv[1:], sys.stdin and sys.stdin.buffer, sys.stdout, sys.stderr))
"""
UNBAN = ["192.0.2.1", "incoming", "5", "unban"]


def called(args: list[str], stdin: BinaryIO | None) -> tuple[int, str, str]:
    """Run in this process; return exit status, stdout, stderr."""
    stdout, stderr = StringIO(), StringIO()
    return run(args, stdin, stdout, stderr), stdout.getvalue(), stderr.getvalue()


def spawned(args: Sequence[str | bytes], **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run as a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *args],
        cwd=ROOT,
        capture_output=True,
        timeout=30,
        check=False,
        **options,
    )


def test_run_when_understood_then_one_object_and_0() -> None:
    """A recorded call gives one JSON object on one line and nothing on stderr."""
    call = sample("1.2.9-syn-answered-ban")
    status, stdout, stderr = called(list(call.args), BytesIO(call.stdin))
    assert (status, stderr) == (0, "")
    assert stdout.count("\n") == 1
    shown = json.loads(stdout)
    assert shown["derived"]["direction"] == "incoming"
    assert (shown["packets"], shown["flows"]) == (20, 42)


def test_run_when_not_understood_then_3_and_reason_on_stderr() -> None:
    """The reason goes to stderr, printable whatever the arguments hold; stdout stays empty."""
    status, stdout, stderr = called(["\x1b[31m\udcff", "x", "1", "ban"], BytesIO(b""))
    assert (status, stdout) == (3, "")
    assert "is not the address of one host" in stderr
    assert stderr.removesuffix("\n").isprintable()


class _Unreadable(BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        del size
        raise OSError(9, "Bad file descriptor")


def test_run_when_stdin_is_none_closed_or_unreadable_then_arguments_count() -> None:
    """No state of stdin takes the event away."""
    closed = BytesIO()
    closed.close()
    for stdin in (None, closed, _Unreadable()):
        status, stdout, _ = called(UNBAN, stdin)
        assert (status, json.loads(stdout)["action"]) == (0, "unban")


def test_run_when_descriptor_is_closed_then_0() -> None:
    """A detector that closes descriptor 0 is served too."""
    done = spawned(UNBAN, preexec_fn=lambda: os.close(0))
    assert (done.returncode, json.loads(done.stdout)["action"]) == (0, "unban")


def test_run_when_stdin_is_null_device_then_0() -> None:
    """Community's `unban` under systemd has the null device on stdin."""
    done = spawned(UNBAN, stdin=subprocess.DEVNULL)
    assert (done.returncode, json.loads(done.stdout)["target"]) == (0, "192.0.2.1")


def test_run_when_stdin_is_a_terminal_then_it_is_not_read() -> None:
    """Nobody types a report: on a terminal the command answers at once."""
    master, slave = pty.openpty()
    try:
        done = spawned(UNBAN, stdin=slave)
    finally:
        os.close(slave)
        os.close(master)
    assert done.returncode == 0


def test_run_when_arguments_have_any_bytes_then_parsed_or_3() -> None:
    """Bytes that are no UTF-8 in the arguments are shown as text that encodes."""
    done = spawned([b"192.0.2.1", b"in\xff\xfe", b"5", b"ban"], input=b"\xff\x00\xfe" * 1000)
    assert (done.returncode, json.loads(done.stdout)["reported"]["direction"]) == (0, "in??")
    done = spawned([b"\xff", b"\xff", b"\xff", b"ban"], input=b"")
    assert (done.returncode, done.stdout) == (3, b"")
    assert rb"'\udcff'" in done.stderr


@pytest.mark.timeout(60)
def test_run_when_stdin_is_larger_than_any_pipe_then_all_of_it_is_read() -> None:
    """Eleven mebibytes arrive whole."""
    flow = b"192.0.2.10:53 < 198.51.100.1:3126 1242 bytes 1 packets\n"
    lines = 11 * 2**20 // len(flow)
    text = text_report(dialect="b", speeds={}).encode() + flow * lines
    done = spawned(["192.0.2.10", "incoming", "5", "ban"], input=text)
    assert (0, lines) == (done.returncode, json.loads(done.stdout)["flows"])
