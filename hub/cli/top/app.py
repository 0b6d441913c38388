# SPDX-License-Identifier: Apache-2.0
"""The view itself: tables that follow the daemon, and keys that act on the row under the cursor."""

import io
import threading
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.message import Message
from textual.renderables.sparkline import Sparkline
from textual.widgets import DataTable, Footer, RichLog, Static

from hub.cli.client import Client
from hub.cli.explain import show_explanation
from hub.cli.tail import show_item
from hub.cli.text import Screen, amount, clean
from hub.cli.top import words
from hub.cli.top.dialogs import Question, Reading
from hub.cli.top.feed import Feed, Look
from hub.cli.top.rates import MEMORY, Rates
from hub.errors import HubError

_VERDICTS: Final = 8
_GRAPH: Final = 40
_LINES: Final = 500
_MARGIN: Final = 4
_NARROWEST: Final = 40
_COLUMNS: Final = {
    "rates": ("VERDICT", "ENGINE", "NOW/S"),
    "attacks": ("ATTACK", "STATE", "TARGET", "TYPE", "PPS", "SINCE", "HELD"),
    "mitigations": ("ID", "STATE", "ACTION", "TARGET", "ENGINE", "LEFT", "DROPPED/S", "RULE"),
}


class _Looked(Message):
    def __init__(self, look: Look) -> None:
        super().__init__()
        self.look = look


class _Happened(Message):
    def __init__(self, item: dict[str, Any]) -> None:
        super().__init__()
        self.item = item


class TopApp(App[None]):
    """`fnm-hub top`.

    Args:
        client: asks the daemon.
    """

    TITLE = "fnm-hub top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { height: auto; max-height: 6; }
    DataTable { height: auto; border-top: solid $secondary; }
    DataTable:focus { border-top: solid $accent; }
    #rates { max-height: 10; }
    #attacks { min-height: 3; max-height: 30%; }
    #mitigations { min-height: 3; max-height: 30%; }
    #log { height: 1fr; min-height: 3; border-top: solid $secondary; }
    Question, Reading { align: center middle; }
    .dialog { width: 70; max-width: 95%; height: auto; padding: 1 2; border: thick $warning;
              background: $surface; }
    .reading { width: 95%; height: 90%; padding: 0 1; border: solid $accent; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "quit", "Quit"),
        ("tab", "focus_next", "Next table"),
        ("e", "explain", "Explain"),
        ("r", "release", "Release"),
        ("f", "freeze", "Freeze/unfreeze"),
    ]

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._feed = Feed(client)
        self._rates = Rates()
        self._look = Look()

    def compose(self) -> ComposeResult:
        """Show everything, empty at first."""
        yield Static(Text("asking the daemon ..."), id="head")
        for name in _COLUMNS:
            # Nothing acts on a verdict: the cursor is for what can be acted on.
            rows = name != "rates"
            yield DataTable[Any](
                id=name,
                cursor_type="row" if rows else "none",
                show_cursor=rows,
                zebra_stripes=rows,
            )
        yield RichLog(id="log", max_lines=_LINES, wrap=True)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to ask and to listen, in threads that end with the process."""
        for name, columns in _COLUMNS.items():
            self._table(name).add_columns(*columns)
        self._table("rates").add_column("TWO MINUTES", width=_GRAPH)
        for name in ("#rates", "#log"):
            self.query_one(name).can_focus = False
        self._table("mitigations").focus()
        for work in (self._ask, self._listen):
            threading.Thread(target=work, name=f"top{work.__name__}", daemon=True).start()

    def on_unmount(self) -> None:
        """Ask no more."""
        self._feed.close()

    def on__looked(self, message: _Looked) -> None:
        """Show a look; while nobody answers the tables stay as they were."""
        if not self._stands():
            return
        self._look = look = message.look
        self.query_one("#head", Static).update(words.head(look))
        if look.status is None:
            return
        self._rates.look(look.status)
        _refill(self._table("rates"), self._verdicts())
        _refill(self._table("attacks"), words.attacks(look))
        _refill(self._table("mitigations"), words.mitigations(look))

    def on__happened(self, message: _Happened) -> None:
        """Show one line of what happens."""
        if not self._stands():
            return
        out = io.StringIO()
        show_item(self._screen(out), message.item, as_json=False)
        self.query_one("#log", RichLog).write(Text.from_ansi(out.getvalue().rstrip("\n")))

    def action_explain(self) -> None:
        """Show why the row under the cursor is there."""
        if (chosen := self._chosen()) is not None:
            self._do(lambda: self._read(self._feed.explain(chosen[1])))

    def action_release(self) -> None:
        """End the mitigation under the cursor, after a question."""
        chosen = self._chosen()
        if chosen is None or chosen[0] != "mitigations":
            self.notify("put the cursor on a mitigation first (Tab)", severity="warning")
            return
        name = chosen[1]
        self._question(
            f"Release {clean(name)}? It is held off afterwards, as by fnm-hub release.",
            lambda reason: self._feed.release(name, reason),
        )

    def action_freeze(self) -> None:
        """Let nothing new begin, or end that, after a question."""
        status = self._look.status
        if status is None:
            self.notify("the daemon does not answer", severity="error")
            return
        frozen = bool(status.get("frozen") or status.get("draining"))
        what = "unfreeze" if frozen else "freeze"
        text = (
            "Unfreeze? Countermeasures start again."
            if frozen
            else "Freeze? Nothing new starts, what is in force stays."
        )
        self._question(text, lambda reason: self._feed.switch(what, reason))

    def _ask(self) -> None:
        for look in self._feed.looks():
            self.post_message(_Looked(look))

    def _listen(self) -> None:
        for item in self._feed.happenings():
            self.post_message(_Happened(item))

    def _verdicts(self) -> Iterable[words.Row]:
        for one in self._rates.busiest(_VERDICTS):
            # Always the whole of two minutes, so that the same width is the same time.
            before = [0.0] * (MEMORY - len(one.rates))
            graph = Sparkline([*before, *one.rates], width=_GRAPH)
            cells = (
                Text(clean(one.name)),
                Text(clean(one.engine)),
                Text(amount(one.now), justify="right"),
                graph,
            )
            yield words.Row(f"{one.engine} {one.name}", cells)

    def _stands(self) -> bool:
        """Tell whether all is there: what is told while the view is taken down finds parts gone."""
        names = ("head", *_COLUMNS, "log")
        return len(self.query(", ".join(f"#{name}" for name in names))) == len(names)

    def _table(self, name: str) -> DataTable[Any]:
        return self.query_one(f"#{name}", DataTable)

    def _chosen(self) -> tuple[str, str] | None:
        focused = self.focused
        table = focused if isinstance(focused, DataTable) else self._table("mitigations")
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return None if key is None else (table.id or "", key)

    def _question(self, text: str, act: Callable[[str], None]) -> None:
        def answered(reason: str | None) -> None:
            if reason is not None:
                self._do(lambda: act(reason))

        self.push_screen(Question(text), answered)  # type: ignore[unused-awaitable]  # shown later

    def _do(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except HubError as error:
                todo = f"\n{error.todo}" if error.todo else ""
                text = clean(error.what) + clean(todo).replace("\\n", "\n")
                self.call_from_thread(self.notify, text, severity="error", markup=False)

        self.run_worker(guarded, thread=True)

    def _screen(self, out: io.StringIO) -> Screen:
        return Screen(out, color=True, width=max(_NARROWEST, self.size.width - _MARGIN))

    def _read(self, found: dict[str, Any]) -> None:
        out = io.StringIO()
        show_explanation(self._screen(out), found)
        text = Text.from_ansi(out.getvalue())
        self.call_from_thread(self.push_screen, Reading(text))


def _refill(table: DataTable[Any], rows: Iterable[words.Row]) -> None:
    """Put rows into a table; the cursor stays on its row while there is one."""
    wanted = list(rows)
    if [row.key for row in wanted] == [key.value for key in table.rows]:
        for place, row in enumerate(wanted):
            for column, cell in enumerate(row.cells):
                table.update_cell_at((place, column), cell, update_width=True)  # type: ignore[arg-type]
        return
    at = table.cursor_row
    keys = [key.value for key in table.rows]
    under = keys[at] if 0 <= at < len(keys) else None
    table.clear()
    for row in wanted:
        table.add_row(*row.cells, key=row.key)
    place = next((place for place, row in enumerate(wanted) if row.key == under), at)
    if wanted:
        table.move_cursor(row=min(max(place, 0), len(wanted) - 1))
