# SPDX-License-Identifier: Apache-2.0
"""What the hub and the agent say to systemd, and that saying it never stops them."""

import asyncio
import contextlib
import os
import socket
import time
import uuid
from pathlib import Path

import pytest

from hub.systemd import ALIVE, READY, Manager, status
from tests.support.manager import Listener


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Listener:
    """Return a manager's end, at a path or under a name that is no file."""
    return Listener(tmp_path / "n" if request.param == "path" else f"@fnm-{uuid.uuid4().hex}")


async def test_message_when_told_then_heard_in_one_piece(listener: Listener) -> None:
    """READY with a status; the variables are taken out, so that no child speaks for the hub."""
    with listener:
        environment = {**listener.environment(30), "WATCHDOG_PID": str(os.getpid()), "PATH": "/bin"}
        manager = Manager.of(environment)
        assert environment == {"PATH": "/bin"}
        assert manager.listens
        assert manager.watchdog_s == 30
        await manager.tell(READY, status("two\nlines\x1b[0m"))
        assert listener.heard() == ["READY=1", "STATUS=two lines [0m"]
        manager.close()
        await manager.tell(ALIVE)
        assert listener.heard() == []


async def test_reload_when_it_begins_then_the_time_is_that_of_the_monotonic_clock(
    tmp_path: Path,
) -> None:
    """Type=notify-reload compares it with the time of its own signal."""
    with Listener(tmp_path / "n") as listener:
        manager = Manager.of(listener.environment())
        before = time.monotonic_ns() // 1000
        await manager.reloading()
        word, stamp = listener.heard()
        assert word == "RELOADING=1"
        assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
        manager.close()


async def test_start_when_it_takes_long_then_more_time_is_asked_for(tmp_path: Path) -> None:
    """While the context lasts, with what is waited for; not afterwards."""
    with Listener(tmp_path / "n") as listener:
        manager = Manager.of(listener.environment())
        async with manager.waiting_for("the journal"):
            lines = await asyncio.to_thread(listener.wait, "STATUS=the journal")
        assert lines[:2] == ["EXTEND_TIMEOUT_USEC=45000000", "STATUS=the journal"]
        manager.close()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "relative"},
        {"NOTIFY_SOCKET": "/nowhere/at/all"},
        {"NOTIFY_SOCKET": "/" + "x" * 200},
        {"WATCHDOG_USEC": "1000000"},
    ],
)
async def test_manager_when_there_is_none_then_nothing_happens(given: dict[str, str]) -> None:
    """Started by hand, or by something else: no error, no watchdog."""
    manager = Manager.of(given)
    assert not manager.listens
    assert manager.watchdog_s is None
    async with manager.waiting_for("nothing"):
        await manager.tell(READY)
    await manager.reloading()


@pytest.mark.parametrize("microseconds", ["", "0", "-1", "soon"])
def test_watchdog_when_not_wanted_or_of_another_process_then_none(
    tmp_path: Path, microseconds: str
) -> None:
    """What is no time, and what is meant for a parent, is not ours."""
    with Listener(tmp_path / "n") as listener:
        for more in ({}, {"WATCHDOG_PID": "1", "WATCHDOG_USEC": "1000000"}):
            given = {**listener.environment(), "WATCHDOG_USEC": microseconds, **more}
            manager = Manager.of(given)
            assert manager.watchdog_s is None
            manager.close()


async def test_manager_when_it_starts_anew_then_told_at_its_new_socket(tmp_path: Path) -> None:
    """Another socket at the same path; while there is none, the word is lost and nothing else."""
    path = tmp_path / "n"
    with Listener(path) as first:
        manager = Manager.of(first.environment())
    await manager.tell("LOST=1")
    await asyncio.to_thread(path.unlink)
    await manager.tell("LOST=1")
    with Listener(path) as second:
        await manager.tell(READY)
        assert second.heard() == ["READY=1"]
    manager.close()


async def test_manager_when_it_does_not_read_then_waited_for_a_moment_only(tmp_path: Path) -> None:
    """Its queue is full: the hub goes on."""
    with Listener(tmp_path / "n") as listener:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
            contextlib.suppress(BlockingIOError),
        ):
            other.settimeout(0)
            while True:
                other.sendto(b"x", listener.address)
        manager = Manager.of(listener.environment())
        await manager.tell(READY)
        assert READY not in listener.heard()
        manager.close()
