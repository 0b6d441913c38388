# SPDX-License-Identifier: Apache-2.0
"""Which mode of synproxyd carries out a `tcp` now, and why no better one (pure)."""

from dataclasses import dataclass, field
from typing import Final, Literal

from hub.engines.native.keys import ServerKeys, Standing
from hub.errors import EnginePermanentError, EngineTemporaryError
from hub.rules.actions import Tcp

Mode = Literal["isn-sync", "splice", "reset"]

INSTEAD: Final = "use mode isn-sync, where an agent speaks for the server, or mode reset"
_COOKIE_DRIFT_MS: Final = 200
_TIMESTAMP_DRIFT_MS: Final = 16


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands in the way of `splice`, and what somebody can do about it."""

    why: str
    todo: str

    def __str__(self) -> str:
        """Return both in a line."""
        return f"{self.why}; {self.todo}" if self.todo else self.why


@dataclass(frozen=True, slots=True)
class Choice:
    """How a `tcp` is carried out.

    Attributes:
        mode: in synproxyd's words.
        keys: of the protected server, with `isn-sync` alone.
        down: why each better mode is not taken, the best one first.
        obstacle: that of `splice`, where this is why something else was taken.
    """

    mode: Mode
    keys: ServerKeys | None = field(default=None, repr=False)
    down: tuple[str, ...] = ()
    obstacle: Obstacle | None = None

    @property
    def why(self) -> str:
        """All of `down` in a line."""
        return "; ".join(self.down)

    def stands_for(self, other: "Choice") -> bool:
        """Tell whether what was asked for by this one need not be asked for by `other`."""
        if self.keys is None or other.keys is None:
            return self.mode == other.mode
        return (
            self.keys.secrets == other.keys.secrets
            and self.keys.syn_ack == other.keys.syn_ack
            and not self.keys.clock.drifted(other.keys.clock, _COOKIE_DRIFT_MS, _TIMESTAMP_DRIFT_MS)
        )


def choose(action: Tcp, standing: Standing, obstacle: Obstacle | None, where: str) -> Choice:
    """Return how `action` is carried out.

    Args:
        action: what a rule asks for.
        standing: of the server behind its target; looked at where its keys are wanted.
        obstacle: in the way of `splice`, None where nothing is.
        where: for errors.

    Raises:
        EnginePermanentError: this engine cannot do it, or not here.
        EngineTemporaryError: not now.
    """
    if not action.wants_keys:
        return _as_asked(action, obstacle, where)
    if standing.keys is not None:
        return Choice("isn-sync", standing.keys)
    if action.fallback == "pass":
        raise EngineTemporaryError(
            f"isn-sync is not possible now: {standing.why}",
            where=where,
            todo="see fnm-hub agents; the target is not protected meanwhile, as fallback is pass",
        )
    down = (f"not by isn-sync: {standing.why}",)
    if action.fallback == "reset":
        return Choice("reset", down=down)
    if obstacle is None:
        return Choice("splice", down=down)
    return Choice("reset", down=(*down, f"not by splice: {obstacle}"), obstacle=obstacle)


def _as_asked(action: Tcp, obstacle: Obstacle | None, where: str) -> Choice:
    if action.mode != "splice":
        return Choice("reset")
    if obstacle is None:
        return Choice("splice")
    todo = obstacle.todo
    if "reset" not in todo:
        todo = f"{todo}; or {INSTEAD}" if todo else INSTEAD
    raise EnginePermanentError(f"splice is not possible: {obstacle.why}", where=where, todo=todo)
