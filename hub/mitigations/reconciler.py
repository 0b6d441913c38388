# SPDX-License-Identifier: Apache-2.0
"""Compares what should be in force with what is, engine by engine."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from hub.mitigations.engine import Installed
from hub.mitigations.model import Mitigation, MitigationState


@dataclass(frozen=True, slots=True)
class Findings:
    """The difference between ledger and engine.

    Attributes:
        missing: in the ledger as active, not in the engine: to be applied again.
        unknown: tagged as ours, not in the ledger: to be withdrawn.
        orphans: ids that are left alone until they end by themselves.
        foreign: somebody else's: reported, never touched.
    """

    missing: tuple[Mitigation, ...]
    unknown: tuple[Installed, ...]
    orphans: frozenset[str]
    foreign: tuple[Installed, ...]


def compare(
    rows: Iterable[Mitigation], there: Iterable[Installed], orphans: Collection[str]
) -> Findings:
    """Return how the engine's inventory differs from the ledger's rows of that engine."""
    wanted = {row.id: row for row in rows}
    installed = list(there)
    ours = {item.mitigation_id: item for item in installed if item.mitigation_id}
    strangers = ours.keys() - wanted.keys()
    return Findings(
        missing=tuple(
            row
            for row in wanted.values()
            if row.state is MitigationState.ACTIVE and row.id not in ours
        ),
        unknown=tuple(
            item
            for item in installed
            if item.mitigation_id in strangers and item.mitigation_id not in orphans
        ),
        orphans=frozenset(strangers & set(orphans)),
        foreign=tuple(item for item in installed if not item.mitigation_id),
    )
