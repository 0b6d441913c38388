# SPDX-License-Identifier: Apache-2.0
"""What one probe proves: whether the server's SYN-ACK is the one that we would have made."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from hub.engines.native.keys import SynAck
from hub.isn_sync import cookies, learned
from hub.isn_sync.exchange import Exchange
from hub.isn_sync.report import COMMON_HZ, Report
from hub.isn_sync.segments import Reset, SynAckSegment

Verdict = Literal["match", "mismatch", "no_cookie", "closed", "silent", "no_keys"]
Scheme = Literal["flow", "host", "none"]

WITHIN: Final = 10
"""Minutes before and after the expected one in which a cookie is looked for."""
UTC_AHEAD_MS: Final = 5000
"""How far the isn_sync module sets the timestamp clock ahead of UTC."""

_TS_BITS: Final = 0x3F
_U32: Final = 0xFFFFFFFF
_EARLY_MS: Final = 1000
_LATE_MS: Final = 2000
_UTC_ERROR_MS: Final = 10_000
_UNPOLLED_MS: Final = 600_000
_ISN_ERROR_MS: Final = 2000
_ALWAYS: Final = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe showed.

    The bounds hold for the server's clocks at the moment when the answer came in.

    Attributes:
        verdict: `match`: cookie, timestamp and options are what we would have sent; `mismatch`:
            they are not; `no_cookie`: a plain sequence number, the server is not engaged;
            `closed`: RST; `silent`: no answer; `no_keys`: cannot be told, `why` says what lacks.
        why: for the operator; with `match` empty, or something worth knowing.
        scheme: of the timestamps; `none` also where the server sends no timestamps.
        count: minute of the cookie found.
        cookie_floor_ms: lower bound of the clock for minutes.
        cookie_ceil_ms: upper bound of it.
        timestamp_floor_ms: lower bound of the timestamp clock without offset.
        timestamp_ceil_ms: upper bound of it.
        syn_ack: the options that the SYN-ACK showed; None without a SYN-ACK.
    """

    verdict: Verdict
    why: str = ""
    scheme: Scheme | None = None
    count: int | None = None
    cookie_floor_ms: int | None = None
    cookie_ceil_ms: int | None = None
    timestamp_floor_ms: int | None = None
    timestamp_ceil_ms: int | None = None
    syn_ack: SynAck | None = None


@dataclass(frozen=True, slots=True)
class _Stamp:
    """A reading of a TSval: the server's clock, with or without options in its lowest bits."""

    scheme: Scheme
    value: int
    carries_options: bool


@dataclass(frozen=True, slots=True)
class _Window:
    lowest: int
    highest: int

    def place(self, low32: int) -> int | None:
        """Return the value with these lowest 32 bits that lies within; None when none does."""
        value = self.lowest + ((low32 - self.lowest) & _U32)
        return value if value <= self.highest else None


def examine(
    report: Report, exchange: Exchange, *, cookie_ms: int | None, timestamp_ms: int | None
) -> Finding:
    """Return what a probe shows about a server whose agent gave `report`.

    Args:
        report: secrets and settings.
        exchange: the probe and its answer.
        cookie_ms: the server's clock for cookie minutes when the answer came in, as we take it to
            be; None where that is not known.
        timestamp_ms: the same of its timestamp clock without offset.
    """
    reply = exchange.reply
    if reply is None:
        return Finding("silent", "no answer to the SYN: filtered on the way, or the server is down")
    if isinstance(reply, Reset):
        return Finding("closed", "nothing listens there")
    return _Examiner(report, exchange, reply, cookie_ms, timestamp_ms).finding()


class _Examiner:
    """One examination of a SYN-ACK."""

    def __init__(
        self,
        report: Report,
        exchange: Exchange,
        reply: SynAckSegment,
        cookie_ms: int | None,
        timestamp_ms: int | None,
    ) -> None:
        self._report, self._reply, self._syn = report, reply, exchange.syn
        self._cookie_ms, self._timestamp_ms = cookie_ms, timestamp_ms
        self._v6 = exchange.syn.target.version == 6  # noqa: PLR2004
        self._delay_ms = math.ceil(1000 * (exchange.received - exchange.sent)) + 1
        self._base = Finding("no_keys", syn_ack=learned.syn_ack(reply, v6=self._v6))

    def finding(self) -> Finding:
        """Return what is to be said of it."""
        secret = self._report.cookie6 if self._v6 else self._report.cookie
        if secret is None:
            name = "syncookie6_secret" if self._v6 else "syncookie_secret"
            return self._lacking(
                f"the agent gives no {name}: the server has sent no cookie since its boot, or the "
                "agent cannot read it; set net.ipv4.tcp_syncookies to 2 there, and poll again"
            )
        minutes = list(self._minutes())
        if not minutes:
            return self._lacking(
                "the minute of the server's cookies is not known: its agent gives neither jiffies "
                "nor its time; update the agent"
            )
        for minute in minutes:
            if found := self._search(secret, minute):
                return self._with_cookie(*found, expected=minutes[0])
        return self._without_cookie(minutes)

    def _lacking(self, why: str) -> Finding:
        return replace(self._base, verdict="no_keys", why=why)

    # ---- the cookie ---------------------------------------------------------------------

    def _minutes(self) -> Iterator[int]:
        """Yield the minutes around which to look, the likeliest first."""
        report = self._report
        if self._cookie_ms is not None:
            yield self._cookie_ms // cookies.MINUTE_MS
        said = report.utc_ms if report.cookie_clock == "utc" else report.cookie_ms
        if said is not None:
            yield said // cookies.MINUTE_MS
        elif report.cookie_clock == "jiffies" and report.jiffies is not None:
            for hz in COMMON_HZ:
                yield report.jiffies // (60 * hz)

    def _search(self, secret: bytes, minute: int) -> tuple[int, int] | None:
        syn = self._syn
        return cookies.count_of(
            secret,
            *(syn.source, syn.target, syn.sport, syn.dport),
            seq=syn.seq,
            isn=self._reply.seq,
            near=minute,
            within=WITHIN,
        )

    def _with_cookie(self, count: int, index: int, expected: int) -> Finding:
        floor = count * cookies.MINUTE_MS
        ceil = floor + cookies.MINUTE_MS - 1
        base = replace(
            self._base,
            count=count,
            cookie_floor_ms=floor,
            cookie_ceil_ms=ceil + self._delay_ms,
        )
        asked = cookies.index_of_mss(self._syn.mss, v6=self._v6)
        if index != asked:
            table = cookies.MSS6 if self._v6 else cookies.MSS4
            why = (
                f"its cookie is for segments of {table[index]}, of {table[asked]} was asked: "
                "something on the way changes the MSS, or the listener sets TCP_MAXSEG"
            )
            return replace(base, verdict="mismatch", why=why)
        if wrong := learned.contradictions(self._report, self._reply, cookie=True):
            return replace(base, verdict="mismatch", why=wrong)
        why = ""
        if self._cookie_ms is not None and abs(count - expected) > 1:
            why = f"its clock for cookies is {count - expected:+d} min from where it was thought"
        return self._with_timestamp(replace(base, why=why), _Window(floor, ceil))

    # ---- its timestamp ------------------------------------------------------------------

    def _with_timestamp(self, base: Finding, minute: _Window) -> Finding:
        if self._reply.tsval is None:
            return replace(base, verdict="match", scheme="none")
        window = self._window(minute)
        if window is None:
            why = "its timestamp clock is not known: the agent gives no timestamp_ms; update it"
            return replace(base, verdict="no_keys", why=why)
        stamp = self._stamp(window)
        if stamp is None:
            return self._not_explained(base)
        base = self._bounded(base, stamp, _TS_BITS)
        if stamp.carries_options:
            return replace(base, verdict="match")
        why = (
            f"its timestamp carries the options {stamp.value & _TS_BITS:#04x}, its SYN-ACK shows "
            f"{self._options():#04x}: something on the way changes options or timestamps"
        )
        return replace(base, verdict="mismatch", why=why)

    def _not_explained(self, base: Finding) -> Finding:
        if self._report.net is None:
            why = (
                "the cookie is right, and the agent gives no net_secret for the timestamp: the "
                "server has taken no connection since its boot, or the agent cannot read it; poll "
                "again"
            )
            return replace(base, verdict="no_keys", why=why)
        tried = "net_secret" if self._report.ts is None else "net_secret and ts_secret"
        why = (
            f"the cookie is right, its timestamp is not: it does not follow from {tried} and the "
            "clock that the agent tells; the listener may live in a time namespace"
        )
        return replace(base, verdict="mismatch", why=why)

    def _bounded(self, base: Finding, stamp: _Stamp, hidden: int) -> Finding:
        return replace(
            base,
            scheme=stamp.scheme,
            timestamp_floor_ms=stamp.value,
            timestamp_ceil_ms=stamp.value + hidden + self._delay_ms,
        )

    def _window(self, minute: _Window | None) -> _Window | None:
        """Return where the timestamp clock must be; `minute` is that of the cookie, if any."""
        if self._report.cookie_clock == "utc":
            utc = self._utc_window(minute)
            if utc is not None:
                low, high = utc.lowest - _UTC_ERROR_MS, utc.highest + _UTC_ERROR_MS
                return _Window(low + UTC_AHEAD_MS, high + UTC_AHEAD_MS)
        # The answer may have been on its way for all of the delay.
        early = _EARLY_MS + self._delay_ms
        if self._timestamp_ms is not None:
            return _Window(self._timestamp_ms - early, self._timestamp_ms + _LATE_MS)
        if self._report.timestamp_ms is not None:
            said = self._report.timestamp_ms
            return _Window(said - early, said + _UNPOLLED_MS)
        return None

    def _utc_window(self, minute: _Window | None) -> _Window | None:
        model = self._cookie_ms
        if minute is None:
            return None if model is None else _Window(model, model)
        near = _Window(minute.lowest - _UTC_ERROR_MS, minute.highest + _UTC_ERROR_MS)
        if model is not None and near.lowest <= model <= near.highest:
            return _Window(model, model)
        # The cookie knows better than we do, only less exactly.
        return minute

    def _stamp(self, window: _Window) -> _Stamp | None:
        """Return the first reading of the TSval in the window, with the right options if any."""
        found: list[_Stamp] = []
        for scheme, offset in self._offsets():
            value = window.place((self._reply.tsval or 0) - offset & _U32)
            if value is not None:
                found.append(_Stamp(scheme, value, value & _TS_BITS == self._options()))
        return next((one for one in found if one.carries_options), found[0] if found else None)

    def _offsets(self) -> Iterator[tuple[Scheme, int]]:
        syn, report = self._syn, self._report
        if report.net is not None:
            ends = (syn.source, syn.target, syn.sport, syn.dport)
            yield "flow", cookies.ts_offset_flow(report.net, *ends)
        if report.ts is not None:
            yield "host", cookies.ts_offset_host(report.ts, syn.source, syn.target)
        yield "none", 0

    def _options(self) -> int:
        """Return the six bits that a cookie's timestamp hides: the SYN's options as granted."""
        reply, syn = self._reply, self._syn
        scale = 0xF if reply.wscale is None else syn.wscale
        return scale | reply.sack << 4 | reply.ecn << 5

    # ---- no cookie ----------------------------------------------------------------------

    def _without_cookie(self, minutes: list[int]) -> Finding:
        window = self._window(None) if self._reply.tsval is not None else None
        stamp = None if window is None else self._stamp(window)
        mode = self._report.syncookies
        plain = self._is_plain()
        if not plain and (mode == _ALWAYS or (mode is None and not _is_unstamped(stamp))):
            why = (
                "its SYN-ACK has no cookie of these secrets, nor of another minute from "
                f"{min(minutes) - WITHIN} to {max(minutes) + WITHIN}: another machine answers for "
                "this address (translation, a balancer, a SYN proxy), or the secrets are new"
            )
            return replace(self._base, verdict="mismatch", why=why)
        if mode == _ALWAYS:
            why = (
                "it answers without a cookie although the server's tcp_syncookies is 2: the "
                "listener may live in a network namespace of its own (a container); set it there"
            )
        else:
            why = "the server answers without a cookie: tcp_syncookies is not 2 there"
        if wrong := learned.contradictions(self._report, self._reply, cookie=False):
            why = f"{why}; {wrong}"
        base = replace(self._base, verdict="no_cookie", why=why)
        return base if stamp is None else self._bounded(base, stamp, 0)

    def _is_plain(self) -> bool:
        """Tell whether the sequence number is that of a connection without cookie."""
        utc_ms = self._server_utc_ms()
        if self._report.net is None or utc_ms is None:
            return False
        syn, error = self._syn, _ISN_ERROR_MS + self._report.utc_step_ms + self._delay_ms
        begin = cookies.plain_isn(
            self._report.net,
            *(syn.source, syn.target, syn.sport, syn.dport),
            utc_ns=(utc_ms - error) * 1_000_000,
        )
        return (self._reply.seq - begin & _U32) << 6 <= 2 * error * 1_000_000

    def _server_utc_ms(self) -> int | None:
        report = self._report
        if report.cookie_clock == "utc":
            return self._cookie_ms
        if report.utc_ms is None or report.timestamp_ms is None or self._timestamp_ms is None:
            return None
        return report.utc_ms + self._timestamp_ms - report.timestamp_ms


def _is_unstamped(stamp: _Stamp | None) -> bool:
    """Tell whether a timestamp is understood and hides no options: there is no cookie then."""
    return stamp is not None and not stamp.carries_options
