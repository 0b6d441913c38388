# SPDX-License-Identifier: Apache-2.0
"""A whole hub on a real synproxyd: measured each second, shown, and found again after a restart."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.lab import synproxyd
from tests.support.drills import drill, said
from tests.support.hub_process import HubProcess, until
from tests.support.native import Synproxyd, synproxyd_running


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Synproxyd]:
    """Run a synproxyd."""
    folder = tmp_path / "native"
    folder.mkdir()
    with synproxyd_running(folder) as made:
        yield made


@pytest.fixture
def hub(tmp_path: Path, daemon: Synproxyd) -> Iterator[HubProcess]:
    """Run a hub whose first engine is native."""
    made = HubProcess(tmp_path, native=daemon.control)
    with made:
        yield made


def followed(log: str, delivery: str) -> set[str]:
    """Return the events of the lines that a grep for a delivery finds."""
    return {json.loads(line)["event"] for line in log.splitlines() if delivery in line}


def test_ban_when_native_is_enabled_then_synproxyd_has_it_and_status_shows_it(
    hub: HubProcess, daemon: Synproxyd
) -> None:
    """Native before nftables; rates of each mitigation, mode of each interface, metrics."""
    hub.send("ban", delivery="delivery-of-the-ban")
    until("active", hub.active)
    (row,) = hub.active()
    assert row["engine"] == "native"
    why = "not by isn-sync: no agent in isn_sync answers for it"
    assert [line["why"] for line in hub.logged("mitigation.active")] == [why]
    audit = hub.get(f"/v1/attacks/{row['attacks'][0]}")["audit"]
    assert why in [one["reason"] for one in audit if one["what"] == "mitigation.active"]
    (told,) = hub.get(f"/v1/explain/{row['id']}")["mitigations"]
    assert (told["mode"], told["down"]) == ("splice", [why])
    assert told["engines"] == [{"engine": "native", "chosen": True, "why": "the first that can"}]
    assert {name: one["delivery"] for name, one in synproxyd.in_force(daemon.control).items()} == {
        row["id"]: "delivery-of-the-ban"
    }
    assert followed(hub.log() + daemon.log.read_text(), "delivery-of-the-ban") >= {
        "event.processed",
        "attack.began",
        "mitigation.applying",
        "mitigation.put",
        "tcp.stepped_down",
        "mitigation.active",
    }
    until("measured", lambda: hub.active()[0]["rates"] is not None)
    assert hub.active()[0]["rates"]["hostile_pps"] == 0
    engines = {one["name"]: one for one in hub.get("/v1/status")["engines"]}
    assert engines["native"]["interfaces"] == [{"name": "outside", "mode": "native"}]
    assert [one["id"] for one in engines["native"]["busiest"]] == [row["id"]]
    assert engines["nftables"]["rates"] is None
    _, metrics = hub.request("GET", "/metrics")
    wanted = '{engine="native",interface="outside",mode="native"} 1.0'
    assert f"fnm_hub_engine_interface{wanted}" in metrics
    assert 'fnm_hub_engine_rate{engine="native",rate="hostile",service="none"} 0.0' in metrics
    assert 'fnm_hub_engine_measured{engine="native"} 1.0' in metrics
    until("counted", lambda: "fnm_hub_engine_memory_bytes{" in hub.request("GET", "/metrics")[1])
    _, metrics = hub.request("GET", "/metrics")
    packets = 'fnm_hub_engine_packets_total{counter="cookie_bad",engine="native",verdict="drop"} '
    assert f"{packets}0.0" in metrics
    for table in ("flows4", "flows6", "sources", "mitigations", "splices"):
        limit = f'fnm_hub_engine_table_limit_rows{{engine="native",table="{table}"}} '
        assert re.search(f"^{re.escape(limit)}[1-9]", metrics, re.MULTILINE)
    assert 'fnm_hub_engine_log_lines_total{engine="native",level="error"} 0.0' in metrics


def test_drill_when_native_is_enabled_then_in_its_tables_and_gone_at_once(
    hub: HubProcess, daemon: Synproxyd
) -> None:
    """A drill is shown by synproxyd's own inventory; its end waits for no rate to be quiet."""
    result = drill(hub, enforce="192.0.2.20/32")
    assert result["why"] == ""
    stages = said(result)
    assert stages["applied"]["said"].startswith("tcp by native is in force")
    assert stages["kernel"]["ok"]
    assert list(synproxyd.in_force(daemon.control)) == []
    assert hub.logged("attack.quiet") == []
    assert hub.mitigations() == hub.attacks() == []


def test_unban_when_the_engine_has_seen_nothing_then_it_is_quiet_and_ends(
    hub: HubProcess, daemon: Synproxyd
) -> None:
    """A ban without traffic behind it is over five seconds after its beginning."""
    hub.send("ban")
    until("active", hub.active)
    hub.send("unban")
    until("ending", lambda: hub.attacks()[0]["state"] == "ending")
    assert hub.attacks()[0]["held"] == "held by engine rates"
    assert hub.get("/v1/status")["counts"]["attacks"]["held"] == 1
    until("over", lambda: not hub.attacks(), seconds=15)
    until("released", lambda: not synproxyd.in_force(daemon.control))
    assert len(hub.logged("attack.quiet")) == 1
    _, metrics = hub.request("GET", "/metrics")
    assert "fnm_hub_attacks_quiet_total 1.0" in metrics


def test_synproxyd_when_gone_and_back_then_said_and_found_again(
    hub: HubProcess, daemon: Synproxyd
) -> None:
    """Not ready while it is away; afterwards new orders are carried out within seconds."""
    daemon.kill()
    until("noticed", lambda: hub.request("GET", "/readyz")[0] == 503, seconds=15)
    assert len(hub.logged("engine.not_measured")) == 1
    _, metrics = hub.request("GET", "/metrics")
    assert 'fnm_hub_engine_measured{engine="native"} 0.0' in metrics
    place = '{engine="native",interface="outside",mode="native"}'
    assert f"fnm_hub_engine_interface{place} 0.0" in metrics
    hub.send("ban")
    until("it waits", lambda: [row for row in hub.mitigations() if row["error"]])
    daemon.start()
    until("active", hub.active, seconds=5)
    until("said", lambda: hub.logged("engine.measured_again"), seconds=5)


def test_reload_when_rules_need_the_native_engine_then_they_load(hub: HubProcess) -> None:
    """What the engine measures may be asked for; what it cannot do may not."""
    rule = "{name: a, when: {engine: {syn_pps: '> 5'}}, then: [tcp: {mode: reset}], ttl: 1m}"
    hub.write_rules(f"rules: [{rule}]")
    assert hub.post("/v1/reload")[0] == 200
    hub.write_rules("rules: [{name: a, when: always, then: [tcp: {mode: rest}], ttl: 1m}]")
    status, answer = hub.post("/v1/reload")
    assert status == 422
    assert "kernel" in json.dumps(answer)
