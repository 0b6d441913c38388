# SPDX-License-Identifier: Apache-2.0
"""The time for which a server answers every SYN with a cookie on our behalf.

The agent ends it by itself when nobody renews it, so that a dead hub leaves nothing behind.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from hub.clock import Clock
from hub.errors import HubError
from hub.isn_sync.link import Link
from hub.isn_sync.lists import MOST_NAMES

_LEAST: Final = 180.0
_MOST: Final = 86_400.0
_RENEW_BEFORE: Final = 60.0


class Lease:
    """What was agreed with one agent.

    Args:
        link: the way to it.
        log: a bound logger that names it.

    Attributes:
        until: monotonic seconds; 0 when the server is as its owner left it.
    """

    def __init__(self, link: Link, clock: Clock, log: Any) -> None:
        self._link, self._clock, self._log = link, clock, log
        self._asking = asyncio.Lock()
        self._trouble = ""
        self.until = 0.0

    @property
    def held(self) -> bool:
        """Tell whether it lasts now."""
        return self.until > self._clock.monotonic()

    def lost(self) -> None:
        """Note that the server is not ready any more, whatever was agreed."""
        self.until = 0.0

    def adopt(self, seconds: float) -> None:
        """Take over what an earlier run of this hub has agreed."""
        self.until = self._clock.monotonic() + seconds

    async def engage(self, seconds: float, ports: Sequence[int]) -> bool:
        """Let it last for so long, where it does not already; tell whether it is a new one.

        Args:
            seconds: from now on.
            ports: whose listeners are to take cookies.
        """
        async with self._asking:
            now, seconds = self._clock.monotonic(), min(max(seconds, _LEAST), _MOST)
            if self.until >= now + seconds - _RENEW_BEFORE:
                return False
            try:
                words = (round(seconds), *ports[:MOST_NAMES])
                _ = await self._link.run(f"engage {' '.join(map(str, words))}")
            except HubError as error:
                if self._is_news(str(error)):
                    todo = "see the agent's log"
                    self._log.warning("isn.not_engaged", why=str(error), todo=todo)
                return False
            is_new, self.until, self._trouble = self.until <= now, now + seconds, ""
            if is_new:
                self._log.info("isn.engaged", seconds=round(seconds))
            return is_new

    async def give_up(self) -> None:
        """End it before its time, where there is one."""
        async with self._asking:
            if not self.held:
                return
            try:
                _ = await self._link.run("release")
            except HubError as error:
                if self._is_news(str(error)):
                    todo = "the agent does it when the lease is over"
                    self._log.warning("isn.not_released", why=str(error), todo=todo)
                return
            self.until, self._trouble = 0.0, ""
            self._log.info("isn.released")

    def _is_news(self, why: str) -> bool:
        before, self._trouble = self._trouble, why
        return why != before
