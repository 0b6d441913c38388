# SPDX-License-Identifier: Apache-2.0
"""Whether synproxyd can splice, towards which targets not, and whether it has room for it."""

from dataclasses import dataclass
from typing import Any, Final

import structlog

from hub.clock import Clock
from hub.engines.native.client import Hello
from hub.engines.native.modes import Obstacle
from hub.errors import EngineError
from hub.net import IPNetwork

log = structlog.get_logger(__name__)

MODE: Final = "splice"
REFUSED_FOR: Final = 60.0
"""Seconds for which a refusal is believed; until then the same target is not asked for again."""
WARN_EVERY: Final = 60.0
_FULL: Final = "splice_full"


@dataclass(frozen=True, slots=True)
class _Refusal:
    obstacle: Obstacle
    until: float


class Splicing:
    """What synproxyd has said of the mode `splice`.

    Args:
        clock: the machine's time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._everywhere: Obstacle | None = None
        self._refusals: dict[IPNetwork, _Refusal] = {}
        self._full: int | None = None
        self._unsaid = 0
        self._said_at: float | None = None

    @property
    def everywhere(self) -> Obstacle | None:
        """What stands in the way for every target."""
        return self._everywhere

    def greeted(self, hello: Hello) -> None:
        """Take in what another run of synproxyd says of itself; what was refused may work now."""
        self._refusals.clear()
        self._everywhere = None
        if MODE not in hello.tcp_modes:
            self._everywhere = Obstacle(
                f"synproxyd {hello.daemon} does not offer it: it is older than the hub, or nothing "
                "of it is attached where packets leave",
                "install both of one release, start synproxyd without --no-splice, see its log",
            )

    def obstacle(self, target: IPNetwork) -> Obstacle | None:
        """Return what stands in the way for `target`, as far as is known."""
        if self._everywhere is not None:
            return self._everywhere
        refusal = self._refusals.get(target)
        return refusal.obstacle if refusal and self._clock.monotonic() < refusal.until else None

    def refused(self, target: IPNetwork, error: EngineError) -> Obstacle:
        """Remember for a while that synproxyd has refused `target`."""
        now = self._clock.monotonic()
        self._refusals = {key: one for key, one in self._refusals.items() if now < one.until}
        obstacle = Obstacle(error.what, error.todo)
        self._refusals[target] = _Refusal(obstacle, now + REFUSED_FOR)
        return obstacle

    def measured(self, stats: dict[str, Any]) -> dict[str, int]:
        """Return what is held now, by name; warn where connections found no room."""
        held = {str(name): int(value) for name, value in stats.get("splices", {}).items()}
        full = int(stats["packets"].get(_FULL, 0))
        # What was counted before the first look is old; tables made anew count from 0.
        self._unsaid += max(0, full - self._full) if self._full is not None else 0
        self._full = full
        now = self._clock.monotonic()
        if self._unsaid and (self._said_at is None or now - self._said_at >= WARN_EVERY):
            log.warning(
                "native.splices_full",
                refused=self._unsaid,
                open=held.get("open", 0),
                rows=held.get("rows", 0),
                todo="give synproxyd more --splices: new clients of spliced targets are not served",
            )
            self._unsaid, self._said_at = 0, now
        return held
