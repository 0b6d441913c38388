# SPDX-License-Identifier: Apache-2.0
"""Which tests go to the same worker, where several run at once (`pytest -n 2 --dist loadgroup`).

A module goes as a whole, because its fixtures are expensive. Tests in a booted guest share it, and
are not to meet those that run many hubs beside each other: both together are one worker's.
"""

import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.support.beside import MARK

_ALL_BESIDE: Final = 600
_TOGETHER: Final = re.compile(r": Protected\b|\"protected_old\"|\bpytest\.mark\.beside\b")
_SHARED: Final = "guest-and-beside"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what goes together, and begin with what takes longest in one piece."""
    items.sort(key=lambda item: _scope_of(item.path) != _SHARED)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test with what it goes together with."""
    item.add_marker(pytest.mark.xdist_group(_scope_of(item.path)))
    if item.get_closest_marker(MARK) is not None:
        # The first of them lasts as long as all.
        item.add_marker(pytest.mark.timeout(_ALL_BESIDE))


@cache
def _scope_of(module: Path) -> str:
    return _SHARED if _TOGETHER.search(module.read_text()) else module.stem
