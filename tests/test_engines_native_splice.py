# SPDX-License-Identifier: Apache-2.0
"""How the native engine comes to a mode of `tcp`, and what it says where that is not the best."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import structlog

from hub.clock import SystemClock
from hub.config import NativeEngine as NativeConfig
from hub.documents import mitigation_row, read_mitigation
from hub.engines.native.engine import NativeEngine
from hub.engines.native.keys import NoKeys, Standing
from hub.engines.native.modes import Choice, Obstacle, choose
from hub.engines.native.reasons import Reason
from hub.errors import ConfigError, EnginePermanentError, EngineTemporaryError
from hub.mitigations.model import Mitigation
from hub.rules.actions import Tcp
from scripts.lab import synproxyd
from tests.support.engines import FakeClock, mitigation
from tests.support.native import Synproxyd, synproxyd_running
from tests.support.native_peer import HELLO, KEYS, SPLICING, Answer, Peer, Said, line, peer, takes
from tests.support.rules import load_text

NONE = Standing(why="no agent answers for it")
THERE = Obstacle("nothing is attached there", "start it without --no-splice")
ELSEWHERE = "192.0.2.7/32 answers by another way than through here"
TODO = "use the mode isn-sync, or reset"
REFUSAL = line(ok=False, error="unsupported", message=ELSEWHERE, todo=TODO)


@dataclass
class Scene:
    """An engine that talks to a peer."""

    engine: NativeEngine
    other: Peer
    clock: FakeClock
    keys: Said

    @property
    def modes(self) -> list[str]:
        """Modes that were asked for, in order."""
        return [one["tcp"]["mode"] for one in self.other.asked if one["op"] == "put"]


@asynccontextmanager
async def scene(
    folder: Path, answer: Answer, hello: dict[str, Any] = SPLICING
) -> AsyncIterator[Scene]:
    """Let an engine talk to a peer that greets so, and answers `put` so."""
    clock, keys = FakeClock(), Said(NONE)
    config = NativeConfig(enabled=True, socket=folder / "s")
    engine = NativeEngine(config, (), clock, keys)
    async with peer(folder / "s", answer, hello) as other:
        yield Scene(engine, other, clock, keys)
        await engine.close()


def refuses_splice(question: dict[str, Any]) -> bytes:
    """Take everything but the mode `splice`."""
    if question["op"] == "hello":
        return b""
    spliced = question.get("tcp", {}).get("mode") == "splice"
    return REFUSAL if spliced else line(ok=True, outcome="would_create")


def row(action: Tcp | None = None) -> Mitigation:
    """Return a mitigation that lasts, by the clock of a scene."""
    return mitigation(action or Tcp(), engine="native", deadline=2_000_000.0)


def logged(logs: Any, event: str) -> list[dict[str, Any]]:
    """Return what was logged under one name."""
    return [one for one in logs if one["event"] == event]


NOT_SYNCED = "not by isn-sync: no agent answers for it"


@pytest.mark.parametrize("mode", ["auto", "isn-sync"])
@pytest.mark.parametrize(
    ("fallback", "obstacle", "chosen"),
    [
        ("splice", None, Choice("splice", down=(NOT_SYNCED,))),
        ("reset", None, Choice("reset", down=(NOT_SYNCED,))),
        ("reset", THERE, Choice("reset", down=(NOT_SYNCED,))),
        (
            "splice",
            THERE,
            Choice("reset", down=(NOT_SYNCED, f"not by splice: {THERE}"), obstacle=THERE),
        ),
    ],
)
def test_mode_when_keys_are_not_known_then_the_next_that_is_possible_and_why(
    mode: str, fallback: str, obstacle: Obstacle | None, chosen: Choice
) -> None:
    """One step after the other, each with its reason."""
    action = Tcp.model_validate({"mode": mode, "fallback": fallback})
    assert choose(action, NONE, obstacle, "m-1") == chosen


@pytest.mark.parametrize("obstacle", [None, THERE])
def test_mode_when_keys_are_known_then_isn_sync_and_they_are_shown_nowhere(
    obstacle: Obstacle | None,
) -> None:
    """Nothing stands in the way of the best."""
    chosen = choose(Tcp(), Standing(KEYS), obstacle, "m-1")
    assert chosen == Choice("isn-sync", KEYS)
    assert "Secrets" not in repr(chosen)


def test_mode_when_named_then_that_or_an_error_that_says_what_else() -> None:
    """What a rule names is not quietly something else."""
    assert choose(Tcp(mode="splice"), NONE, None, "m-1") == Choice("splice")
    assert choose(Tcp(mode="reset"), Standing(KEYS), THERE, "m-1") == Choice("reset")
    with pytest.raises(EnginePermanentError, match="nothing is attached there") as caught:
        choose(Tcp(mode="splice"), NONE, THERE, "m-1")
    assert "start it without --no-splice; or use mode isn-sync" in caught.value.todo
    assert "or mode reset" in caught.value.todo


@pytest.mark.parametrize("mode", ["auto", "isn-sync", "splice", "reset", "kernel"])
def test_mitigation_when_read_from_the_journal_then_every_mode_is_known(mode: str) -> None:
    """The journal writes `fallback` too where nobody has asked for one."""
    before = mitigation(Tcp.model_validate({"mode": mode}))
    assert read_mitigation(mitigation_row(before, 1.0)) == before


@pytest.mark.parametrize("mode", ["splice", "reset", "kernel"])
def test_fallback_when_there_is_nothing_to_fall_back_from_then_a_mistake(
    mode: str, tmp_path: Path
) -> None:
    """In a rule it would promise what does not come."""
    then = f"tcp: {{mode: {mode}, fallback: reset}}"
    text = f"rules: [{{name: a, when: always, then: [{then}], ttl: 1m}}]"
    with pytest.raises(ConfigError, match=f"mode {mode} has nothing to fall back from"):
        load_text(tmp_path, text)


async def test_splice_when_synproxyd_does_not_offer_it_then_reset_and_it_says_why(
    tmp_path: Path,
) -> None:
    """An older one never hears a word that it does not know; one line tells of it, not one each."""
    with structlog.testing.capture_logs() as logs:
        async with scene(tmp_path, takes, HELLO) as there:
            plan = await there.engine.plan(row())
            await there.engine.apply(row())
            await there.engine.apply(row())
            with pytest.raises(EnginePermanentError, match="does not offer it") as caught:
                await there.engine.plan(row(Tcp(mode="splice")))
    assert there.modes == ["reset"] * 3
    assert "--no-splice" in next(step for step in plan.steps if step.startswith("not by splice"))
    assert "mode reset" in caught.value.todo
    (said,) = logged(logs, "native.not_spliced")
    assert (said["mode"], said["mitigation"]) == ("reset", row().id)
    assert "--no-splice" in said["todo"]
    assert logged(logs, "tcp.stepped_down") == []


async def test_splice_when_refused_for_a_target_then_reset_and_asked_again_in_a_minute(
    tmp_path: Path,
) -> None:
    """Its own words reach plan and log; a refused target is not asked for each time."""
    with structlog.testing.capture_logs() as logs:
        async with scene(tmp_path, refuses_splice) as there:
            plan = await there.engine.plan(row())
            await there.engine.apply(row())
            assert there.modes == ["splice", "reset", "reset"]
            assert await there.engine.refresh(row()) is None
            there.clock.now += 61
            await there.engine.apply(row())
            assert there.modes[3:] == ["splice", "reset"]
    step = next(one for one in plan.steps if one.startswith("not by splice"))
    assert step.endswith(f"{ELSEWHERE}; {TODO}")
    assert "reset a client's first connection once it is proven; its next one passes" in plan.steps
    (said,) = logged(logs, "native.not_spliced")
    assert ELSEWHERE in said["why"]
    assert said["todo"] == TODO


async def test_splice_when_named_and_refused_then_the_refusal_and_what_else(
    tmp_path: Path,
) -> None:
    """Nothing is put in force in its place, at `plan` and at `apply`."""
    async with scene(tmp_path, refuses_splice) as there:
        for attempt in (there.engine.plan, there.engine.apply):
            with pytest.raises(EnginePermanentError, match=ELSEWHERE) as caught:
                await attempt(row(Tcp(mode="splice")))
            assert "isn-sync" in caught.value.todo
            assert "reset" in caught.value.todo
    assert there.modes == ["splice", "splice"]


async def test_splice_when_possible_again_then_refresh_comes_back_to_it(tmp_path: Path) -> None:
    """`reset` is no end station; a table that is full meanwhile takes nothing away."""
    full = line(ok=False, error="full", message="no room")
    answers = {"splice": REFUSAL, "reset": line(ok=True)}

    def answer(question: dict[str, Any]) -> bytes:
        return b"" if question["op"] == "hello" else answers[question["tcp"]["mode"]]

    async with scene(tmp_path, answer) as there:
        await there.engine.apply(row())
        there.clock.now += 61
        answers["splice"] = full
        with pytest.raises(EngineTemporaryError, match="no room"):
            await there.engine.refresh(row())
        answers["splice"] = line(ok=True)
        changed = await there.engine.refresh(row())
        assert changed is not None
        assert changed.mode == "splice"
        assert await there.engine.refresh(row()) is None
    # No `delete`: that has no mode and would have been a KeyError.
    assert there.modes == ["splice", "reset", "splice", "splice"]


async def test_synproxyd_when_an_older_one_takes_over_then_reset_at_once(tmp_path: Path) -> None:
    """The greeting that the engine remembers is of the one before."""
    older = {**HELLO, "started_ms": 6}
    refusal = line(ok=False, error="bad_request", message="must be isn-sync or reset")

    def does_not_know(question: dict[str, Any]) -> bytes:
        return refusal if question.get("tcp", {}).get("mode") == "splice" else takes(question)

    async with scene(tmp_path, takes) as there:
        await there.engine.apply(row())
        assert there.modes == ["splice"]
        for writer in there.other.writers:
            writer.close()
        there.other.answer, there.other.hello = does_not_know, older
        await there.engine.apply(row())
        assert there.modes == ["splice", "splice", "reset"]


async def test_request_when_wrong_then_no_other_mode_is_tried(tmp_path: Path) -> None:
    """Only what is not possible is stepped down from; what is wrong would be wrong again."""
    wrong = line(ok=False, error="bad_request", message="tcp.ports: too many")
    async with scene(tmp_path, lambda one: b"" if one["op"] == "hello" else wrong) as there:
        with pytest.raises(EnginePermanentError, match="too many"):
            await there.engine.apply(row())
    assert there.modes == ["splice"]


async def test_step_when_taken_then_said_once_and_again_after_isn_sync(tmp_path: Path) -> None:
    """A renewal is no news; what comes after another mode is."""
    with structlog.testing.capture_logs() as logs:
        async with scene(tmp_path, takes) as there:
            await there.engine.apply(row())
            await there.engine.apply(row())
            there.keys.now = Standing(KEYS)
            await there.engine.apply(row())
            there.keys.now = NONE
            await there.engine.apply(row())
    assert there.modes == ["splice", "splice", "isn-sync", "splice"]
    first, second = logged(logs, "tcp.stepped_down")
    assert first == second
    assert (first["engine"], first["mode"]) == ("native", "splice")
    assert first["why"] == "not by isn-sync: no agent answers for it"


async def test_room_when_none_is_left_then_warned_at_most_once_a_minute(tmp_path: Path) -> None:
    """What was counted before the hub looked is no news; the table's state is telemetry."""
    full = 7

    def answer(question: dict[str, Any]) -> bytes:
        splices = {"asked": 1, "open": 60_000, "closing": 2, "rows": 65_536}
        packets = {"splice_full": full}
        return b"" if question["op"] == "hello" else line(
            ok=True, packets=packets, work={}, flows=3, splices=splices
        )  # fmt: skip

    with structlog.testing.capture_logs() as logs:
        async with scene(tmp_path, answer) as there:
            telemetry = await there.engine.telemetry()
            for passed, counted in ((5, 9), (5, 20), (60, 21), (60, 21), (60, 4), (60, 5)):
                there.clock.now += passed
                full = counted
                await there.engine.telemetry()
    assert telemetry["held.splices_open"] == 60_000
    assert telemetry["held.splices_rows"] == 65_536
    said = logged(logs, "native.splices_full")
    assert [one["refused"] for one in said] == [2, 12, 1]
    assert (said[0]["open"], said[0]["rows"]) == (60_000, 65_536)
    assert "--splices" in said[0]["todo"]


@pytest.fixture
def daemon(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Synproxyd]:
    """Run a real synproxyd with the options that the test names."""
    with synproxyd_running(tmp_path, *request.param) as made:
        yield made


@asynccontextmanager
async def talking_to(daemon: Synproxyd) -> AsyncIterator[NativeEngine]:
    """Let an engine without agents talk to a real synproxyd."""
    config = NativeConfig(enabled=True, socket=daemon.control)
    engine = NativeEngine(config, (), SystemClock(), NoKeys())
    yield engine
    await engine.close()


@pytest.mark.parametrize("daemon", [("--no-splice",)], indirect=True)
async def test_engine_when_synproxyd_runs_without_splice_then_reset_and_status_tells(
    daemon: Synproxyd,
) -> None:
    """What was started with --no-splice greets without the mode."""
    wanted = mitigation(Tcp(), engine="native", deadline=SystemClock().time() + 60)
    async with talking_to(daemon) as engine:
        plan = await engine.plan(wanted)
        await engine.apply(wanted)
        (one,) = (await asyncio.to_thread(synproxyd.in_force, daemon.control)).values()
        health = await engine.health()
    assert one["mode"] == "reset"
    assert any("--no-splice" in step for step in plan.steps)
    assert health.ok
    assert "without mode splice" in health.detail


@pytest.mark.parametrize("daemon", [()], indirect=True, ids=["whole"])
async def test_engine_when_splicing_then_list_and_counters_know_it(daemon: Synproxyd) -> None:
    """The mode is listed, its table is counted, and every reason has its name."""
    target, deadline = ip_network("2001:db8::7/128"), SystemClock().time() + 60
    wanted = mitigation(Tcp(mode="splice"), engine="native", target=target, deadline=deadline)
    async with talking_to(daemon) as engine:
        plan = await engine.plan(wanted)
        await engine.apply(wanted)
        (installed,) = await engine.inventory()
        telemetry = await engine.telemetry()
    assert "translate its numbers" in " ".join(plan.steps)
    assert not any(step.startswith("not by") for step in plan.steps)
    assert installed.what == "tcp splice on 2001:db8::7/128"
    assert telemetry["held.splices_open"] == 0
    assert telemetry["held.splices_rows"] > 0
    assert {name for name in telemetry if "." not in name} <= {one.word for one in Reason}
    assert {"work.flows_inserted", "held.flows"} <= telemetry.keys()
