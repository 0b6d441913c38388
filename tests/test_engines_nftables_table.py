# SPDX-License-Identifier: Apache-2.0
"""The engine's table: adopted, upgraded, mended, and shared with strangers."""

from collections.abc import Iterator

import pytest

from hub.errors import EnginePermanentError
from hub.rules.actions import AclRule, Action
from tests.support.netns import SERVER4, SERVER6, Lab
from tests.support.nftables import (
    DROP_ICMP,
    acl,
    elements,
    engine_on,
    ids,
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


async def test_table_when_it_stands_already_is_adopted_with_what_is_live(lab: Lab) -> None:
    """A restart changes nothing, not even handles, and knows what is there."""
    first = engine_on(lab)
    await first.start()
    for number, action in enumerate(ACTIONS):
        await first.apply(mitigation(action, SERVER4, number))
    before = await lab.nft("--handle", "--stateless", "list", "ruleset")
    second = engine_on(lab)
    await second.start()
    assert before == await lab.nft("--handle", "--stateless", "list", "ruleset")
    assert ids(await second.inventory()) == [f"m-{number:010}" for number in range(3)]
    await second.apply(mitigation(DROP_ICMP, SERVER4, 1))
    assert len(await second.inventory()) == 3


async def test_table_when_its_layout_is_another_is_replaced_with_what_is_live(lab: Lab) -> None:
    """Elements keep their remaining time, sources stay blocked, counters go on."""
    engine = engine_on(lab)
    await engine.start()
    rows = [
        mitigation(action, target, number * 10 + place, ttl=300)
        for number, action in enumerate((*ACTIONS, acl(AclRule(action="limit", pps="9"))))
        for place, target in enumerate(TARGETS)
    ]
    for row in rows:
        await engine.apply(row)
    engine_sets = (line.split()[1] for line in (await ruleset(lab)).splitlines() if "set " in line)
    block = next(name for name in engine_sets if name.startswith("sorb4") and "_block" in name)
    blocked = f"{{ {SERVER4} . 203.0.113.9 timeout 500s }}"
    await lab.nft("add", "element", "inet", "fnm_hub", block, blocked)
    await lab.nft("add", "chain", "inet", "fnm_hub", "manual")
    before = await elements(lab)
    for chain in ("keep_hooks", "learn_out"):
        await lab.nft("delete", "chain", "inet", "fnm_hub", chain)
    layout = next(word for word in (await ruleset(lab)).split() if word.startswith("layout_"))
    await lab.nft("delete", "chain", "inet", "fnm_hub", layout)
    older = ("layout_0123456789", "old_hook", "{ type filter hook input priority 5; }")
    await lab.nft("add", "chain", "inet", "fnm_hub", older[0])
    await lab.nft("add", "chain", "inet", "fnm_hub", older[1], older[2])
    await lab.nft("add", "rule", "inet", "fnm_hub", older[1], "drop", "comment", '"fnm-hub"')
    second = engine_on(lab)
    await second.start()
    after = await ruleset(lab)
    assert [word in after for word in (layout, "keep_hooks", "203.0.113.9", "manual")] == [True] * 4
    assert [word in after for word in older[:2]] == [False] * 2
    assert [one[1] for one in before] == [one[1] for one in await elements(lab)]
    found = await second.inventory()
    assert ids(found) == ["", *sorted(row.id for row in rows)]
    assert all(280 < (one.expires_in or 0) <= 302 for one in found if one.mitigation_id)


async def test_table_when_it_cannot_be_upgraded_is_made_anew(lab: Lab) -> None:
    """A chain that somebody else still uses stands in the way: the table works nevertheless."""
    await lab.nft("add", "table", "inet", "fnm_hub")
    await lab.nft("add", "chain", "inet", "fnm_hub", "layout_0123456789")
    await lab.nft("add", "chain", "inet", "fnm_hub", "manual")
    await lab.nft("add", "rule", "inet", "fnm_hub", "manual", "jump", "layout_0123456789")
    engine = engine_on(lab)
    await engine.start()
    assert (await engine.health()).ok
    await engine.apply(mitigation(tcp(), SERVER4))
    assert ids(await engine.inventory()) == ["m-0000000001"]


async def test_table_when_somebody_flushes_the_ruleset_comes_back(lab: Lab) -> None:
    """A firewall's restart does not stop the engine: the table returns, and apply works."""
    engine = engine_on(lab)
    await engine.start()
    before = await ruleset(lab)
    await engine.apply(mitigation(DROP_ICMP, SERVER4))
    await lab.nft("flush", "ruleset")
    assert not (await engine.health()).ok
    await engine.apply(mitigation(DROP_ICMP, SERVER6, 2))
    assert ids(await engine.inventory()) == ["m-0000000002"]
    await lab.nft("flush", "ruleset")
    assert await engine.inventory() == []
    assert before == await ruleset(lab)
    assert (await engine.health()).ok


async def test_mitigation_when_a_part_is_missing_is_not_listed_and_applied_again(lab: Lab) -> None:
    """Half a protection counts as none, so that the reconciler mends it."""
    engine = engine_on(lab)
    await engine.start()
    row = mitigation(tcp(), SERVER4)
    await engine.apply(row)
    whole = await ruleset(lab)
    await lab.nft("delete", "element", "inet", "fnm_hub", "raw4_h0", f"{{ {SERVER4} }}")
    assert await engine.inventory() == []
    await engine.apply(row)
    assert len(await engine.inventory()) == 1
    chain = next(word for word in whole.split() if word.endswith("_syn") and "4_" in word)
    await lab.nft("flush", "chain", "inet", "fnm_hub", chain)
    assert await engine.inventory() == []
    await engine.apply(row)
    assert len(await engine.inventory()) == 1


async def test_strangers_when_they_are_in_our_table_are_reported_and_kept(lab: Lab) -> None:
    """Rules, chains, sets and elements of somebody else survive all that we do."""
    engine = engine_on(lab)
    await engine.start()
    table = ("inet", "fnm_hub")
    await lab.nft("add", "rule", *table, "proxy_input", "tcp", "dport", "9", "drop")
    await lab.nft("add", "chain", *table, "manual")
    await lab.nft("add", "set", *table, "mine", "{ type ipv4_addr; }")
    await lab.nft("add", "element", *table, "flt4_h0", f"{{ {SERVER4} : jump manual }}")
    row = mitigation(DROP_ICMP, SERVER4)
    await engine.apply(row)
    found = await engine.inventory()
    assert ids(found) == ["", "", "", "", row.id]
    words = " ".join(one.what for one in found)
    for part in ("rule with handle", "chain manual", "set mine", f"element {SERVER4}/32"):
        assert part in words
    stranger = next(one for one in found if not one.mitigation_id)
    with pytest.raises(EnginePermanentError, match="not ours"):
        await engine.withdraw(stranger)
    await engine.release(row)
    assert ids(await engine.inventory()) == [""] * 4


async def test_tables_when_they_are_of_others_are_left_alone(lab: Lab) -> None:
    """The rest of the ruleset is the same before, during and after."""
    await lab.nft("add", "table", "ip", "theirs")
    await lab.nft("add", "chain", "ip", "theirs", "in", "{ type filter hook input priority 0; }")
    await lab.nft("add", "rule", "ip", "theirs", "in", "tcp", "dport", "22", "accept")
    theirs = await ruleset(lab)
    engine = engine_on(lab)
    await engine.start()
    row = mitigation(tcp(), SERVER4)
    await engine.apply(row)
    assert theirs in await ruleset(lab)
    assert "beside ip theirs" in (await engine.health()).detail
    await engine.release(row)
    await lab.nft("delete", "table", "inet", "fnm_hub")
    assert theirs == await ruleset(lab)
