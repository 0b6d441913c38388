# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub logs`: the lines that belong together, in the order of time."""

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from hub.cli.logread import Record, files, journal, records
from hub.cli.text import Screen, clean, clock
from hub.clock import SystemClock
from hub.errors import HubError
from hub.units import parse_duration

_USUALLY: Final = 3600.0
_STYLES: Final = {"error": "alarm", "warning": "yellow", "debug": "dim"}


@dataclass(slots=True)
class Wanted:
    """What is asked for; without any of it, every line is.

    Attributes:
        attack: id of an attack.
        mitigation: id of a mitigation.
        event: number of an event.
        delivery: the sender's id of a call.
    """

    attack: str | None = None
    mitigation: str | None = None
    event: int | None = None
    delivery: str | None = None
    _deliveries: set[str] = field(default_factory=set)
    _mitigations: set[str] = field(default_factory=set)

    @property
    def everything(self) -> bool:
        """Tell whether nothing in particular is asked for."""
        return (self.attack, self.mitigation, self.event, self.delivery) == (None,) * 4

    def learn(self, record: Record) -> None:
        """Take in which other ids a line joins with what is asked for."""
        delivery = _text(record, "delivery")
        if not self._named(record):
            if self.mitigation is not None or delivery not in self._deliveries:
                return
        elif delivery:
            self._deliveries.add(delivery)
        if self.mitigation is None and (name := mitigation_of(record)):
            self._mitigations.add(name)

    def takes(self, record: Record) -> bool:
        """Tell whether a line belongs to it, as far as is known by now."""
        if self.everything or self._named(record):
            return True
        mitigation = mitigation_of(record)
        if mitigation and mitigation in self._mitigations:
            return True
        if _text(record, "delivery") not in self._deliveries:
            return False
        # One call may have begun several mitigations; only one of them was asked for.
        return self.mitigation is None or not mitigation

    def _named(self, record: Record) -> bool:
        """Tell whether a line names what is asked for itself."""
        fields = record.fields
        return (
            (self.attack is not None and self.attack in attacks_of(record))
            or (self.mitigation is not None and self.mitigation == mitigation_of(record))
            or (self.event is not None and self.event == fields.get("number"))
            or (self.delivery is not None and self.delivery == fields.get("delivery"))
        )


def attacks_of(record: Record) -> list[str]:
    """Return the attacks that a line is about."""
    several = record.fields.get("attacks")
    return [str(one) for one in several] if isinstance(several, list) else [_text(record, "attack")]


def mitigation_of(record: Record) -> str:
    """Return the mitigation that a line is about; synproxyd calls it `id`."""
    return _text(record, "id" if record.source == "synproxyd" else "mitigation")


def _text(record: Record, name: str) -> str:
    return str(record.fields.get(name) or "")


def joined(found: Iterable[Record], wanted: Wanted, since: float | None) -> list[Record]:
    """Return what belongs together of all that is there, oldest first."""
    whole = list(found)
    for record in (*whole, *whole):  # what an early line is joined by, a later one may tell
        wanted.learn(record)
    ours = (one for one in whole if wanted.takes(one) and (since is None or one.time >= since))
    return sorted(ours, key=lambda one: one.time)


def followed(found: Iterable[Record], wanted: Wanted) -> Iterator[Record]:
    """Yield what belongs together while it is written."""
    for record in found:
        wanted.learn(record)
        if wanted.takes(record):
            yield record


def run(args: argparse.Namespace, screen: Screen, *, as_json: bool) -> None:
    """Print what is asked for.

    Raises:
        HubError: the journal or a file cannot be read, or a time is none.
    """
    wanted = Wanted(args.attack, args.mitigation, args.event, args.delivery)
    since = _since(args.since)
    if since is None and wanted.everything and not args.file:
        since = SystemClock().time() - _USUALLY
    lines = files(args.file) if args.file else journal(since, follow=args.follow)
    found = records(lines)
    shown = followed(found, wanted) if args.follow else joined(found, wanted, since)
    for record in shown:
        show_record(screen, record, as_json=as_json)
        if args.follow:
            screen.flush()


def _since(text: str | None) -> float | None:
    """Return the time that `text` means: so long ago, or a date in local time."""
    if text is None:
        return None
    try:
        return SystemClock().time() - parse_duration(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError:
        raise HubError(
            f"{clean(text)!r} is no time",
            where="--since",
            todo="write how long ago, as 2h or 30m, or a date, as 2026-11-26T15:00",
        ) from None


def show_record(screen: Screen, record: Record, *, as_json: bool) -> None:
    """Print one line."""
    if as_json:
        shown: dict[str, Any] = {
            "time": record.time,
            "source": record.source,
            "level": record.level,
            "event": record.event,
            "fields": record.fields,
        }
        screen.raw(json.dumps(shown).replace("\x7f", "\\u007f"))
        return
    moment = f"{clock(record.time)}.{int(record.time * 1000) % 1000:03d}"
    word = "" if record.level == "info" else f"{record.level.upper()} "
    head = f"{moment} {clean(record.source):<10} {word}{clean(record.event)}"
    screen.text(head, _STYLES.get(record.level, ""))
    said = [
        f"{clean(name)}={_shown(value)}"
        for name, value in record.fields.items()
        if value not in ("", None, []) and name != "exception"
    ]
    if said:
        screen.text(" ".join(said), "dim", indent=24)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(clean(one) for one in value)
    return clean(value)
