# SPDX-License-Identifier: Apache-2.0
"""`fnm-notify --check`: whether a call would be taken, asked without making one."""

import os
import stat
from pathlib import Path

import pytest

from hub.intake.signing import Verifier
from tests.support.notify import SCRIPT, Place, hub, make_pki, run


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return an own configuration, socket path and spool."""
    return Place(tmp_path)


def test_check_when_both_ways_are_open_then_two_lines_and_zero(place: Place) -> None:
    """The hub is asked and told nothing: no body, and nothing in the spool."""
    with hub(200, path=place.socket) as played:
        call = place.call("--check")
    lines = call.stdout.decode().splitlines()
    assert (call.status, call.stderr) == (0, "")
    assert lines == [
        f"ok   {place.socket}: the hub would take a call",
        f"ok   {place.spool}: calls can wait there",
    ]
    (request,) = played.requests
    assert (request.method, request.body, place.spooled()) == ("GET", b"", [])


def test_check_when_a_wrapper_ends_the_options_then_still_a_check(place: Place) -> None:
    """A wrapper that writes `-- "$@"` passes it on as well; as an event it would do harm."""
    wrapper = place.root / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec {SCRIPT} --config={place.config} -- "$@"\n')
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    with hub(200, path=place.socket) as played:
        call = run([os.fspath(wrapper), "--check"])
    assert call.status == 0
    assert [request.method for request in played.requests] == ["GET"]


def test_check_when_both_are_closed_then_each_is_said_and_one(place: Place) -> None:
    """No hub, and no spool: the next call would be lost."""
    place.spool.rmdir()
    call = place.call("--check")
    assert (call.status, call.stderr) == (1, "")
    socket_line, spool_line = call.stdout.decode().splitlines()
    assert socket_line.startswith(f"fail {place.socket}: ")
    assert "No such file or directory" in socket_line
    assert spool_line == f"fail [Errno 2] No such file or directory: '{place.spool}'"


def test_check_when_the_user_is_refused_then_what_to_do(place: Place) -> None:
    """The hub's 403 has one cause, which the line names."""
    with hub(403, path=place.socket):
        call = place.call("--check")
    assert call.status == 1
    assert b"403; name this user in intake.unix.allow_users" in call.stdout


def test_check_when_signed_then_the_hub_verifies_it(place: Place, tmp_path: Path) -> None:
    """Over HTTPS the question is signed like a call, with its own method and no body."""
    pki = make_pki(tmp_path / "pki")
    key = tmp_path / "key"
    key.write_text("5a" * 32)
    key.chmod(0o600)
    with hub(200, tls=pki.server_context()) as played:
        url = f"https://127.0.0.1:{played.port}"
        place.configure(url=url, ca_file=pki.ca, key_id="key-1", key_file=key)
        assert place.call("--check").status == 0
    (request,) = played.requests
    Verifier({"key-1": b"Z" * 32}, max_skew=300.0).verify(
        method=request.method,
        path=request.path,
        headers=request.headers,
        body=request.body,
        now=float(request.headers["X-FNM-Timestamp"]),
    )


def test_other_calls_when_anything_is_wrong_then_still_zero(place: Place) -> None:
    """Only a check may end with another status: FastNetMon must never see us fail."""
    call = place.call("--check", "incoming", "1", "ban")
    assert (call.status, call.stdout, len(place.spooled())) == (0, b"", 1)
