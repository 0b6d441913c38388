# SPDX-License-Identifier: Apache-2.0
"""Log lines that repeat: few, however many there are, and none that tells of a change."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from hub.repeats import ALWAYS, KEYS, LIMITS, OF_EACH, USUAL, Repeats
from tests.support.hub_process import HubProcess, until


class Told:
    """What passes the processor, by a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.processor = Repeats(lambda: self.now)

    def say(self, event: str, **fields: Any) -> dict[str, Any] | None:
        """Return the line as it is written, None where it is left out."""
        try:
            return dict(self.processor(None, "warning", {"event": event, **fields}))
        except structlog.DropEvent:
            return None


@pytest.fixture
def told() -> Told:
    """A fresh processor."""
    return Told()


def test_line_when_it_repeats_then_left_out_and_counted_by_the_next(told: Told) -> None:
    """A source that goes on is logged once a minute, with the number that was left out."""
    lines = [told.say("intake.refused", source="192.0.2.1", reason="token") for _ in range(100)]
    assert [line is not None for line in lines] == [True] + [False] * 99
    other = told.say("intake.refused", source="192.0.2.2", reason="token")
    assert other is not None
    assert "suppressed" not in other
    told.now += 60
    after = told.say("intake.refused", source="192.0.2.1", reason="token")
    assert after is not None
    assert after["suppressed"] == 99


def test_line_when_a_sender_changes_what_it_writes_then_the_same_all_the_same(told: Told) -> None:
    """What comes from outside makes no two lines different: not the number, not the reason."""
    said = [
        told.say("event.not_understood", detector="fnm1", number=number, why=f"bad {number}")
        for number in range(50)
    ]
    assert sum(line is not None for line in said) == LIMITS["event.not_understood"].burst


def test_line_when_from_very_many_sources_then_lines_and_memory_are_bounded(told: Told) -> None:
    """A flood from made-up addresses fills neither the disk nor the memory; all are counted."""
    said = [
        told.say("intake.refused", source=f"2001:db8::{number:x}", reason="token")
        for number in range(5000)
    ]
    assert sum(line is not None for line in said) == OF_EACH.burst
    assert len(told.processor._said) <= KEYS + 1
    told.now += 60
    counts = [
        line.get("suppressed", 0)
        for number in range(5000)
        if (line := told.say("intake.refused", source=f"2001:db8::{number:x}", reason="token"))
    ]
    assert sum(counts) > 0


@pytest.mark.parametrize("event", ["attack.began", "mitigation.active", "mitigation.failed"])
def test_line_when_it_tells_of_a_change_then_never_left_out(told: Told, event: str) -> None:
    """A change of an attack or a mitigation is always in the log."""
    assert event.startswith(ALWAYS)
    fields = {"mitigation": "m-1", "why": "the same"}
    assert all(told.say(event, **fields) for _ in range(1000))


def test_line_when_usual_then_some_pass_and_another_reason_is_another_line(told: Told) -> None:
    """A cause that changes is told at once, however often the one before was repeated."""
    said = [told.say("engine.not_ready", engine="native", why="gone") for _ in range(50)]
    assert sum(line is not None for line in said) == USUAL.burst
    assert told.say("engine.not_ready", engine="native", why="another") is not None


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    """A hub in dry-run: it is its log that matters."""
    with HubProcess(tmp_path, dry=True) as process:
        yield process


def test_log_when_bad_input_comes_in_masses_then_few_lines(hub: HubProcess) -> None:
    """Hundreds of calls that cannot be understood leave a handful of lines, and a count."""
    for _ in range(300):
        hub.request("POST", "/v1/events/fastnetmon", b"{}", sock="intake.sock")
        hub.send("nonsense")
    until("taken in", lambda: hub.get("/v1/status")["counts"]["events"]["not_understood"] >= 300)
    assert len(hub.logged("intake.refused")) == 1
    assert len(hub.logged("event.not_understood")) == LIMITS["event.not_understood"].burst
    assert len(hub.log().splitlines()) < 30


CODE = """
import threading
import structlog
from hub.log import configure

configure("info", "json")
log = structlog.get_logger()


def say():
    for _ in range(200):
        log.warning("engine.not_ready", engine="native", why="gone")


threads = [threading.Thread(target=say) for _ in range(4)]
for one in threads:
    one.start()
for one in threads:
    one.join()
"""


def test_log_when_several_threads_say_the_same_then_counted_once() -> None:
    """The journal's writer logs from a thread of its own."""
    argv = [sys.executable, "-c", CODE]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) == USUAL.burst
