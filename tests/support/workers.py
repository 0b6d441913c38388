# SPDX-License-Identifier: Apache-2.0
"""Which tests go to the same worker, where several run at once (`pytest -n 3`).

A module goes as a whole, because its fixtures are expensive. Tests in a booted guest share it, and
are not to meet those that run many hubs beside each other: both together are one worker's.
"""

import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.beside import MARK

_ROOT: Final = Path(__file__).resolve().parents[2]
_ALL_BESIDE: Final = 600
_TOGETHER: Final = re.compile(r": Protected\b|\"protected_old\"|\bpytest\.mark\.beside\b")
_SHARED: Final = "guest-and-beside"


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    def _split_scope(self, nodeid: str) -> str:
        return _scope_of(_ROOT / nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Hand tests out by what goes together."""
    return _Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest in one piece."""
    items.sort(key=lambda item: _scope_of(item.path) != _SHARED)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give the first of those that run beside each other the time of all."""
    if item.get_closest_marker(MARK) is not None:
        item.add_marker(pytest.mark.timeout(_ALL_BESIDE))


@cache
def _scope_of(module: Path) -> str:
    return _SHARED if _TOGETHER.search(module.read_text()) else module.stem
