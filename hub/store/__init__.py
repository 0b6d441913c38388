# SPDX-License-Identifier: Apache-2.0
"""The journal: SQLite, one writer thread, group commit."""

from hub.store.journal import Journal
from hub.store.records import AuditRow, Batch, EventResult, Row, StoredEvent

__all__ = ["AuditRow", "Batch", "EventResult", "Journal", "Row", "StoredEvent"]
