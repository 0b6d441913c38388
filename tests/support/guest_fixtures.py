# SPDX-License-Identifier: Apache-2.0
"""One guest of each kernel for all tests of a run, handed to each test clean.

A test module takes one by `from tests.support.guest_fixtures import protected as protected`, or all
do by the same line in `tests/conftest.py`. Either way there is only one.
"""

from contextlib import ExitStack

import pytest

from scripts.lab.commands import LabError
from scripts.lab.guest_kernel import STOCK, oldest
from tests.support.guest import Protected


class _Shared:
    """The guest with one kernel that this process has booted, if it has."""

    def __init__(self) -> None:
        self._ends = ExitStack()
        self._made: Protected | None = None

    def clean(self, config: pytest.Config, package: str) -> Protected:
        """Return it as it was after its boot, booted anew where a test has broken it."""
        if self._made is not None:
            try:
                self._made.clean_now()
            except LabError:
                self.close()
        if self._made is None:
            self._made = self._ends.enter_context(Protected(package))
            config.add_cleanup(self.close)
        return self._made

    def close(self) -> None:
        """End it; another one would be booted for the next test."""
        self._made = None
        self._ends.close()


_stock = _Shared()
_old = _Shared()


@pytest.fixture
def protected(request: pytest.FixtureRequest) -> Protected:
    """Return the stand with a clean guest that has Debian's newest kernel."""
    return _stock.clean(request.config, STOCK)


@pytest.fixture
def protected_old(request: pytest.FixtureRequest) -> Protected:
    """Return the stand with a clean guest whose timestamps are those before 165573e41f2f."""
    return _old.clean(request.config, oldest())
