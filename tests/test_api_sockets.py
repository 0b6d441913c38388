# SPDX-License-Identifier: Apache-2.0
"""Opening sockets: what is replaced, what is left alone, and what the operator is told."""

import grp
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hub.api.sockets import ListenError, inode, listen_tcp, listen_unix, remove_own
from tests.support.api_http import folder


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path."""
    with folder() as path:
        yield path


def test_listen_when_nothing_is_there_then_mode_0660(place: Path) -> None:
    """The socket lets its owner and group in, and nobody else."""
    path = place / "api.sock"
    with listen_unix(path, group=None, backlog=8):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_listen_when_a_group_is_given_then_it_owns_the_socket(place: Path) -> None:
    """The configured group may connect."""
    path = place / "api.sock"
    group = grp.getgrnam("daemon")
    with listen_unix(path, group="daemon", backlog=8):
        assert group.gr_gid == path.stat().st_gid


def test_listen_when_the_group_is_unknown_then_refused(place: Path) -> None:
    """A group that is not there is an error with what to do, before anything is made."""
    with pytest.raises(ListenError, match=r"no group 'no-such-group'.*groupadd"):
        listen_unix(place / "api.sock", group="no-such-group", backlog=8)
    assert list(place.iterdir()) == []


def test_listen_when_a_dead_socket_is_there_then_replaced(place: Path) -> None:
    """What a killed hub left behind does not keep the next one from starting."""
    path = place / "api.sock"
    listen_unix(path, group=None, backlog=8).close()
    with listen_unix(path, group=None, backlog=8), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_listen_when_a_live_one_is_there_then_refused_and_it_goes_on(place: Path) -> None:
    """A hub that runs keeps its socket."""
    path = place / "api.sock"
    with listen_unix(path, group=None, backlog=8):
        before = inode(path)
        with pytest.raises(ListenError, match=r"another program listens there.*ss -xlp"):
            listen_unix(path, group=None, backlog=8)
        assert before == inode(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_listen_when_something_else_is_there_then_left_alone(place: Path, kind: str) -> None:
    """A path written wrong destroys nothing."""
    path, other = place / "api.sock", place / "precious"
    other.write_text("data", "ascii")
    if kind == "file":
        path.write_text("data", "ascii")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(other)
    with pytest.raises(ListenError, match="no socket is in the way"):
        listen_unix(path, group=None, backlog=8)
    assert other.read_text("ascii") == "data"
    assert os.path.lexists(path)


def test_listen_when_the_folder_is_missing_then_says_how_to_make_it(place: Path) -> None:
    """The hub makes no folder of its own; it says what to type."""
    with pytest.raises(ListenError, match="install -d"):
        listen_unix(place / "none" / "api.sock", group=None, backlog=8)


def test_listen_when_the_path_is_too_long_then_refused(place: Path) -> None:
    """A path that the kernel cannot take is named before it is tried."""
    with pytest.raises(ListenError, match="107 bytes"):
        listen_unix(place / ("x" * 120), group=None, backlog=8)


def test_listen_when_many_start_at_once_then_one_wins(place: Path) -> None:
    """Of hubs that start together over a dead socket, one listens and the others are refused."""
    path = place / "api.sock"
    listen_unix(path, group=None, backlog=8).close()
    won: list[socket.socket] = []
    lost: list[ListenError] = []

    def start() -> None:
        try:
            won.append(listen_unix(path, group=None, backlog=64))
        except ListenError as error:
            lost.append(error)

    threads = [threading.Thread(target=start) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ExitStack() as stack:
        for sock in won:
            stack.enter_context(sock)
        assert (len(won), len(lost)) == (1, 15)


def test_remove_when_another_has_taken_the_path_then_it_stays(place: Path) -> None:
    """A hub that ends late does not remove the socket of the one that followed."""
    path = place / "api.sock"
    first = listen_unix(path, group=None, backlog=8)
    ours = inode(path)
    first.close()
    # Held open: a file system may give a freed inode number to the next file.
    kept = place / "kept"
    os.link(path, kept)
    with listen_unix(path, group=None, backlog=8):
        remove_own(path, ours)
        assert path.exists()
        remove_own(path, inode(path))
        assert not path.exists()


def test_listen_tcp_when_the_address_is_not_ours_then_says_so() -> None:
    """An address of another machine is an error with its place."""
    with pytest.raises(ListenError, match=r"intake.tcp 192.0.2.1:0.*address of this machine"):
        listen_tcp("192.0.2.1", 0, key="intake.tcp", backlog=8)


def test_listen_tcp_when_no_address_at_all_then_says_so() -> None:
    """A name that means nothing is an error with its place."""
    with pytest.raises(ListenError, match=r"api.metrics_host no\.such\.invalid:0"):
        listen_tcp("no.such.invalid", 0, key="api.metrics_host", backlog=8)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_listen_tcp_when_loopback_then_reachable(host: str) -> None:
    """Both families and the name work."""
    with listen_tcp(host, 0, key="intake.tcp", backlog=8) as sock:
        socket.create_connection(sock.getsockname()[:2], timeout=5).close()
