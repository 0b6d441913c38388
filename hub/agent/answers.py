# SPDX-License-Identifier: Apache-2.0
"""What the agent answers, as text: lines of `name: value`."""

import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

from hub import __version__
from hub.agent.kernel.memory import locked_down
from hub.agent.kernel.secrets import Secrets
from hub.agent.kernel.sources import Kernel, NoSourceError, Tried, open_sources
from hub.agent.kernel.sysctls import NAMES, SYNCOOKIES, read_sysctl
from hub.agent.sockets import Name, flows, listeners
from hub.errors import HubError

_MOST_PORT: Final = 65535
_BOOT_ID: Final = "sys/kernel/random/boot_id"
_PORT: Final = re.compile(r"[0-9]{1,5}")
_SYNCOOKIES: Final = {
    0: "off: set to 2 while a hub engages this server",
    1: "when a queue is full: set to 2 while a hub engages this server",
    2: "for every connection: a hub has engaged this server, or somebody set it so",
}
_TIMESTAMPS: Final = {
    0: "off: connections by cookies have neither window scaling nor SACK",
    1: "on",
    2: "on, without offset",
}
_MISSING: Final = "is missing: no CONFIG_SYN_COOKIES, or /proc/sys is hidden"


@dataclass(frozen=True, slots=True)
class Line:
    """One finding of `fnm-agent check`."""

    name: str
    ok: bool
    text: str


def get_text(kernel: Kernel, proc: Path, *, syncookies: int | None, engaged_s: int) -> str:
    """Return the answer to `get`; holds secrets.

    Args:
        kernel: where they are read.
        proc: where proc(5) is mounted.
        syncookies: net.ipv4.tcp_syncookies, None where it is not known.
        engaged_s: seconds of the caller's lease.

    Raises:
        HubError: the secrets cannot be read any more.
    """
    settings = {name: read_sysctl(proc, name) for name in NAMES}
    boot_id = _first_line(proc / _BOOT_ID)
    secrets = kernel.read()
    fields: list[tuple[str, object]] = [
        ("uname", "Linux"),
        ("version", __version__),
        ("time", time.clock_gettime_ns(time.CLOCK_REALTIME) // 1_000_000_000),
        *_hex(secrets),
        *settings.items(),
        ("agent", "fnm-agent"),
        ("release", platform.release()),
        ("boot_id", boot_id),
        ("source", kernel.source),
        ("cookie_clock", secrets.cookie_clock),
        ("hz", secrets.hz),
        ("tcp_syncookies", syncookies),
        ("engaged_s", engaged_s),
        ("jiffies", secrets.jiffies),
        ("time_ms", time.clock_gettime_ns(time.CLOCK_REALTIME) // 1_000_000),
        ("timestamp_ms", secrets.timestamp_ms),
    ]
    return "".join(f"{name}: {value}\n" for name, value in fields if value not in (None, ""))


def listeners_text() -> str:
    """Return the answer to `listeners`."""
    return "".join(f"listener: {address} {port}\n" for address, port in listeners())


def flows_text(names: Sequence[Name]) -> str:
    """Return the answer to `flows`."""
    found, more = flows(names)
    lines = [f"flow: {one} {sport} {other} {dport}\n" for one, sport, other, dport in found]
    return "".join(lines) + f"flows: {len(found)}\n" + ("truncated: yes\n" if more else "")


def parse_name(text: str) -> Name:
    """Return what `PORT`, `ADDRESS:PORT` or `[ADDRESS6]:PORT` means.

    Raises:
        ValueError: it means none of them.
    """
    host, colon, port = text.rpartition(":")
    if _PORT.fullmatch(port) is None or not 1 <= int(port) <= _MOST_PORT:
        msg = f"{port!r} is no port"
        raise ValueError(msg)
    if not colon:
        return Name(int(port))
    bracketed = host.startswith("[") and host.endswith("]")
    address = ip_address(host[1:-1] if bracketed else host)
    if bracketed != isinstance(address, IPv6Address):
        msg = "only IPv6 addresses stand in brackets, and all of them do"
        raise ValueError(msg)
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        msg = "an interface is not part of a name"
        raise ValueError(msg)
    return Name(int(port), address)


def selftest(kernel: Kernel, proc: Path) -> tuple[str, bool]:
    """Return the answer to `selftest`, and whether all is well."""
    lines = [*_secret_lines(kernel), *_setting_lines(proc), _sockets_line()]
    text = "".join(
        f"check: {one.name} {'ok' if one.ok else 'failed'} {one.text}\n" for one in lines
    )
    return text, all(one.ok for one in lines)


def look(proc: Path) -> Kernel | NoSourceError:
    """Return the source of keys, or why there is none; to be called as root."""
    try:
        return open_sources(proc)
    except NoSourceError as error:
        return error


def diagnose(proc: Path, kernel: Kernel | NoSourceError) -> list[Line]:
    """Return what `fnm-agent check` finds; works where no source does, too."""
    lines = [Line("kernel", ok=True, text=platform.release())]
    if mode := locked_down():
        lines.append(Line("lockdown", ok=mode != "confidentiality", text=f"mode {mode}"))
    if os.geteuid() != 0:
        lines.append(Line("user", ok=False, text="not root, so that little can be read; use sudo"))
    if isinstance(kernel, NoSourceError):
        lines += [_tried_line(one) for one in kernel.tried]
        lines.append(Line("source", ok=False, text="none; one of the above is enough"))
    else:
        # A module that is loaded and does not work is worth a word; one that is not is the rule.
        lines += [_tried_line(one) for one in kernel.tried if not (one.ok or one.absent)]
        lines += _secret_lines(kernel)
    return [*lines, *_setting_lines(proc), _sockets_line()]


def _tried_line(one: Tried) -> Line:
    return Line(one.source, ok=one.absent, text=one.why)


def _hex(secrets: Secrets) -> list[tuple[str, str | None]]:
    named = (
        ("net_secret", secrets.net),
        ("syncookie_secret", secrets.syncookie),
        ("syncookie6_secret", secrets.syncookie6),
        ("ts_secret", secrets.ts),
    )
    return [(name, value.hex() if value is not None else None) for name, value in named]


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(128).decode("ascii", "replace").split("\n", maxsplit=1)[0]
    except OSError:
        return ""
    return text if text.isprintable() else ""


def _secret_lines(kernel: Kernel) -> list[Line]:
    try:
        secrets = kernel.read()
    except HubError as error:
        return [Line("source", ok=False, text=f"{kernel.source}: {error}")]
    lines = [Line("source", ok=True, text=kernel.source)]
    if secrets.cookie_clock == "utc":
        lines.append(Line("clock", ok=True, text="UTC: keep NTP running here and on the hub"))
    else:
        hz = f"{secrets.hz} Hz" if secrets.hz else "Hz known after a second reading"
        lines.append(Line("clock", ok=True, text=f"jiffies, {hz}"))
    if secrets.ts is None:
        scheme = "by connection, from net_secret: there is no ts_secret"
    else:
        scheme = "by pair of hosts, from ts_secret"
    lines.append(Line("timestamps", ok=True, text=f"offset {scheme}; the hub's probe decides"))
    if secrets.syncookie6 is None:
        text = "no syncookie6_secret: IPv4 alone can be protected"
        if kernel.source == "kcore":
            text += "; if the module ipv6 was loaded since, restart fnm-agent"
        lines.append(Line("ipv6", ok=True, text=text))
    if secrets.unused:
        names = ", ".join(secrets.unused)
        text = f"{names}: the kernel makes them with the first connection or cookie; nothing to do"
        lines.append(Line("unused", ok=True, text=text))
    return lines


def _setting_lines(proc: Path) -> list[Line]:
    mode = read_sysctl(proc, SYNCOOKIES)
    told = _MISSING if mode is None else f"is {mode}, {_SYNCOOKIES.get(mode, 'unknown')}"
    found = f"net.ipv4.tcp_syncookies {told}"
    lines = [Line("syncookies", ok=mode is not None, text=found)]
    stamps = read_sysctl(proc, "tcp_timestamps")
    if stamps is not None:
        text = f"net.ipv4.tcp_timestamps is {stamps}, {_TIMESTAMPS.get(stamps, 'unknown')}"
        lines.append(Line("tcp_timestamps", ok=True, text=text))
    return lines


def _sockets_line() -> Line:
    try:
        count = len(listeners())
    except HubError as error:
        return Line("sockets", ok=False, text=str(error))
    return Line("sockets", ok=True, text=f"{count} listeners")
