# SPDX-License-Identifier: Apache-2.0
"""Reads configuration and rules for the daemon: completely, or not at all."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hub.api.secure import check_listeners
from hub.config import Config, load_config
from hub.errors import ConfigError, Problem
from hub.rules.load import Loaded, read_rules
from hub.rules.ruleset import RuleSet
from hub.rules.selection import run_tests
from hub.rules.words import known_of
from hub.simulator import CoreSimulator

_FIXED: Final = (
    "intake",
    "api",
    "store",
    "engines",
    "isn_sync",
    "log",
    "services",
    "reconcile_interval",
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a reload would put in force.

    Attributes:
        tests: how many rule tests were run and passed.
    """

    config: Config
    loaded: Loaded
    tests: int


def read_all(path: Path) -> tuple[Config, RuleSet]:
    """Return the configuration and its rules.

    Raises:
        ConfigError: with every mistake in every file.
    """
    config = load_config(path)
    if problems := check_listeners(config, str(path)):
        raise ConfigError(problems)
    return config, read_rules(config.rules, known_of(config)).rules


def read_for_reload(path: Path, running: Config) -> Candidate:
    """Return what a reload would put in force, after its rule tests have passed.

    Raises:
        ConfigError: with every mistake; also for changes that need a restart.
    """
    config = load_config(path)
    problems = _changes_of_fixed(running, config, path)
    loaded = read_rules(config.rules, known_of(config))
    tests, failures = run_tests(config.rules, loaded.rules, config, CoreSimulator)
    if problems or failures:
        raise ConfigError([*problems, *failures])
    return Candidate(config, loaded, tests)


def difference(old: RuleSet, new: RuleSet) -> dict[str, list[str]]:
    """Return the names of the rules that a swap adds, removes and changes."""
    before = {rule.name: rule.to_json() for rule in old.rules}
    after = {rule.name: rule.to_json() for rule in new.rules}
    return {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": [name for name in after if name in before and after[name] != before[name]],
    }


def warnings_of(candidate: Candidate) -> list[Any]:
    """Return what works and should be known all the same, one text each."""
    return [str(problem) for problem in candidate.loaded.warnings]


def place_of(path: Path, key: str) -> str:
    """Return `file:line` of a key at the top of a configuration, the file alone without one."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return str(path)
    found = (number for number, line in enumerate(lines, 1) if line.startswith(f"{key}:"))
    number = next(found, 0)
    return f"{path}:{number}" if number else str(path)


def _changes_of_fixed(old: Config, new: Config, path: Path) -> list[Problem]:
    return [
        Problem(
            f"{name} has changed, and takes effect only at a restart",
            str(path),
            todo="restart the hub (protection stays in force meanwhile), or undo the change",
        )
        for name in _FIXED
        if getattr(old, name) != getattr(new, name)
    ]
