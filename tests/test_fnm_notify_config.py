# SPDX-License-Identifier: Apache-2.0
"""scripts/fnm-notify as real processes: options and configuration file."""

import os
from pathlib import Path

import pytest

from hub.intake.envelope import decode
from tests.support.notify import (
    COMMUNITY_UNBAN,
    TEXT,
    Place,
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return an own configuration, socket path and spool."""
    return Place(tmp_path)


def test_options_when_given_then_they_override_the_file(place: Place) -> None:
    """Both spellings; the first word that is no option ends them."""
    other = place.root / "other"
    other.mkdir()
    args = ("--spool", os.fspath(other), "--detector=fnm2", "192.0.2.10", "--flush", "1", "unban")
    assert place.call(*args).status == 0
    (path,) = other.iterdir()
    envelope = decode(path.read_bytes())
    assert (envelope.detector, envelope.args) == ("fnm2", ("192.0.2.10", "--flush", "1", "unban"))


def test_options_when_one_is_unknown_then_it_travels_as_an_argument(place: Place) -> None:
    """A mistake in the command line is said and costs nothing of the event."""
    call = place.call("--sokcet", "x", stdin=TEXT)
    assert call.status == 0
    assert "unknown option --sokcet" in call.stderr
    assert [decode(body).args for body in place.spooled()] == [("--sokcet", "x")]


def test_configuration_when_lines_are_wrong_then_the_rest_counts(place: Place) -> None:
    """Unknown keys and lines without a value are said with file and line, and left out."""
    with place.config.open("a") as file:
        file.write("# a comment\n\ncolour = blue\nnonsense\n")
    call = place.call(*COMMUNITY_UNBAN)
    assert f"{place.config}:7: colour: not a key" in call.stderr
    assert f"{place.config}:8: nonsense: not a key" in call.stderr
    assert [decode(body).detector for body in place.spooled()] == ["fnm1"]


@pytest.mark.parametrize("kind", ["missing", "directory", "binary"])
def test_configuration_when_it_cannot_be_read_then_the_options_count(
    place: Place, kind: str
) -> None:
    """A broken configuration file never stops a call."""
    place.config.unlink()
    if kind == "directory":
        place.config.mkdir()
    if kind == "binary":
        place.config.write_bytes(os.urandom(4096))
    call = place.call("--spool", os.fspath(place.spool), "--socket=/nowhere", *COMMUNITY_UNBAN)
    assert (call.status, len(place.spooled())) == (0, 1)
    assert os.fspath(place.config) in call.stderr or kind == "binary"


def test_detector_when_its_name_is_odd_then_it_is_made_to_fit_and_said(place: Place) -> None:
    """The hub's pattern decides; a host name is fitted without a word, a configured one is said."""
    place.configure(detector="fnm 1/ü")
    call = place.call(*COMMUNITY_UNBAN)
    assert [decode(body).detector for body in place.spooled()] == ["fnm-1--"]
    assert "sent as fnm-1--" in call.stderr


def test_help_when_asked_then_it_is_on_standard_error(place: Place) -> None:
    """Standard output stays empty always."""
    call = place.call("--help")
    assert (call.status, call.stdout) == (0, b"")
    assert "--flush" in call.stderr
