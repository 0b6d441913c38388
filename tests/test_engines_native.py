# SPDX-License-Identifier: Apache-2.0
"""The native engine on a real synproxyd: idempotent, with deadlines, across restarts of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import structlog

from hub.clock import SystemClock
from hub.config import NativeEngine as NativeConfig
from hub.config import Service
from hub.engines.native.engine import NativeEngine
from hub.engines.native.keys import (
    Flow,
    NoKeys,
    Prepared,
    Secrets,
    ServerClock,
    ServerKeys,
    Standing,
    SynAck,
)
from hub.engines.native.modes import Choice
from hub.errors import EnginePermanentError, EngineTemporaryError
from hub.mitigations.engine import Interface
from hub.mitigations.model import Mitigation
from hub.rules.actions import Acl, AclRule, Action, Sorb, Tcp
from scripts.lab import synproxyd
from tests.support.engines import as_engine, mitigation
from tests.support.native import Synproxyd, synproxyd_running

SECRET = bytes(range(100, 132))
WEB = Service(
    name="web",
    prefixes=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")),
    tcp_ports=(80, 443),
)
LINES = (
    AclRule(action="pass", protocol="icmp", icmp_types=("8", "13-18")),
    AclRule(action="drop", protocol="icmp"),
    AclRule(action="drop", protocol="tcp", flags="syn,!ack", destination_ports=("22",)),
    AclRule(
        action="limit",
        protocol="udp",
        sources=(ip_network("198.51.100.0/24"), ip_network("2001:db8:9::/48")),
        source_ports=("53", "1024-65535"),
        length="100-1500",
        fragments=False,
        pps=100,
    ),
)
EVERY: list[Action] = [
    Tcp(),
    Tcp(mode="reset"),
    Acl(rules=LINES),
    Sorb(),
    Sorb(pps=5, bps=8_000_000),
    Sorb(bps=8_000_000),
]


class Keys:
    """Knows the keys of every server, or what a test says of them."""

    def __init__(self) -> None:
        self.said: Standing | None = None
        self.flows: tuple[Flow, ...] = ()
        self.released: list[str] = []
        self.seconds = 0.0

    def standing(self, mitigation: Mitigation) -> Standing:
        """Return the same for each."""
        del mitigation
        if self.said is not None:
            return self.said
        secrets = Secrets(SECRET, SECRET[::-1], SECRET[:16], "flow")
        now = round(1000 * SystemClock().monotonic())
        clock = ServerClock(now, 4_295_000_000 + now, 4711 + now)
        return Standing(ServerKeys(secrets, SynAck(), clock))

    async def prepare(self, mitigation: Mitigation, seconds: float) -> Prepared:
        """Return that it is ready."""
        self.seconds = seconds
        return Prepared(self.standing(mitigation), self.flows)

    def release(self, mitigation_id: str) -> None:
        """Note it."""
        self.released.append(mitigation_id)


@pytest.fixture
def daemon(tmp_path: Path) -> Any:
    """Run a synproxyd."""
    with synproxyd_running(tmp_path) as made:
        yield made


@pytest.fixture
async def engine(daemon: Synproxyd) -> AsyncIterator[NativeEngine]:
    """Return an engine that has been started."""
    made = NativeEngine(config_of(daemon), (WEB,), SystemClock(), NoKeys())
    as_engine(made)
    await made.start()
    yield made
    await made.close()


def config_of(daemon: Synproxyd) -> NativeConfig:
    """Return the engine's section."""
    return NativeConfig(enabled=True, socket=daemon.control)


def wanted(action: Action | None = None, seconds: float = 60.0, **changes: Any) -> Mitigation:
    """Return a mitigation that lasts so long from now on."""
    now = SystemClock().time()
    values = {"engine": "native", "service": WEB, "deadline": now + seconds, **changes}
    return mitigation(action or Tcp(), **values)


async def listed(daemon: Synproxyd) -> dict[str, dict[str, Any]]:
    """Return what is in force, from synproxyd itself."""
    return await asyncio.to_thread(synproxyd.in_force, daemon.control)


@pytest.mark.parametrize("target", ["192.0.2.7/32", "2001:db8::7/128"])
@pytest.mark.parametrize(
    "action", EVERY, ids=lambda one: json.dumps(one.model_dump(mode="json"))[:40]
)
async def test_mitigation_when_planned_applied_and_released_then_it_is_there_only_between(
    engine: NativeEngine, daemon: Synproxyd, action: Action, target: str
) -> None:
    """Every kind, for either family: the plan changes nothing, the rest does what it says."""
    row = wanted(action, target=ip_network(target))
    plan = await engine.plan(row)
    assert plan.steps[0] == "would create m-0123456789 in XDP on outside (native)"
    assert await listed(daemon) == {}
    await engine.apply(row)
    (installed,) = await engine.inventory()
    assert installed.mitigation_id == row.id
    assert target in installed.what
    assert 50 < (installed.expires_in or 0) <= 60
    assert list(await engine.rates()) == [row.id]
    await engine.release(replace(row, revision=row.revision + 1))
    assert await engine.inventory() == []


async def test_apply_when_repeated_then_only_the_deadline_moves(
    engine: NativeEngine, daemon: Synproxyd
) -> None:
    """P5: applying twice is applying once."""
    row = wanted(seconds=20)
    await engine.apply(row)
    await engine.apply(row)
    await engine.apply(replace(row, revision=4, deadline=row.deadline + 100))
    (one,) = (await listed(daemon)).values()
    assert one["revision"] == 4
    assert one["expires_ms"] > 100_000


async def test_apply_when_overtaken_by_a_release_then_it_is_refused_for_good(
    engine: NativeEngine, daemon: Synproxyd
) -> None:
    """An older order must not bring back what a newer one took away."""
    row = wanted()
    await engine.apply(row)
    await engine.release(replace(row, revision=5))
    with pytest.raises(EnginePermanentError, match="stale"):
        await engine.apply(row)
    assert await listed(daemon) == {}


async def test_release_when_nothing_is_there_then_fine(engine: NativeEngine) -> None:
    """Idempotent."""
    await engine.release(wanted())


async def test_deadline_when_it_passes_then_synproxyd_lets_go_by_itself(
    engine: NativeEngine, daemon: Synproxyd
) -> None:
    """P2, without the hub."""
    await engine.apply(wanted(seconds=1.0))
    for _ in range(60):
        if not await listed(daemon):
            return
        await SystemClock().sleep(0.1)
    pytest.fail("it outlived its deadline by five seconds")


async def test_isn_sync_when_keys_are_known_then_in_force_and_nowhere_shown(
    daemon: Synproxyd,
) -> None:
    """Keys go in; they come out of no answer, no plan and no log."""
    made = NativeEngine(config_of(daemon), (), SystemClock(), Keys())
    with structlog.testing.capture_logs() as logs:
        await made.start()
        plan = await made.plan(wanted())
        await made.apply(wanted())
        with pytest.raises(EnginePermanentError) as refused:
            await made.apply(wanted(id="m-" + "x" * 80))
        health, telemetry = await made.health(), await made.telemetry()
        there = await listed(daemon)
        await made.close()
    (one,) = there.values()
    assert one["mode"] == "isn-sync"
    text = f"{plan} {refused.value} {health} {telemetry} {there} {logs}"
    text += await asyncio.to_thread(daemon.log.read_text)
    for secret in (SECRET, SECRET[::-1], SECRET[:16]):
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text


async def test_isn_sync_when_no_keys_are_known_then_as_the_rule_says(
    engine: NativeEngine, daemon: Synproxyd
) -> None:
    """`splice` at once, or nothing and again later."""
    await engine.apply(wanted(Tcp(mode="isn-sync")))
    (one,) = (await listed(daemon)).values()
    assert one["mode"] == "splice"
    with pytest.raises(EngineTemporaryError, match="isn-sync is not possible now"):
        await engine.apply(wanted(Tcp(mode="isn-sync", fallback="pass"), id="m-2"))
    assert list(await listed(daemon)) == [wanted().id]


@pytest.fixture
async def synced(daemon: Synproxyd) -> AsyncIterator[tuple[NativeEngine, Keys]]:
    """Return an engine, and the keys that it asks for."""
    keys = Keys()
    made = NativeEngine(config_of(daemon), (), SystemClock(), keys)
    await made.start()
    yield made, keys
    await made.close()


async def test_keys_when_prepared_then_open_flows_are_there_before_it_enforces(
    synced: tuple[NativeEngine, Keys], daemon: Synproxyd
) -> None:
    """Connections that the agent names pass from the first packet on."""
    engine, keys = synced
    client, server = ip_address("198.51.100.7"), ip_address("192.0.2.10")
    keys.flows = tuple((client, 1024 + n, server, 80) for n in range(9000))
    await engine.apply(wanted(seconds=600.0))
    answer = await asyncio.to_thread(synproxyd.ask, daemon.control, "flows", limit=1)
    # More than one line takes; the table of the tests is too small for a few of them.
    assert 8500 < answer["total"] <= 9000
    assert 590 < keys.seconds <= 600


async def test_refresh_when_keys_are_lost_and_found_then_the_mode_follows(
    synced: tuple[NativeEngine, Keys], daemon: Synproxyd
) -> None:
    """What is in force falls back, and comes back, under the same id; unknown changes nothing."""
    engine, keys = synced
    row = wanted()
    await engine.apply(row)
    keys.said = Standing(why="not asked yet", unknown=True)
    assert await engine.refresh(row) is None
    keys.said = Standing(why="two probes did not fit")
    assert await engine.refresh(row) == Choice(
        "splice", down=("not by isn-sync: two probes did not fit",)
    )
    assert await engine.refresh(row) is None
    assert (await listed(daemon))[row.id]["mode"] == "splice"
    keys.said = None
    back = await engine.refresh(row)
    assert back is not None
    assert (back.mode, back.down) == ("isn-sync", ())
    assert (await listed(daemon))[row.id]["mode"] == "isn-sync"
    await engine.release(row)
    assert keys.released == [row.id]


async def test_plan_when_the_server_is_not_proven_yet_then_it_says_so(
    synced: tuple[NativeEngine, Keys],
) -> None:
    """In peace nothing is proven; a dry run shows what it would do, with `fallback: pass` too."""
    engine, keys = synced
    keys.said = Standing(why="a plain sequence number", unknown=True)
    plan = await engine.plan(wanted(Tcp(mode="isn-sync", fallback="pass")))
    assert "not by isn-sync: the server is to be made ready and proven first" in plan.steps


async def test_refresh_when_it_must_pass_then_nothing_is_in_force(
    synced: tuple[NativeEngine, Keys], daemon: Synproxyd
) -> None:
    """With `fallback: pass` no cookie is made that the server would not take."""
    engine, keys = synced
    row = wanted(Tcp(mode="isn-sync", fallback="pass"))
    await engine.apply(row)
    keys.said = Standing(why="two probes did not fit")
    with pytest.raises(EngineTemporaryError, match="two probes did not fit"):
        await engine.refresh(row)
    assert await listed(daemon) == {}


async def test_refresh_when_only_time_has_passed_then_nothing_is_sent(
    synced: tuple[NativeEngine, Keys], daemon: Synproxyd
) -> None:
    """A clock that goes as before is no news; one that has drifted is."""
    engine, keys = synced
    row = wanted()
    await engine.apply(row)
    before = (await listed(daemon))[row.id]["expires_ms"]
    later = replace(row, deadline=row.deadline + 1000)
    assert await engine.refresh(later) is None
    assert (await listed(daemon))[row.id]["expires_ms"] <= before
    now = keys.standing(row)
    assert now.keys is not None
    clock = replace(now.keys.clock, timestamp_ms=now.keys.clock.timestamp_ms - 17)
    keys.said = Standing(replace(now.keys, clock=clock))
    assert await engine.refresh(later) is None
    assert (await listed(daemon))[row.id]["expires_ms"] > before


async def test_plan_when_impossible_then_the_field_is_named(engine: NativeEngine) -> None:
    """The check is that of synproxyd, and so are the words."""
    rules = tuple(
        AclRule(action="drop", protocol="udp", source_ports=(str(port),)) for port in range(1, 65)
    )
    wide = tuple(rule.model_copy(update={"destination_ports": ("1", "3", "5")}) for rule in rules)
    with pytest.raises(EnginePermanentError, match="acl"):
        await engine.plan(wanted(Acl(rules=wide)))


async def test_services_when_in_peace_then_watched_and_not_in_the_inventory(
    engine: NativeEngine, daemon: Synproxyd
) -> None:
    """Standing watches learn flows; the ledger need not know them."""
    answer = await asyncio.to_thread(synproxyd.ask, daemon.control, "list")
    watches = {one["id"]: one for one in answer["mitigations"]}
    assert sorted(watches) == ["watch-web-0", "watch-web-1"]
    assert all(100_000 < one["expires_ms"] <= 120_000 for one in watches.values())
    assert await engine.inventory() == []


async def test_learning_when_off_then_no_watch(daemon: Synproxyd) -> None:
    """`learn: false`."""
    quiet = config_of(daemon).model_copy(update={"learn": False})
    made = NativeEngine(quiet, (WEB,), SystemClock(), NoKeys())
    await made.start()
    await made.telemetry()
    await made.close()
    answer = await asyncio.to_thread(synproxyd.ask, daemon.control, "list")
    assert answer["mitigations"] == []


async def test_foreign_when_found_then_reported_and_never_touched(
    engine: NativeEngine, daemon: Synproxyd
) -> None:
    """What somebody else put there stays; what carries our tag can be withdrawn."""
    body = {"revision": 9, "target": "192.0.2.9/32", "expires_ms": 60_000, "kind": "sorb"}
    for name in ("by-hand", "m-unknown"):
        await asyncio.to_thread(
            synproxyd.ask, daemon.control, "put", id=name, sorb={"pps": 1, "block_ms": 1000}, **body
        )
    found = {one.mitigation_id: one for one in await engine.inventory()}
    assert sorted(found) == ["", "m-unknown"]
    await engine.withdraw(found["m-unknown"])
    with pytest.raises(EnginePermanentError, match="not ours"):
        await engine.withdraw(found[""])
    assert list(await listed(daemon)) == ["by-hand"]


async def test_synproxyd_when_restarted_then_the_engine_goes_on(
    engine: NativeEngine, daemon: Synproxyd
) -> None:
    """Pins keep what is in force; the engine connects again and watches anew."""
    await engine.apply(wanted())
    await asyncio.to_thread(daemon.kill)
    with pytest.raises(EngineTemporaryError):
        await engine.rates()
    assert not (await engine.health()).ok
    await asyncio.to_thread(daemon.start)
    await SystemClock().sleep(0.5)
    assert (await engine.health()).ok
    await engine.apply(wanted())
    await engine.telemetry()
    answer = await asyncio.to_thread(synproxyd.ask, daemon.control, "list")
    assert {one["id"] for one in answer["mitigations"]} == {
        "m-0123456789",
        "watch-web-0",
        "watch-web-1",
    }


async def test_health_when_attached_then_it_says_where(engine: NativeEngine) -> None:
    """`status` shows interface and mode."""
    health = await engine.health()
    assert health.ok, health.detail
    assert health.interfaces == (Interface("outside", "native"),)
