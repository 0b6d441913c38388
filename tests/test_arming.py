# SPDX-License-Identifier: Apache-2.0
"""Leaving dry-run and going back: what is asked for, what follows, what survives."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from hub.config import UNTIL_ARMED, Config
from hub.documents import Arming, Memory, dump_memory, read_memory
from hub.drills.model import Result
from hub.drills.place import fingerprint
from hub.errors import NotReadyError
from hub.mitigations.executor import Verb
from hub.mitigations.model import MitigationState
from hub.pipeline import answers
from hub.pipeline.arming import FRESH, arm, disarm, missing
from hub.pipeline.events import take_sighting
from hub.pipeline.state import State
from hub.rules.ruleset import RuleSet
from tests.support.core import config, rule_set, sighting, state
from tests.support.drills import armable, command, drill
from tests.support.hub_process import RULES, HubProcess, until

NOW = 1_000_000.0
PLACE = "/etc/fnm-hub/config.yaml:7"


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    """The usual rules."""
    return rule_set(tmp_path)


def using(dry_run: object = UNTIL_ARMED, never: tuple[str, ...] = ("192.0.2.66/32",)) -> Config:
    """Return a configuration that is to be armed."""
    return config(never=never).model_copy(update={"dry_run": dry_run})


def passed(core: State, **changed: object) -> Result:
    """Return a drill that passed a day ago, of these rules and this configuration."""
    whole = Result(
        id="d-0123456789",
        target=ip_address("192.0.2.10"),
        kind="syn",
        enforced=False,
        passed=True,
        why="",
        actor="op",
        began_at=NOW - 86400.0,
        ended_at=NOW - 86400.0,
        rules=core.rules.version,
        config=fingerprint(core.config),
    )
    return replace(whole, **changed)  # type: ignore[arg-type]


def armed(core: State) -> State:
    """Return the same core, after a drill that passed and `arm`."""
    core.memory = replace(core.memory, passed=passed(core))
    arm(core, "op", "go", NOW, place=PLACE)
    return core


@pytest.mark.parametrize(
    ("dry_run", "said", "expected"),
    [
        (UNTIL_ARMED, None, True),
        (UNTIL_ARMED, True, False),
        (UNTIL_ARMED, False, True),
        (True, None, True),
        (True, True, True),
        (True, False, True),
        (False, None, False),
        (False, True, False),
        (False, False, True),
    ],
)
def test_dry_run_when_configuration_and_operator_speak_then_as_the_table_has_it(
    rules: RuleSet, dry_run: object, *, said: bool | None, expected: bool
) -> None:
    """`true` always wins, `false` is armed without a word, in between the operator decides."""
    arming = None if said is None else Arming(said, NOW, "op", "")
    core = state(rules, using(dry_run), memory=Memory(arming=arming))
    assert core.dry_run is expected


def test_upgrade_when_armed_by_the_configuration_then_stays_armed(rules: RuleSet) -> None:
    """A journal of the release before knows of no arming: `dry_run: false` goes on as it was."""
    old = '{"frozen":null,"draining":null,"hold_offs":{},"orphans":[]}'
    core = state(rules, using(dry_run=False), memory=read_memory(old))
    assert core.dry_run is False
    assert read_memory(dump_memory(core.memory)) == core.memory


def test_arm_when_everything_is_missing_then_each_is_named_with_its_command(
    rules: RuleSet,
) -> None:
    """Nothing is armed, and one answer names all that is missing."""
    core = state(rules, Config(dry_run=True))
    with pytest.raises(NotReadyError) as refused:
        arm(core, "op", "", NOW, place=PLACE)
    first, own, never, lacking = refused.value.problems
    assert first.startswith(f"{PLACE}: dry_run: true always wins")
    assert "guard.own_prefixes" in own
    assert "guard.never_block" in never
    assert lacking == "no drill has passed yet: run fnm-hub drill"
    assert all("fnm-hub" in problem for problem in refused.value.problems)
    assert core.memory.arming is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ended_at": NOW - FRESH - 60}, "more than 7d"),
        ({"rules": "other"}, "of other rules"),
        ({"config": "other"}, "of another configuration"),
    ],
)
def test_arm_when_the_drill_is_old_or_of_something_else_then_refused(
    rules: RuleSet, change: dict[str, object], why: str
) -> None:
    """A drill speaks for a week, and for the rules and the configuration that it went through."""
    core = state(rules, using())
    core.memory = replace(core.memory, passed=passed(core, **change))
    (found,) = missing(core, NOW, place=PLACE)
    assert why in found


def test_arm_when_the_configuration_changes_in_dry_run_alone_then_the_drill_counts(
    rules: RuleSet,
) -> None:
    """Following the advice of `arm` to change `dry_run` does not cost another drill."""
    core = state(rules, using(dry_run=True))
    core.memory = replace(core.memory, passed=passed(core))
    core.config = using()
    assert missing(core, NOW, place=PLACE) == []


def in_force(core: State, target: str) -> None:
    """Let an attack be met, to the engine's answer."""
    effects = take_sighting(core, sighting(target=target), NOW)
    (order,) = effects.orders
    assert order.verb is Verb.APPLY
    answers.applied(core, order, NOW)


def test_disarm_when_something_is_in_force_then_it_stays_and_nothing_begins(
    rules: RuleSet,
) -> None:
    """What protects goes on to its end, what is on its way does not come, the new is planned."""
    core = armed(state(rules, using()))
    in_force(core, "192.0.2.10")
    take_sighting(core, sighting(target="192.0.2.11", number=2), NOW)
    disarm(core, "op", "strange", NOW + 1)
    states = {str(row.target): row.state for row in core.ledger}
    assert states == {
        "192.0.2.10/32": MitigationState.ACTIVE,
        "192.0.2.11/32": MitigationState.RELEASING,
    }
    effects = take_sighting(core, sighting(target="192.0.2.12", number=3), NOW + 2)
    assert [order.verb for order in effects.orders] == [Verb.PLAN]


def test_disarm_when_asked_to_release_then_all_is_taken_back(rules: RuleSet) -> None:
    """With --release nothing stays in force."""
    core = armed(state(rules, using()))
    in_force(core, "192.0.2.10")
    effects = disarm(core, "op", "", NOW + 1, let_go=True)
    assert [order.verb for order in effects.orders] == [Verb.RELEASE]
    (row,) = [one for one in effects.audit if one.kind == "switch.disarm"]
    assert row.actor == "op"


def test_arm_when_an_attack_goes_on_then_it_is_met(rules: RuleSet) -> None:
    """What was only planned begins with the arming."""
    core = state(rules, using())
    take_sighting(core, sighting(), NOW)
    core.memory = replace(core.memory, passed=passed(core))
    effects = arm(core, "op", "", NOW + 1, place=PLACE)
    assert [order.verb for order in effects.orders] == [Verb.APPLY]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub in dry-run until it is armed."""
    with armable(tmp_path_factory.mktemp("arming")) as process:
        yield process


def first(hub: HubProcess, text: str) -> Callable[[], bool]:
    """Return whether status begins with the version and `text`."""
    return lambda: text in command(hub, "status").stdout.splitlines()[0]


def test_hub_when_drilled_armed_killed_and_disarmed_then_it_says_the_truth(
    hub: HubProcess,
) -> None:
    """The way from zero: refused, drilled, armed, across a kill, and back at once."""
    refused = command(hub, "arm")
    assert refused.returncode == 1
    assert "no drill has passed yet: run fnm-hub drill" in refused.stderr
    assert drill(hub)["passed"]
    assert command(hub, "arm", "--reason", "monday").returncode == 0
    hub.send("ban")
    until("in force", hub.active)
    assert hub.kernel() != []
    hub.kill()
    hub.start()
    assert first(hub, "ENFORCING")()
    assert hub.get("/v1/status")["arming"]["operator"]["reason"] == "monday"
    assert "fnm_hub_dry_run 0.0" in hub.request("GET", "/metrics")[1]
    done = command(hub, "disarm")
    assert "1 still in force" in done.stdout
    assert "fnm_hub_dry_run 1.0" in hub.request("GET", "/metrics")[1]
    hub.send("ban", "192.0.2.11")
    until("planned", lambda: any(row["state"] == "dry_run" for row in hub.mitigations()))
    assert not any("192.0.2.11" in one for one in hub.kernel())
    assert any("192.0.2.10" in one for one in hub.kernel())
    command(hub, "disarm", "--release")
    until("gone", lambda: not hub.kernel())
    assert [line["actor"] for line in hub.logged("switch.disarm")] == ["root", "root"]
    assert hub.post("/v1/arm", reason="tuesday")[0] == 200
    hub.kill()
    for extra in ("-wal", "-shm"):
        hub.store.with_name(hub.store.name + extra).unlink(missing_ok=True)
    hub.store.write_bytes(b"\xff" * 64 + hub.store.read_bytes()[64:])
    hub.start()
    assert hub.get("/v1/status")["store"]["recovered_from"] is not None
    assert hub.get("/v1/status")["arming"]["operator"]["reason"] == "tuesday"
    assert first(hub, "ENFORCING")()
    assert drill(hub)["passed"]
    hub.write_rules(RULES.replace("linger: 1s", "linger: 2s"))
    assert hub.post("/v1/reload")[0] == 200
    assert "was of other rules: run fnm-hub" in command(hub, "arm").stderr
    text = (hub.folder / "config.yaml").read_text()
    (hub.folder / "config.yaml").write_text(text.replace("dry_run: until-armed", "dry_run: true"))
    assert hub.post("/v1/reload")[0] == 200
    status, answer = hub.post("/v1/arm")
    assert status == 409
    assert answer["problems"][0].startswith(f"{hub.folder}/config.yaml:2: dry_run: true")
