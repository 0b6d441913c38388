# SPDX-License-Identifier: Apache-2.0
"""docs/rules.md tells the truth: its examples load, its messages are what the loader says."""

import re
from pathlib import Path

import pytest

from hub.errors import ConfigError
from hub.fields import StrictModel
from hub.rules.language import KINDS, EngineSpec, EscalationSpec, RuleSpec, WhenSpec
from hub.rules.load import read_rules
from hub.rules.suite import Event, Overrides, Step, read_suite
from hub.rules.testrun import run_suite
from hub.rules.words import Known
from tests.support.rules import CONFIG, load_text
from tests.support.rulesim import SmallHub

PAGE = (Path(__file__).parents[1] / "docs" / "rules.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
RULES = [text for kind, text in BLOCKS if kind == "yaml" and text.startswith("rules:")]
TESTS = [text for kind, text in BLOCKS if kind == "yaml" and text.startswith("config:")]
KNOWN = Known(
    services=frozenset({"web", "dns", "game"}),
    notify=frozenset({"oncall", "blackhole"}),
    commands=frozenset({"blackhole"}),
    engines=frozenset({"native", "nftables"}),
    measures=True,
)


def words(model: type[StrictModel]) -> set[str]:
    """Return the fields of `model` as they are written."""
    return {info.alias or name for name, info in model.model_fields.items()}


@pytest.mark.parametrize("number", range(len(RULES)))
def test_example_when_loaded_then_it_has_rules(number: int, tmp_path: Path) -> None:
    """Every example of rules on the page loads as it is."""
    assert load_text(tmp_path, RULES[number], KNOWN).rules


def test_test_example_when_run_then_it_passes(tmp_path: Path) -> None:
    """The example of a rule test holds for rules that give TCP the SYN proxy."""
    assert len(TESTS) == 1
    rules = "rules: [{name: a, when: {protocol: tcp}, then: [tcp], ttl: 15m}]"
    (tmp_path / "mine.yaml").write_text(rules)
    (tmp_path / "mine.test.yaml").write_text(TESTS[0])
    suite = read_suite(tmp_path / "mine.test.yaml")
    loaded = read_rules(suite.rules, KNOWN)
    assert run_suite(suite, loaded.rules, CONFIG, SmallHub) == []


def test_messages_when_compared_then_the_loader_says_them(tmp_path: Path) -> None:
    """The mistakes shown on the page are printed for a file that has them."""
    shown = next(text for kind, text in BLOCKS if kind == "text").splitlines()
    wrong = (
        "rules:\n  - name: a\n    when:\n      protocol: tcq\n      servcie: web\n"
        "      pps: 50k\n    then: [tcp]\n    ttl: 15m\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, wrong, KNOWN)
    said = [
        str(each).replace(str(tmp_path / "a.yaml"), "rules/mine.yaml")
        for each in caught.value.problems
    ]
    assert shown == said


@pytest.mark.parametrize(
    "model", [RuleSpec, WhenSpec, EngineSpec, EscalationSpec, Step, Event, Overrides]
)
def test_field_when_it_exists_then_the_page_names_it(model: type[StrictModel]) -> None:
    """Every field of rules, clauses, events and overrides is on the page."""
    named = set(re.findall(r"`([a-z_0-9]+)`", PAGE))
    assert words(model) - named == set()


def test_countermeasure_when_it_exists_then_the_page_names_it() -> None:
    """Every countermeasure is on the page."""
    assert set(KINDS) - set(re.findall(r"`([a-z]+)`", PAGE)) == set()
