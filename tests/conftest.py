# SPDX-License-Identifier: Apache-2.0
"""Fixtures for every test."""

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from tests.support.guest_fixtures import protected as protected  # noqa: PLC0414 - a fixture
from tests.support.guest_fixtures import protected_old as protected_old  # noqa: PLC0414


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail every test in which the event loop is blocked."""
    with blockbuster_ctx() as blocker:
        yield blocker
