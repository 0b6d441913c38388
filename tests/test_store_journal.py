# SPDX-License-Identifier: Apache-2.0
"""The journal keeps what it is given, in order, once, and all or nothing."""

import asyncio
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.clock import SystemClock
from hub.errors import StoreError
from hub.store import AuditRow, Batch, EventResult, Journal, Row, StoredEvent
from tests.support.store import append, append_all, opened, sql


def audit_row(
    kind: str, *, attack: str = "", mitigation: str = "", event: int | None = None
) -> AuditRow:
    """Return an audit row for a test."""
    return AuditRow(5.0, kind, "rule", event, attack, mitigation, "{}")


async def test_append_event_when_new_then_it_reads_back_as_it_came(tmp_path: Path) -> None:
    """What was accepted is there, byte for byte, as pending."""
    raw = bytes(range(256))
    async with opened(tmp_path / "j") as journal:
        number, is_new = await journal.append_event(
            delivery_id="d1", detector="edge1", stamp=1.5, received_at=2.5, via="tcp", raw=raw
        )
        expected = StoredEvent(
            number, "d1", "edge1", 1.5, 2.5, "tcp", raw, "pending", "", "", "", ""
        )
        assert is_new
        assert expected == await journal.event(number)
        assert [expected] == await journal.pending_events(10)


async def test_append_event_when_delivered_twice_then_the_first_one_stays(tmp_path: Path) -> None:
    """A delivery id comes in once, also when both copies are in one transaction or apart."""
    async with opened(tmp_path / "j") as journal:
        (first, new), (second, again) = await asyncio.gather(
            append(journal, "same", b"one"), append(journal, "same", b"two")
        )
        third, later = await append(journal, "same", b"three")
        assert (new, again, later) == (True, False, False)
        assert first == second == third
        assert [event.raw for event in await journal.events()] == [b"one"]


async def test_append_event_when_many_at_once_then_numbers_follow_the_calls(
    tmp_path: Path,
) -> None:
    """Numbers grow in the order of the calls, and none is lost."""
    names = [f"d{number}" for number in range(3000)]
    async with opened(tmp_path / "j") as journal:
        numbers = await append_all(journal, names)
        stored = await journal.pending_events(5000)
        assert sorted(numbers) == numbers
        assert names == [event.delivery_id for event in stored]


async def test_append_event_when_ten_mebibytes_then_kept_whole(tmp_path: Path) -> None:
    """A large event is an event like any other."""
    raw = random.Random(1).randbytes(10 * 2**20)
    async with opened(tmp_path / "j") as journal:
        (number, _), (small, _) = await asyncio.gather(
            append(journal, "large", raw), append(journal, "small")
        )
        event = await journal.event(number)
        assert event is not None
        assert raw == event.raw
        assert small == number + 1


async def test_append_event_when_caller_is_cancelled_then_others_are_told(tmp_path: Path) -> None:
    """A caller that goes away takes nobody with it, and its event is kept."""
    async with opened(tmp_path / "j") as journal:
        async with asyncio.TaskGroup() as group:
            gone = group.create_task(append(journal, "gone"))
            stays = group.create_task(append(journal, "stays"))
            await asyncio.sleep(0)  # noqa: TID251 - lets both calls reach the queue
            gone.cancel()
        number, _ = await stays
        assert gone.cancelled()
        assert [event.delivery_id for event in await journal.events()] == ["stays", "gone"]
        assert number == 2


@pytest.mark.parametrize(
    ("name", "stamp"),
    [("\ud800", 1.0), ("nan", float("nan"))],
    ids=["no unicode", "not a number"],
)
async def test_append_event_when_value_is_impossible_then_only_that_call_fails(
    tmp_path: Path, name: str, stamp: float
) -> None:
    """A value that cannot be stored is refused to its own caller, not to its neighbours."""
    async with opened(tmp_path / "j") as journal:
        bad = journal.append_event(
            delivery_id=name, detector="edge1", stamp=stamp, received_at=1.0, via="tcp", raw=b""
        )
        results = await asyncio.gather(
            append(journal, "before"), bad, append(journal, "after"), return_exceptions=True
        )
        assert isinstance(results[1], StoreError)
        assert not results[1].retryable
        assert [event.delivery_id for event in await journal.events()] == ["after", "before"]


async def test_write_when_batch_is_good_then_all_of_it_is_there(tmp_path: Path) -> None:
    """Results, rows, settings and audit of one batch arrive together."""
    async with opened(tmp_path / "j") as journal:
        number, _ = await append(journal, "d1")
        attack = Row("a-1", open=True, updated_at=3.0, doc='{"pps": 1}')
        mitigation = Row("m-1", open=True, updated_at=4.0, doc="{}")
        audit = audit_row("attack.began", attack="a-1", event=number)
        await journal.write(
            Batch(
                events=(EventResult(number, "done", "ban", "192.0.2.1/32", "a-1", "new"),),
                attacks=(attack,),
                mitigations=(mitigation,),
                settings={"freeze": "on"},
                audit=(audit,),
            )
        )
        event = await journal.event(number)
        assert event is not None
        assert (event.status, event.action, event.target, event.attack, event.note) == (
            ("done", "ban", "192.0.2.1/32", "a-1", "new")
        )
        assert await journal.pending_events(10) == []
        assert [attack] == await journal.open_attacks()
        assert [mitigation] == await journal.open_mitigations()
        assert mitigation == await journal.mitigation("m-1")
        assert await journal.settings() == {"freeze": "on"}
        rows = await journal.audit()
        assert [(1, audit.kind, number)] == [(row.seq, row.kind, row.event) for row in rows]


async def test_write_when_one_row_is_bad_then_nothing_of_the_batch_is_there(
    tmp_path: Path,
) -> None:
    """A batch is all or nothing, and the batch beside it in the transaction stays."""
    good = Batch(attacks=(Row("a-good", open=True, updated_at=1.0, doc="{}"),))
    bad = Batch(
        attacks=(Row("a-bad", open=True, updated_at=1.0, doc="{}"),),
        settings={"freeze": "on"},
        mitigations=(Row("m-bad", open=True, updated_at=float("nan"), doc="{}"),),
    )
    async with opened(tmp_path / "j") as journal:
        results = await asyncio.gather(
            journal.write(good), journal.write(bad), return_exceptions=True
        )
        assert results[0] is None
        assert isinstance(results[1], StoreError)
        assert [row.id for row in await journal.attacks(limit=10)] == ["a-good"]
        assert await journal.settings() == {}


async def test_write_when_row_is_there_then_it_is_replaced(tmp_path: Path) -> None:
    """A row is named by its id; closed rows leave the open list and stay findable."""
    async with opened(tmp_path / "j") as journal:
        for at, is_open in ((1.0, True), (3.0, False)):
            row = Row("a-1", open=is_open, updated_at=at, doc=f'{{"at": {at}}}')
            await journal.write(Batch(attacks=(row,), settings={"drain": "on", "x": "y"}))
        other = Row("a-2", open=True, updated_at=2.0, doc="{}")
        await journal.write(Batch(attacks=(other,), settings={"drain": None}))
        assert [row.id for row in await journal.attacks(limit=10)] == ["a-1", "a-2"]
        assert [row.id for row in await journal.attacks(limit=1)] == ["a-1"]
        assert [other] == await journal.open_attacks()
        closed = await journal.attack("a-1")
        assert closed is not None
        assert (closed.open, closed.doc) == (False, '{"at": 3.0}')
        assert await journal.attack("a-3") is None
        assert await journal.mitigation("m-1") is None
        assert await journal.settings() == {"x": "y"}


async def test_events_when_paged_then_newest_first_and_of_one_attack(tmp_path: Path) -> None:
    """An operator pages backwards through all events or those of one attack."""
    async with opened(tmp_path / "j") as journal:
        numbers = await append_all(journal, [f"d{number}" for number in range(10)])
        results = tuple(EventResult(number, "done", attack="a-1") for number in numbers[::2])
        await journal.write(Batch(events=results))
        newest = await journal.events(limit=3)
        assert numbers[:-4:-1] == [event.number for event in newest]
        older = await journal.events(before=newest[-1].number, limit=2)
        assert [numbers[6], numbers[5]] == [event.number for event in older]
        of_attack = await journal.events(attack="a-1", before=numbers[6])
        assert [numbers[4], numbers[2], numbers[0]] == [event.number for event in of_attack]
        pending = await journal.pending_events(2, after=numbers[3])
        assert [numbers[5], numbers[7]] == [event.number for event in pending]
        assert await journal.event(999) is None


async def test_audit_when_filtered_then_newest_rows_in_order(tmp_path: Path) -> None:
    """The audit record is found by event, attack and mitigation, the newest part of it."""
    rows = (
        audit_row("one", event=1, attack="a-1"),
        audit_row("two", attack="a-1", mitigation="m-1"),
        audit_row("three", attack="a-2", mitigation="m-1"),
        audit_row("four", attack="a-1"),
    )
    async with opened(tmp_path / "j") as journal:
        await journal.write(Batch(audit=rows))

        async def kinds(**wanted: int | str) -> list[str]:
            found = await journal.audit(**wanted)  # type: ignore[arg-type]
            return [row.kind for row in found]

        assert await kinds() == ["one", "two", "three", "four"]
        assert await kinds(limit=2) == ["three", "four"]
        assert await kinds(event=1) == ["one"]
        assert await kinds(attack="a-1", limit=2) == ["two", "four"]
        assert await kinds(mitigation="m-1") == ["two", "three"]
        assert await kinds(mitigation="m-1", attack="a-1") == ["two"]


async def test_open_when_closed_before_then_everything_is_still_there(tmp_path: Path) -> None:
    """A restart finds events, rows and settings; numbers go on."""
    path = tmp_path / "j"
    async with opened(path) as journal:
        numbers = await append_all(journal, ["d1", "d2"])
        await journal.write(Batch(settings={"freeze": "on"}))
    async with opened(path) as journal:
        assert journal.recovered_from is None
        assert journal.path == path
        assert numbers == [event.number for event in await journal.pending_events(10)]
        assert await journal.settings() == {"freeze": "on"}
        assert (numbers[-1] + 1, True) == await append(journal, "d3")


async def test_ping_when_open_then_it_returns_and_writes_nothing(tmp_path: Path) -> None:
    """A ping goes to the file and back without changing it."""
    async with opened(tmp_path / "j") as journal:
        before = await asyncio.to_thread(os.stat, f"{journal.path}-wal")
        await asyncio.wait_for(journal.ping(), 10)
        after = await asyncio.to_thread(os.stat, f"{journal.path}-wal")
        assert before.st_size == after.st_size


async def test_close_when_writes_wait_then_they_are_done_first(tmp_path: Path) -> None:
    """Closing loses nothing that was handed in, and nothing comes in afterwards."""
    journal = await Journal.open(tmp_path / "j", clock=SystemClock())
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(append(journal, f"d{number}")) for number in range(500)]
        await asyncio.sleep(0)  # noqa: TID251 - lets the calls reach the queue
        await journal.close()
    await journal.close()
    assert len({number for number, _ in [task.result() for task in waiting]}) == 500
    rows = await asyncio.to_thread(sql, tmp_path / "j", "SELECT count(*) FROM events")
    assert rows == [(500,)]
    with pytest.raises(StoreError, match="closed"):
        await append(journal, "late")
    with pytest.raises(StoreError, match="closed"):
        await journal.events()


async def test_writer_when_open_then_every_commit_is_flushed(tmp_path: Path) -> None:
    """Durability rests on these two settings of the connection that really writes."""
    async with opened(tmp_path / "j") as journal:
        connection = journal._writer._connection
        assert connection is not None

        def pragma(name: str) -> object:
            return connection.execute(f"PRAGMA {name}").fetchone()[0]

        assert await asyncio.to_thread(pragma, "journal_mode") == "wal"
        assert await asyncio.to_thread(pragma, "synchronous") == 2


async def test_checkpoint_when_much_was_written_then_the_log_is_copied_beside_the_writer(
    tmp_path: Path,
) -> None:
    """A long burst does not leave everything in the write-ahead log."""
    async with opened(tmp_path / "j") as journal:
        raw = bytes(2**20)
        for turn in range(5):
            await append_all(journal, [f"d{turn}-{number}" for number in range(4)], raw)
        await journal._checkpointer.run(lambda _: None)
        size = (await asyncio.to_thread(os.stat, journal.path)).st_size
        assert size > 8 * 2**20


VALUES = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    batches=st.lists(
        st.lists(st.tuples(VALUES, st.booleans(), st.one_of(st.none(), VALUES)), max_size=6),
        max_size=6,
    )
)
def test_write_when_any_batches_then_the_newest_value_of_each_name_stands(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[tuple[str, bool, str | None]]],
) -> None:
    """Rows and settings behave as a dictionary does, across a restart, for any text."""
    path = tmp_path_factory.mktemp("any") / "j"
    rows: dict[str, Row] = {}
    values: dict[str, str] = {}

    async def run() -> None:
        async with opened(path) as journal:
            for batch in batches:
                made = tuple(
                    Row(name, open=flag, updated_at=1.0, doc=value or "")
                    for name, flag, value in batch
                )
                given_settings = {name: value for name, _, value in batch}
                await journal.write(Batch(mitigations=made, settings=given_settings))
                rows.update((row.id, row) for row in made)
                for name, value in given_settings.items():
                    if value is None:
                        values.pop(name, None)
                    else:
                        values[name] = value
        async with opened(path) as journal:
            assert rows == {row.id: row for row in await journal.mitigations(limit=1000)}
            opened_rows = {row.id for row in await journal.open_mitigations()}
            assert {row.id for row in rows.values() if row.open} == opened_rows
            assert values == await journal.settings()

    asyncio.run(run())
