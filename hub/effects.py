# SPDX-License-Identifier: Apache-2.0
"""What a step of the pipeline wants done: rows to write, orders to engines, lines to log."""

from dataclasses import dataclass, field
from typing import Any, Literal

from hub.attacks.model import Attack
from hub.mitigations.executor import Order
from hub.mitigations.model import Mitigation
from hub.store.records import AuditRow, EventResult

Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Line:
    """One log line; also what the live stream shows."""

    level: Level
    event: str
    fields: dict[str, Any]


@dataclass(slots=True)
class Effects:
    """Collected by one step and carried out by the runner in this order: rows, orders, lines.

    Attributes:
        matched: rules that a new decision follows, to be counted; `none` where there is none.
    """

    events: list[EventResult] = field(default_factory=list)
    attacks: dict[str, Attack] = field(default_factory=dict)
    mitigations: dict[str, Mitigation] = field(default_factory=dict)
    settings: dict[str, str | None] = field(default_factory=dict)
    audit: list[AuditRow] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    matched: list[str] = field(default_factory=list)

    def log(self, level: Level, event: str, **fields: Any) -> None:
        """Add a log line."""
        self.lines.append(Line(level, event, fields))

    def add(self, other: "Effects") -> None:
        """Let `other` follow; of each row the newest state stays."""
        self.events += other.events
        self.attacks |= other.attacks
        self.mitigations |= other.mitigations
        self.settings |= other.settings
        self.audit += other.audit
        self.orders += other.orders
        self.lines += other.lines
        self.matched += other.matched

    @property
    def writes(self) -> bool:
        """Tell whether there is anything for the journal."""
        return bool(self.events or self.attacks or self.mitigations or self.settings or self.audit)
