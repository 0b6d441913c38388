# SPDX-License-Identifier: Apache-2.0
"""Log lines of the hub, synproxyd and fnm-notify, from the journal, files or a pipe."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hub.errors import HubError

UNITS: Final = ("fnm-hub.service", "synproxyd.service")
HOOK: Final = "fnm-notify"
_PREFIX: Final = "FNM_"
_LEVELS: Final = {0: "error", 1: "error", 2: "error", 3: "error", 4: "warning", 7: "debug"}
_HOOK_LINE: Final = re.compile(r"^(?P<head>.*?)\bfnm-notify(?:\[\d+\])?: (?P<text>.*)$")
_DELIVERY: Final = re.compile(r" delivery=([0-9A-Za-z._:-]{8,64})$")
_SYSLOG: Final = re.compile(r"([A-Z][a-z]{2}) +(\d{1,2}) (\d\d:\d\d:\d\d)")
_OURS: Final = frozenset({"event", "level", "timestamp", "time"})


@dataclass(frozen=True, slots=True)
class Record:
    """One line.

    Attributes:
        time: Unix seconds; of the line before where it has none that can be read.
        source: `fnm-hub`, `synproxyd`, `fnm-notify`, or the journal's word for another.
        event: name of what happened; the text of a line of fnm-notify.
        fields: what it says besides.
    """

    time: float
    source: str
    level: str
    event: str
    fields: dict[str, Any] = field(default_factory=dict)


def journal(since: float | None, *, follow: bool) -> Iterator[str]:
    """Yield systemd's journal of our units and the hook, one JSON object a line.

    Raises:
        HubError: there is no journal here, or it may not be read.
    """
    program = shutil.which("journalctl")
    if program is None:
        raise HubError("there is no journalctl here", todo="name the files: --file FILE")
    argv = [program, "--output=json", "--no-pager", "--quiet", "--all"]
    argv += [] if since is None else [f"--since=@{since:.0f}"]
    argv += ["--follow", "--lines=all"] if follow else []
    for unit in UNITS:
        argv += [f"_SYSTEMD_UNIT={unit}", "+"]
    argv.append(f"SYSLOG_IDENTIFIER={HOOK}")
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="surrogateescape"
    ) as process:
        try:
            yield from process.stdout or ()
        except BaseException:
            process.terminate()  # who reads has gone, or has seen enough
            raise
        said = process.stderr.read().strip() if process.stderr else ""
        if process.wait() > 0:
            raise HubError(
                f"journalctl failed: {said or process.returncode}",
                todo="read it as root or in the group systemd-journal, or use --file FILE",
            )


def files(paths: Sequence[str]) -> Iterator[str]:
    """Yield the lines of files, one after the other; `-` is standard input.

    Raises:
        HubError: one cannot be read.
    """
    for path in paths:
        if path == "-":
            yield from sys.stdin
            continue
        try:
            with Path(path).open(encoding="utf-8", errors="surrogateescape") as stream:
                yield from stream
        except OSError as error:
            raise HubError(f"cannot read it: {error.strerror}", where=path) from error


def records(lines: Iterable[str]) -> Iterator[Record]:
    """Yield what each line says; one that is none of ours is skipped."""
    last = 0.0
    for line in lines:
        found = _record(line.strip(), last)
        if found is not None:
            last = found.time
            yield found


def _record(line: str, last: float) -> Record | None:
    brace = line.find("{")
    if brace >= 0:
        # Before it may stand what a syslog daemon writes there.
        try:
            fields = json.loads(line[brace:])
        except (ValueError, RecursionError):
            fields = None
        if isinstance(fields, dict):
            return _from_journal(fields, last) if "MESSAGE" in fields else _own(fields, last)
    if (match := _HOOK_LINE.match(line)) is not None:
        return _of_hook(match["text"], _head_time(match["head"], last), "")
    return None


def _own(fields: dict[str, Any], last: float) -> Record | None:
    """Return a line as the hub or synproxyd writes it on standard error."""
    if not isinstance(fields.get("event"), str):
        return None
    source = "synproxyd" if "time" in fields else "fnm-hub"
    moment = _iso(fields.get("timestamp") or fields.get("time"))
    rest = {key: value for key, value in fields.items() if key not in _OURS}
    level = str(fields.get("level", "info"))
    return Record(last if moment is None else moment, source, level, fields["event"], rest)


def _from_journal(entry: dict[str, Any], last: float) -> Record | None:
    """Return an entry of the journal: with our fields, or with one of our lines as its message."""
    message = _message(entry["MESSAGE"])
    try:
        moment = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
    except (KeyError, TypeError, ValueError):
        moment = last
    if f"{_PREFIX}EVENT" in entry:
        return _of_fields(entry, moment)
    own = _record(message, moment) if message.startswith("{") else None
    if own is not None:
        return Record(moment, own.source, own.level, own.event, own.fields)
    source = str(entry.get("SYSLOG_IDENTIFIER", ""))
    level = _level(entry)
    if source == HOOK:
        return _of_hook(message.removeprefix(f"{HOOK}: "), moment, level)
    return Record(moment, source, level, message) if message else None


def _of_fields(entry: dict[str, Any], moment: float) -> Record:
    names = [name for name in entry if name.startswith(_PREFIX)]
    fields = {name.removeprefix(_PREFIX).lower(): _value(entry[name]) for name in names}
    if "attacks" in fields:
        fields.pop("attack", None)  # the same ids once more, for journalctl
    rest = {key: value for key, value in fields.items() if key not in _OURS}
    source = str(entry.get("SYSLOG_IDENTIFIER", ""))
    return Record(moment, source, _level(entry), str(fields["event"]), rest)


def _of_hook(text: str, moment: float, level: str) -> Record:
    match = _DELIVERY.search(text)
    fields = {} if match is None else {"delivery": match[1]}
    said = text if match is None else text[: match.start()]
    word = level or ("error" if said.startswith("EVENT LOST") else "warning")
    return Record(moment, HOOK, word, said, fields)


def _level(entry: dict[str, Any]) -> str:
    try:
        return _LEVELS.get(int(entry.get("PRIORITY", 6)), "info")
    except (TypeError, ValueError):
        return "info"


def _message(value: Any) -> str:
    """Return a message; journalctl gives bytes that are no text as a list of numbers."""
    if isinstance(value, list):
        try:
            return bytes(value).decode("utf-8", "surrogateescape")
        except (TypeError, ValueError):
            return ""
    return str(value)


def _value(value: Any) -> Any:
    text = _message(value)
    if text[:1] in {"[", "{"} or text.lstrip("-").replace(".", "", 1).isdigit():
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _head_time(head: str, last: float) -> float:
    """Return the time that a syslog daemon has put before a line."""
    for word in head.split():
        if (found := _iso(word)) is not None:
            return found
    if (match := _SYSLOG.search(head)) is None:
        return last
    now = datetime.now(tz=UTC).astimezone()
    try:
        text = f"{now.year} {match[1]} {match[2]} {match[3]}"
        return datetime.strptime(text, "%Y %b %d %H:%M:%S").replace(tzinfo=now.tzinfo).timestamp()
    except ValueError:
        return last


def _iso(text: Any) -> float | None:
    if not isinstance(text, str) or "T" not in text:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
