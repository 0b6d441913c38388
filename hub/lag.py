# SPDX-License-Identifier: Apache-2.0
"""Measures how late the event loop is: whatever blocks it delays every countermeasure."""

from collections.abc import Callable
from typing import Final

from hub.clock import Clock

_INTERVAL: Final = 0.25


async def watch_lag(clock: Clock, observe: Callable[[float], None]) -> None:
    """Tell `observe` the seconds of delay four times a second, for ever."""
    while True:
        begun = clock.monotonic()
        await clock.sleep(_INTERVAL)
        observe(max(0.0, clock.monotonic() - begun - _INTERVAL))
