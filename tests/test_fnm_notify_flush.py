# SPDX-License-Identifier: Apache-2.0
"""scripts/fnm-notify as real processes: spooled calls are delivered later, in order."""

import fcntl
import os
from pathlib import Path

import pytest

from tests.support.notify import (
    COMMUNITY_UNBAN,
    Pki,
    Place,
    field_of,
    fill,
    https,
    hub,
    make_pki,
    silent,
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return an own configuration, socket path and spool."""
    return Place(tmp_path)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Return certificates of one authority."""
    return make_pki(tmp_path_factory.mktemp("pki") / "own")


def order(bodies: list[bytes]) -> list[object]:
    """Return the ids in the order of arrival."""
    return [field_of(body, "id") for body in bodies]


def test_https_when_the_hub_is_back_then_older_calls_follow(place: Place, pki: Pki) -> None:
    """A call that got through takes up to 16 spooled ones with it, oldest first."""
    fill(place, 18)
    with hub(tls=pki.server_context()) as played:
        https(place, pki, played.port)
        assert place.call(*COMMUNITY_UNBAN).status == 0
    delivered = len(played.requests) - 1
    assert [f"spooled-{n:08d}" for n in range(delivered)] == order(played.bodies[1:])
    assert 1 <= delivered <= 16
    assert 18 - delivered == len(place.spooled())


def test_flush_when_asked_then_the_whole_spool_is_delivered(place: Place) -> None:
    """For a timer: everything, in order, over the Unix socket as well; stdin is not touched."""
    fill(place, 30)
    (place.spool / "README").write_text("not ours")
    with hub(path=place.socket) as played:
        assert silent(place.call("--flush")) == (0, b"", "")
    assert [f"spooled-{n:08d}" for n in range(30)] == order(played.bodies)
    assert [path.name for path in place.spool.iterdir()] == ["README"]


def test_flush_when_the_hub_goes_away_then_the_rest_stays(place: Place) -> None:
    """The first refusal that may pass ends the run, and is said."""
    fill(place, 5)
    with hub(202, 202, 503, path=place.socket) as played:
        call = place.call("--flush")
    assert call.status == 0
    assert "the hub answered 503" in call.stderr
    assert (len(played.requests), len(place.spooled())) == (3, 3)


def test_flush_when_the_hub_will_never_take_a_file_then_it_is_set_aside(place: Place) -> None:
    """One hopeless file does not block those behind it, and is not deleted."""
    fill(place, 3)
    with hub(413, 202, path=place.socket) as played:
        call = place.call("--flush")
    assert "set aside, the hub answered 413" in call.stderr
    assert (len(played.requests), place.spooled()) == (3, [])
    assert [path.name for path in (place.spool / "bad").iterdir()] == [
        "00000000000000000000-spooled-00000000.json"
    ]


def test_flush_when_another_one_is_at_it_then_it_leaves_the_spool_alone(place: Place) -> None:
    """Calls in a burst do not deliver the same files all at once."""
    fill(place, 2)
    handle = os.open(place.spool, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with hub(path=place.socket) as played:
            assert silent(place.call("--flush")) == (0, b"", "")
    finally:
        os.close(handle)
    assert (len(played.requests), len(place.spooled())) == (0, 2)


def test_flush_when_links_and_leftovers_lie_there_then_none_is_followed(place: Place) -> None:
    """A symbolic link is not read; a half file an hour old is removed, a young one stays."""
    secret = place.root / "secret"
    secret.write_text("secret")
    (place.spool / "1.json").symlink_to(secret)
    (place.spool / ".tmp-young").write_text("")
    (place.spool / ".tmp-old").write_text("")
    os.utime(place.spool / ".tmp-old", (0, 0))
    with hub(path=place.socket) as played:
        call = place.call("--flush")
    assert "1.json: Too many levels of symbolic links" in call.stderr
    assert (call.status, played.requests) == (0, [])
    assert {"1.json", ".tmp-young"} == {path.name for path in place.spool.iterdir()}
