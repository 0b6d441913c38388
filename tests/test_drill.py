# SPDX-License-Identifier: Apache-2.0
"""Drills through the real chain: hook, socket, journal, rules, guards, ledger, nftables."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from hub.errors import HubError
from tests.support.drills import (
    DRILL,
    ENFORCED,
    NOBODY,
    STAGES,
    argv,
    armable,
    command,
    drill,
    hook,
    said,
)
from tests.support.hub_process import REPOSITORY, RULES, HubProcess, until


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    """A hub in dry-run until it is armed, in a namespace of its own."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "nft").symlink_to("/usr/sbin/nft")
        program = folder / "tell.sh"
        program.write_text(
            f'#!/bin/sh\ncat >> {folder}/told\necho "$FNM_DRILL" >> {folder}/told.mark\n'
        )
        program.chmod(0o755)
        process = armable(folder, reconcile="10m", nft=str(folder / "nft"))
        process.config_text += f"  command: {{tell: {{argv: [{program}]}}}}\n"
        with process:
            yield process


@pytest.fixture
def restored(hub: HubProcess) -> Iterator[HubProcess]:
    """The same hub, for a test that changes its rules or its engine."""
    yield hub
    (hub.folder / "nft").unlink()
    (hub.folder / "nft").symlink_to("/usr/sbin/nft")
    hub.write_rules(RULES)
    assert hub.post("/v1/reload")[0] == 200
    until("ready again", hub.ready)


def begin(hub: HubProcess, **fields: Any) -> dict[str, Any]:
    """Begin a drill as the command does; return it with its token."""
    status, answer = hub.request("POST", "/v1/drills", json.dumps(fields).encode())
    assert status == 200, answer
    return dict(answer)


def finish(hub: HubProcess, drill_id: str) -> dict[str, Any]:
    """End a drill and return its result."""
    status, answer = hub.post(f"/v1/drills/{drill_id}/finish")
    assert status == 200, answer
    return dict(answer)


def notify(hub: HubProcess, token: str, target: str, action: str) -> None:
    """Call the hook with a mark, as the command does, without a report."""
    call = ["--drill", token, target, "incoming", "100000", action]
    subprocess.run([str(hook(hub)), *call], check=True, stdin=subprocess.DEVNULL)


def counted(hub: HubProcess, family: str) -> float:
    """Return the sum of a metric over its labels."""
    text = str(hub.request("GET", "/metrics")[1])
    found = re.findall(rf"^{family}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for value in found)


@pytest.mark.parametrize(("kind", "rule"), [("syn", "tcp"), ("icmp", "rest")])
def test_drill_when_all_is_well_then_planned_stage_by_stage(
    hub: HubProcess, kind: str, rule: str
) -> None:
    """In dry-run the whole chain is gone through, to the engine's plan, and nothing is applied."""
    result = drill(hub, kind=kind)
    stages = said(result)
    assert (result["passed"], result["why"]) == (True, "")
    assert tuple(stages) == STAGES
    assert all(stage["ok"] for stage in stages.values())
    times = [stage["at"] for stage in stages.values()]
    assert times == sorted(times)
    assert stages["decided"]["said"] == f"matched: {rule}"
    assert "would be applied" in stages["planned"]["said"]
    assert hub.kernel() == []
    assert hub.get("/v1/attacks")["items"] == hub.mitigations() == []


def test_drill_when_enforced_then_seen_in_the_kernel_and_gone_afterwards(hub: HubProcess) -> None:
    """With --enforce the countermeasure really stands, also in dry-run, and is taken back."""
    done = command(hub, *DRILL, str(hook(hub)), "--enforce", "192.0.2.32/28", "--yes", "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["why"]) == (0, "")
    assert tuple(said(result)) == ENFORCED
    assert result["target"] == "192.0.2.33"
    assert hub.kernel() == []
    active = [row for row in hub.mitigations(ended=True) if row["drill"] == result["id"]]
    assert [(row["state"], row["active_at"] is not None) for row in active] == [("released", True)]


def test_drill_when_seen_anywhere_then_marked_and_not_counted(hub: HubProcess) -> None:
    """Lists, events, audit and log bear the mark; figures of what is real stay as they are."""
    families = (
        "fnm_hub_mitigation_changes_total",
        "fnm_hub_event_to_active_seconds_count",
        "fnm_hub_engine_seconds_count",
        "fnm_hub_mitigations_refused_total",
    )
    before = {family: counted(hub, family) for family in families}
    drills = counted(hub, "fnm_hub_drills_total")
    result = drill(hub, enforce="192.0.2.40/32", reason="monday")
    assert {family: counted(hub, family) for family in families} == before
    assert counted(hub, "fnm_hub_drills_total") == drills + 1
    assert counted(hub, "fnm_hub_drill_passed_seconds") == pytest.approx(result["ended_at"])
    attack = next(
        one for one in hub.get("/v1/attacks?all=1")["items"] if one["drill"] == result["id"]
    )
    shown = hub.get(f"/v1/attacks/{attack['id']}")
    assert {event["drill"] for event in shown["events"]} == {True}
    assert {row["drill"] for row in shown["mitigations"]} == {result["id"]}
    assert {row["details"]["drill"] for row in shown["audit"]} == {result["id"]}
    lines = [line for line in hub.log().splitlines() if attack["id"] in line]
    assert lines
    assert all(result["id"] in line for line in lines)
    (began,) = [line for line in hub.logged("drill.began") if line["drill"] == result["id"]]
    assert (began["actor"], began["reason"]) == ("root", "monday")
    assert "drill ended" in command(hub, "attacks", "--all").stdout
    assert "passed" in command(hub, "status").stdout


def test_drill_when_a_guard_forbids_it_then_that_stage_fails_with_what_to_do(
    hub: HubProcess,
) -> None:
    """A guard that refuses is a stage that fails; the exit status says so, the rest is undone."""
    done = command(hub, *DRILL, str(hook(hub)), "--target", "192.0.2.66")
    assert done.returncode == 1
    assert "FAILED: guards: never_block" in done.stdout
    guards = said(hub.get("/v1/drill"))["guards"]
    assert guards["ok"] is False
    assert guards["todo"]
    assert said(hub.get("/v1/drill"))["released"]["ok"]
    assert hub.attacks() == []


def test_enforce_when_not_allowed_there_then_refused_before_anything(hub: HubProcess) -> None:
    """Only a prefix of ours beside the never-block list may be enforced in, and after a yes."""
    wrong = {
        ("198.51.100.0/24", None): "guard.own_prefixes",
        ("192.0.2.64/29", None): "guard.never_block",
        ("192.0.2.0/33", None): "is no prefix",
        ("192.0.2.32/28", "192.0.2.99"): "is not within",
    }
    for (prefix, target), why in wrong.items():
        with pytest.raises(HubError, match=re.escape(why)):
            drill(hub, enforce=prefix, target=target)
    asked = command(hub, *DRILL, str(hook(hub)), "--enforce", "192.0.2.32/28")
    assert asked.returncode == 2
    assert "--yes" in asked.stderr


def test_drill_when_the_hook_is_missing_or_another_then_said(hub: HubProcess) -> None:
    """A hook that is not there, or that knows no drill, fails at its own stage."""
    stages = said(drill(hub, notify=Path("/nonexistent/notify")))
    assert stages["hook"]["ok"] is False
    assert "No such file" in stages["hook"]["said"]
    assert "has not come" in stages["accepted"]["said"]


def test_drill_when_detectors_user_may_not_use_the_socket_then_said(hub: HubProcess) -> None:
    """The hook runs with the rights of FastNetMon's user, and what they lack is shown."""
    result = drill(hub, NOBODY)
    stages = said(result)
    assert result["passed"] is False
    assert "nobody" in stages["hook"]["said"]
    assert "EVENT LOST" in stages["hook"]["said"]
    assert stages["accepted"]["ok"] is False
    assert "intake.unix.allow_users" in stages["accepted"]["todo"]


def test_drill_when_the_call_goes_by_the_spool_then_that_is_no_success(hub: HubProcess) -> None:
    """A hub that cannot be reached gets the call by the spool: it works, and it is a failure."""
    result = drill(hub, socket="nobody.sock")
    accepted = said(result)["accepted"]
    assert (result["passed"], accepted["ok"]) == (False, False)
    assert accepted["said"].endswith("by spool")
    assert said(result)["planned"]["ok"]
    until("spool empty", lambda: not list((hub.folder / "spool").glob("*.json")))


def test_mark_when_forged_worn_or_of_another_target_then_hides_nothing(hub: HubProcess) -> None:
    """A mark is good for one target, one ban and one unban; all else is refused and kept."""
    begun = begin(hub, target="192.0.2.50")
    before = len(hub.logged("event.drill_refused"))
    notify(hub, "forged", "192.0.2.50", "ban")
    notify(hub, begun["token"], "192.0.2.51", "ban")
    notify(hub, begun["token"], "192.0.2.50", "ban")
    notify(hub, begun["token"], "192.0.2.50", "ban")
    until("the mark is worn", lambda: len(hub.logged("event.drill_refused")) == before + 3)
    assert [attack["drill"] for attack in hub.attacks()] == [begun["id"]]
    finish(hub, begun["id"])
    notify(hub, begun["token"], "192.0.2.50", "unban")
    until("late", lambda: len(hub.logged("event.drill_refused")) == before + 4)
    refused = [one for one in hub.get("/v1/events?limit=8")["items"] if not one["drill"]]
    assert all(one["status"] == "not_understood" for one in refused[:1])
    token = begun["token"]
    assert token not in hub.log()
    assert token not in json.dumps(hub.get("/v1/status"))


def test_attack_when_it_comes_upon_a_drills_target_then_it_is_met(hub: HubProcess) -> None:
    """A real attack on the target ends the drill, is protected, and does not merge with it."""
    assert drill(hub)["passed"]
    assert hub.post("/v1/arm")[0] == 200
    try:
        begun = begin(hub, target="192.0.2.60", enforce="192.0.2.60/32")
        notify(hub, begun["token"], "192.0.2.60", "ban")
        until("drilled", hub.active)
        hub.send("ban", "192.0.2.60")
        until("met", lambda: any(row["drill"] is None for row in hub.active()))
        until("the drill's is gone", lambda: all(row["drill"] is None for row in hub.mitigations()))
        assert [attack["drill"] for attack in hub.attacks()] == [None]
        assert any("192.0.2.60" in element for element in hub.kernel())
        result = finish(hub, begun["id"])
        assert "a real attack came upon its target" in result["why"]
        hub.send("unban", "192.0.2.60")
        until("released", lambda: not hub.mitigations())
        assert hub.kernel() == []
    finally:
        hub.post("/v1/disarm")


def test_drill_when_another_is_under_way_then_refused(hub: HubProcess) -> None:
    """One at a time: the second is told who runs the first."""
    begun = begin(hub)
    with pytest.raises(HubError, match=begun["id"]):
        drill(hub)
    finish(hub, begun["id"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_drill_when_interrupted_then_released_at_once(hub: HubProcess, number: int) -> None:
    """Ctrl-C and SIGTERM take back what the drill has put in force."""
    slow = hub.folder / "slow.sh"
    slow.write_text(f'#!/bin/sh\ncase "$*" in *unban) exec sleep 5;; esac\nexec {hook(hub)} "$@"\n')
    slow.chmod(0o755)
    words = [*DRILL, str(slow), "--enforce", "192.0.2.70/32", "--yes"]
    with subprocess.Popen(
        argv(hub, *words), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        until("in force", hub.active)
        process.send_signal(number)
        assert process.wait(15) == 130
    until("released", lambda: not hub.mitigations())
    assert hub.kernel() == []
    assert hub.get("/v1/drill")["why"] == "interrupted"


@pytest.mark.beside
def test_drill_when_its_command_is_killed_then_over_by_itself(folder: Path) -> None:
    """A command that dies leaves nothing behind: the drill is short, and so is its lease."""
    with armable(folder) as own:
        begun = begin(own, target="192.0.2.80", enforce="192.0.2.80/32", seconds=10.0)
        notify(own, begun["token"], "192.0.2.80", "ban")
        (row,) = until("in force", own.active)
        assert row["deadline"] <= row["created_at"] + 10.0
        until("over", lambda: not own.mitigations(), seconds=20)
        assert own.kernel() == []
        assert own.attacks() == []
        assert "nobody ended it" in own.get("/v1/drill")["why"]


def test_drill_when_the_hub_is_killed_then_ended_by_its_next_start(hub: HubProcess) -> None:
    """The next run takes back what the drill has put in force, and knows that it failed."""
    begun = begin(hub, target="192.0.2.81", enforce="192.0.2.81/32")
    notify(hub, begun["token"], "192.0.2.81", "ban")
    until("in force", hub.active)
    hub.kill()
    assert hub.kernel() != []
    hub.start()
    until("gone", lambda: not hub.mitigations())
    until("gone from the kernel", lambda: not hub.kernel())
    assert hub.attacks() == []
    assert "restarted" in hub.get("/v1/drill")["why"]
    before = len(hub.logged("event.drill_refused"))
    notify(hub, begun["token"], "192.0.2.81", "unban")
    until("refused", lambda: len(hub.logged("event.drill_refused")) > before)


def test_drill_when_no_rule_matches_then_said(restored: HubProcess) -> None:
    """Rules that do not match are a stage that fails, with what each of them looked at."""
    text = RULES.replace("protocol: tcp", "protocol: gre").split("  - name: rest")[0]
    restored.write_rules(text)
    assert restored.post("/v1/reload")[0] == 200
    decided = said(drill(restored))["decided"]
    assert decided["ok"] is False
    assert "no rule matched (tcp: protocol is tcp, wanted ['gre'])" in decided["said"]
    assert decided["todo"]


def test_drill_when_the_engine_is_down_then_said(restored: HubProcess) -> None:
    """An engine that cannot is a stage that fails; what it says stands there."""
    (restored.folder / "nft").unlink()
    (restored.folder / "nft").symlink_to("/bin/false")
    result = drill(restored, enforce="192.0.2.90/32")
    stage = said(result)["applied"]
    assert said(result)["guards"]["ok"]
    assert (result["passed"], bool(stage["ok"])) == (False, False)
    assert "tcp by nftables" in stage["said"]
    assert "fnm-hub status" in stage["todo"]


def test_messages_when_drilled_then_sent_only_when_asked_and_marked(restored: HubProcess) -> None:
    """Notifications and programs stay silent, unless --notify-too; then they say what it is."""
    told = restored.folder / "told"
    restored.write_rules(RULES.replace("then: [tcp]", "then: [tcp, {command: {run: tell}}]"))
    assert restored.post("/v1/reload")[0] == 200
    assert drill(restored, enforce="192.0.2.91/32")["passed"]
    assert not told.exists()
    assert drill(restored, notify_too=True)["passed"]
    assert not told.exists(), "a program may act on traffic: --enforce is needed as well"
    assert drill(restored, enforce="192.0.2.91/32", notify_too=True)["passed"]
    messages = [json.loads(line) for line in told.read_text().splitlines()]
    assert [(one["state"], one["drill"]) for one in messages] == [("on", True), ("off", True)]
    assert (restored.folder / "told.mark").read_text().split() == ["1", "1"]
