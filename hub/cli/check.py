# SPDX-License-Identifier: Apache-2.0
"""Bodies of `fnm-hub config check` and `fnm-hub rules check`."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from hub.api.secure import check_listeners
from hub.cli.text import fold
from hub.config import Config, load_config
from hub.errors import ConfigError, Problem
from hub.net import covers
from hub.rules.load import known_of, read_rules
from hub.rules.ruleset import RuleSet
from hub.rules.selection import run_tests
from hub.rules.testrun import SimulatorFactory
from hub.yamlfile import scan


@dataclass(slots=True)
class Findings:
    """What a check has found.

    Attributes:
        problems: what stands in the way.
        warnings: what works and may surprise.
        facts: what was read, by its name in JSON.
    """

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def config_check(path: Path, *, as_json: bool = False, out: TextIO | None = None) -> int:
    """Check the configuration at `path` and the rules it names; return the exit code.

    Returns:
        0 when both would be loaded, warnings or not; 1 when not.
    """
    found, _, _ = _look(path)
    return _report(str(path), found, out or sys.stdout, as_json=as_json)


def examine(path: Path, simulator: SimulatorFactory) -> Findings:
    """Return all that `config check` and `rules check` find of the configuration at `path`."""
    found, config, rules = _look(path)
    if config is not None and rules is not None:
        found.facts["tests"], problems = run_tests(config.rules, rules, config, simulator)
        found.problems += problems
    return found


def _look(path: Path) -> tuple[Findings, Config | None, RuleSet | None]:
    found = Findings()
    config = _load_config(path, found)
    if config is None:
        return found, None, None
    found.warnings += _config_warnings(path, config)
    found.facts["dry_run"] = config.dry_run
    found.facts["services"] = [each.name for each in config.services]
    return found, config, _load_rules(config.rules, config, found)


def rules_check(
    paths: Sequence[Path],
    config_path: Path,
    simulator: SimulatorFactory,
    *,
    as_json: bool = False,
    out: TextIO | None = None,
) -> int:
    """Check rule files and run the tests beside them; return the exit code.

    Args:
        paths: rule files in order; none means those of the configuration.
        config_path: gives the names that rules may use.
        simulator: makes the hub without a world in which the tests run.
        as_json: print one JSON object instead of text.
        out: where to print, standard output by default.

    Returns:
        0 when the rules would be loaded and every test holds, warnings or not; 1 when not.
    """
    found = Findings()
    config = _load_config(config_path, found)
    if config is None:
        found.problems = [_with_need(problem) for problem in found.problems]
    else:
        files = tuple(paths) or config.rules
        rules = _load_rules(files, config, found)
        if rules is not None:
            found.facts["tests"], problems = run_tests(files, rules, config, simulator)
            found.problems += problems
    title = ", ".join(str(path) for path in paths) or str(config_path)
    return _report(title, found, out or sys.stdout, as_json=as_json)


def _load_config(path: Path, found: Findings) -> Config | None:
    try:
        config = load_config(path)
    except ConfigError as error:
        found.problems += error.problems
        return None
    found.problems += check_listeners(config, str(path))
    return config


def _with_need(problem: Problem) -> Problem:
    # A mistake without a line: the file could not be read at all.
    if problem.line:
        return problem
    need = "rules are checked against its services, engines and guards: name it with --config FILE"
    return replace(problem, todo=f"{problem.todo}; {need}" if problem.todo else need)


def _load_rules(paths: Sequence[Path], config: Config, found: Findings) -> RuleSet | None:
    try:
        loaded = read_rules(paths, known_of(config))
    except ConfigError as error:
        found.problems += error.problems
        return None
    found.warnings += loaded.warnings
    found.facts["rules"] = len(loaded.rules.rules)
    found.facts["rules_version"] = loaded.rules.version
    return loaded.rules


def _shown(value: Any) -> str:
    """Return a fact as an operator reads it."""
    match value:
        case True:
            return "on: everything is decided, nothing is done"
        case False:
            return "off: countermeasures are applied"
        case "until-armed":
            return "until armed: everything is decided, nothing is done before fnm-hub arm"
        case list():
            return ", ".join(value) or "none"
        case _:
            return str(value)


def _config_warnings(path: Path, config: Config) -> Iterable[Problem]:
    document = scan(path)
    own = config.guard.own_prefixes
    if not own:
        node = document.locate(("guard", "own_prefixes")).node
        what = "guard.own_prefixes is empty, so every countermeasure will be refused"
        todo = "list the prefixes that are yours"
        yield Problem(what, document.file, node.line, node.column, todo)
        return
    for number, prefix in enumerate(own):
        if prefix.prefixlen == 0:
            place: tuple[str | int, ...] = ("guard", "own_prefixes", number)
            what = f"{prefix} is every address there is, so this guard holds nothing back"
            yield document.problem(place, what, "list only the prefixes that are yours")
    nft = config.engines.nftables
    if nft.enabled and not os.access(nft.nft, os.X_OK):
        what = f"{nft.nft} cannot be run here"
        place = ("engines", "nftables", "nft")
        yield document.problem(place, what, "install nftables, or correct the path")
    native = config.engines.native
    if native.enabled and not native.socket.is_socket():
        what = f"nothing listens at {native.socket}"
        place = ("engines", "native", "socket")
        yield document.problem(place, what, "start synproxyd, or correct the path")
    for index, service in enumerate(config.services):
        for number, prefix in enumerate(service.prefixes):
            if not any(covers(each, prefix) for each in own):
                what = f"{prefix} is not inside guard.own_prefixes, so it is never protected"
                loc = ("services", index, "prefixes", number)
                yield document.problem(loc, what, "add it there if it is yours")


def _report(title: str, found: Findings, out: TextIO, *, as_json: bool) -> int:
    code = 1 if found.problems else 0
    if as_json:
        answer = {
            "ok": not found.problems,
            "problems": [asdict(problem) for problem in found.problems],
            "warnings": [asdict(problem) for problem in found.warnings],
            **found.facts,
        }
        print(json.dumps(answer, indent=2), file=out)
        return code
    for problem in found.problems:
        print(fold(str(problem)), file=out)
    for problem in found.warnings:
        print(fold(f"{problem} (warning)"), file=out)
    if found.problems:
        count = len(found.problems)
        print(f"{count} {'mistake' if count == 1 else 'mistakes'}", file=out)
        return code
    print(fold(f"{title}: ok"), file=out)
    for name, value in found.facts.items():
        print(fold(f"  {name.replace('_', ' '):<13} {_shown(value)}"), file=out)
    return code
