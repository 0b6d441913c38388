# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub` as operators use it: real processes, real sockets, a daemon in memory."""

import asyncio
import json
import os
import pty
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from hub import __version__
from hub.api.daemon import View
from hub.api.server import Bound
from hub.cli.text import cells
from hub.config import Config
from hub.errors import ConfigError, Problem
from tests.support.api_daemon import (
    NOW,
    MemoryDaemon,
    attack_view,
    event_view,
    mitigation_view,
    status_view,
)
from tests.support.api_http import NOBODY, config_in, folder, run_python, serving
from tests.support.cli import COMMAND, ROOT, Done, cli, environment, run_cli

VIEWS = [
    ["status"],
    ["attacks"],
    ["attacks", "--all"],
    ["attack", "a-0123456789"],
    ["mitigations", "--all"],
    ["events"],
    ["event", "17"],
]


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for sockets that other users may look into."""
    with folder() as path:
        yield path


@pytest.fixture
def config(place: Path) -> Config:
    """A configuration with its sockets in the folder."""
    return config_in(place)


@pytest.fixture
def daemon() -> MemoryDaemon:
    """A daemon in memory with something of everything."""
    made = MemoryDaemon()
    wide = "2001:db8:1234:5678:9abc:def0:1234:5678"
    made.attack_rows.append(
        attack_view(id="a-zzzzzzzzzz", targets=[f"{wide}/128"], attack_type="ip_fragmentation")
    )
    made.mitigation_rows.append(
        mitigation_view(id="m-zzzzzzzzzz", target=f"{wide}/128", state="failed", error="no " * 60)
    )
    made.event_rows.append(event_view(16, target=wide, detector="detector.example.net"))
    return made


@pytest.fixture
async def bound(config: Config, daemon: MemoryDaemon) -> AsyncIterator[Bound]:
    """Listeners around the daemon."""
    async with serving(config, daemon) as bound:
        yield bound


async def ask(bound: Bound, *args: str, **options: Any) -> Done:
    """Run `fnm-hub` against the daemon."""
    return await cli("--socket", str(bound.api), *args, **options)


@pytest.mark.parametrize("args", VIEWS, ids=" ".join)
async def test_views_when_printed_then_within_80_columns_and_plain(
    bound: Bound, args: list[str]
) -> None:
    """Every view fits 80 columns and carries no colour into a pipe."""
    done = await ask(bound, *args)
    assert (done.code, done.err) == (0, "")
    assert done.lines
    assert [line for line in done.lines if cells(line) > 80 or "\x1b" in line] == []


async def test_status_when_enforcing_then_says_so_first(bound: Bound) -> None:
    """The first line is the hub's state; what is down is seen."""
    done = await ask(bound, "status")
    assert done.lines[0] == "fnm-hub 0.1.0  ENFORCING: countermeasures are applied"
    assert "oncall: https://alerts.example.net: connection refused" in done.out


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dry_run": True}, ["DRY-RUN: nothing is applied"]),
        (
            {"frozen": {"since": NOW - 720, "actor": "alice", "reason": "night work"}},
            ["FROZEN: nothing new starts", "by alice 12m ago: night work"],
        ),
        ({"draining": True}, ["DRAINING: everything is released, nothing new starts"]),
        (
            {"store": {"path": "/j", "recovered_from": "/j.broken"}},
            ["was broken and has been moved to /j.broken"],
        ),
        ({"warnings": ["cap total is at 80 %"]}, ["warning: cap total is at 80 %"]),
    ],
)
async def test_status_when_not_normal_then_says_so(
    bound: Bound, daemon: MemoryDaemon, changes: dict[str, Any], expected: list[str]
) -> None:
    """Whatever keeps the hub from protecting is in words on the screen."""
    daemon.state = status_view(**changes)
    done = await ask(bound, "status")
    assert done.code == 0
    for text in expected:
        assert text in done.out


async def test_attacks_when_listed_then_who_what_how_much_since_when(bound: Bound) -> None:
    """One line says everything one asks first."""
    done = await ask(bound, "attacks")
    assert (done.lines[1].split()[:7]) == [
        "a-0123456789",
        "active",
        "192.0.2.10",
        "in",
        "syn_flood",
        "120k",
        "22:11:17",
    ]
    assert "2m 3s" in done.lines[1]


async def test_mitigations_when_listed_then_what_remains(bound: Bound) -> None:
    """The time until the deadline stands in every line; an error on its own."""
    done = await ask(bound, "mitigations")
    assert "12m 30s" in done.lines[1]
    assert "m-zzzzzzzzzz: no no no" in done.out


async def test_attack_when_shown_then_with_its_reasons(bound: Bound) -> None:
    """One attack shows what was reported, what was decided, and why."""
    done = await ask(bound, "attack", "a-0123456789")
    for text in (
        "reported as",
        "attack_type unknown",
        "because attack_type is syn_flood",
        "syn-flood: attack_type == syn_flood: yes",
        "m-0123456789",
        "12m 30s",
    ):
        assert text in done.out


async def test_event_when_shown_then_as_it_came(bound: Bound) -> None:
    """The detector's own words can be read."""
    done = await ask(bound, "event", "17")
    assert "  arguments   192.0.2.10 incoming 1000 ban" in done.lines
    assert "  Attack type: syn_flood" in done.lines


@pytest.mark.parametrize("place_of_flag", ["before", "after"])
@pytest.mark.parametrize("args", VIEWS, ids=" ".join)
async def test_json_when_asked_then_the_daemon_s_object(
    bound: Bound, args: list[str], place_of_flag: str
) -> None:
    """--json works before and after the command and prints one object."""
    words = ["--json", *args] if place_of_flag == "before" else [*args, "--json"]
    done = await ask(bound, *words)
    assert done.code == 0
    assert "now" in json.loads(done.out)


async def test_strings_when_hostile_then_escaped_in_text_and_json(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """What an attacker can write into an event cannot steer the operator's terminal."""
    evil = "\x1b]0;owned\x07\x9b2J\u202e\x7f"
    daemon.event_rows = [event_view(1, detector=evil, status=evil)]
    for flags in ([], ["--json"], ["--color", "always"]):
        done = await ask(bound, "events", *flags)
        shown = done.out.replace("\x1b[1m", "").replace("\x1b[0m", "")
        assert "".join(char for char in shown if not char.isprintable() and char != "\n") == ""


@pytest.mark.parametrize(
    ("args", "env", "colored"),
    [
        ([], {}, False),
        (["--color", "always"], {}, True),
        (["--color", "always"], {"NO_COLOR": "1"}, True),
        (["--color", "never"], {}, False),
    ],
)
async def test_color_when_in_a_pipe_then_only_if_forced(
    bound: Bound, args: list[str], env: dict[str, str], *, colored: bool
) -> None:
    """A pipe gets colours only when they are asked for."""
    done = await ask(bound, "attacks", *args, env=env)
    assert colored == ("\x1b[" in done.out)


@pytest.mark.parametrize(
    ("env", "colored"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
async def test_color_when_on_a_terminal_then_unless_told_otherwise(
    bound: Bound, env: dict[str, str], *, colored: bool
) -> None:
    """A terminal gets colours unless NO_COLOR is set or it cannot show them."""

    def run() -> bytes:
        ours, theirs = pty.openpty()
        try:
            subprocess.run(
                [*COMMAND, "--socket", str(bound.api), "attacks"],
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                env=environment(env),
                cwd=ROOT,
                timeout=60,
                check=True,
            )
            return os.read(ours, 65536)
        finally:
            os.close(ours)
            os.close(theirs)

    assert colored == (b"\x1b[" in await asyncio.to_thread(run))


@pytest.mark.parametrize("left_over", [False, True])
def test_any_when_no_daemon_then_4_and_how_to_start_it(place: Path, *, left_over: bool) -> None:
    """Without a daemon, the message has the socket and the command to start it."""
    path = place / "api.sock"
    if left_over:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    done = run_cli("--socket", str(path), "status")
    assert (done.code, done.out) == (4, "")
    assert [
        f"fnm-hub: nobody answers on {path}: is the daemon running?",
        "  start it with: fnm-hub run --config /etc/fnm-hub/config.yaml",
    ] == done.err.splitlines()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "the answer is not HTTP"),
        (b"", "closed without an answer"),
        (None, "the connection broke: Connection reset by peer"),
    ],
)
@pytest.mark.parametrize("command", ["status", "tail"])
def test_any_when_it_gets_no_answer_then_4_and_what_happened(
    place: Path, command: str, said: bytes | None, shown: str
) -> None:
    """Something else behind the socket, or a daemon that ends just then: an error, no traceback."""
    path = place / "api.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(4)
        process = subprocess.Popen(
            [*COMMAND, "--socket", str(path), command],
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
            text=True,
        )
        connection, _ = server.accept()
        with connection:
            # One that ends with a question unread resets the connection.
            connection.recv(4096, socket.MSG_PEEK if said is None else 0)
            connection.sendall(said or b"")
        _, err = process.communicate(timeout=60)
    assert (4, "Traceback" in err) == (process.returncode, False)
    assert shown in err


async def test_any_when_the_file_mode_forbids_then_4_and_whose_it_is(bound: Bound) -> None:
    """Who may not connect reads whose socket it is and what would help."""
    code = "from hub.cli.main import main; sys.exit(main())"
    number, _, err = await run_python(code, "--socket", str(bound.api), "status", uid=NOBODY)
    assert number == 4
    assert "permission denied: it is for user root and group root, you are nobody" in err
    assert "sudo" in err


async def test_any_when_the_daemon_forbids_then_4_and_what_to_change(bound: Bound) -> None:
    """Who is not in api.allow_users reads that."""
    await asyncio.to_thread(bound.api.chmod, 0o666)
    code = "from hub.cli.main import main; sys.exit(main())"
    number, _, err = await run_python(code, "--socket", str(bound.api), "status", uid=NOBODY)
    assert number == 4
    assert "api.allow_users: user nobody may not use this socket" in err


@pytest.mark.parametrize(
    ("args", "near"),
    [
        (["attack", "a-01234"], "a-0123456789"),
        (["attack", "a-0123456780"], "a-0123456789"),
        (["attack", "../../v1/status"], None),
        (["release", "m-012"], "m-0123456789"),
        (["release", "zzzzzz"], "m-zzzzzzzzzz"),
        (["event", "999"], None),
    ],
)
async def test_id_when_unknown_then_1_and_those_that_look_alike(
    bound: Bound, args: list[str], near: str | None
) -> None:
    """A mistyped id is answered with the ids it could have been."""
    done = await ask(bound, *args)
    assert (done.code, done.out) == (1, "")
    assert "there is no such" in done.err
    assert (near is None) == ("did you mean" not in done.err)
    assert near is None or near in done.err


async def test_release_when_done_then_said_and_recorded(bound: Bound, daemon: MemoryDaemon) -> None:
    """A release says what is being taken back; the reason reaches the daemon."""
    done = await ask(bound, "release", "m-0123456789", "--reason", "customer called")
    assert done.code == 0
    assert "m-0123456789" in done.out
    assert daemon.calls == [("release", "root", "customer called")]


@pytest.mark.parametrize(
    ("args", "call"),
    [
        (["freeze", "--reason", "night"], ("freeze", "root", "night")),
        (["unfreeze"], ("unfreeze", "root", "")),
        (["drain", "--yes"], ("drain", "root", "")),
        (["reload"], ("reload", "root", "")),
    ],
)
async def test_change_when_done_then_0_and_one_call(
    bound: Bound, daemon: MemoryDaemon, args: list[str], call: tuple[str, str, str]
) -> None:
    """Each command makes its one change."""
    done = await ask(bound, *args)
    assert (done.code, done.err) == (0, "")
    assert done.out
    assert [call] == daemon.calls


class SwitchingDaemon(MemoryDaemon):
    """A daemon in memory whose freeze shows in its state, as the real one's does."""

    async def freeze(self, *, actor: str, reason: str) -> View:
        """Set the switch."""
        switch = {"since": NOW, "actor": actor, "reason": reason}
        self.state = {**self.state, "frozen": switch}
        return await super().freeze(actor=actor, reason=reason)

    async def unfreeze(self, *, actor: str, reason: str) -> View:
        """Take the switches off."""
        self.state = {**self.state, "frozen": None, "draining": False}
        return await super().unfreeze(actor=actor, reason=reason)

    async def drain(self, *, actor: str, reason: str) -> View:
        """Set both switches."""
        self.state = {**self.state, "draining": True}
        return await self.freeze(actor=actor, reason=reason)


def hub_with(mitigations: dict[str, int], *, dry_run: bool) -> SwitchingDaemon:
    """Return a daemon with so many mitigations of each state."""
    made = SwitchingDaemon()
    counts = {**made.state["counts"], "mitigations": mitigations}
    made.state = {**made.state, "counts": counts, "dry_run": dry_run}
    return made


async def test_switch_when_enforcing_then_what_is_in_force(config: Config) -> None:
    """Without dry-run, each switch says what it does and how much is in force."""
    live = {"active": 4, "applying": 1, "dry_run": 2}
    counted = [
        "countermeasures in force or on their way: 5",
        "planned in dry-run, not in force: 2",
    ]
    async with serving(config, hub_with(live, dry_run=False)) as bound:
        frozen = await ask(bound, "freeze")
        drained = await ask(bound, "drain", "--yes")
        unfrozen = await ask(bound, "unfreeze")
    assert frozen.lines[0].startswith("frozen: nothing new starts, what is in force stays;")
    assert drained.lines[0].startswith("draining: everything is released,")
    assert unfrozen.lines == ["not frozen any more: countermeasures start again", *counted]
    assert [done.lines[-2:] for done in (frozen, drained)] == [counted, counted]


@pytest.mark.parametrize("args", [["freeze"], ["drain", "--yes"], ["unfreeze"]], ids=" ".join)
async def test_switch_when_dry_run_then_nothing_is_said_to_be_in_force(
    config: Config, args: list[str]
) -> None:
    """In dry-run no switch speaks of protection that is not there."""
    hub = hub_with({"dry_run": 3}, dry_run=True)
    hub.state = {**hub.state, "draining": args[0] == "unfreeze"}
    async with serving(config, hub) as bound:
        done = await ask(bound, *args)
    said = " ".join(done.lines)
    assert (done.code, "(dry-run" in said) == (0, True)
    assert done.lines[-1] == "planned in dry-run, not in force: 3"
    assert ["in force" in said.replace("not in force", ""), "start again" in said] == [False, False]


@pytest.mark.parametrize("dry_run", [False, True])
async def test_unfreeze_when_not_frozen_then_nothing_is_claimed(
    config: Config, *, dry_run: bool
) -> None:
    """An unfreeze without a freeze does not say that something starts again."""
    async with serving(config, hub_with({"active": 1}, dry_run=dry_run)) as bound:
        done = await ask(bound, "unfreeze")
    assert (done.code, done.lines[:2]) == (
        0,
        [
            "it was not frozen: there was nothing to undo",
            "countermeasures in force or on their way: 1",
        ],
    )


async def test_switch_when_json_then_the_answer_as_it_came(config: Config) -> None:
    """Programs get the answer to the change itself."""
    hub = hub_with({}, dry_run=True)
    async with serving(config, hub) as bound:
        done = await ask(bound, "freeze", "--json")
    assert json.loads(done.out)["frozen"]["actor"] == "root"


async def test_drain_when_not_confirmed_then_2_and_nothing_done(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """Taking every protection away needs a yes; a script has to write it down."""
    done = await ask(bound, "drain")
    assert (done.code, done.out) == (2, "")
    assert "drain --yes" in done.err
    assert daemon.calls == []


async def test_reload_when_refused_then_every_mistake_and_1(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """A reload that fails shows all mistakes with their places."""
    daemon.failing = ConfigError([Problem("one", "r.yaml", 3, 5), Problem("two", "r.yaml", 9)])
    done = await ask(bound, "reload")
    assert done.code == 1
    assert "r.yaml:3:5: one" in done.err
    assert "r.yaml:9:1: two" in done.err
    as_json = await ask(bound, "reload", "--json")
    assert json.loads(as_json.err)["problems"] == ["r.yaml:3:5: one", "r.yaml:9:1: two"]


async def test_reload_when_a_mistake_is_long_then_wrapped_and_its_place_whole(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """A long mistake is folded between words, as `config check` does it."""
    daemon.failing = ConfigError([Problem("word " * 40 + "end", "r.yaml", 3, 5)])
    lines = (await ask(bound, "reload")).err.splitlines()
    assert lines[1].startswith("  r.yaml:3:5: word ")
    assert lines[2].startswith("      word ")
    assert max(map(len, lines)) <= 80


async def test_view_when_the_daemon_is_of_another_release_then_1_and_no_traceback(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """An answer of an unknown shape is an error that says what to do."""
    daemon.state = {"now": NOW, "version": "9.9"}
    done = await ask(bound, "status")
    assert done.code == 1
    assert "--json" in done.err
    assert "Traceback" not in done.err


def test_socket_when_the_configuration_names_it_then_used(place: Path) -> None:
    """--config alone finds the daemon, even with mistakes elsewhere in the file."""
    path = place / "config.yaml"
    path.write_text(f"nonsense: 1\napi: {{path: {place}/there.sock}}\n", "utf-8")
    done = run_cli("status", "--config", str(path))
    assert done.code == 4
    assert f"nobody answers on {place}/there.sock" in done.err
    assert f"fnm-hub run --config {path}" in done.err


def test_socket_when_the_configuration_cannot_be_read_then_1(place: Path) -> None:
    """A configuration that was named and is not there is an error of its own."""
    done = run_cli("status", "--config", str(place / "none.yaml"))
    assert done.code == 1
    assert f"{place}/none.yaml: cannot read it: No such file" in done.err


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["events", "-n", "0"], "argument -n: 0 is not between 1 and 10000"),
        (["events", "-n", "-3"], "argument -n: '-3' is not a positive whole number"),
        (["freeze", "--reason", "x" * 612], "at most 500 characters are recorded, these are 612"),
    ],
)
def test_usage_when_a_value_is_out_of_range_then_the_range(args: list[str], expected: str) -> None:
    """A value that cannot be meant is refused with what can."""
    done = run_cli(*args)
    assert done.code == 2
    assert expected in " ".join(done.err.split())


@pytest.mark.parametrize(
    "args",
    [
        ["no-such-command"],
        ["attack"],
        ["events", "-n", "-1"],
        ["events", "-n", "0"],
        ["attacks", "-n", "10001"],
        ["freeze", "--reason", "x" * 501],
        ["event", "x"],
        ["status", "--", "x"],
        ["--color", "pink", "status"],
        ["--js", "status"],
        [],
    ],
    ids=" ".join,
)
def test_usage_when_wrong_then_2(args: list[str]) -> None:
    """A wrong command line ends with 2 and help on standard error."""
    done = run_cli(*args)
    assert (done.code, done.out) == (2, "")
    assert "usage: fnm-hub" in done.err
    assert [line for line in done.err.splitlines() if len(line) > 80] == []


def test_usage_when_nearly_right_then_the_right_word() -> None:
    """A mistyped command is answered with the one that was meant."""
    assert "did you mean status?" in run_cli("statsu").err


def test_version_when_asked_then_printed() -> None:
    """The version is on standard output, also as JSON."""
    assert f"fnm-hub {__version__}\n" == run_cli("version").out
    assert {"version": __version__} == json.loads(run_cli("version", "--json").out)


def test_parse_when_understood_then_0_and_one_object_without_a_daemon() -> None:
    """`events parse` needs no daemon; what follows -- is FastNetMon's, options or not."""
    done = run_cli("events", "parse", "--", "192.0.2.10", "incoming", "1000", "unban")
    assert (done.code, done.err) == (0, "")
    assert (
        json.loads(done.out)["action"],
        json.loads(done.out)["target"],
    ) == ("unban", "192.0.2.10")


def test_parse_when_not_understood_then_3() -> None:
    """What is not understood is told by the exit code."""
    done = run_cli("events", "parse", "--", "--json", "--help", stdin=b"\xff\x00 rubbish")
    assert (done.code, done.out) == (3, "")


def test_check_when_the_file_is_wrong_then_1(place: Path) -> None:
    """`config check` finds mistakes without a daemon."""
    path = place / "config.yaml"
    path.write_text("api: {pth: /x}\n", "utf-8")
    done = run_cli("config", "check", str(path))
    assert done.code == 1
    assert f"{path}:1:" in done.out + done.err


def test_run_when_the_configuration_is_missing_then_1(place: Path) -> None:
    """The daemon does not start without its configuration, and says which file it wanted."""
    done = run_cli("run", "--config", str(place / "none.yaml"))
    assert done.code == 1
    assert f"{place}/none.yaml" in done.err


async def test_output_when_the_reader_leaves_then_no_complaint(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """`fnm-hub events | head -1` ends quietly."""
    daemon.event_rows = [event_view(number) for number in range(5000, 0, -1)]

    def run() -> tuple[int, bytes]:
        with subprocess.Popen(
            [*COMMAND, "--socket", str(bound.api), "events", "-n", "5000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            return process.wait(60), process.stderr.read()

    assert await asyncio.to_thread(run) == (0, b"")


def shell(line: str, *args: str, unbuffered: str = "") -> tuple[int, str]:
    """Run `line`, in which "$@" is `fnm-hub` with `args`; return exit code and stderr."""
    env = {**environment(), "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        ["/bin/sh", "-c", line, "sh", *COMMAND, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=env,
        cwd=ROOT,
        timeout=60,
        check=False,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("args", [["version"], ["--help"], ["status"]], ids=" ".join)
async def test_output_when_full_then_1_and_one_line(
    bound: Bound, args: list[str], unbuffered: str
) -> None:
    """Output that cannot be written is one line on standard error, whoever wrote it and when."""
    words = ["--socket", str(bound.api), *args]
    done = await asyncio.to_thread(shell, '"$@" >/dev/full', *words, unbuffered=unbuffered)
    assert done == (1, "fnm-hub: standard output: No space left on device\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["version", "status"])
async def test_streams_when_closed_then_the_command_still_works(
    bound: Bound, closed: str, command: str
) -> None:
    """A closed standard stream is like /dev/null."""
    done = await asyncio.to_thread(shell, f'"$@" {closed}', "--socket", str(bound.api), command)
    assert done == (0, "")


def test_streams_when_closed_then_mistakes_still_count() -> None:
    """The exit code of a mistake does not depend on whether it can be said."""
    assert shell('"$@" 2>&-', "no-such-command") == (2, "")


class Tail:
    """A running `fnm-hub tail`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        self._process, self._out = process, process.stdout

    async def line(self) -> str:
        """Return the next line."""
        async with asyncio.timeout(60):
            return (await self._out.readline()).decode().rstrip("\n")

    async def interrupt(self) -> tuple[int, bytes]:
        """Send Ctrl-C; return exit code and what was said on standard error."""
        self._process.send_signal(2)
        async with asyncio.timeout(60):
            _, err = await self._process.communicate()
        return self._process.returncode or 0, err


async def start_tail(stack: AsyncExitStack, socket_path: Path, *args: str) -> Tail:
    """Start `fnm-hub tail`, ended with the stack at the latest."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "--socket",
        str(socket_path),
        "tail",
        *args,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
        cwd=ROOT,
    )

    async def end() -> None:
        if process.returncode is None:
            process.kill()
            await process.communicate()

    stack.push_async_callback(end)
    return Tail(process)


async def test_tail_when_things_happen_then_a_readable_line_each(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """Events, attacks, countermeasures and notices are one line each, as they happen."""
    async with AsyncExitStack() as stack:
        tail = await start_tail(stack, bound.api)
        await daemon.heard.wait()
        for item in (
            {"type": "event", "time": NOW, "event": event_view(3)},
            {"type": "attack", "time": NOW, "change": "started", "attack": attack_view()},
            {
                "type": "mitigation",
                "time": NOW,
                "change": "active",
                "mitigation": mitigation_view(),
            },
            {"type": "notice", "time": NOW, "level": "warning", "text": "cap at 80 %"},
            {"type": "strange", "time": NOW, "x": 1},
        ):
            daemon.publish(item)
        assert [await tail.line() for _ in range(4)] == [
            "22:13:20  event       #3 ban  192.0.2.10  from fnm1  applied",
            "22:13:20  attack      a-0123456789  started  192.0.2.10  syn_flood  120k pps",
            "22:13:20  mitigation  m-0123456789  active  tcp on 192.0.2.10  by nftables",
            "22:13:20  notice      cap at 80 %",
        ]
        assert (await tail.line()).startswith("22:13:20  strange")
        assert await tail.interrupt() == (0, b"")


async def test_tail_when_json_then_one_object_a_line(bound: Bound, daemon: MemoryDaemon) -> None:
    """Programs get what the daemon sends."""
    item = {"type": "notice", "time": NOW, "level": "info", "text": "x"}
    async with AsyncExitStack() as stack:
        tail = await start_tail(stack, bound.api, "--json")
        await daemon.heard.wait()
        daemon.publish(item)
        assert item == json.loads(await tail.line())


async def test_tail_when_the_daemon_restarts_then_it_goes_on(
    config: Config, daemon: MemoryDaemon
) -> None:
    """A restart of the daemon is said, and what happens after it is shown."""
    async with AsyncExitStack() as stack:
        async with serving(config, daemon) as bound:
            tail = await start_tail(stack, bound.api)
            await daemon.heard.wait()
        assert await tail.line() == "-- the daemon went away; waiting for it --"
        async with serving(config, daemon):
            back = "-- the daemon is back; what happened meanwhile: fnm-hub events --"
            assert await tail.line() == back
            await daemon.heard.wait()
            daemon.publish({"type": "notice", "time": NOW, "level": "info", "text": "again"})
            assert (await tail.line()).endswith("notice      again")


async def test_tail_when_on_a_terminal_then_it_says_that_it_waits(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """A person sees at once that nothing hangs, and how to end it."""
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            "--color",
            "never",
            "--socket",
            str(bound.api),
            "tail",
            stdout=theirs,
            env=environment(),
            cwd=ROOT,
        )
        try:
            async with asyncio.timeout(60):
                await daemon.heard.wait()
                said = await asyncio.to_thread(os.read, ours, 65536)
        finally:
            process.kill()
            await process.wait()
    finally:
        os.close(ours)
        os.close(theirs)
    assert said.splitlines()[0] == b"-- waiting for what happens; Ctrl-C ends --"


def test_tail_when_no_daemon_from_the_start_then_4(place: Path) -> None:
    """A tail that never reached the daemon ends; it would otherwise hide a wrong path."""
    assert run_cli("--socket", str(place / "none.sock"), "tail").code == 4


@pytest.mark.parametrize("command", ["version", "status"])
async def test_start_when_a_client_then_nothing_heavy_is_loaded(bound: Bound, command: str) -> None:
    """A client starts fast because it loads none of the daemon's libraries."""
    code = """
import sys
from hub.cli.main import main
main()
heavy = {"asyncio", "aiohttp", "pydantic", "ssl", "structlog", "yaml", "http.client"}
print(sorted(heavy & sys.modules.keys()))
"""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, "--socket", str(bound.api), command],
        capture_output=True,
        timeout=60,
        check=True,
        text=True,
        cwd=ROOT,
    )
    assert done.stdout.splitlines()[-1] == "[]"
