# SPDX-License-Identifier: Apache-2.0
"""What opens above the view: a question with a reason, and a text to read."""

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

_MOST_LETTERS = 500  # as many as the daemon records


class Question(ModalScreen[str | None]):
    """Asks before something is changed; its answer is the reason, None to leave it.

    Args:
        text: what will be done.
    """

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss(None)", "Leave it")]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """Show the question and a line for the reason."""
        with Vertical(classes="dialog"):
            yield Static(Text(self._text))
            yield Static(Text("Enter does it, Escape leaves it.", "dim"))
            yield Input(placeholder="reason, for the record", max_length=_MOST_LETTERS)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take Enter for yes."""
        self.dismiss(event.value)  # type: ignore[unused-awaitable]  # it would wait for itself


class Reading(ModalScreen[None]):
    """Shows a text until a key closes it.

    Args:
        text: what to read.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "dismiss", "Close"),
        ("q", "dismiss", "Close"),
        ("e", "dismiss", "Close"),
    ]

    def __init__(self, text: Text) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """Show the text, which may be longer than the terminal."""
        with VerticalScroll(classes="reading"):
            yield Static(self._text)
