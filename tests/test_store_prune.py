# SPDX-License-Identifier: Apache-2.0
"""Retention: old things go, in steps, and nothing goes that is still needed."""

import asyncio
from pathlib import Path

from hub.store import AuditRow, Batch, EventResult, Journal, Row
from tests.support.store import append, append_all, in_thread, opened


def audit(at: float, doc: str, *, attack: str = "", mitigation: str = "") -> AuditRow:
    """Return an audit row for a test."""
    return AuditRow(at, "kind", "actor", None, attack, mitigation, doc)


async def finish(journal: Journal, numbers: list[int], attack: str = "") -> None:
    """Mark events as done."""
    results = tuple(EventResult(number, "done", attack=attack) for number in numbers)
    await journal.write(Batch(events=results))


async def test_prune_when_events_are_old_then_they_go_but_not_pending_or_open_ones(
    tmp_path: Path,
) -> None:
    """An event goes when it is old, dealt with, and of no open attack."""
    async with opened(tmp_path / "j") as journal:
        old, _ = await append(journal, "old", received_at=100.0)
        odd, _ = await append(journal, "odd", received_at=100.0)
        open_one, _ = await append(journal, "open", received_at=100.0)
        closed, _ = await append(journal, "closed", received_at=100.0)
        await append(journal, "pending", received_at=100.0)
        new, _ = await append(journal, "new", received_at=200.0)
        await finish(journal, [old, new])
        await journal.write(Batch(events=(EventResult(odd, "not_understood"),)))
        await finish(journal, [open_one], "a-open")
        await finish(journal, [closed], "a-closed")
        rows = (
            Row("a-open", open=True, updated_at=100.0, doc=""),
            Row("a-closed", open=False, updated_at=100.0, doc=""),
        )
        await journal.write(Batch(attacks=rows))
        assert await journal.prune(events_before=150.0, audit_before=0.0) == 3
        left = [event.delivery_id for event in await journal.events()]
        assert left == ["new", "pending", "open"]
        assert await journal.prune(events_before=150.0, audit_before=0.0) == 0


async def test_prune_when_audit_is_old_then_it_goes_with_the_closed_rows(
    tmp_path: Path,
) -> None:
    """The audit record of what is open stays; closed attacks and mitigations go with theirs."""
    async with opened(tmp_path / "j") as journal:
        pairs = (("open", True, 100.0), ("closed", False, 100.0), ("fresh", False, 200.0))
        rows = [Row(name, open=flag, updated_at=at, doc="") for name, flag, at in pairs]
        record = (
            audit(100.0, "none"),
            audit(100.0, "open attack", attack="open"),
            audit(100.0, "open mitigation", attack="closed", mitigation="open"),
            audit(100.0, "closed", attack="closed", mitigation="closed"),
            audit(200.0, "fresh"),
        )
        await journal.write(Batch(attacks=tuple(rows), mitigations=tuple(rows), audit=record))
        assert await journal.prune(events_before=0.0, audit_before=150.0) == 4
        left = [row.doc for row in await journal.audit()]
        assert left == ["open attack", "open mitigation", "fresh"]
        assert [row.id for row in await journal.attacks(limit=9)] == ["fresh", "open"]
        assert [row.id for row in await journal.mitigations(limit=9)] == ["fresh", "open"]


async def test_prune_when_limited_then_the_oldest_go_first(tmp_path: Path) -> None:
    """One call deletes no more than it may, and says so by its result."""
    async with opened(tmp_path / "j") as journal:
        numbers = [
            (await append(journal, f"d{at}", received_at=float(at)))[0] for at in (3, 1, 2, 0)
        ]
        await finish(journal, numbers)
        assert await journal.prune(events_before=10.0, audit_before=0.0, limit=3) == 3
        assert [event.delivery_id for event in await journal.events()] == ["d3"]


async def test_prune_when_much_is_old_then_writers_have_their_turn_and_space_comes_back(
    tmp_path: Path,
) -> None:
    """Pruning goes in steps, numbers are not used again, and the file shrinks."""
    path = tmp_path / "j"
    async with opened(path) as journal:
        names = [f"d{number}" for number in range(2000)]
        numbers = await append_all(journal, names, b"x" * 20_000)
        await finish(journal, numbers)
        async with asyncio.TaskGroup() as group:
            pruning = group.create_task(journal.prune(events_before=2000.0, audit_before=0.0))
            await asyncio.sleep(0)  # noqa: TID251 - lets the pruning reach the queue first
            added, _ = await append(journal, "new", received_at=3000.0)
            assert not pruning.done()
        assert pruning.result() == 2000
        assert numbers[-1] + 1 == added
        assert [event.delivery_id for event in await journal.events()] == ["new"]
    size = await in_thread(lambda: path.stat().st_size)
    assert size < 20 * 2**20
    async with opened(path) as journal:
        assert (added + 1, True) == await append(journal, "next")
