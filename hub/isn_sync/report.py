# SPDX-License-Identifier: Apache-2.0
"""What an agent answers to `get`, whichever agent it is: fnm-agent, MITIGATOR's, tcpsecrets.

What it says is hostile until proven otherwise: another machine wrote it. No secret of it is ever
repeated, not even one that is malformed.
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from hub.errors import HubError

Kind = Literal["fnm-agent", "isn_sync", "tcpsecrets"]
CookieClock = Literal["jiffies", "utc"]

COMMON_HZ: Final = (100, 250, 300, 1000)
"""What CONFIG_HZ can be on the usual architectures."""
LONGEST: Final = 16 * 1024
"""Characters of an answer; a complete one has about 700."""

_LONGEST_WORD: Final = 128
_MOST_LINES: Final = 200
_U32: Final = 0xFFFFFFFF
_MOST: Final = 2**53
_HZ_ERROR: Final = 0.05
_HZ_LEAST_MS: Final = 1000
_HZ_STEPS: Final = 40
_HZ_MOST: Final = 10_000
_SETTING_MOST: Final = 255
_SECONDS_MOST: Final = 10**9

_COLON: Final = re.compile(r"([A-Za-z0-9_.]{1,64}): *(.*)")
_SPACE: Final = re.compile(r"([a-z0-9_]{1,64}) (\S+)")
_UNSHOWN: Final = re.compile(r"[^\n\x20-\x7e]")
_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_SECONDS: Final = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,9})?")
_HEX: Final = re.compile(r"[0-9A-Fa-f]*")
_BEGET: Final = re.compile(r"[0-9]+ [0-9]+ [0-9]+\s*\n(?:[0-9a-f]{8}|[0-9a-f]{16})\.")
_FREEBSD: Final = frozenset(
    {"hash_secret", "isn_secret", "sch_size", "ts_offset_secret", "rfc1323_enabled"}
)
_RENAMED: Final = {
    # /proc/isn_sync of v22.02
    "cookie_secret": "syncookie_secret",
    "timestamp_secret": "ts_secret",
    "clock.time_ms": "time_ms",
    "clock.uptime_ms": "timestamp_ms",
    "clock.jiffies": "jiffies",
    "clock.hz": "hz",
    "tcp_options.ecn_enabled": "tcp_ecn",
    "tcp_options.sack_enabled": "tcp_sack",
    "tcp_options.timestamps_enabled": "tcp_timestamps",
    "tcp_options.wscale_enabled": "tcp_window_scaling",
    # /proc/tcp_secrets
    "time_sec": "time",
    "uptime_ms": "timestamp_ms",
}


class NotUnderstoodReportError(HubError):
    """An agent's answer is none that we know, or breaks its own rules."""

    retryable: ClassVar[bool] = False


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """What an agent told; None and empty texts stand for what it left out.

    Attributes:
        kind: which agent.
        version: of the agent.
        source: where it reads the secrets.
        release: of the kernel.
        boot_id: of the server.
        cookie: `syncookie_secret`, 32 bytes; None also where it is all zero, that is not used yet.
        cookie6: `syncookie6_secret`, 32 bytes; likewise.
        net: `net_secret`, 16 bytes; likewise.
        ts: `ts_secret`, 16 bytes; likewise, and on kernels that have none.
        cookie_clock: by which clock it counts the minutes of cookies.
        jiffies: `jiffies_64`.
        hz: jiffies in a second.
        cookie_ms: `jiffies` in milliseconds, rounded down.
        timestamp_ms: its TCP timestamp clock without offset; of tcpsecrets the low 32 bits.
        utc_ms: its wall clock.
        utc_step_ms: resolution of `utc_ms`, 1 or 1000.
        ecn: `net.ipv4.tcp_ecn`.
        sack: `net.ipv4.tcp_sack`.
        timestamps: `net.ipv4.tcp_timestamps`.
        window_scaling: `net.ipv4.tcp_window_scaling`.
        syncookies: `net.ipv4.tcp_syncookies`.
        engaged_s: for how long it stays engaged by our lease; 0: no lease.
    """

    kind: Kind
    version: str = ""
    source: str = ""
    release: str = ""
    boot_id: str = ""
    cookie: bytes | None = None
    cookie6: bytes | None = None
    net: bytes | None = None
    ts: bytes | None = None
    cookie_clock: CookieClock = "jiffies"
    jiffies: int | None = None
    hz: int | None = None
    cookie_ms: int | None = None
    timestamp_ms: int | None = None
    utc_ms: int | None = None
    utc_step_ms: int = 1
    ecn: int | None = None
    sack: int | None = None
    timestamps: int | None = None
    window_scaling: int | None = None
    syncookies: int | None = None
    engaged_s: float | None = None

    def __repr__(self) -> str:
        """Return what may be seen by anybody."""
        return f"Report(hidden, kind={self.kind!r}, version={self.version!r})"


def parse_report(text: str) -> Report:
    """Return what an agent's answer to `get` says.

    Raises:
        NotUnderstoodReportError: with what is wrong, and in which line.
    """
    kind, fields = _read(text)
    jiffies, hz = fields.number("jiffies"), fields.number("hz", _HZ_MOST)
    if hz == 0:
        raise _wrong("hz is 0")
    utc_ms, step = fields.number("time_ms"), 1
    if utc_ms is None and (seconds := fields.number("time", _MOST // 1000)) is not None:
        utc_ms, step = seconds * 1000, 1000
    source = fields.word("source") or fields.source
    return Report(
        kind=kind,
        version=fields.word("version"),
        source=source,
        release=fields.word("release"),
        boot_id=fields.word("boot_id"),
        cookie=fields.secret("syncookie_secret", 32),
        cookie6=fields.secret("syncookie6_secret", 32),
        net=fields.secret("net_secret", 16),
        ts=fields.secret("ts_secret", 16),
        cookie_clock=fields.cookie_clock(source),
        jiffies=jiffies,
        hz=hz,
        cookie_ms=None if jiffies is None or hz is None else jiffies * 1000 // hz,
        timestamp_ms=fields.number("timestamp_ms"),
        utc_ms=utc_ms,
        utc_step_ms=step,
        ecn=fields.number("tcp_ecn", _SETTING_MOST),
        sack=fields.number("tcp_sack", _SETTING_MOST),
        timestamps=fields.number("tcp_timestamps", _SETTING_MOST),
        window_scaling=fields.number("tcp_window_scaling", _SETTING_MOST),
        syncookies=fields.number("tcp_syncookies", _SETTING_MOST),
        engaged_s=fields.seconds("engaged_s"),
    )


def hz_from(first: Report, second: Report) -> int | None:
    """Return HZ of a server that does not tell it, from two of its reports.

    Returns:
        One of `COMMON_HZ`; None where the reports do not tell, are less than a second apart, or
        fit none of them.
    """
    if first.jiffies is None or second.jiffies is None:
        return None
    ticks, passed = second.jiffies - first.jiffies, _passed_ms(first, second)
    if passed is None or passed < _HZ_LEAST_MS or ticks <= 0:
        return None
    measured = ticks * 1000 / passed
    nearest = min(COMMON_HZ, key=lambda hz: abs(hz - measured))
    return nearest if abs(nearest - measured) <= nearest * _HZ_ERROR else None


def _passed_ms(first: Report, second: Report) -> int | None:
    if first.timestamp_ms is not None and second.timestamp_ms is not None:
        # tcpsecrets tells only 32 bits of it.
        return second.timestamp_ms - first.timestamp_ms & _U32
    if first.utc_ms is not None and second.utc_ms is not None:
        passed = second.utc_ms - first.utc_ms
        least = _HZ_STEPS * max(first.utc_step_ms, second.utc_step_ms)
        return passed if passed >= least else None
    return None


class _Fields:
    """Fields by the names that fnm-agent gives them."""

    def __init__(self, values: dict[str, str], source: str) -> None:
        self.values, self.source = values, source

    def word(self, name: str) -> str:
        value = self.values.get(name, "")
        if len(value) > _LONGEST_WORD:
            raise _wrong(f"{name} has {len(value)} characters; {_LONGEST_WORD} are the most")
        return value

    def number(self, name: str, most: int = _MOST) -> int | None:
        value = self.values.get(name, "")
        if not value:
            return None
        if _NUMBER.fullmatch(value) is None or int(value) > most:
            raise _wrong(f"{name} is no whole number from 0 to {most}")
        return int(value)

    def seconds(self, name: str) -> float | None:
        value = self.values.get(name, "")
        if not value:
            return None
        if _SECONDS.fullmatch(value) is None or float(value) > _SECONDS_MOST:
            raise _wrong(f"{name} is no number of seconds")
        return float(value)

    def secret(self, name: str, size: int) -> bytes | None:
        value = self.values.get(name, "")
        if not value:
            return None
        if len(value) != 2 * size or _HEX.fullmatch(value) is None:
            raise _wrong(f"{name} is not {2 * size} hexadecimal digits")
        secret = bytes.fromhex(value)
        return secret if any(secret) else None

    def cookie_clock(self, source: str) -> CookieClock:
        match self.values.get("cookie_clock", ""):
            case "jiffies":
                return "jiffies"
            case "utc":
                return "utc"
            case "":
                return "utc" if source == "isn_sync" else "jiffies"
            case _:
                raise _wrong("cookie_clock is neither jiffies nor utc")


def _read(text: str) -> tuple[Kind, _Fields]:
    if len(text) > LONGEST:
        raise _wrong(f"it has {len(text)} characters; {LONGEST} are the most")
    text = text.replace("\r\n", "\n")
    if unshown := _UNSHOWN.search(text):
        number = text.count("\n", 0, unshown.start()) + 1
        raise _wrong(f"line {number} holds the character {ord(unshown[0]):#04x}")
    if not text.strip():
        raise _wrong("it is empty", todo="run `get` by hand on the server as the agent's user")
    if _BEGET.match(text):
        raise _wrong(
            "it is of tcpsecrets 1, which tells no names and no format",
            todo="install fnm-agent on the server",
        )
    lines = [line.rstrip() for line in text.split("\n")]
    if len(lines) > _MOST_LINES:
        raise _wrong(f"it has {len(lines)} lines; {_MOST_LINES} are the most")
    pattern = _COLON if any(":" in line for line in lines) else _SPACE
    values = _values(lines, pattern)
    kind, source = _kind(values, spaced=pattern is _SPACE)
    return kind, _Fields(_renamed(values), source)


def _values(lines: list[str], pattern: re.Pattern[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        found = pattern.fullmatch(line)
        if found is None:
            raise _wrong(f"line {number} is not a name and a value")
        if found[1] in values:
            # Not by its name: that could be a secret out of place.
            raise _wrong(f"line {number} gives again what a line before gave")
        values[found[1]] = found[2]
    return values


def _renamed(values: dict[str, str]) -> dict[str, str]:
    renamed: dict[str, str] = {}
    for name, value in values.items():
        known = _RENAMED.get(name, name)
        if known in renamed:
            raise _wrong(f"{name} is told under two names")
        renamed[known] = value
    return renamed


def _kind(values: dict[str, str], *, spaced: bool) -> tuple[Kind, str]:
    """Return which agent it is, and where that reads unless it says so itself."""
    last = {name.rpartition(".")[2] for name in values}
    if values.get("uname", "Linux") != "Linux" or _FREEBSD & last:
        raise _wrong(
            "the server does not run Linux: its cookies are made in another way, which the engine "
            "cannot imitate",
            todo="take it out of isn_sync.servers; `mode: reset` protects it all the same",
        )
    if values.get("agent") == "fnm-agent":
        return "fnm-agent", ""
    if "net_secret" not in values:
        raise _wrong("it names no net_secret, so that it is no agent's answer that we know")
    if spaced:
        return "tcpsecrets", "tcp_secrets"
    if "clock.jiffies" in values:
        return "isn_sync", "isn_sync_v22"
    return "isn_sync", "isn_sync"


def _wrong(what: str, todo: str = "") -> NotUnderstoodReportError:
    return NotUnderstoodReportError(
        f"the agent's answer is not understood: {what}",
        todo=todo or "check that the agent there is fnm-agent, or MITIGATOR's, in full",
    )
