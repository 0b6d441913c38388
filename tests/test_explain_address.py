# SPDX-License-Identifier: Apache-2.0
"""`explain` of an address: why nothing happens there, with a real journal and the real core."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from hub.config import Caps, Service
from hub.documents import Memory, Switch, batch_of
from hub.explainer import Explainer
from hub.pipeline.deciding import propose
from hub.pipeline.events import take_sighting
from hub.pipeline.guarding import asked, refuse
from hub.pipeline.operating import release_one
from hub.pipeline.state import State
from hub.rules.prospects import prospects
from hub.rules.ruleset import Chosen, RuleSet
from tests.support.core import config, rule_set, sighting, state
from tests.support.store import opened

NOW = 1000.0
WEB = Service.model_validate({"name": "web", "prefixes": ["192.0.2.0/28"], "tcp_ports": [80]})
ONLY_DNS = """
rules:
  - name: dns
    when: {service: web, protocol: udp}
    then: [{sorb: {pps: 100, block: 10m}}]
    ttl: 10m
"""


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    """The usual rules; files are read before any loop runs."""
    return rule_set(tmp_path)


@pytest.fixture
def dns(tmp_path: Path) -> RuleSet:
    """One rule, for something else than a SYN flood."""
    return rule_set(tmp_path, ONLY_DNS, config(services=(WEB,)))


async def reasons(core: State, path: Path, address: str = "192.0.2.10") -> dict[str, str]:
    """Return why nothing happens on an address, by kind, after what `core` has been through."""
    async with opened(path / "journal.sqlite3") as journal:
        explainer = Explainer(core, journal, list)
        found = await explainer.explain(address, NOW)
    assert found is not None
    return {one["what"]: one["why"] for one in found["reasons"]}


async def keep(core: State, path: Path, *events: Any) -> None:
    """Take in events and write what they do into the journal."""
    async with opened(path / "journal.sqlite3") as journal:
        for event in events:
            await journal.write(batch_of(take_sighting(core, event, NOW), NOW))


async def test_reasons_when_nobody_reported_it_then_never_seen(
    tmp_path: Path, rules: RuleSet
) -> None:
    """Silence of the detector is told apart from everything that the hub decides."""
    core = state(rules, config(services=(WEB,)))
    assert set(await reasons(core, tmp_path)) == {"never_seen"}
    assert "no_service" in await reasons(core, tmp_path, "192.0.2.200")


async def test_reasons_when_met_then_nothing_stands_in_the_way(
    tmp_path: Path, rules: RuleSet
) -> None:
    """What is in force is shown, and no reason why it should not be."""
    core = state(rules, config(services=(WEB,)))
    await keep(core, tmp_path, sighting())
    assert await reasons(core, tmp_path) == {}
    async with opened(tmp_path / "journal.sqlite3") as journal:
        found = await Explainer(core, journal, list).explain("192.0.2.0/28", NOW)
    assert found is not None
    assert [row["target"] for row in found["in_force"]] == ["192.0.2.10/32"]
    assert [one["targets"] for one in found["attacks"]] == [["192.0.2.10/32"]]


FROZEN = Memory(frozen=Switch(NOW, "anna", "move"))


@pytest.mark.parametrize(
    ("kind", "words", "change"),
    [
        ("dry_run", "nothing is applied", lambda core: setattr(core, "config", dry())),
        ("freeze", "anna put the freeze on: move", lambda core: setattr(core, "memory", FROZEN)),
        ("guard", "never_block", lambda core: setattr(core, "config", never())),
        ("cap", "0 of 0 mitigations", lambda core: setattr(core, "config", full())),
    ],
)
async def test_reasons_when_something_holds_all_back_then_it_is_named(
    tmp_path: Path, rules: RuleSet, kind: str, words: str, change: Callable[[State], None]
) -> None:
    """Dry-run, a freeze, a guard and a full cap each say so themselves."""
    core = state(rules, config(services=(WEB,)))
    change(core)
    assert words in (await reasons(core, tmp_path))[kind]


def dry() -> Any:
    """Return a configuration in dry-run."""
    return config(services=(WEB,), dry_run=True)


def never() -> Any:
    """Return one that lists the address."""
    return config(services=(WEB,), never=["192.0.2.10/32"])


def full() -> Any:
    """Return one that allows nothing at a time."""
    guard = config().guard.model_copy(update={"caps": Caps(total=0)})
    return config(services=(WEB,)).model_copy(update={"guard": guard})


async def test_reasons_when_released_by_hand_then_hold_off(tmp_path: Path, rules: RuleSet) -> None:
    """A hold-off names what is held off and for how long."""
    core = state(rules, config(services=(WEB,)))
    await keep(core, tmp_path, sighting())
    (row,) = core.ledger
    release_one(core, row.id, "anna", "test", NOW)
    assert "an operator released nftables" in (await reasons(core, tmp_path))["hold_off"]


async def test_reasons_when_no_rule_matched_then_what_each_wanted(
    tmp_path: Path, dns: RuleSet
) -> None:
    """An attack that no rule takes says of each rule what it wanted and what was seen."""
    using = config(services=(WEB,))
    core = state(dns, using)
    await keep(core, tmp_path, sighting())
    why = (await reasons(core, tmp_path))["no_rule"]
    assert "dns wants protocol ['udp'], seen tcp" in why


async def test_reasons_when_engine_has_trouble_then_its_error(
    tmp_path: Path, rules: RuleSet
) -> None:
    """What is wanted and not in force shows what the engine said."""
    core = state(rules, config(services=(WEB,)))
    await keep(core, tmp_path, sighting())
    (row,) = core.ledger
    core.ledger.trouble(row.id, "nft: no such file")
    assert "nft: no such file" in (await reasons(core, tmp_path))["trouble"]


def test_prospects_when_the_address_decides_then_ruled_out_or_open(tmp_path: Path) -> None:
    """Clauses on the address are decided, all others are what the attack must be like."""
    rules = rule_set(tmp_path, ONLY_DNS, config(services=(WEB,)))
    (inside,) = prospects(rules, ip_network("192.0.2.10/32"), "web")
    (outside,) = prospects(rules, ip_network("192.0.2.200/32"), None)
    assert (inside["possible"], inside["needs"]) == (True, ["protocol udp"])
    assert (outside["possible"], outside["ruled_out"]) == (
        False,
        {"clause": "service", "wanted": ["web"], "seen": None},
    )


def test_prospects_when_a_rule_takes_everything_then_those_behind_are_not_reached(
    tmp_path: Path,
) -> None:
    """For an address that a rule takes whatever the attack is like, it is the last one."""
    text = """
rules:
  - {name: mine, when: {target: 192.0.2.0/24}, then: []}
  - {name: later, when: always, then: []}
"""
    rules = rule_set(tmp_path, text)
    found = prospects(rules, ip_network("192.0.2.10/32"), None)
    assert [one["reached"] for one in found] == [True, False]
    found = prospects(rules, ip_network("198.51.100.1/32"), None)
    assert [(one["possible"], one["reached"]) for one in found] == [(False, True), (True, True)]


@pytest.mark.parametrize(
    "using", [config(), dry(), never(), full(), config(own=["198.51.100.0/24"])]
)
@pytest.mark.parametrize("memory", [Memory(), FROZEN])
@pytest.mark.parametrize("engine", ["nftables", "nobody"])
def test_asked_when_compared_with_refuse_then_they_agree(
    tmp_path: Path, using: Any, memory: Memory, engine: str
) -> None:
    """The guards that are told are those that were asked: one list serves both."""
    core = state(rule_set(tmp_path), using, memory=memory)
    (rule, *_) = core.rules.rules
    chosen = Chosen(rule.name, rule.actions, rule.ttl, rule.linger, None, dry_run=False)
    attack = take_sighting(core, sighting(), NOW).attacks.popitem()[1]
    proposal = propose(core, attack, chosen, rule.actions[0], ip_network("192.0.2.10/32"))
    proposal = replace(proposal, engine=engine)
    refusal, told = refuse(core, proposal, NOW), asked(core, proposal, NOW)
    assert [one["passed"] for one in told[:-1]] == [True] * (len(told) - 1)
    if refusal is None:
        assert told[-1]["passed"]
    else:
        assert (told[-1]["guard"], told[-1]["why"]) == (refusal.guard, refusal.why)


def test_mitigation_when_begun_then_it_keeps_the_delivery(tmp_path: Path) -> None:
    """What an event begins carries the event's delivery, and so does its attack."""
    core = state(rule_set(tmp_path))
    take_sighting(core, replace(sighting(), delivery="delivery-9"), NOW)
    assert [row.delivery for row in core.ledger] == ["delivery-9"]
    assert [attack.delivery for attack in core.tracker] == ["delivery-9"]
