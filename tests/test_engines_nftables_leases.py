# SPDX-License-Identifier: Apache-2.0
"""What the engine keeps in the kernel: leases, the recorded setting, bursts."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from hub.config import NftablesEngine as Config
from hub.engines.nftables.layout import VERSIONS, gate_names
from hub.errors import EnginePermanentError, EngineTemporaryError
from hub.mitigations.engine import Installed
from hub.rules.actions import AclRule, Action, Command, Tcp
from tests.support.netns import GATEWAY, SERVER4, SERVER6, Lab
from tests.support.nftables import (
    CLOCK,
    DROP_ICMP,
    LOOSE,
    MemoryStore,
    acl,
    elements,
    engine_on,
    ids,
    loose,
    mitigation,
    ruleset,
    sorb,
    tcp,
)

ACTIONS: list[Action] = [tcp(), DROP_ICMP, sorb()]
TARGETS = [SERVER4, SERVER6, "192.0.2.0/24", "2001:db8:2::/64"]


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Return a lab of its own for each test."""
    with Lab() as made:
        yield made


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.kind)
async def test_apply_when_done_twice_is_done_once_and_renews(
    lab: Lab, action: Action, target: str
) -> None:
    """The same thing stands there, until the later deadline; release leaves nothing (P5)."""
    engine = engine_on(lab)
    await engine.start()
    empty = await ruleset(lab)
    first = mitigation(action, target, ttl=100)
    await engine.apply(first)
    once = [element[1] for element in await elements(lab)]
    await engine.apply(replace(first, deadline=first.deadline + 500, revision=2))
    await engine.apply(first)  # overtaken: the renewal above stays
    assert once == [element[1] for element in await elements(lab)]
    (found,) = await engine.inventory()
    assert found.mitigation_id == first.id
    assert 590 < (found.expires_in or 0) <= 602
    await engine.release(first)  # overtaken too
    assert len(await engine.inventory()) == 1
    for _ in range(2):
        await engine.release(replace(first, revision=2))
    assert await engine.inventory() == []
    assert empty == await ruleset(lab)


async def test_mitigation_when_the_hub_is_dead_ends_by_itself(lab: Lab) -> None:
    """Past the deadline the kernel alone has removed it (P2)."""
    engine = engine_on(lab)
    await engine.start()
    rows = [mitigation(tcp(), target, number, ttl=1.5) for number, target in enumerate(TARGETS)]
    for row in rows:
        await engine.apply(row)
    deadline = max(row.deadline for row in rows)
    del engine
    assert await elements(lab) != []
    async with asyncio.timeout(20):
        while await elements(lab):
            await CLOCK.sleep(0.1)
    assert deadline < CLOCK.time() < deadline + 5


async def test_setting_when_the_hub_was_killed_is_restored_by_the_next(lab: Lab) -> None:
    """The former value is durable; it comes back once nothing needs the changed one."""
    store = MemoryStore()
    first = engine_on(lab, store)
    await first.start()
    await first.apply(mitigation(tcp(), SERVER4, ttl=3))
    del first
    second = engine_on(lab, store)
    await second.start()
    assert await loose(lab) == "0"
    async with asyncio.timeout(20):
        while await elements(lab):
            await CLOCK.sleep(0.1)
    third = engine_on(lab, store)
    await third.start()
    assert (await loose(lab), store.kept) == ("1", {"nftables.sysctl": "{}"})


async def test_setting_when_it_was_0_before_is_left_alone(lab: Lab) -> None:
    """What the operator has set is neither recorded nor changed."""
    store = MemoryStore()
    engine = engine_on(lab, store)
    await engine.start()
    await lab.files(GATEWAY).write(LOOSE, "0")
    row = mitigation(tcp(), SERVER4)
    await engine.apply(row)
    await engine.release(row)
    assert (await loose(lab), store.kept) == ("0", {})


async def test_setting_when_somebody_resets_it_is_set_again_by_the_inventory(lab: Lab) -> None:
    """A `sysctl --system` in the middle of an attack is put right within a reconcile."""
    store = MemoryStore()
    engine = engine_on(lab, store)
    await engine.start()
    row = mitigation(tcp(), SERVER4)
    await engine.apply(row)
    await lab.files(GATEWAY).write(LOOSE, "1")
    await engine.inventory()
    assert await loose(lab) == "0"
    await engine.release(row)
    assert await loose(lab) == "1"


async def test_engine_when_settings_are_not_its_own_refuses_to_proxy(lab: Lab) -> None:
    """With manage_sysctls off and the setting wrong it installs nothing and says what to do."""
    engine = engine_on(lab, config=Config(manage_sysctls=False))
    await engine.start()
    for attempt in (engine.plan, engine.apply):
        with pytest.raises(EnginePermanentError, match="sysctl -w"):
            await attempt(mitigation(tcp(), SERVER4))
    assert await elements(lab) == []
    await lab.files(GATEWAY).write(LOOSE, "0")
    await engine.apply(mitigation(tcp(), SERVER4))
    assert await loose(lab) == "0"


async def test_withdraw_when_the_ledger_does_not_know_it_removes_it(lab: Lab) -> None:
    """What an earlier life left behind goes, and only that."""
    first = engine_on(lab)
    await first.start()
    await first.apply(mitigation(tcp(), SERVER4, 1))
    await first.apply(mitigation(sorb(), SERVER4, 2))
    second = engine_on(lab)
    await second.start()
    for one in await second.inventory():
        if one.mitigation_id == "m-0000000001":
            await second.withdraw(one)
    assert ids(await second.inventory()) == ["m-0000000002"]
    assert await loose(lab) == "0"  # nobody has recorded what it was
    await second.withdraw(Installed("m-0000000009", "gone already"))


async def test_profile_when_its_elements_have_ended_is_removed_by_the_inventory(lab: Lab) -> None:
    """Chains and sets do not pile up when the hub missed the end."""
    engine = engine_on(lab)
    await engine.start()
    empty = await ruleset(lab)
    await engine.apply(mitigation(sorb(), SERVER4, ttl=1))
    async with asyncio.timeout(20):
        while empty != await ruleset(lab):
            await CLOCK.sleep(0.3)
            await engine.inventory()


async def test_burst_when_a_thousand_come_at_once_shares_transactions(lab: Lab) -> None:
    """1,000 mitigations are in force after a handful of transactions."""
    engine = engine_on(lab)
    await engine.start()
    empty = await ruleset(lab)
    rows = [
        mitigation(ACTIONS[number % 3], f"10.{number // 250}.{number % 250}.1", number)
        for number in range(1000)
    ]
    with capture_logs() as logs:
        await asyncio.gather(*(engine.apply(row) for row in rows))
    assert sum(one["event"] == "nftables.committed" for one in logs) <= 8
    assert len(await engine.inventory()) == 1000
    await asyncio.gather(*(engine.release(row) for row in rows))
    assert empty == await ruleset(lab)


async def test_burst_when_one_is_impossible_carries_out_the_others(lab: Lab) -> None:
    """Only the one that nft refuses fails, with nft's own words."""
    engine = engine_on(lab)
    await engine.start()
    bad = mitigation(sorb(pps=2**70), SERVER6, 99)
    rows = [mitigation(DROP_ICMP, f"192.0.2.{number}", number) for number in range(10)]
    calls = [engine.apply(row) for row in (*rows[:5], bad, *rows[5:])]
    results = await asyncio.gather(*calls, return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    assert [type(failure) for failure in failures] == [EnginePermanentError]
    assert len(await engine.inventory()) == 10


async def test_layers_when_all_are_taken_refuse_with_the_names(lab: Lab) -> None:
    """The operator learns what stands in the way; after a release there is room."""
    engine = engine_on(lab)
    await engine.start()
    rows = [
        mitigation(acl(AclRule(action="drop", destination_ports=(str(number),))), SERVER4, number)
        for number in range(1, 6)
    ]
    for row in rows[:4]:
        await engine.apply(row)
    for attempt in (engine.plan, engine.apply):
        with pytest.raises(EngineTemporaryError, match="m-0000000001"):
            await attempt(rows[4])
    await engine.release(rows[0])
    await engine.apply(rows[4])
    assert len(await engine.inventory()) == 4


async def test_plan_when_it_can_be_done_changes_nothing(lab: Lab) -> None:
    """The steps say what would happen, the neighbours are named, the ruleset stays."""
    engine = engine_on(lab)
    await engine.start()
    await engine.apply(mitigation(DROP_ICMP, "192.0.2.0/24", 7))
    before = (await ruleset(lab), await loose(lab))
    for action in ACTIONS:
        for target in TARGETS:
            plan = await engine.plan(mitigation(action, target, 1, ttl=90))
            assert ("m-0000000007" in " ".join(plan.steps)) == ("." in target)
            assert "1m 30s" in plan.steps[-1]
    assert before == (await ruleset(lab), await loose(lab))


async def test_kernel_proxy_when_it_stands_in_for_something_better_says_so_once(lab: Lab) -> None:
    """`auto` has its reason in the plan and in one line of the log; `kernel` is what was asked."""
    engine = engine_on(lab)
    await engine.start()
    named = mitigation(Tcp(mode="kernel"), SERVER4, 2)
    with capture_logs() as logs:
        plans = [await engine.plan(row) for row in (mitigation(tcp(), SERVER4), named)]
        await engine.apply(mitigation(tcp(), SERVER4))
        await engine.apply(mitigation(tcp(), SERVER4, revision=2))
        await engine.apply(named)
    why = "not by isn-sync or splice: engine native is off, or not the one that the rule names"
    assert [why in plan.steps for plan in plans] == [True, False]
    (said,) = [line for line in logs if line["event"] == "tcp.stepped_down"]
    assert (said["mode"], said["mitigation"], said["why"]) == ("kernel", "m-0000000001", why)


async def test_plan_when_it_cannot_be_done_says_why(lab: Lab) -> None:
    """Wrong kind, target, time and parameters are told apart."""
    engine = engine_on(lab)
    await engine.start()
    limit = acl(AclRule(action="limit"))
    ports = acl(AclRule(action="drop", protocol="gre", destination_ports=("1",)))
    reverse = acl(AclRule(action="drop", protocol="udp", length="9-1"))
    wrong = {
        "nothing that nftables can do": mitigation(Command(run="x"), SERVER4),
        "wider than /8": mitigation(tcp(), "0.0.0.0/0"),
        "deadline has passed": mitigation(tcp(), SERVER4, ttl=-1),
        "limit has no pps": mitigation(limit, SERVER4),
        "has no ports": mitigation(ports, SERVER4),
        "is not a range": mitigation(reverse, SERVER4),
    }
    for words, row in wrong.items():
        for attempt in (engine.plan, engine.apply):
            with pytest.raises(EnginePermanentError, match=words):
                await attempt(row)


async def test_capabilities_when_asked_promise_leases(lab: Lab) -> None:
    """What it installs ends by itself, and the detector still sees the attack."""
    capabilities = engine_on(lab).capabilities()
    assert capabilities.kinds == {"tcp", "acl", "sorb"}
    assert (capabilities.leases, capabilities.hides_traffic) == (True, False)
    assert len(gate_names()) == 19 * len(VERSIONS)
