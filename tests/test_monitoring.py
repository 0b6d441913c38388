# SPDX-License-Identifier: Apache-2.0
"""Alert rules and dashboard: Prometheus takes them, they ask for what exists, each is explained."""

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
