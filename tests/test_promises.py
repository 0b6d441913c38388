# SPDX-License-Identifier: Apache-2.0
"""Every promise names tests that exist."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PROMISES = {f"P{number}" for number in range(1, 12)}


def test_promise_when_made_then_its_tests_exist() -> None:
    """docs/promises.md lists P1 to P11, and each test it names is there."""
    text = (REPOSITORY / "docs" / "promises.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| P\d", line)]
    assert {row.split("|")[1].strip() for row in rows} == PROMISES
    for row in rows:
        named = re.findall(r"`(tests/[\w/.]+?\.py)(?:::(\w+))?`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}" in (REPOSITORY / file).read_text(), (file, test)
