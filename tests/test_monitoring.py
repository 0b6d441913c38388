# SPDX-License-Identifier: Apache-2.0
"""Alert rules and dashboard: Prometheus takes them, they ask for what exists, each is explained."""

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from hub.api.counters import Counters
from hub.metrics import Metrics
from tests.test_docs import families, slug

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "docs/monitoring"
OPERATIONS = (REPOSITORY / "docs/operations.md").read_text()
CASES = ("alerts.test.yaml", "alerts-days.test.yaml")
PARTS = re.compile(r"_(?:bucket|sum|count)$")


@cache
def exposed() -> set[str]:
    """Return every family, those of Prometheus itself among them."""
    found = families(Metrics().render().decode()) | families(Counters().text().decode())
    return found | {"up"}


def asked_for(query: str) -> set[str]:
    """Return the families that a query asks for, a histogram without the ending of its series."""
    names = set(re.findall(r"\b(?:fnm_hub|process)_\w+|\bup\b", re.sub(r'"[^"]*"', "", query)))
    return {name if name in exposed() else PARTS.sub("", name) for name in names}


def alerts() -> list[dict[str, Any]]:
    """Return every alert rule."""
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    return [rule for group in rules["groups"] for rule in group["rules"]]


def promtool(*arguments: str) -> str:
    """Run promtool and return what it says; fail where it is not content."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_when_checked_then_promtool_takes_all() -> None:
    """Every expression and every template parses."""
    said = promtool("check", "rules", "--lint=all", str(FOLDER / "alerts.yaml"))
    assert f"{len(alerts())} rules found" in said


@pytest.mark.parametrize("cases", CASES)
def test_rules_when_tried_then_each_fires_and_is_quiet_as_it_should(cases: str) -> None:
    """Each alert fires for the instance that it is meant for, and for no other."""
    promtool("test", "rules", str(FOLDER / cases))


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_alert_when_shipped_then_tried_both_ways_and_explained(alert: dict[str, Any]) -> None:
    """Severity, words, a case of each kind, existing metrics, and a section with what to do."""
    name, texts = alert["alert"], alert["annotations"]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert texts.keys() == {"summary", "description", "runbook"}
    cases = "".join((FOLDER / file).read_text() for file in CASES)
    both = all(f'instance="{name}-{kind}"' in cases for kind in ("fires", "quiet"))
    assert both or all(f"name: {name} {kind}\n" in cases for kind in ("fires", "quiet"))
    assert asked_for(alert["expr"])
    assert asked_for(alert["expr"]) - exposed() == set()
    page, _, anchor = texts["runbook"].partition("#")
    assert (page, anchor) == ("docs/operations.md", slug(name))
    text = OPERATIONS.partition(f"\n### {name}\n")[2].partition("\n##")[0]
    after = f", after {spelled(alert['for'])}. " if "for" in alert else ", at once. "
    first = f"Severity {alert['labels']['severity']}{after}{texts['description']}"
    assert first in text.splitlines()
    assert [line.split(":")[0] for line in text.splitlines() if line.startswith("- ")] == [
        "- Cause",
        "- Look at",
        "- Do",
    ]


def spelled(duration: str) -> str:
    """Return Prometheus' `5m` as the page has it."""
    unit = {"s": "s", "m": "min", "h": "h"}[duration[-1]]
    return f"{duration[:-1]} {unit}"


def test_alerts_section_when_read_then_it_explains_no_other() -> None:
    """No section outlives its alert."""
    headings = re.findall(r"^### (FnmHub\w+)$", OPERATIONS, re.MULTILINE)
    assert headings == [alert["alert"] for alert in alerts()]


def test_asked_for_when_there_is_no_such_metric_then_shown() -> None:
    """The check itself notices an unknown family, and knows the series of a histogram."""
    assert asked_for("rate(fnm_hub_loop_lag_seconds_bucket[5m])") <= exposed()
    assert asked_for('fnm_hub_nothing{a="up"} > up') - exposed() == {"fnm_hub_nothing"}


def dashboard() -> dict[str, Any]:
    """Return the dashboard's model."""
    model: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return model


def panels() -> list[dict[str, Any]]:
    """Return what shows something, without the rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    """Return every query, as Grafana sends it with one choice of the variables."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    found += [one["expr"] for one in dashboard()["annotations"]["list"] if "expr" in one]
    chosen = {"$__rate_interval": "5m", "$instance": "gw.*"}
    for variable, choice in chosen.items():
        found = [query.replace(variable, choice) for query in found]
    assert not [query for query in found if "$" in query]
    return found


def test_dashboard_when_its_queries_are_parsed_then_promtool_takes_all(tmp_path: Path) -> None:
    """Every query is one of Prometheus' language."""
    rules = [{"record": f"query:{number}", "expr": one} for number, one in enumerate(queries())]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))


def test_dashboard_when_it_asks_then_for_metrics_that_exist() -> None:
    """No panel is empty for ever."""
    for query in queries():
        if "ALERTS" not in query:
            assert asked_for(query), query
            assert asked_for(query) - exposed() == set(), query
    (variable,) = (one for one in dashboard()["templating"]["list"] if one["type"] == "query")
    assert variable["definition"] == variable["query"]["query"]
    assert asked_for(variable["definition"]) <= exposed()


def test_dashboard_when_imported_then_source_and_hub_are_chosen_there() -> None:
    """A variable for the data source in every panel, ids once, no panel upon another."""
    model = dashboard()
    assert [one["name"] for one in model["templating"]["list"]] == ["datasource", "instance"]
    ids = [panel["id"] for panel in model["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels():
        sources = [panel["datasource"], *(one["datasource"] for one in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}
        assert panel["description"]
    places = [
        (x, y)
        for at in (panel["gridPos"] for panel in model["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24
    assert [panel["title"] for panel in model["panels"] if panel["type"] == "row"] == [
        "State",
        "Attacks",
        "Packets by verdict",
        "Engines",
        "Intake and journal",
        "Agents",
        "Process",
    ]


def test_monitoring_when_shipped_then_no_address_is_in_it() -> None:
    """Neither rules nor dashboard know a host."""
    for file in ("alerts.yaml", "dashboard.json"):
        text = (FOLDER / file).read_text()
        assert not re.search(r"\b\d{1,3}(?:\.\d{1,3}){3}\b|https?://", text), file
