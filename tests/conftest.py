# SPDX-License-Identifier: Apache-2.0
"""Fixtures for every test."""

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail every test in which the event loop is blocked."""
    with blockbuster_ctx() as blocker:
        yield blocker
