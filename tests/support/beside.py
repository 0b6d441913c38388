# SPDX-License-Identifier: Apache-2.0
"""Tests that mostly wait for time to pass do so beside each other.

All tests with the mark `beside` that were selected run when the first of them is reached, and
nothing else does meanwhile; each is reported in its own place. Such a test is no coroutine, and
takes nothing but the fixture `folder` and its parameters.
"""

import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

MARK: Final = "beside"
_AT_ONCE: Final = 5
"""More would take too long to start on two processors."""
_DONE: Final = pytest.StashKey[dict[str, "Future[None]"]]()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return an empty folder; a test that runs beside others has one of its own."""
    with tempfile.TemporaryDirectory(prefix="fnm-") as place:
        yield Path(place)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Take the outcome of a marked test."""
    if pyfuncitem.get_closest_marker(MARK) is None:
        return None
    stash = pyfuncitem.session.stash
    if _DONE not in stash:
        stash[_DONE] = _run(pyfuncitem.session)
    stash[_DONE].pop(pyfuncitem.nodeid).result()
    return True


def _run(session: pytest.Session) -> dict[str, "Future[None]"]:
    marked = [
        item
        for item in session.items
        if isinstance(item, pytest.Function) and item.get_closest_marker(MARK)
    ]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix=MARK) as pool:
        return {item.nodeid: pool.submit(_work, item) for item in marked}


def _work(item: pytest.Function) -> None:
    given = item.callspec.params if hasattr(item, "callspec") else {}
    with tempfile.TemporaryDirectory(prefix="fnm-") as place:
        item.function(folder=Path(place), **given)
