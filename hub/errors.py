# SPDX-License-Identifier: Apache-2.0
"""The one tree of errors: what is wrong, where, and what to do next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a file that a person wrote.

    Attributes:
        what: the mistake, with the value seen.
        file: path as the operator gave it.
        line: 1-based, 0 when the whole file is meant.
        column: 1-based, 0 when the whole line is meant.
        todo: what to do about it, empty when `what` already says so.
    """

    what: str
    file: str
    line: int = 0
    column: int = 0
    todo: str = ""

    def __str__(self) -> str:
        """Return `file:line:column: what; todo`, the form that editors jump to."""
        place = self.file
        if self.line:
            place = f"{place}:{self.line}:{self.column or 1}"
        text = f"{place}: {self.what}"
        return f"{text}; {self.todo}" if self.todo else text


class HubError(Exception):
    """Root of every error that an operator may read.

    Args:
        what: what went wrong, in one clause.
        where: the file, address or object concerned.
        todo: the next step for the operator.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, what: str, *, where: str = "", todo: str = "") -> None:
        self.what, self.where, self.todo = what, where, todo
        text = f"{where}: {what}" if where else what
        super().__init__(f"{text}; {todo}" if todo else text)


class ConfigError(HubError):
    """A configuration or rule file is wrong; carries every mistake found, not the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


class IntakeError(HubError):
    """Something was handed in that cannot be accepted as it is."""


class NotUnderstoodError(IntakeError):
    """An event's bytes are of no known shape; they are kept raw."""


class RefusedError(HubError):
    """A request is understood and must not be carried out."""


class NotReadyError(RefusedError):
    """A request must not be carried out yet; carries everything that is missing."""

    def __init__(self, what: str, *, problems: Sequence[str], todo: str = "") -> None:
        super().__init__(what, todo=todo)
        self.problems = tuple(problems)


class EngineError(HubError):
    """An engine did not do what it was asked; the subclass says whether to try again."""


class EngineTemporaryError(EngineError):
    """The engine or its way is busy, gone or slow: the same request may succeed later."""

    retryable: ClassVar[bool] = True


class EnginePermanentError(EngineError):
    """The engine will never do this as asked: no retry."""


class StoreError(HubError):
    """The journal cannot be opened, read or written."""


class StoreFullError(StoreError):
    """No space is left for the journal: nothing is lost, the sender keeps its copy."""

    retryable: ClassVar[bool] = True


class OverloadedError(HubError):
    """More comes in than can be taken now: nothing is lost, the sender keeps its copy."""

    retryable: ClassVar[bool] = True
