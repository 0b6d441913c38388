# SPDX-License-Identifier: Apache-2.0
"""What is known of one server: its secrets, its clocks and what its SYN-ACKs show. Pure."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, Literal

from hub.engines.native.keys import Secrets, ServerClock, ServerKeys, SynAck
from hub.isn_sync.clocks import Jump, LaggingClock
from hub.isn_sync.evidence import Finding
from hub.isn_sync.report import Report, hz_from
from hub.net import IPAddress

Scheme = Literal["flow", "host", "none"]
Place = tuple[IPAddress, int]

_SLACK_MS: Final = 2
_MINUTE_MS: Final = 60_000
_COOKIE: Final = "cookie"
_TIMESTAMP: Final = "timestamp"


class Known:
    """Grows with each answer of the agent and each probe.

    Attributes:
        report: the newest, None before the first.
        scheme: of the timestamps, None before a probe has shown it.
    """

    def __init__(self) -> None:
        self.report: Report | None = None
        self._forget()

    def _forget(self) -> None:
        self.scheme: Scheme | None = None
        self._clocks = {name: LaggingClock() for name in (_COOKIE, _TIMESTAMP)}
        self._told: set[str] = set()
        self._doubted: set[str] = set()
        self._profiles: dict[Place, SynAck] = {}

    def __repr__(self) -> str:
        """Return what may be seen by anybody."""
        return f"Known(scheme={self.scheme!r})"

    def cookie_ms(self, now: float) -> int | None:
        """Return the server's clock for the minutes of cookies, at `now` in monotonic seconds."""
        return self._clocks[_COOKIE].at(1000 * now)

    def timestamp_ms(self, now: float) -> int | None:
        """Return its TCP timestamp clock, without offset."""
        return self._clocks[_TIMESTAMP].at(1000 * now)

    def take_report(self, report: Report, sent: float, received: float, wall: float) -> bool:
        """Take in what the agent said; tell whether the server's keys have changed.

        Args:
            report: what it said.
            sent: when it was asked, monotonic seconds.
            received: when it had answered, monotonic seconds.
            wall: Unix seconds at that moment.
        """
        before = self.report
        if before is not None and report.hz is None and report.jiffies is not None:
            hz = before.hz or hz_from(before, report)
            cookie_ms = report.jiffies * 1000 // hz if hz else None
            report = replace(report, hz=hz, cookie_ms=cookie_ms)
        changed = before is not None and _changed(before, report)
        if changed:
            self._forget()
        self.report = report
        self._feed(report, received, wall, 1000 * (received - sent))
        return changed

    def take_finding(self, finding: Finding, place: Place, received: float) -> list[Jump]:
        """Take in what a probe showed; return the clocks that were found to be wrong."""
        if finding.syn_ack is not None:
            self._profiles[place] = finding.syn_ack
        if finding.verdict != "match":
            return []
        self.scheme = finding.scheme or self.scheme
        bounds = {
            _COOKIE: (finding.cookie_floor_ms, finding.cookie_ceil_ms),
            _TIMESTAMP: (finding.timestamp_floor_ms, finding.timestamp_ceil_ms),
        }
        jumps: list[Jump] = []
        for name, (floor, ceil) in bounds.items():
            if floor is None or ceil is None:
                continue
            at = 1000 * received
            known = self._clocks[name].at(at)
            # What tells nothing new would only push better observations out.
            if known is not None and floor <= known <= ceil:
                continue
            jump = self._clocks[name].observe(at, floor, ceil)
            if jump is not None and name in self._told:
                # The server itself contradicts what its agent, or our clock, said of it.
                self._told.discard(name)
                self._doubted.add(name)
                jumps.append(jump)
        return jumps

    def lacks(self, address: IPAddress) -> str:
        """Return which secret for this family the agent has not given; empty when none lacks."""
        report = self.report
        if report is None:
            return "the agent has not answered yet"
        if (report.cookie if address.version == 4 else report.cookie6) is None:  # noqa: PLR2004
            name = "syncookie_secret" if address.version == 4 else "syncookie6_secret"  # noqa: PLR2004
            return f"the agent gives no {name}"
        return ""

    def keys(self, address: IPAddress, ports: Iterable[int], now: float) -> ServerKeys | None:
        """Return all that is needed to make cookies for `address`; None while something lacks.

        Args:
            address: of the server.
            ports: those that must agree about options.
            now: monotonic seconds.
        """
        report = self.report
        cookie_ms, timestamp_ms = self.cookie_ms(now), self.timestamp_ms(now)
        seen = [
            self._profiles[address, port] for port in ports if (address, port) in self._profiles
        ]
        if report is None or not seen or self.lacks(address) or cookie_ms is None:
            return None
        syn_ack = careful(seen)
        scheme = self.scheme or "none"
        secret = {"flow": report.net, "host": report.ts, "none": b""}[scheme]
        if secret is None or (syn_ack.timestamps and (self.scheme is None or timestamp_ms is None)):
            return None
        return ServerKeys(
            Secrets(report.cookie or bytes(32), report.cookie6, secret, scheme),
            syn_ack,
            ServerClock(round(1000 * now), cookie_ms, timestamp_ms or 0),
        )

    def differing(self, address: IPAddress, ports: Iterable[int]) -> bool:
        """Tell whether the ports of an address show different options."""
        return len({self._profiles.get((address, port)) for port in ports} - {None}) > 1

    def _feed(self, report: Report, received: float, wall: float, rtt_ms: float) -> None:
        late = round(rtt_ms) + _SLACK_MS
        if report.cookie_clock == "jiffies":
            self._tell(_COOKIE, report.cookie_ms, late, received)
        elif report.utc_ms is not None:
            self._tell(_COOKIE, report.utc_ms, report.utc_step_ms + late, received)
        else:
            self._tell(_COOKIE, round(1000 * wall), late, received)
        self._tell(_TIMESTAMP, report.timestamp_ms, late, received)

    def _tell(self, name: str, said: int | None, late: int, received: float) -> None:
        if said is None:
            return
        clock, at = self._clocks[name], 1000 * received
        known = clock.at(at)
        if name in self._doubted:
            if known is None or not said - _MINUTE_MS <= known <= said + late:
                return
            self._doubted.discard(name)
        self._told.add(name)
        _ = clock.observe(at, said, said + late)


def careful(seen: list[SynAck]) -> SynAck:
    """Return what a client may believe of every one of these listeners.

    A window that is announced too small costs speed; one too large costs the connection's data.
    """
    scales = [one.wscale for one in seen if one.wscale is not None]
    return SynAck(
        mss4=min(one.mss4 for one in seen),
        mss6=min(one.mss6 for one in seen),
        window=min(one.window for one in seen),
        wscale=min(scales) if len(scales) == len(seen) else None,
        ttl=min(one.ttl for one in seen),
        sack=all(one.sack for one in seen),
        timestamps=all(one.timestamps for one in seen),
        ecn=all(one.ecn for one in seen),
    )


def _changed(before: Report, after: Report) -> bool:
    """Tell whether a secret is another one; one that was not in use yet has no past."""
    pairs = (
        (before.cookie, after.cookie),
        (before.cookie6, after.cookie6),
        (before.net, after.net),
        (before.ts, after.ts),
    )
    rebooted = before.boot_id != after.boot_id
    return rebooted or any(old is not None and old != new for old, new in pairs)
