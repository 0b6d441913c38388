# SPDX-License-Identifier: Apache-2.0
"""Fixtures for every test."""

from collections.abc import Iterator

import pytest
import rich as rich  # noqa: PLC0414 - before `hub` keeps it away: tests of `top` want it
import structlog
from blockbuster import BlockBuster, blockbuster_ctx

from tests.support.beside import MARK
from tests.support.beside import folder as folder  # noqa: PLC0414 - a fixture
from tests.support.beside import pytest_pyfunc_call as pytest_pyfunc_call  # noqa: PLC0414
from tests.support.guest_fixtures import protected as protected  # noqa: PLC0414 - a fixture
from tests.support.guest_fixtures import protected_old as protected_old  # noqa: PLC0414
from tests.support.workers import (
    pytest_collection_modifyitems as pytest_collection_modifyitems,  # noqa: PLC0414
)
from tests.support.workers import (
    pytest_itemcollected as pytest_itemcollected,  # noqa: PLC0414
)
from tests.support.workers import (
    pytest_xdist_make_scheduler as pytest_xdist_make_scheduler,  # noqa: PLC0414
)


def pytest_configure(config: pytest.Config) -> None:
    """Make our mark known, and let no log line read source files, as rich's tracebacks do."""
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], console])
    config.addinivalue_line("markers", f"{MARK}: waits beside the others with this mark")
    config.addinivalue_line("markers", "long: takes minutes with its like; scripts/test --all")


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail every test in which the event loop is blocked."""
    with blockbuster_ctx() as blocker:
        yield blocker
