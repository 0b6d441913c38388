# SPDX-License-Identifier: Apache-2.0
"""Finds the tests that concern some rule files, and runs them."""

from collections.abc import Sequence
from pathlib import Path

from hub.config import Config
from hub.errors import ConfigError, Problem
from hub.rules.load import read_rules
from hub.rules.ruleset import RuleSet
from hub.rules.suite import find_suites, read_suite
from hub.rules.testrun import SimulatorFactory, run_suite
from hub.rules.words import known_of


def run_tests(
    paths: Sequence[Path], rules: RuleSet, config: Config, simulator: SimulatorFactory
) -> tuple[int, list[Problem]]:
    """Run the tests beside `paths` that are about these files and no others.

    Returns:
        How many tests were run, and every mistake and mismatch.
    """
    given = [path.resolve() for path in paths]
    count, problems = 0, list[Problem]()
    for path in find_suites(paths):
        try:
            suite = read_suite(path)
            tested = [each.resolve() for each in suite.rules]
            if not set(tested) <= set(given):
                continue
            same = tested == given
            under_test = rules if same else read_rules(suite.rules, known_of(config)).rules
        except ConfigError as error:
            problems += error.problems
            continue
        count += len(suite.spec.tests)
        problems += run_suite(suite, under_test, config, simulator)
    return count, problems
