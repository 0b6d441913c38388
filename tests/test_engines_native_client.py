# SPDX-License-Identifier: Apache-2.0
"""Questions over the control socket: greeting, errors by their word, silence, reconnection."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from hub.clock import SystemClock
from hub.config import NativeEngine as NativeConfig
from hub.engines.native.client import Client
from hub.engines.native.engine import NativeEngine
from hub.engines.native.keys import NoKeys
from hub.errors import EnginePermanentError, EngineTemporaryError
from hub.mitigations.engine import Interface
from tests.support.engines import FakeClock
from tests.support.native_peer import HELLO, line, peer, says


def entry(number: int) -> dict[str, Any]:
    """Return one mitigation of a list."""
    return {
        "id": f"m-{number}",
        "revision": 1,
        "target": "192.0.2.10/32",
        "kind": "tcp",
        "mode": "reset",
        "expires_ms": 1000,
        "packets": {},
        "rates": {"dropped_pps": number},
    }


def client(path: Path, timeout: float = 2.0) -> Client:
    """Return a client with the real clock."""
    return Client(path, timeout, SystemClock())


async def test_question_when_answered_then_after_one_greeting(tmp_path: Path) -> None:
    """Greeted once; the questions follow on the same connection."""
    asking = client(tmp_path / "s")
    async with peer(tmp_path / "s", says(line(ok=True, flows=3))) as other:
        assert (await asking.ask("stats"))["flows"] == 3
        await asking.ask("put", id="m-1", check=True)
        hello = await asking.hello()
        await asking.close()
    assert [one["op"] for one in other.asked] == ["hello", "stats", "put"]
    assert other.asked[0]["version"] == 1
    assert other.asked[2] == {"op": "put", "id": "m-1", "check": True}
    assert hello.interfaces == (Interface("outside", "native"),)
    assert hello.tcp_modes == {"isn-sync", "reset"}


async def test_question_when_many_ask_at_once_then_each_gets_its_own_answer(
    tmp_path: Path,
) -> None:
    """One at a time over the one connection."""
    asking = client(tmp_path / "s")

    def echo(question: dict[str, Any]) -> bytes:
        return b"" if question["op"] == "hello" else line(ok=True, id=question["id"])

    async with peer(tmp_path / "s", echo):
        answers = await asyncio.gather(*(asking.ask("put", id=str(n)) for n in range(50)))
        await asking.close()
    assert [answer["id"] for answer in answers] == [str(n) for n in range(50)]


@pytest.mark.parametrize("word", ["bad_request", "stale", "unsupported", "hello_first", "version"])
async def test_error_when_never_to_be_tried_again_then_permanent(tmp_path: Path, word: str) -> None:
    """The protocol's word decides; message and advice reach the operator."""
    asking = client(tmp_path / "s")
    refusal = line(ok=False, error=word, message="tcp.mode: what is it", todo="mend it")
    async with peer(tmp_path / "s", says(refusal)):
        with pytest.raises(EnginePermanentError, match=r"tcp\.mode: what is it") as caught:
            await asking.ask("put", id="m-1")
        await asking.close()
    assert caught.value.todo == "mend it"
    assert word in str(caught.value)


@pytest.mark.parametrize("word", ["full", "internal", "a_word_of_tomorrow"])
async def test_error_when_it_may_pass_then_temporary(tmp_path: Path, word: str) -> None:
    """What may be better later is tried again; so is a word that this release does not know."""
    asking = client(tmp_path / "s")
    async with peer(tmp_path / "s", says(line(ok=False, error=word, message="no room"))):
        with pytest.raises(EngineTemporaryError, match="no room"):
            await asking.ask("put", id="m-1")
        await asking.close()


@pytest.mark.parametrize(
    "garbage", [b"nonsense\n", b"[]\n", b"{}\n", b'{"ok": 1\n', b"[" * 200_000 + b"\n"]
)
async def test_answer_when_it_is_none_then_temporary_and_a_new_connection(
    tmp_path: Path, garbage: bytes
) -> None:
    """After garbage nobody knows whose answer comes next: the connection is given up."""
    asking = client(tmp_path / "s")
    async with peer(tmp_path / "s", says(garbage)) as other:
        for _ in range(2):
            with pytest.raises(EngineTemporaryError, match="no answer"):
                await asking.ask("stats")
        await asking.close()
    assert other.connections == 2


async def test_answer_when_it_does_not_come_then_temporary_within_the_limit(
    tmp_path: Path,
) -> None:
    """A hung synproxyd holds nobody; a late answer is never taken for the next question's."""
    asking = client(tmp_path / "s", timeout=0.2)
    async with peer(tmp_path / "s", says(b" ")) as other:
        with pytest.raises(EngineTemporaryError, match=r"did not answer stats within 0\.2 s"):
            await asking.ask("stats")
        with pytest.raises(EngineTemporaryError):
            await asking.ask("stats")
        await asking.close()
    assert other.connections == 2


async def test_question_when_cancelled_then_the_next_one_gets_its_own_answer(
    tmp_path: Path,
) -> None:
    """An answer on its way belongs to nobody."""
    asking = client(tmp_path / "s")
    silent = True

    def answer(question: dict[str, Any]) -> bytes:
        if question["op"] == "hello":
            return b""
        return b" " if silent else line(ok=True, op=question["op"])

    async with peer(tmp_path / "s", answer):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await asking.ask("list")
        silent = False
        assert (await asking.ask("stats"))["op"] == "stats"
        await asking.close()


async def test_synproxyd_when_restarted_then_the_question_is_asked_again_at_once(
    tmp_path: Path,
) -> None:
    """A connection of a run that is over costs nobody an error."""
    asking = client(tmp_path / "s")
    async with peer(tmp_path / "s", says(line(ok=True))):
        await asking.ask("stats")
    async with peer(tmp_path / "s", says(line(ok=True, again=True))):
        assert "again" in await asking.ask("stats")
        await asking.close()


async def test_synproxyd_when_it_closes_every_time_then_temporary(tmp_path: Path) -> None:
    """No endless repetition."""
    asking = client(tmp_path / "s")

    def hang_up(question: dict[str, Any]) -> bytes | None:
        return b"" if question["op"] == "hello" else None

    async with peer(tmp_path / "s", hang_up) as other:
        with pytest.raises(EngineTemporaryError, match="closed the connection"):
            await asking.ask("stats")
        await asking.close()
    assert other.connections == 1


async def test_socket_when_not_there_then_temporary_with_ever_longer_pauses(
    tmp_path: Path,
) -> None:
    """Many orders together do not hammer: in between the former reason is the answer."""
    clock = FakeClock()
    asking = Client(tmp_path / "s", 1.0, clock)
    with pytest.raises(EngineTemporaryError, match="No such file"):
        await asking.ask("stats")
    async with peer(tmp_path / "s", says(line(ok=True))) as other:
        with pytest.raises(EngineTemporaryError, match="No such file"):
            await asking.ask("stats")
        assert other.connections == 0
        clock.now += 0.11
        assert (await asking.ask("stats"))["ok"]
        await asking.close()


@pytest.mark.parametrize(
    "greeting",
    [
        json.dumps({**HELLO, "version": 2}).encode() + b"\n",
        line(ok=False, error="version", message="version 2 is spoken here"),
    ],
)
async def test_greeting_when_of_another_version_then_said_and_tried_again(
    tmp_path: Path, greeting: bytes
) -> None:
    """Between two upgrades; a mitigation that is given up for it would not come back."""
    asking = client(tmp_path / "s")
    async with peer(tmp_path / "s", lambda _: greeting):
        for _ in range(2):  # the second time from memory, with the same advice
            with pytest.raises(EngineTemporaryError, match="version 2") as caught:
                await asking.ask("put", id="m-1")
            assert "one release" in caught.value.todo


async def test_greeting_when_hung_up_on_then_says_what_to_look_at(tmp_path: Path) -> None:
    """Whoever is not served may see no more than that."""
    asking = client(tmp_path / "s")
    async with peer(tmp_path / "s", lambda _: None):
        with pytest.raises(EngineTemporaryError, match="closed the connection") as caught:
            await asking.ask("stats")
    assert "--allow-user" in caught.value.todo


async def test_list_when_in_parts_then_the_engine_reads_all_of_it(tmp_path: Path) -> None:
    """Hundreds of mitigations: what is on the second part is in force and measured as well."""
    every = [entry(number) for number in range(5)]

    def answer(question: dict[str, Any]) -> bytes:
        if question["op"] != "list":
            return b""
        after = question.get("after")
        begin = 0 if after is None else [one["id"] for one in every].index(after) + 1
        part = every[begin : begin + 2]
        more = {"more_after": part[-1]["id"]} if begin + 2 < len(every) else {}
        return line(ok=True, mitigations=part, **more)

    config = NativeConfig(enabled=True, socket=tmp_path / "s")
    engine = NativeEngine(config, [], SystemClock(), NoKeys())
    async with peer(tmp_path / "s", answer):
        assert [one.mitigation_id for one in await engine.inventory()] == [
            one["id"] for one in every
        ]
        assert (await engine.rates())["m-4"].dropped_pps == 4
        await engine.close()


async def test_list_when_it_never_ends_then_temporary(tmp_path: Path) -> None:
    """A defect of synproxyd holds nobody for ever."""
    said = line(ok=True, mitigations=[entry(1)], more_after="m-1")
    config = NativeConfig(enabled=True, socket=tmp_path / "s")
    engine = NativeEngine(config, [], SystemClock(), NoKeys())
    async with peer(tmp_path / "s", says(said)):
        with pytest.raises(EngineTemporaryError, match="does not end"):
            await engine.rates()
        await engine.close()
