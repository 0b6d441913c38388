# SPDX-License-Identifier: Apache-2.0
"""Log lines to systemd's journal, with their fields: its native protocol over a datagram socket.

See https://systemd.io/JOURNAL_NATIVE_PROTOCOL: `NAME=value` lines, or the name, the length in 64
bits little-endian and the bytes, where a value has line breaks. What is too large for a datagram
goes through a sealed file in memory, whose descriptor is sent instead.
"""

import array
import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from structlog.typing import EventDict, WrappedLogger

SOCKET: Final = Path("/run/systemd/journal/socket")
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_PREFIX: Final = "FNM_"
_LONGEST_NAME: Final = 64
_ROOM: Final = 8 * 2**20
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_TOO_LARGE: Final = frozenset({errno.EMSGSIZE, errno.ENOBUFS})
_SHOWN_FIRST: Final = ("timestamp", "level", "event")


def wanted(descriptor: int = 2) -> bool:
    """Tell whether systemd has connected `descriptor` to its journal, and says so."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(descriptor)
        return (found.st_dev, found.st_ino) == (int(device), int(inode))
    except (OSError, ValueError):
        return False


class Fields:
    """Renders a line as the journal's fields: the last processor before `Journal`.

    Args:
        identifier: SYSLOG_IDENTIFIER, by which `journalctl -t` finds it.
        as_json: MESSAGE is the whole line as JSON, instead of words for a person.
    """

    def __init__(self, identifier: str, *, as_json: bool) -> None:
        self._identifier, self._as_json = identifier, as_json

    def __call__(self, _logger: WrappedLogger, _method: str, line: EventDict) -> bytes:
        """Return the datagram."""
        message = json.dumps(line, default=str) if self._as_json else words(line)
        entry = [
            ("MESSAGE", message),
            ("PRIORITY", str(_PRIORITIES.get(str(line.get("level")), 6))),
            ("SYSLOG_IDENTIFIER", self._identifier),
            *_fields(line),
        ]
        return b"".join(_encoded(name, value) for name, value in entry)


class Journal:
    """Sends what `Fields` made; to standard error when the journal does not take it.

    It never waits: a journal that is busy must not hold up the hub.

    Args:
        path: the journal's socket.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = os.fspath(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)  # noqa: FBT003 - positional by its definition
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)

    def send(self, entry: bytes) -> None:
        """Send one entry."""
        try:
            self._send(entry)
        except OSError:
            first = entry.partition(b"\n")[0].removeprefix(b"MESSAGE=")
            sys.stderr.write(first.decode("utf-8", "replace") + "\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = exception = msg = send

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.sendto(entry, self._path)
        except OSError as error:
            if error.errno not in _TOO_LARGE:
                raise
            self._send_file(entry)

    def _send_file(self, entry: bytes) -> None:
        file = os.memfd_create("fnm-hub-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            rest = memoryview(entry)
            while rest:
                rest = rest[os.write(file, rest) :]
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))]
            self._socket.sendmsg([], rights, 0, self._path)
        finally:
            os.close(file)


def words(line: Mapping[str, Any]) -> str:
    """Return a line for a person: the event, then what it says, `name=value`."""
    said = [
        f"{name}={_text(value)}"
        for name, value in line.items()
        if name not in {*_SHOWN_FIRST, "exception"} and value not in ("", None, [])
    ]
    text = " ".join([str(line.get("event", "")), *said]).replace("\n", "\\n")
    trace = line.get("exception")
    return f"{text}\n{_text(trace)}" if trace else text


def _fields(line: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each field under the journal's name; ids of several attacks as so many fields."""
    for name, value in line.items():
        if name == "attacks" and isinstance(value, list):
            yield from ((f"{_PREFIX}ATTACK", str(one)) for one in value)
        key = "".join(c if c.isascii() and c.isalnum() else "_" for c in name).upper()
        yield f"{_PREFIX}{key}"[:_LONGEST_NAME], _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _encoded(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    if b"\n" not in data:
        return name.encode("ascii") + b"=" + data + b"\n"
    return name.encode("ascii") + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
