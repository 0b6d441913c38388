# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub config check` and `fnm-hub rules check`: what they print and how they end."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from hub.cli.check import config_check, rules_check
from hub.rules.load import read_rules
from hub.rules.words import Known
from tests.support.rulesim import SmallHub

GOOD = "rules: [{name: a, when: {direction: incoming}, then: [tcp], ttl: 5m}]\n"
CONFIG = "rules: [a.yaml]\nguard: {own_prefixes: [192.0.2.0/24]}\n"
EVENT = "{action: ban, target: 192.0.2.1, direction: incoming}"
HOLDS = f"tests: [{{name: t, steps: [{{at: 0s, event: {EVENT}, expect: [{{on: tcp}}]}}]}}]\n"
FAILS = f"tests: [{{name: t, steps: [{{at: 0s, event: {EVENT}, expect: []}}]}}]\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with a configuration and one rule file that are right; return it."""
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    Path("a.yaml").write_text(GOOD)
    return Path()


def checked(folder: Path) -> tuple[int, str]:
    """Check the configuration; return exit code and output without the folder."""
    out = io.StringIO()
    code = config_check(folder / "config.yaml", out=out)
    return code, out.getvalue()


def rules_checked(folder: Path, *names: str) -> tuple[int, str]:
    """Check rule files; return exit code and output without the folder."""
    out = io.StringIO()
    paths = [folder / name for name in names]
    code = rules_check(paths, folder / "config.yaml", SmallHub, out=out)
    return code, out.getvalue()


def as_json(folder: Path, *names: str) -> tuple[int, dict[str, Any]]:
    """Check rule files; return exit code and the JSON object."""
    out = io.StringIO()
    paths = [folder / name for name in names]
    code = rules_check(paths, folder / "config.yaml", SmallHub, as_json=True, out=out)
    shown: dict[str, Any] = json.loads(out.getvalue())
    return code, shown


def version(folder: Path) -> str:
    """Return the version of the rules in `a.yaml`."""
    return read_rules([folder / "a.yaml"], Known()).rules.version


def test_config_check_when_right_then_summary_and_zero(folder: Path) -> None:
    """A configuration that would be loaded is summed up, with its rules."""
    assert checked(folder) == (
        0,
        (
            "config.yaml: ok\n"
            "  dry run       until armed: everything is decided, nothing is done before\n"
            "    fnm-hub arm\n"
            "  services      none\n"
            "  rules         1\n"
            f"  rules version {version(folder)}\n"
        ),
    )


def test_config_check_when_it_surprises_then_warnings_and_still_zero(folder: Path) -> None:
    """What works and may not be meant is a warning: it does not fail the check."""
    (folder / "config.yaml").write_text("rules: [a.yaml]\n")
    code, said = checked(folder)
    assert code == 0
    assert said.startswith(
        "config.yaml:1:1: guard.own_prefixes is empty, so every countermeasure will be\n"
        "    refused; list the prefixes that are yours (warning)\n"
    )
    (folder / "config.yaml").write_text(
        CONFIG + "dry_run: false\nservices: [{name: w, prefixes: [198.51.100.1, 192.0.2.1]}]\n"
    )
    code, said = checked(folder)
    assert code == 0
    assert "config.yaml:4:33: services[0].prefixes[0]: 198.51.100.1/32 is not inside" in said
    assert "off: countermeasures are applied" in said


def test_config_check_when_wrong_then_all_mistakes_and_one(folder: Path) -> None:
    """Mistakes in the configuration are all printed, and fail the check."""
    (folder / "config.yaml").write_text("dry_rnu: true\nlog: {level: inof}\n")
    assert checked(folder) == (
        1,
        (
            "config.yaml:1:1: dry_rnu: unknown field; did you mean 'dry_run'?\n"
            "config.yaml:2:14: log.level: 'inof' is not one of debug, info, warning, error;\n"
            "    did you mean 'info'?\n"
            "2 mistakes\n"
        ),
    )


def test_config_check_when_its_rules_are_wrong_then_one(folder: Path) -> None:
    """A configuration whose rules would not load is not right either."""
    (folder / "a.yaml").write_text(GOOD.replace("ttl: 5m", "tll: 5m"))
    code, said = checked(folder)
    assert code == 1
    assert "a.yaml:1:9: rules[0]: 'ttl' is missing;" in said
    assert said.endswith("2 mistakes\n")


def test_rules_check_when_tests_hold_then_counts_them(folder: Path) -> None:
    """The tests beside the rules are run and counted."""
    (folder / "a.test.yaml").write_text(HOLDS)
    code, said = rules_checked(folder)
    assert code == 0
    assert said.endswith("  tests         1\n")


def test_rules_check_when_a_test_fails_then_one_and_the_line(folder: Path) -> None:
    """A test that does not hold fails the check and shows where."""
    (folder / "a.test.yaml").write_text(FAILS)
    code, said = rules_checked(folder)
    assert code == 1
    assert said.startswith("a.test.yaml:1:106: tests[0].steps[0].expect: test 't', at 0.0s: also")
    assert said.endswith("1 mistake\n")


def test_rules_check_when_files_are_given_then_those_and_their_tests_only(folder: Path) -> None:
    """Given files replace the configuration's; tests of other files beside them do not run."""
    (folder / "a.test.yaml").write_text(FAILS)
    (folder / "b.yaml").write_text(GOOD)
    (folder / "b.test.yaml").write_text(HOLDS)
    code, said = rules_checked(folder, "b.yaml")
    assert code == 0
    assert said.startswith("b.yaml: ok\n")
    assert said.endswith("  tests         1\n")


def test_rules_check_when_several_files_then_each_test_sees_what_it_tests(folder: Path) -> None:
    """A test file tests its own rules, not what other files in front of them decide."""
    (folder / "b.yaml").write_text(
        "rules: [{name: b, when: {direction: incoming}, then: [], continue: true}]\n"
    )
    (folder / "a.test.yaml").write_text(HOLDS)
    (folder / "both.test.yaml").write_text("rules: [b.yaml, a.yaml]\n" + HOLDS)
    code, shown = as_json(folder, "b.yaml", "a.yaml")
    assert (code, shown["tests"]) == (0, 2)


def test_rules_check_when_test_file_is_wrong_then_its_mistakes(folder: Path) -> None:
    """A broken test file fails the check like a broken rule file."""
    (folder / "a.test.yaml").write_text("tests: [{nam: t}]")
    code, said = rules_checked(folder)
    assert code == 1
    assert "a.test.yaml:1:10: tests[0].nam: unknown field; did you mean 'name'?\n" in said


def test_rules_check_when_config_is_missing_then_says_so(folder: Path) -> None:
    """Without a configuration nothing is known about names: the check says what to do."""
    (folder / "config.yaml").unlink()
    assert rules_checked(folder, "a.yaml") == (
        1,
        (
            "config.yaml: does not exist; create it or correct the path; rules are checked\n"
            "    against its services, engines and guards: name it with --config FILE\n"
            "1 mistake\n"
        ),
    )


def test_rules_check_when_config_is_wrong_then_its_mistake_alone(folder: Path) -> None:
    """A configuration that was found and has mistakes needs no word on how to name one."""
    (folder / "config.yaml").write_text("dry_rnu: true\n")
    code, said = rules_checked(folder, "a.yaml")
    assert (code, "--config" in said) == (1, False)
    assert "did you mean 'dry_run'?" in said


def test_rules_check_when_json_then_one_object(folder: Path) -> None:
    """`--json` prints the same for programs: places as fields, not in text."""
    (folder / "a.test.yaml").write_text(HOLDS)
    code, shown = as_json(folder)
    assert code == 0
    assert shown == {
        "ok": True,
        "problems": [],
        "warnings": [],
        "rules": 1,
        "rules_version": version(folder),
        "tests": 1,
    }
    (folder / "a.yaml").write_text("rules: [{name: a, when: always, then: [tpc]}]")
    code, shown = as_json(folder)
    assert code == 1
    assert shown["problems"] == [
        {
            "what": "rules[0].then[0]: 'tpc' is not one of tcp, acl, sorb, notify, command",
            "file": str(folder / "a.yaml"),
            "line": 1,
            "column": 40,
            "todo": "did you mean 'tcp'?",
        }
    ]


def test_output_when_printed_then_it_fits_eighty_columns(folder: Path) -> None:
    """Long messages are wrapped between words for a narrow terminal."""
    (folder / "a.yaml").write_text(GOOD.replace("incoming", "incomign"))
    lines = checked(folder)[1].splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= 80
