# SPDX-License-Identifier: Apache-2.0
"""Whether the cookies of one address may be made here: judged by probes alone. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from hub.isn_sync.evidence import Finding

State = Literal["unknown", "proven", "left"]

MISSES: Final = 2
"""So many mismatches in a row end it."""
SILENCE: Final = 100.0
"""Seconds without a good probe that end it: the server takes cookies for 120 s after its last."""


@dataclass(slots=True)
class Port:
    """What probes of one port have shown.

    Attributes:
        verdict: of the newest, as in `Finding`; empty before the first.
        at: when it was, Unix seconds.
        good_at: when the newest match was, Unix seconds; None when there was none.
        proven_at: the same on the monotonic clock.
    """

    verdict: str = ""
    why: str = "not probed yet"
    at: float = 0.0
    good_at: float | None = None
    proven_at: float | None = None
    misses: int = 0
    goods: int = 0


@dataclass(slots=True)
class Address:
    """How one protected address stands.

    Args:
        good_probes: so many matches in a row on each port bring a left address back.

    Attributes:
        since: Unix seconds of the last change of `state`.
        wanted_at: monotonic seconds since which cookies are, or are to be, made for it.
    """

    good_probes: int
    state: State = "unknown"
    why: str = "no probe yet"
    since: float = 0.0
    ports: dict[int, Port] = field(default_factory=dict)
    wanted_at: float | None = None

    @property
    def word(self) -> str:
        """Return the state as operators see it: a left address that does well is `returning`."""
        doing_well = self.state == "left" and any(port.goods for port in self.ports.values())
        return "returning" if doing_well else self.state

    def expect(self, ports: Iterable[int]) -> None:
        """Judge by these ports from now on."""
        self.ports = {port: self.ports.get(port) or Port() for port in ports}

    def want(self, now: float) -> None:
        """Note that cookies are to be made for it; `now` on the monotonic clock."""
        if self.wanted_at is None:
            self.wanted_at = now

    def unwant(self) -> None:
        """Note that nothing is in force any more."""
        if self.wanted_at is not None:
            self.wanted_at = None
            self._forget("nothing is in force")

    def restart(self, why: str, now: float) -> None:
        """Forget every proof: the server's keys or clocks are new."""
        self._forget(why)
        if self.wanted_at is not None:
            self.wanted_at = now

    def note(self, number: int, finding: Finding, now: float, wall: float) -> bool:
        """Take in one probe; tell whether the state changed.

        Args:
            number: of the port.
            finding: what the probe showed.
            now: monotonic seconds.
            wall: Unix seconds, for operators.
        """
        port = self.ports.setdefault(number, Port())
        port.verdict, port.why, port.at = finding.verdict, finding.why, wall
        if finding.verdict == "match":
            port.good_at, port.proven_at = wall, now
            port.misses, port.goods = 0, port.goods + 1
        elif finding.verdict == "no_cookie" and self.wanted_at is None:
            # In peace a server has no reason to send cookies.
            self._forget(finding.why)
        elif finding.verdict in {"mismatch", "no_cookie"}:
            port.misses, port.goods = port.misses + 1, 0
        elif finding.verdict != "closed":
            port.goods = 0
        return self.judge(now, wall)

    def judge(self, now: float, wall: float) -> bool:
        """Decide anew; tell whether the state changed."""
        before = self.state
        trouble = self._trouble(now)
        if trouble and (before == "proven" or self.wanted_at is not None):
            self.state, self.why = "left", trouble
        elif self._all(self.good_probes if before == "left" else 1):
            self.state, self.why = "proven", ""
        elif before == "unknown":
            self.why = self._missing()
        if self.state != before:
            self.since = wall
        return self.state != before

    def _forget(self, why: str) -> None:
        self.state, self.why = "unknown", why
        for port in self.ports.values():
            port.misses, port.goods, port.proven_at = 0, 0, None

    def _trouble(self, now: float) -> str:
        for number, port in sorted(self.ports.items()):
            if port.misses >= MISSES:
                return f"port {number}: {port.why}"
            begun = [at for at in (port.proven_at, self.wanted_at) if at is not None]
            quiet = now - max(begun, default=now)
            if port.verdict != "closed" and quiet > SILENCE:
                return f"port {number}: no good probe for {quiet:.0f} s; {port.why}"
        return ""

    def _all(self, goods: int) -> bool:
        counted = [port for port in self.ports.values() if port.verdict != "closed"]
        return bool(counted) and all(
            port.verdict == "match" and port.goods >= goods for port in counted
        )

    def _missing(self) -> str:
        for number, port in sorted(self.ports.items()):
            if port.verdict not in {"match", "closed"}:
                return f"port {number}: {port.why}"
        return "every port is closed" if self.ports else "no port is known to probe"
