# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub top`: what it shows and does, against real sockets and in a real terminal."""

import asyncio
import io
import os
import pty
import select
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from structlog.testing import capture_logs
from textual.pilot import Pilot
from textual.widgets import DataTable, RichLog, Static

from hub.api.daemon import View
from hub.api.server import Bound
from hub.cli.client import Client
from hub.cli.top.app import TopApp, _Happened, _Looked
from hub.cli.top.feed import Look
from hub.cli.top.rates import MEMORY, Rates
from hub.config import Config
from hub.errors import StoreError
from tests.support.api_daemon import NOW, MemoryDaemon, attack_view, mitigation_view, status_view
from tests.support.api_http import config_in, folder, serving
from tests.support.cli import COMMAND, ROOT, environment, run_cli

SECONDS = 30


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder for sockets."""
    with folder() as path:
        yield path


@pytest.fixture
def daemon() -> MemoryDaemon:
    """Return a daemon with an attack and a mitigation."""
    return MemoryDaemon()


@pytest.fixture
async def bound(place: Path, daemon: MemoryDaemon) -> AsyncIterator[Bound]:
    """Return listeners around the daemon."""
    async with serving(config_in(place), daemon) as bound:
        yield bound


def top_of(path: Path) -> TopApp:
    """Return the view of the daemon behind a socket."""
    return TopApp(Client(path, start="fnm-hub run"))


async def shows(pilot: Pilot[None], look: Callable[[], bool]) -> None:
    """Wait until the view shows what `look` looks for."""
    async with asyncio.timeout(SECONDS):
        while not look():
            await pilot.pause(0.02)


def head(app: TopApp) -> str:
    """Return the text of the first lines."""
    return str(app.query_one("#head", Static).render())


def rows(app: TopApp, name: str) -> list[list[str]]:
    """Return the texts of a table."""
    table = app.query_one(f"#{name}", DataTable)
    return [[plain(cell) for cell in table.get_row_at(place)] for place in range(table.row_count)]


def plain(cell: Any) -> str:
    """Return what a cell looks like."""
    out = io.StringIO()
    Console(file=out, width=80, color_system=None).print(cell, end="")
    return out.getvalue()


async def test_rows_when_the_daemon_answers_then_who_what_and_how_long(bound: Bound) -> None:
    """Attacks and mitigations stand there with what one asks first."""
    app = top_of(bound.api)
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, lambda: bool(rows(app, "mitigations")))
        assert rows(app, "attacks")[0][:5] == [
            "a-0123456789",
            "active",
            "192.0.2.10",
            "syn_flood",
            "120k",
        ]
        assert rows(app, "mitigations")[0][:6] == [
            "m-0123456789",
            "active",
            "tcp",
            "192.0.2.10",
            "nftables",
            "12m 30s",
        ]
        assert "ENFORCING" in head(app)
        assert "agents 1 of 1 ok" in head(app)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dry_run": True}, "DRY-RUN: nothing is applied"),
        ({"frozen": {"since": NOW, "actor": "alice", "reason": ""}}, "FROZEN by alice"),
        ({"draining": True}, "DRAINING"),
        ({"warnings": ["cap total is at 80 %"]}, "! cap total is at 80 %"),
    ],
)
async def test_head_when_not_normal_then_says_so(
    bound: Bound, daemon: MemoryDaemon, changes: dict[str, Any], expected: str
) -> None:
    """Whatever keeps the hub from protecting is in words on the screen, and while it lasts."""
    app = top_of(bound.api)
    async with app.run_test() as pilot:
        await shows(pilot, lambda: "ENFORCING" in head(app))
        daemon.state = status_view(**changes)
        await shows(pilot, lambda: expected in head(app))
        daemon.state = status_view()
        await shows(pilot, lambda: expected not in head(app))


async def test_hostile_text_when_shown_then_only_text(bound: Bound, daemon: MemoryDaemon) -> None:
    """Neither markup nor a control character from outside does anything."""
    nasty = "[bold]x[/] \x1b]0;owned\x07 [@click=app.quit]y[/]"
    daemon.attack_rows = [attack_view(attack_type=nasty)]
    daemon.mitigation_rows = [mitigation_view(error=nasty)]
    daemon.state = status_view(warnings=[nasty])
    app = top_of(bound.api)
    async with app.run_test(size=(200, 40)) as pilot:
        await shows(pilot, lambda: bool(rows(app, "mitigations")))
        await asyncio.wait_for(daemon.heard.wait(), SECONDS)
        daemon.publish({"type": "notice", "time": NOW, "level": "warning", "text": nasty})
        log = app.query_one("#log", RichLog)
        await shows(pilot, lambda: any("owned" in line.text for line in log.lines))
        shown = [rows(app, "attacks")[0][3], rows(app, "mitigations")[0][-1], head(app)]
        shown += [line.text for line in log.lines if "owned" in line.text]
        for text in shown:
            assert "[bold]x[/] \\x1b]0;owned\\x07 [@click=app.quit]y[/]" in text


async def test_cursor_when_rows_come_and_go_then_stays_on_its_row(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """Nobody releases another mitigation because a new one came in above."""
    daemon.mitigation_rows = [mitigation_view(id=f"m-{one}") for one in "abc"]
    app = top_of(bound.api)
    async with app.run_test() as pilot:
        await shows(pilot, lambda: len(rows(app, "mitigations")) == 3)
        await pilot.press("down")
        daemon.mitigation_rows.insert(0, mitigation_view(id="m-new"))
        await shows(pilot, lambda: len(rows(app, "mitigations")) == 4)
        await pilot.press("r")
        await pilot.press(*"noise", "enter")
        await shows(pilot, lambda: bool(daemon.calls))
        assert app.query_one("#mitigations", DataTable).cursor_row == 2
    assert daemon.calls == [("release", "root", "noise")]


async def test_release_when_left_then_nothing_is_done(bound: Bound, daemon: MemoryDaemon) -> None:
    """Escape leaves everything as it is."""
    app = top_of(bound.api)
    async with app.run_test() as pilot:
        await shows(pilot, lambda: bool(rows(app, "mitigations")))
        await pilot.press("r", "escape", "f", "escape")
        await shows(pilot, lambda: len(app.screen_stack) == 1)
    assert daemon.calls == []


async def test_freeze_when_confirmed_then_done_and_undone(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """The same key freezes and unfreezes."""
    app = top_of(bound.api)
    async with app.run_test() as pilot:
        await shows(pilot, lambda: "ENFORCING" in head(app))
        await pilot.press("f", "enter")
        await shows(pilot, lambda: len(daemon.calls) == 1)
        daemon.state = status_view(frozen={"since": NOW, "actor": "root", "reason": ""})
        await shows(pilot, lambda: "FROZEN" in head(app))
        await pilot.press("f", *"over", "enter")
        await shows(pilot, lambda: len(daemon.calls) == 2)
    assert daemon.calls == [("freeze", "root", ""), ("unfreeze", "root", "over")]


async def test_change_when_the_hub_refuses_then_says_why(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """A refusal is on the screen with what to do."""
    app = top_of(bound.api)
    async with app.run_test() as pilot:
        await shows(pilot, lambda: "ENFORCING" in head(app))
        daemon.failing = StoreError("the disk is full", todo="make room")
        await pilot.press("f", "enter")
        await shows(
            pilot,
            lambda: any(
                "the disk is full" in one.message and "make room" in one.message
                for one in app._notifications
            ),
        )


async def test_explain_when_asked_then_the_row_under_the_cursor(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """Of an attack as of a mitigation, the daemon's explanation opens above the view."""
    nothing: View = {"event": None, "origin": None}
    lists: View = {"attacks": [], "decisions": [], "refused": [], "mitigations": [], "history": []}
    for name in ("m-0123456789", "a-0123456789"):
        daemon.explained[name] = {"kind": "thing", "thing": name, **nothing, **lists}
    app = top_of(bound.api)
    async with app.run_test(size=(100, 40)) as pilot:
        await shows(pilot, lambda: bool(rows(app, "mitigations")))
        for name in ("m-0123456789", "a-0123456789"):
            await pilot.press("e")
            await shows(pilot, lambda: len(app.screen_stack) == 2)
            assert f"thing {name}" in str(app.screen.query_one(Static).render())
            await pilot.press("escape", "tab")


@pytest.mark.parametrize("name", ["head", "log"])
async def test_news_when_the_view_is_taken_down_then_it_ends_all_the_same(
    place: Path, name: str
) -> None:
    """Threads tell what they hear until the end; parts of the view are gone by then."""
    app = top_of(place / "nobody.sock")
    async with app.run_test() as pilot:
        await shows(pilot, lambda: "NO ANSWER" in head(app))
        await app.query_one(f"#{name}").remove()
        app.post_message(_Happened({"kind": "event"}))
        app.post_message(_Looked(Look()))
        await pilot.pause()
    assert app.return_code is None  # a defect of the view would be 1


async def test_daemon_when_it_goes_then_says_so_and_comes_back(
    place: Path, daemon: MemoryDaemon
) -> None:
    """A restart of the hub ends nothing here; meanwhile nobody takes old rows for news."""
    config = config_in(place)
    app = top_of(config.api.path)
    # The hub's own lines would go into the view's terminal: both run in this one process.
    with capture_logs():
        await _goes_and_comes(app, config, daemon)


async def _goes_and_comes(app: TopApp, config: Config, daemon: MemoryDaemon) -> None:
    async with app.run_test() as pilot:
        await shows(pilot, lambda: "NO ANSWER" in head(app))
        async with serving(config, daemon):
            await shows(pilot, lambda: "ENFORCING" in head(app))
        await shows(pilot, lambda: "NO ANSWER" in head(app))
        async with serving(config, daemon):
            await shows(pilot, lambda: "ENFORCING" in head(app))


def look(now: float, **telemetry: int) -> View:
    """Return a state in which the engine has counted."""
    state = status_view(now=now)
    state["engines"] = [{**state["engines"][0], "name": "native", "telemetry": telemetry}]
    return state


def test_rates_when_totals_grow_then_a_second_and_sorted() -> None:
    """A rate is the difference by time; what counts nothing is not shown."""
    rates = Rates()
    rates.look(look(10.0, dropped=100, passed=0, still=5))
    rates.look(look(12.0, dropped=300, passed=10, still=5))
    assert [(one.name, list(one.rates)) for one in rates.busiest(9)] == [
        ("dropped", [0.0, 100.0]),
        ("passed", [0.0, 5.0]),
    ]
    assert [one.name for one in rates.busiest(1)] == ["dropped"]


def test_rates_when_the_engine_begins_anew_then_never_negative() -> None:
    """After a restart of the engine its totals are small again."""
    rates = Rates()
    for now, total in ((1.0, 1000), (2.0, 40), (3.0, 50)):
        rates.look(look(now, dropped=total))
    assert list(rates.busiest(1)[0].rates) == [0.0, 40.0, 10.0]


def test_rates_when_looked_at_for_long_then_bounded() -> None:
    """What is remembered does not grow, and an answer from before changes nothing."""
    rates = Rates()
    for now in range(MEMORY * 2):
        rates.look(look(float(now + 1), dropped=now))
    rates.look(look(1.0, dropped=0))
    assert len(rates.busiest(1)[0].rates) == MEMORY
    assert rates.busiest(1)[0].now == 1.0


def test_top_when_there_is_no_terminal_then_says_what_else() -> None:
    """Nothing is drawn into a pipe."""
    done = run_cli("top")
    assert done.code == 1
    assert "fnm-hub status --json" in done.err


async def test_top_when_in_a_terminal_then_draws_and_ends(bound: Bound) -> None:
    """The program itself, in a terminal of its own, until the key that ends it."""
    assert await asyncio.to_thread(_in_terminal, bound.api) == 0


def _in_terminal(socket: Path) -> int:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "--socket", str(socket), "top"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment({"COLUMNS": "100", "LINES": "30"}),
        cwd=ROOT,
        start_new_session=True,
    )
    os.close(slave)
    try:
        seen = b""
        while b"m-0123456789" not in seen:
            assert select.select([master], [], [], SECONDS)[0], seen[-500:]
            seen += os.read(master, 65536)
        os.write(master, b"q")
        while select.select([master], [], [], 0.2)[0]:
            try:
                os.read(master, 65536)
            except OSError:
                break
        return process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()
        os.close(master)
