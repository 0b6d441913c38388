# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub logs`: lines of a real hub, of synproxyd and of fnm-notify, joined."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hub.cli.logread import Record, records
from tests.support.cli import Done, run_cli
from tests.support.hub_process import HubProcess, until

HOOK = Path(__file__).parents[1] / "scripts/fnm-notify"


class Logged(NamedTuple):
    """What three programs have logged about two attacks.

    Attributes:
        files: `--file` options for all of it.
        attack: id of the one that is looked for.
        mitigation: what was done against it.
        delivery: of the call that reported it; it waited in the spool.
    """

    files: list[str]
    attack: str
    mitigation: str
    delivery: str


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    """A call that could not be handed over at once, taken from the spool, met; beside another."""
    folder = tmp_path_factory.mktemp("logs")
    (folder / "spool").mkdir()
    argv = [str(HOOK), f"--socket={folder}/nobody", f"--spool={folder}/spool", "--syslog=/none"]
    done = subprocess.run(
        [*argv, "192.0.2.10", "incoming", "5000", "ban"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    (folder / "hook.log").write_text(f"2026-11-26T10:00:00+00:00 host {done.stderr}")
    delivery = done.stderr.rstrip().rpartition("delivery=")[2]
    with HubProcess(folder) as hub:
        hub.send("ban", "192.0.2.11")
        until("both are in force", lambda: len(hub.active()) == 2, 60)
        (row,) = [one for one in hub.active() if one["target"] == "192.0.2.10/32"]
        said = {"time": "2099-01-01T00:00:00.000Z", "level": "info", "event": "mitigation.expired"}
        other = {**said, "id": "m-0000000000"}
        lines = [json.dumps({**said, "id": row["id"]}), json.dumps(other)]
        (folder / "native.log").write_text("\n".join(lines) + "\n")
        names = ("log", "native.log", "hook.log")
        files = [f"--file={folder}/{name}" for name in names]
        yield Logged(files, row["attacks"][0], row["id"], delivery)


def events(done: Done) -> list[tuple[str, str]]:
    """Return source and event of each line of `--json`."""
    assert done.code == 0, done.err
    found = [json.loads(line) for line in done.lines]
    assert found == sorted(found, key=lambda one: one["time"])
    return [(one["source"], one["event"].split(" ")[0]) for one in found]


def wanted(logged: Logged) -> list[list[str]]:
    """Return each way to ask for the same."""
    return [
        ["--attack", logged.attack],
        ["--mitigation", logged.mitigation],
        ["--delivery", logged.delivery],
    ]


def test_logs_when_asked_by_any_id_then_the_whole_way_in_order(logged: Logged) -> None:
    """From the hook's line to the engine's end, whatever the id; nothing of the other attack."""
    for options in wanted(logged):
        found = events(run_cli("logs", *options, *logged.files, "--json"))
        assert found[0] == ("fnm-notify", "spooled"), options
        assert found[-1] == ("synproxyd", "mitigation.expired")
        for event in ("event.processed", "attack.began", "mitigation.applying"):
            assert found.count(("fnm-hub", event)) == 1, (options, event)
        assert ("fnm-hub", "mitigation.active") in found


def test_logs_when_asked_by_event_then_what_it_began(logged: Logged) -> None:
    """The number of an event finds the same, without the number in any other line."""
    log = Path(logged.files[0].removeprefix("--file=")).read_text()
    lines = [json.loads(line) for line in log.splitlines() if logged.delivery in line]
    (number,) = {line["number"] for line in lines if line["event"] == "event.processed"}
    found = events(run_cli("logs", "--event", str(number), *logged.files, "--json"))
    assert found[0] == ("fnm-notify", "spooled")
    assert ("fnm-hub", "mitigation.active") in found


def test_logs_when_read_from_a_pipe_then_readable(logged: Logged) -> None:
    """Standard input will do, and a person reads times, sources, events and fields."""
    text = b"".join(Path(one.removeprefix("--file=")).read_bytes() for one in logged.files)
    done = run_cli("logs", "--attack", logged.attack, "--file=-", stdin=text)
    assert done.code == 0, done.err
    assert "fnm-hub    mitigation.active" in done.out
    assert "fnm-notify WARNING spooled as" in done.out
    assert f"mitigation={logged.mitigation}" in done.out.replace("\n" + " " * 24, "")


def test_logs_when_hostile_text_is_in_a_line_then_it_cannot_steer_the_terminal() -> None:
    """What a sender wrote is shown escaped."""
    line = json.dumps({"event": "event.not_understood", "timestamp": "x", "why": "\x1b[2J"})
    done = run_cli("logs", "--file=-", stdin=line.encode())
    assert "\x1b" not in done.out
    assert "why=" in done.out


def test_logs_when_there_is_no_journal_then_says_what_to_do(tmp_path: Path) -> None:
    """Without journalctl, and for a file that is not there, the next step is named."""
    done = run_cli("logs", env={"PATH": str(tmp_path)})
    assert (done.code, "--file FILE" in done.err) == (1, True)
    done = run_cli("logs", f"--file={tmp_path}/none")
    assert (done.code, "No such file" in done.err) == (1, True)
    done = run_cli("logs", "--since=yesterday", "--file=-")
    assert (done.code, "2h or 30m" in done.err) == (1, True)


JOURNALCTL = """#!/bin/sh
printf '%s\\n' "$*" > "$0.asked"
cat "$0.json"
"""


def entry(**fields: Any) -> str:
    """Return an entry as `journalctl -o json` prints it."""
    return json.dumps({"__REALTIME_TIMESTAMP": "1790000000123456", **fields})


def test_logs_when_there_is_a_journal_then_its_fields_are_joined(tmp_path: Path) -> None:
    """Entries with fields, with one of our lines as message, and of the hook are understood."""
    program = tmp_path / "journalctl"
    program.write_text(JOURNALCTL)
    program.chmod(0o755)
    active = {"FNM_EVENT": "mitigation.active", "FNM_MITIGATION": "m-1", "FNM_DELIVERY": "d-000001"}
    own = {"event": "mitigation.put", "time": "2026-09-21T14:13:20.1Z", "id": "m-1"}
    lines = [
        entry(
            SYSLOG_IDENTIFIER="fnm-hub",
            PRIORITY="6",
            MESSAGE="x",
            FNM_ATTACK=["a-1"],
            FNM_ATTACKS='["a-1"]',
            **active,
        ),
        entry(SYSLOG_IDENTIFIER="synproxyd", PRIORITY="6", MESSAGE=json.dumps(own)),
        entry(SYSLOG_IDENTIFIER="fnm-notify", PRIORITY="4", MESSAGE="spooled delivery=d-000001"),
        entry(SYSLOG_IDENTIFIER="fnm-hub", PRIORITY="6", MESSAGE="something else"),
    ]
    (tmp_path / "journalctl.json").write_text("\n".join(lines) + "\n")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run_cli("logs", "--attack=a-1", "--since=2h", "--json", env={"PATH": path})
    assert done.code == 0, done.err
    found = [json.loads(line)["event"] for line in done.lines]
    assert found == []  # long before the two hours
    done = run_cli("logs", "--attack=a-1", "--json", env={"PATH": path})
    found = [json.loads(line)["event"] for line in done.lines]
    assert found == ["mitigation.active", "mitigation.put", "spooled"]
    asked = (tmp_path / "journalctl.asked").read_text()
    assert "_SYSTEMD_UNIT=fnm-hub.service + _SYSTEMD_UNIT=synproxyd.service" in asked


@pytest.mark.parametrize(
    "line", ["", "plain text", "{", "[1]", '{"a": 1}', '{"event": 1}', '{"MESSAGE": null}', "\x00"]
)
def test_records_when_lines_are_none_of_ours_then_skipped_or_shown_as_they_are(line: str) -> None:
    """No line of a log makes the command fail."""
    assert len(list(records([line]))) <= 1


def test_records_when_a_syslog_file_has_no_year_then_its_time_is_read() -> None:
    """The traditional format of syslog daemons has month, day and time."""
    (found,) = records(["Nov 26 10:00:01 host fnm-notify[12]: EVENT LOST: x delivery=abcdefgh"])
    assert isinstance(found, Record)
    assert (found.source, found.level, found.event) == ("fnm-notify", "error", "EVENT LOST: x")
    assert found.time > 1e9
