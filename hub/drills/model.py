# SPDX-License-Identifier: Apache-2.0
"""A drill: the mark that it travels under, what was seen of it, and how it ended."""

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any, Final

from hub.net import IPAddress
from hub.store.records import AuditRow, EventResult

KINDS: Final = ("syn", "tcp", "udp", "icmp", "fragments")
"""What can be drilled; `hub.drills.report` writes the report of each."""
SHORTEST: Final = 10.0
LONGEST: Final = 600.0
"""Seconds that a drill may be asked to last at most."""


@dataclass(frozen=True, slots=True)
class Drill:
    """A drill that is under way.

    Attributes:
        id: `d-` and ten characters; stands in every row, line and view that it causes.
        digest: SHA-256 of its token in hex; the token itself is kept nowhere.
        target: the one address that it may be about.
        kind: one of `KINDS`.
        enforce: its countermeasures are really applied; else planned only.
        notify_too: messages are sent and programs are run.
        seconds: how long it and all that it puts in force may last.
        rules: version of the rules at its beginning.
        config: fingerprint of the configuration at its beginning.
        attack: id of the attack that its ban began; empty before.
        taken: actions that have been taken in under its mark, each once.
    """

    id: str
    digest: str
    target: IPAddress
    kind: str
    enforce: bool
    notify_too: bool
    actor: str
    reason: str
    began_at: float
    seconds: float
    rules: str
    config: str
    attack: str = ""
    taken: tuple[str, ...] = ()

    @property
    def until(self) -> float:
        """Return when it is over at the latest, Unix seconds."""
        return self.began_at + self.seconds

    def bears(self, token: str) -> bool:
        """Tell whether `token` is the one that was handed out for it."""
        return hmac.compare_digest(digest_of(token), self.digest)


def digest_of(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the chain.

    Attributes:
        ok: None while it has not been reached.
        at: when it was reached, Unix seconds in the hub's clock; None where it was not.
        said: what the part concerned said.
        todo: what to do next when it failed.
    """

    name: str
    ok: bool | None = None
    at: float | None = None
    said: str = ""
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """How a drill went; the newest one, and the newest that passed, are kept.

    Attributes:
        why: why it did not pass; empty when it did.
    """

    id: str
    target: IPAddress
    kind: str
    enforced: bool
    passed: bool
    why: str
    actor: str
    began_at: float
    ended_at: float
    rules: str
    config: str
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A marked event that has become durable.

    Attributes:
        started_at: when its hook began to run, Unix seconds in the hub's clock.
        at: when it was durable.
        via: the way in.
    """

    started_at: float
    at: float
    via: str


@dataclass(frozen=True, slots=True)
class Hook:
    """How the hook ended, as the one who ran it tells.

    Attributes:
        path: the program.
        user: whom it ran as.
        as_detector: that is FastNetMon's own user.
        seconds: how long it ran.
        status: its exit status, None when it had to be killed or could not be started.
        said: its last words on standard error.
    """

    path: str
    user: str
    as_detector: bool
    seconds: float
    status: int | None
    said: str


@dataclass(slots=True)
class Course:
    """What has been seen of the drill under way; lost with the process.

    Attributes:
        hooks: by call, `ban` or `unban`.
        arrivals: marked events by number.
        results: what became of them.
        notes: audit rows of its attack, in their order.
        there: when the engines' inventories showed all of it, None while they did not.
        gone: when they showed nothing of it after the release.
        lacking: what they did not show when they were asked last.
    """

    id: str
    hooks: dict[str, Hook] = field(default_factory=dict)
    arrivals: dict[int, Arrival] = field(default_factory=dict)
    results: dict[int, EventResult] = field(default_factory=dict)
    notes: list[AuditRow] = field(default_factory=list)
    there: float | None = None
    gone: float | None = None
    lacking: str = ""


def stage_view(stage: Stage) -> dict[str, Any]:
    """Return a stage as JSON."""
    return {name: getattr(stage, name) for name in Stage.__dataclass_fields__}


def result_view(result: Result | None) -> dict[str, Any] | None:
    """Return a result as JSON, None where there is none."""
    if result is None:
        return None
    fields = {name: getattr(result, name) for name in Result.__dataclass_fields__}
    stages = [stage_view(stage) for stage in result.stages]
    return {**fields, "target": str(result.target), "stages": stages}
