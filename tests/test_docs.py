# SPDX-License-Identifier: Apache-2.0
"""The documents name what is there: log events, metrics, keys, commands, links."""

import argparse
import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from hub import config
from hub.api.counters import Counters
from hub.cli.arguments import build_parser
from hub.engines.native.reasons import Reason, Verdict
from hub.intake.parse import parse
from hub.intake.view import report_view
from hub.isn_sync import settings
from hub.metrics import Metrics
from tests.support.logevents import LEVELS, Said, log_calls

REPOSITORY = Path(__file__).parents[1]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "SECURITY.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
OPERATIONS = (REPOSITORY / "docs/operations.md").read_text()
PROTOCOLS = (REPOSITORY / "docs/protocols.md").read_text()
CALLS = log_calls(REPOSITORY / "hub")
EVENTS = {said for call in CALLS for said in call.said}
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")


def section(page: str, title: str) -> str:
    """Return the text below the heading `title` up to the next of its level or above."""
    level, _, rest = page.partition(f"\n## {title}\n")
    assert rest, f"no section {title!r} after {level[-40:]!r}"
    return rest.split("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """Return the first cell of each row of the tables in `text`."""
    return [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]


def said_in_tables() -> set[Said]:
    """Return the events of the runbook with their levels, and the ordinary ones."""
    said: set[Said] = set()
    for line in section(OPERATIONS, "Runbook: warnings and errors").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 2 and cells[2] in LEVELS:
            said |= {Said(cells[2], name) for name in SPAN.findall(cells[1])}
    ordinary = section(OPERATIONS, "Ordinary log events")
    said |= {Said("info", name) for cell in first_cells(ordinary) for name in SPAN.findall(cell)}
    debug = next(line for line in ordinary.splitlines() if line.startswith("At level debug"))
    return said | {Said("debug", name) for name in SPAN.findall(debug)}


def test_log_event_when_the_code_writes_it_then_operations_explains_it() -> None:
    """Runbook and catalogue hold each event at each of its levels, and no other."""
    assert said_in_tables() == EVENTS


def test_log_event_when_warning_or_error_then_it_names_the_next_step() -> None:
    """No line of these levels leaves the reader alone: each has `todo`, and a row that says it."""
    assert [
        call.place
        for call in CALLS
        if {said.level for said in call.said} & {"warning", "error"}
        and not (call.fields & {"todo"})
    ] == []
    for line in section(OPERATIONS, "Runbook: warnings and errors").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 2 and cells[2] in LEVELS:
            assert cells[5], line


OF_MITIGATION = frozenset(
    [
        "mitigation",
        "attacks",
        "target",
        "kind",
        "engine",
        "rule",
        "state",
        "deadline",
        "delivery",
        "why",
    ]
)
OF_ATTACK = frozenset(
    [
        "attack",
        "targets",
        "direction",
        "attack_type",
        "protocol",
        "pps",
        "episodes",
        "delivery",
        "why",
    ]
)
HANDED_ON = frozenset({"agent", "address", "delivery", "mitigation", "suppressed", "target"})
"""Bound to the logger or to the task, or added on the way: they stand in no call."""
NOT_LISTED = frozenset({"todo", "exc_info"})
"""Every warning and error has the one; the other is a traceback."""


def fields_in_tables() -> dict[Said, set[str]]:
    """Return the fields that the runbook and the list of ordinary events give each event."""
    listed: dict[Said, set[str]] = {}
    for title in ("Runbook: warnings and errors", "Ordinary log events"):
        for line in section(OPERATIONS, title).splitlines():
            cells = [cell.strip() for cell in line.split("|")]
            if len(cells) < 5 or not cells[1].startswith("`"):
                continue
            level, cell = (cells[2], cells[4]) if cells[2] in LEVELS else ("info", cells[3])
            fields = {name for name in SPAN.findall(cell) if re.fullmatch("[a-z_]+", name)}
            fields |= OF_MITIGATION if "those of a mitigation" in cell else set()
            fields |= OF_ATTACK if "those of an attack" in cell else set()
            fields -= NOT_LISTED
            listed |= {Said(level, name): fields for name in SPAN.findall(cells[1])}
    return listed


def test_log_field_when_the_code_writes_it_then_operations_lists_it() -> None:
    """Each event's row has the fields that the code gives it; a row of one event has no other."""
    listed = fields_in_tables()
    rows = Counter(id(fields) for fields in listed.values())
    written: dict[Said, set[str]] = {}
    unclear: set[Said] = set()
    for call in CALLS:
        for said in call.said:
            fields = call.fields | (OF_MITIGATION if call.of_mitigation else set())
            written.setdefault(said, set()).update(fields - NOT_LISTED)
            unclear |= {said} if call.more else set()
    for said, found in written.items():
        if said.level == "debug":
            continue
        assert found - listed[said] == set(), said
        if rows[id(listed[said])] == 1 and said not in unclear:
            assert listed[said] - found - HANDED_ON == set(), said


def families(text: str) -> set[str]:
    """Return the names that Prometheus sees, counters with `_total`."""
    return {
        metric.name + ("_total" if metric.type == "counter" else "")
        for metric in text_string_to_metric_families(text)
        if not metric.name.endswith("_created")
    }


def test_metric_when_exposed_then_operations_explains_it() -> None:
    """The table of metrics holds each family, and no other."""
    exposed = families(Metrics().render().decode()) | families(Counters().text().decode())
    listed = {
        name
        for cell in first_cells(section(OPERATIONS, "Metrics"))
        for name in SPAN.findall(cell)
        if re.fullmatch(r"(?:fnm_hub|process)_\w+", name)
    }
    assert exposed == listed


def test_metric_when_any_page_names_it_then_exposed() -> None:
    """Conditions for alerts ask for families that exist."""
    exposed = families(Metrics().render().decode()) | families(Counters().text().decode())
    assert set(re.findall(r"\bfnm_hub_\w+", OPERATIONS)) - exposed == set()


def test_verdict_when_the_engine_has_it_then_operations_explains_it() -> None:
    """The table of verdicts holds each reason in order, with its verdict and words."""
    text = OPERATIONS.partition("### Verdicts")[2].partition("\n### ")[0]
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:4]]
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    shown = {Verdict.PASS: "pass", Verdict.TX: "answer", Verdict.DROP: "drop"}
    assert rows == [[one.name.lower(), shown[one.verdict], one.words] for one in Reason]


def test_synproxyd_event_when_the_code_writes_it_then_operations_explains_it() -> None:
    """The table of synproxyd's log holds each event at its level, and no other."""
    text = OPERATIONS.partition("### What synproxyd logs")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    listed = {(row[2].strip(), name) for row in rows for name in SPAN.findall(row[1])}
    sources = "".join(path.read_text() for path in (REPOSITORY / "native/src").glob("*.c"))
    said = set(re.findall(r'log_(info|warning|error)\(\s*"([a-z_.]+)"', sources))
    assert listed == said


def test_notify_key_when_it_exists_then_operations_explains_it() -> None:
    """The table of notify.conf holds each key of fnm-notify with its default."""
    tree = ast.parse((REPOSITORY / "scripts/fnm-notify").read_text())
    (defaults,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DEFAULTS"
    )
    table = OPERATIONS.partition("### notify.conf")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    listed = {row[1].strip(" `"): row[3].strip(" `") for row in rows}
    assert listed.keys() == defaults.keys() - {"config"}
    for key, value in defaults.items():
        assert not value or key == "config" or listed[key] == value, key


def doctor_checks() -> dict[str, set[str]]:
    """Return the names that each module of the doctor gives to what it reports."""
    found: dict[str, set[str]] = {}
    for path in (REPOSITORY / "hub/cli/doctor").glob("*.py"):
        calls = (
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        )
        found[path.stem] = {
            call.args[0].value
            for call in calls
            if isinstance(call.func, ast.Attribute | ast.Name)
            and (call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id)
            in {"ok", "warn", "fail", "skip", "judge"}
            and len(call.args) > 1
            and isinstance(call.args[0], ast.Constant)
            and isinstance(call.args[0].value, str)
        }
    return found


def test_doctor_check_when_it_exists_then_a_page_explains_it() -> None:
    """The tables of checks hold each name that the doctor uses, and no other."""
    page = (REPOSITORY / "docs/fastnetmon.md").read_text()
    theirs = section(page, "What the doctor looks at")
    ours = section(OPERATIONS, "Doctor: is all of it well?")
    rows = [line.split("|")[2] for line in ours.splitlines() if line.startswith("| ")]
    named = {name for cell in [*rows, *first_cells(theirs)] for name in SPAN.findall(cell)}
    used = set().union(*doctor_checks().values())
    used |= {"networks", "whitelist", "time_limit"}  # given by a variable
    assert used == named


def test_report_field_when_printed_then_protocols_explains_it() -> None:
    """The section on `events parse` names every field of the object, and every dialect."""
    text = section(PROTOCOLS, "`events parse`: one call as the hub understands it")
    named = set(SPAN.findall(text))
    view = report_view(parse(["192.0.2.10", "incoming", "1", "ban"], b""))
    assert set(view) - named == set()
    assert {*view["reported"], *view["counters"], *view["counters"]["incoming"]} - named == set()
    assert set(view["counters"]["incoming"]["total"]) - named == set()
    dialects = {
        node.value
        for module in ("community", "advanced")
        for function in ast.walk(ast.parse((REPOSITORY / f"hub/intake/{module}.py").read_text()))
        if isinstance(function, ast.FunctionDef) and function.name == "_dialect"
        for returned in ast.walk(function)
        if isinstance(returned, ast.Return)
        for node in ast.walk(returned)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert "community-b" in dialects
    rows = set(SPAN.findall("\n".join(first_cells(text))))
    assert {name for name in rows if re.match(r"community|advanced", name)} == dialects


def slug(heading: str) -> str:
    """Return the anchor that renderers give a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_link_when_relative_then_it_leads_somewhere(page: Path) -> None:
    """Every relative link on a page leads to a file, and to a heading that it has."""
    text = FENCE.sub("", page.read_text())
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", FENCE.sub("", target.read_text()), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, link


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the commands below `parser` by name."""
    return {
        name: child
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, child in action.choices.items()
    }


def commands_on(page: Path) -> set[str]:
    """Return what follows `fnm-hub` wherever a page shows it as something to type."""
    text = page.read_text()
    lines = [line for block in FENCE.findall(text) for line in block.splitlines()]
    lines += SPAN.findall(FENCE.sub("", text))
    shown = (re.match(r"(?:\$ )?(?:sudo )?(?:/\S+/)?fnm-hub ([a-z-].*)", line) for line in lines)
    return {match[1].partition("#")[0].strip() for match in shown if match}


def check_command(line: str) -> None:
    """Fail unless the parser knows each command and option in `line`."""
    parser, words = build_parser(), line.partition(" -- ")[0].split()
    while words and not words[0].startswith("-") and (below := subcommands(parser)):
        word = words.pop(0)
        assert word in below, line
        parser = below[word]
    options = {option for action in parser._actions for option in action.option_strings}
    asked = {word for word in words if re.fullmatch(r"-n|--[a-z].*", word)}
    assert asked - options == set(), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_when_a_page_names_it_then_the_program_has_it(page: Path) -> None:
    """What a page tells to type is a command with options that `fnm-hub` takes."""
    for line in commands_on(page):
        check_command(line)


def test_operations_when_read_then_every_command_is_there() -> None:
    """No command of `fnm-hub` is missing from the page for operators."""
    shown = {line.split()[0] for line in commands_on(REPOSITORY / "docs/operations.md")}
    assert subcommands(build_parser()).keys() - shown - {"run", "version"} == set()


def test_check_command_when_there_is_no_such_thing_then_fails() -> None:
    """The check itself notices an unknown command and an unknown option."""
    for line in ("stats", "release ID --why x", "config verify"):
        with pytest.raises(AssertionError, match=re.escape(line)):
            check_command(line)


def resolves(name: str) -> bool:
    """Tell whether the configuration has the key `name`, as `guard.caps.total`."""
    model: object = config.Config
    for part in name.replace("[]", "").split("."):
        if part.isupper():
            continue
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return False
        if part not in model.model_fields:
            return False
        annotation = model.model_fields[part].annotation
        models = re.findall(r"hub\.(?:config|isn_sync\.settings)\.(\w+)", str(annotation))
        known = vars(config) | vars(settings)
        model = known[models[-1]] if models else None
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configuration_key_when_a_page_names_it_then_it_exists(page: Path) -> None:
    """A key in full, as `guard.own_prefixes`, is one of the configuration."""
    events = {said.event for said in EVENTS}
    sections = "|".join(config.Config.model_fields)
    keys = re.compile(rf"(?:{sections})(?:\.(?:[a-z0-9_]+(?:\[\])?|NAME))+")
    named = {span for span in SPAN.findall(FENCE.sub("", page.read_text())) if keys.fullmatch(span)}
    assert {name for name in named - events if not resolves(name)} == set()


def test_resolves_when_there_is_no_such_key_then_false() -> None:
    """The check itself tells a key from what only looks like one."""
    keys = ("intake.tcp.hmac_keys[].id", "engines.webhook.NAME.url", "guard.caps.per_rule")
    assert [resolves(key) for key in keys] == [True, True, True]
    assert [resolves(f"{key}.x") for key in keys] == [False, False, False]
    assert not resolves("guard.own_prefix")
