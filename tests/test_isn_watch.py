# SPDX-License-Identifier: Apache-2.0
"""What is in force by ISN sync goes on by another mode and comes back; log and record say why."""

import json
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from hub.clock import SystemClock
from hub.config import NativeEngine as NativeConfig
from hub.engines.native.engine import NativeEngine
from hub.engines.native.keys import Standing
from hub.isn_sync.settings import IsnSync as IsnConfig
from hub.isn_sync.sync import IsnSync
from hub.isn_watch import IsnWatch
from hub.metrics import Metrics
from hub.pipeline.events import take_sighting
from hub.rules.ruleset import RuleSet
from hub.runner import Runner
from hub.store.journal import Journal
from hub.store.settings import Settings
from hub.stream import Stream
from tests.support.core import HIDING, rule_set, sighting, state
from tests.support.native_peer import KEYS, SPLICING, Said, peer, takes
from tests.support.store import opened


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    """Return rules that give TCP the SYN proxy."""
    return rule_set(tmp_path)


async def runner_on(journal: Journal, rules: RuleSet) -> Runner:
    """Return a runner whose ledger has one `tcp` in force, on the native engine."""
    clock = SystemClock()
    core = state(rules, engines=HIDING)
    effects = take_sighting(core, sighting(), clock.time())
    (row,) = core.ledger
    core.ledger.applied(row.id, row.revision, clock.time())
    settings = await Settings.read(journal)
    made = Runner(core, journal, settings, clock=clock, metrics=Metrics(), stream=Stream())
    await made.carry_out(replace(effects, orders=[]))
    return made


async def test_mode_when_it_changes_then_logged_and_recorded_with_the_reason(
    tmp_path: Path, rules: RuleSet
) -> None:
    """From ISN sync to splice and back, under one id; a look without news says nothing."""
    keys = Said(Standing(KEYS))
    async with AsyncExitStack() as stack:
        journal = await stack.enter_async_context(opened(tmp_path / "journal"))
        runner = await runner_on(journal, rules)
        (row,) = runner.state.ledger
        other = await stack.enter_async_context(peer(tmp_path / "s", takes, SPLICING))
        config = NativeConfig(enabled=True, socket=tmp_path / "s")
        engine = NativeEngine(config, (), runner.clock, keys)
        stack.push_async_callback(engine.close)
        await engine.apply(row)
        isn = IsnConfig(key=tmp_path / "key", known_hosts=tmp_path / "hosts")
        opening = IsnSync.opened(isn, (), runner.clock, runner.metrics, None)
        watch = IsnWatch(await stack.enter_async_context(opening), engine, runner)
        with structlog.testing.capture_logs() as logs:
            for standing in (Standing(why="two probes did not fit"), Standing(KEYS)):
                keys.now = standing
                await watch.sweep()
                await watch.sweep()
        said = [one for one in logs if one["event"] == "isn.mode_changed"]
        rows = await journal.audit(mitigation=row.id)
        asked = [one["tcp"]["mode"] for one in other.asked if one["op"] == "put"]
    assert asked == ["isn-sync", "splice", "isn-sync"]
    assert [(one["mode"], one["why"]) for one in said] == [
        ("splice", "not by isn-sync: two probes did not fit"),
        ("isn-sync", ""),
    ]
    reasons = [json.loads(one.doc)["reason"] for one in rows if one.kind == "mitigation.mode"]
    assert reasons == [
        "goes on by splice: not by isn-sync: two probes did not fit",
        "goes on by isn-sync",
    ]
