# SPDX-License-Identifier: Apache-2.0
"""One finding, and the list that a group of checks writes its own into."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a thing was found."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing.

    Attributes:
        group: the heading it stands under.
        check: name of the check, stable for scripts.
        status: how it is; `skip` where it could not be looked at.
        text: what was seen, with the values; for `skip` why it was not.
        todo: the next step, empty where there is none.
    """

    group: str
    check: str
    status: Status
    text: str
    todo: str = ""


class Report:
    """Takes the findings of one group; read by another thread while it grows."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.looking_at = ""
        self._found: list[Finding] = []

    def findings(self) -> tuple[Finding, ...]:
        """Return what was found so far."""
        return tuple(self._found)

    def look(self, what: str) -> None:
        """Note what is waited for from now on, for when it never answers."""
        self.looking_at = what

    def ok(self, check: str, text: str) -> None:
        """Add what is as it should be."""
        self._add(check, Status.OK, text, "")

    def warn(self, check: str, text: str, todo: str) -> None:
        """Add what works and will surprise."""
        self._add(check, Status.WARN, text, todo)

    def fail(self, check: str, text: str, todo: str) -> None:
        """Add what does not work."""
        self._add(check, Status.FAIL, text, todo)

    def skip(self, check: str, text: str, todo: str = "") -> None:
        """Add what could not be looked at, and why."""
        self._add(check, Status.SKIP, text, todo)

    def _add(self, check: str, status: Status, text: str, todo: str) -> None:
        self._found.append(Finding(self.group, check, status, text, todo))
