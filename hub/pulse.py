# SPDX-License-Identifier: Apache-2.0
"""Proof that a loop goes round: whoever asks is answered by its next whole turn."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Pulse:
    """Answers for one loop, which wraps each of its turns in `turn`."""

    def __init__(self) -> None:
        self._asked: list[asyncio.Future[None]] = []

    def felt(self) -> asyncio.Future[None]:
        """Return what is done after a turn that began later than now; never when the loop hangs."""
        answer = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        return answer

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Answer at its end whoever had asked before it began."""
        asked, self._asked = self._asked, []
        yield
        for answer in asked:
            if not answer.done():
                answer.set_result(None)
