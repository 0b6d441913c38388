# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub explain`: P8, with a real hub, a real journal and rows of an earlier release."""

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hub.cli.text import cells
from tests.support.cli import run_cli
from tests.support.hub_process import HubProcess, until

OLD = Path(__file__).parent / "data/journal/0.1-rows.json"
TOLD = ("decisions", "refused", "mitigations", "history")
OTHERS = """
rules:
  - name: entirely-different
    when: {direction: outgoing}
    then: []
"""


class Past(NamedTuple):
    """A hub whose attacks are over, whose rules are others, and which was killed since.

    Attributes:
        before: what was explained before all that, by thing.
        version: of the rules that decided.
    """

    hub: HubProcess
    before: dict[str, dict[str, Any]]
    version: str


def explained(hub: HubProcess, thing: str) -> dict[str, Any]:
    """Return what the hub explains of a thing."""
    found: dict[str, Any] = hub.get(f"/v1/explain/{thing}")
    return found


def attack_on(hub: HubProcess, target: str) -> str:
    """Return the id of the attack on a target, which may be over."""
    rows = hub.get("/v1/attacks?all=1")["items"]
    (name,) = [row["id"] for row in rows if row["targets"] == [f"{target}/32"]]
    return str(name)


def over(hub: HubProcess) -> bool:
    """Tell whether every attack has ended and nothing is in force."""
    return not hub.attacks() and not hub.mitigations()


def forget_all_but_the_audit(store: Path) -> None:
    """Delete every row of the journal but its audit record."""
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        for table in ("events", "attacks", "mitigations"):
            connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names are ours


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    """Three attacks that are over: one met, one that another rule met, one refused."""
    with HubProcess(tmp_path_factory.mktemp("explain")) as hub:
        hub.send("ban", delivery="delivery-1")
        hub.send("ban", delivery="delivery-2")
        hub.send("ban", "192.0.2.11", delivery="delivery-3", udp=True)
        hub.send("ban", "192.0.2.66", delivery="delivery-4")
        until("both are in force", lambda: len(hub.active()) == 2, 60)
        for target in ("192.0.2.10", "192.0.2.11", "192.0.2.66"):
            hub.send("unban", target)
        until("over", lambda: over(hub), 60)
        things = ["1", "2", "3", *(row["id"] for row in hub.mitigations(ended=True))]
        things += [attack_on(hub, f"192.0.2.{host}") for host in (10, 11, 66)]
        before = {thing: explained(hub, thing) for thing in things}
        version = str(hub.get("/v1/status")["rules"]["version"])
        hub.write_rules(OTHERS)
        assert hub.post("/v1/reload")[0] == 200
        hub.kill(signal.SIGKILL)
        forget_all_but_the_audit(hub.store)
        hub.start()
        yield Past(hub, before, version)


def of(past: Past, host: int) -> dict[str, Any]:
    """Return what is explained now of the attack on a host."""
    (name,) = [
        thing
        for thing, found in past.before.items()
        if thing.startswith("a-") and found["attacks"][0]["targets"] == [f"192.0.2.{host}/32"]
    ]
    return explained(past.hub, name)


def test_explanation_when_rules_changed_and_hub_was_killed_then_the_same(past: Past) -> None:
    """P8: it comes from the audit record alone; nothing of it is computed again."""
    for thing, before in past.before.items():
        if thing == "2":
            continue  # it changed nothing, so that the audit record has nothing of it
        after = explained(past.hub, thing)
        assert {key: after[key] for key in TOLD} == {key: before[key] for key in TOLD}, thing
        assert past.version in {one["rules_version"] for one in after["decisions"]}
    assert past.hub.get("/v1/status")["rules"]["version"] != past.version


def test_explanation_when_a_rule_did_not_match_then_first_failing_clause(past: Past) -> None:
    """The value seen stands beside the value wanted, and what was not asked is named."""
    (decision,) = of(past, 11)["decisions"]
    first, second = decision["rules"]
    assert first["rule"] == "tcp"
    assert first["failed"] == {"clause": "protocol", "wanted": ["tcp"], "seen": "udp"}
    assert (second["rule"], second["matched"], second["failed"]) == ("rest", True, None)
    assert decision["matched"] == ["rest"]
    (decision,) = of(past, 10)["decisions"]
    assert (decision["matched"], decision["not_asked"]) == (["tcp"], ["rest"])


def test_explanation_when_begun_then_guards_engines_mode_and_times(past: Past) -> None:
    """Which guards let it pass and why, which engine and mode, and how long each step took."""
    (row,) = of(past, 10)["mitigations"]
    assert [one["guard"] for one in row["guards"]] == [
        "no_engine",
        "freeze",
        "hold_off",
        "impossible_target",
        "own_prefixes",
        "never_block",
        "width",
        "ttl",
        "cap",
    ]
    assert all(one["passed"] and one["why"] for one in row["guards"])
    assert row["engines"] == [{"engine": "nftables", "chosen": True, "why": "the first that can"}]
    assert (row["mode"], row["state"]) == ("kernel", "released")
    assert row["down"][0].startswith("not by isn-sync or splice")
    assert row["origin"]["delivery"] == "delivery-1"
    times = [row["times"][key] for key in ("received", "decided", "ordered", "active", "released")]
    assert times == sorted(times)
    assert 0 < row["seconds"]["engine"] <= row["seconds"]["received_to_active"]
    assert row["tries"] == 1


def test_explanation_when_refused_then_guards_passed_and_the_one_that_refused(past: Past) -> None:
    """Of what never began, the guards before the one that refused are told as well."""
    found = of(past, 66)
    (refused,) = found["refused"]
    assert found["mitigations"] == []
    assert refused["guard"] == "never_block"
    assert [one["passed"] for one in refused["guards"]] == [True] * 5 + [False]
    assert "192.0.2.66/32 of guard.never_block" in refused["guards"][-1]["why"]


def test_explanation_when_event_repeats_then_the_decision_that_stood(past: Past) -> None:
    """A report that changes nothing is explained by the decision on the one before it."""
    found = past.before["2"]
    assert found["repeated"]
    assert [one["event"] for one in found["decisions"]] == [1]
    assert found["origin"]["delivery"] == "delivery-2"
    assert found["event"]["note"].startswith("refreshed")
    assert not past.before["1"]["repeated"]


def test_explanation_when_of_mitigation_then_its_decision_and_nothing_else(past: Past) -> None:
    """A mitigation brings the decision behind it and its own history along."""
    for thing, found in past.before.items():
        if thing.startswith("m-"):
            assert [one["id"] for one in found["mitigations"]] == [thing]
            assert len(found["decisions"]) == 1
            assert {one["mitigation"] for one in found["history"]} == {thing}


def test_explain_when_typed_then_readable_and_json(past: Past) -> None:
    """The command says it in words within 80 columns, and as JSON with `--json`."""
    sock = str(past.hub.folder / "api.sock")
    (row,) = of(past, 10)["mitigations"]
    done = run_cli("explain", row["id"], "--socket", sock)
    assert done.code == 0, done.err
    for words in ("+ tcp matched", "passed    own_prefixes", "stepped down", "from received to"):
        assert words in done.out
    assert max(map(cells, done.lines)) <= 80
    done = run_cli("explain", row["id"], "--socket", sock, "--json")
    assert json.loads(done.out)["mitigations"][0]["id"] == row["id"]
    done = run_cli("explain", "192.0.2.66", "--socket", sock)
    assert "REFUSED   never_block" in done.out
    assert "entirely-different" in done.out


def test_explain_when_there_is_no_such_thing_then_says_what_to_type(past: Past) -> None:
    """An unknown id and a thing of no known kind are different mistakes."""
    sock = str(past.hub.folder / "api.sock")
    done = run_cli("explain", "a-0000000000", "--socket", sock)
    assert (done.code, "there is no such thing" in done.err) == (1, True)
    done = run_cli("explain", "nonsense", "--socket", sock)
    assert (done.code, "192.0.2.10" in done.err) == (1, True)


def insert(store: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Write recorded rows into an empty journal."""
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        for table, found in rows.items():
            for row in found:
                values = {**row, "raw": row["raw"].encode()} if "raw" in row else row
                names = ", ".join(values)
                places = ", ".join(f":{name}" for name in values)
                connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", values)  # noqa: S608


def test_explanation_when_an_earlier_release_wrote_the_rows_then_still_read(tmp_path: Path) -> None:
    """What it did not keep is told as not kept; the failing clause is found all the same."""
    rows: dict[str, list[dict[str, Any]]] = json.loads(OLD.read_text())
    with HubProcess(tmp_path) as hub:
        hub.kill(signal.SIGTERM)
        insert(hub.store, rows)
        hub.start()
        found = explained(hub, attack_on(hub, "192.0.2.10"))
        (row,) = found["mitigations"]
        assert (row["state"], row["guards"], row["engines"]) == ("released", None, None)
        assert row["times"]["active"] is not None
        assert row["down"][0].startswith("not by isn-sync or splice")
        (decision,) = found["decisions"]
        assert (decision["matched"], decision["not_asked"]) == (["tcp"], None)
        assert decision["not_looked_at"] == 1
        assert explained(hub, attack_on(hub, "192.0.2.66"))["refused"][0]["guard"] == "never_block"
        assert explained(hub, "2")["repeated"]
        sock = str(hub.folder / "api.sock")
        for thing in (row["id"], "1", "2", "192.0.2.10"):
            done = run_cli("explain", thing, "--socket", sock)
            assert done.code == 0, done.err
        assert "not kept by the release" in run_cli("explain", row["id"], "--socket", sock).out
