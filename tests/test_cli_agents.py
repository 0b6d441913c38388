# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub agents` and `fnm-hub key` as operators use them: real processes, a daemon in memory."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.cli.text import cells
from tests.support.api_daemon import MemoryDaemon, agent_view, key_view
from tests.support.api_http import config_in, folder, serving
from tests.support.cli import Done, cli

NAME = "192.0.2.1"
OFFERED = "SHA256:" + "O" * 43


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for sockets."""
    with folder() as path:
        yield path


@pytest.fixture
async def daemon(place: Path) -> AsyncIterator[MemoryDaemon]:
    """A daemon in memory that listens."""
    made = MemoryDaemon()
    async with serving(config_in(place), made):
        yield made


@pytest.fixture
def socket(place: Path) -> tuple[str, str]:
    """The option that names its socket."""
    return "--socket", str(config_in(place).api.path)


def untrusted(daemon: MemoryDaemon, **changed: Any) -> None:
    """Let the one agent show a key that nobody has trusted."""
    values = {"state": "untrusted", "why": "its host key is not known", "offered_key": OFFERED}
    daemon.agent_rows = [agent_view(**{**values, **changed})]


def good(done: Done) -> str:
    """Return what a command printed that must have worked."""
    assert (done.code, done.err) == (0, "")
    assert all(cells(line) <= 80 for line in done.lines)
    return done.out


@pytest.mark.usefixtures("daemon")
async def test_agents_when_listed_then_state_and_standing_fit_a_terminal(
    socket: tuple[str, str],
) -> None:
    """One line an agent."""
    out = good(await cli("agents", *socket))
    assert all(word in out for word in (NAME, "ok", "1 proven", "kcore"))


async def test_agent_when_shown_then_each_port_has_its_last_probe(
    daemon: MemoryDaemon, socket: tuple[str, str]
) -> None:
    """What an operator asks first: which port, what did it show, and why."""
    untrusted(daemon)
    out = good(await cli("agent", NAME, *socket))
    for word in (
        "443",
        "silent",
        "no answer",
        "match",
        "6.1.0-56-cloud-amd64",
        OFFERED,
        "2 for us, for 2m 50s more at most",
    ):
        assert word in out, word


async def test_agent_when_its_words_are_hostile_then_nothing_steers_the_terminal(
    daemon: MemoryDaemon, socket: tuple[str, str]
) -> None:
    """A kernel release, a reason: another machine wrote them."""
    untrusted(daemon, why="\x1b]0;owned\x07", release="\x1b[2J", agent="x\x9b1m")
    for words in (("agents",), ("agent", NAME)):
        done = await cli(*words, *socket)
        assert not any(char in done.out for char in "\x1b\x07\x9b")


async def test_trust_when_nobody_can_confirm_then_refused_and_nothing_done(
    daemon: MemoryDaemon, socket: tuple[str, str]
) -> None:
    """Without a terminal nobody can have compared the key; the exit status is that of usage."""
    untrusted(daemon)
    done = await cli("agents", "trust", NAME, *socket)
    assert done.code == 2
    assert OFFERED in done.err
    assert daemon.calls == []


async def test_trust_when_the_fingerprint_is_given_then_pinned_with_actor_and_reason(
    daemon: MemoryDaemon, socket: tuple[str, str]
) -> None:
    """The daemon compares it once more; a wrong one changes nothing."""
    untrusted(daemon)
    wrong = await cli("agents", "trust", NAME, "--fingerprint", OFFERED[:-1] + "x", *socket)
    assert wrong.code == 1
    assert "another key" in wrong.err
    good(await cli("agents", "trust", NAME, "--fingerprint", OFFERED, "--reason", "T-1", *socket))
    assert daemon.calls == [(f"trust {NAME} {OFFERED}", "root", "T-1")]


async def test_trust_when_yes_is_said_beforehand_then_what_it_shows_is_pinned(
    daemon: MemoryDaemon, socket: tuple[str, str]
) -> None:
    """For the first server in a lab."""
    untrusted(daemon)
    good(await cli("agents", "trust", NAME, "--yes", *socket))
    assert daemon.calls == [(f"trust {NAME} {OFFERED}", "root", "")]


async def test_trust_when_another_key_is_trusted_then_the_new_one_must_be_named(
    daemon: MemoryDaemon, socket: tuple[str, str]
) -> None:
    """A changed key is no matter of saying yes."""
    untrusted(daemon, state="changed")
    refused = await cli("agents", "trust", NAME, "--yes", *socket)
    assert refused.code == 1
    assert "another host key is trusted" in refused.err
    good(await cli("agents", "trust", NAME, "--fingerprint", OFFERED, *socket))
    assert daemon.calls == [(f"trust {NAME} {OFFERED}", "root", "")]


async def test_trust_when_there_is_nothing_to_trust_then_it_says_so(
    daemon: MemoryDaemon, socket: tuple[str, str]
) -> None:
    """No such agent; or its key is pinned already, or was never seen."""
    for name, words in (("192.0.2.9", "no agent '192.0.2.9'"), (NAME, "no key that is not")):
        done = await cli("agents", "trust", name, "--yes", *socket)
        assert done.code == 1
        assert words in done.err
    assert daemon.calls == []


async def test_forget_when_asked_then_done(daemon: MemoryDaemon, socket: tuple[str, str]) -> None:
    """Before a server that was installed anew is trusted again."""
    good(await cli("agents", "forget", NAME, *socket))
    assert daemon.calls == [(f"forget {NAME}", "root", "")]


async def test_key_when_shown_then_the_line_alone_is_on_standard_output(
    daemon: MemoryDaemon, socket: tuple[str, str]
) -> None:
    """So that it can be piped to a server."""
    done = await cli("key", "show", *socket)
    assert done.out == daemon.key_row["line"] + "\n"
    assert "/etc/fnm-agent/keys" in done.err


async def test_key_when_rotated_then_only_after_a_yes(
    daemon: MemoryDaemon, socket: tuple[str, str]
) -> None:
    """It concerns every server."""
    refused = await cli("key", "rotate", *socket)
    assert refused.code == 2
    assert daemon.calls == []
    done = await cli("key", "rotate", "--yes", *socket)
    assert done.out == key_view("B")["line"] + "\n"
    assert NAME in done.err
    assert daemon.calls == [("rotate", "root", "")]


@pytest.mark.usefixtures("daemon")
async def test_json_when_asked_for_then_as_the_daemon_said(socket: tuple[str, str]) -> None:
    """For programs."""
    listed = json.loads((await cli("agents", "--json", *socket)).out)
    assert listed["items"] == [agent_view()]
    one = json.loads((await cli("agent", NAME, "--json", *socket)).out)
    assert one == agent_view()
