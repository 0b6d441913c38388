# SPDX-License-Identifier: Apache-2.0
"""Leases on net.ipv4.tcp_syncookies: 2 while somebody holds, the old value when nobody does."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.agent.keeper_link import KeeperGoneError, KeeperLink
from hub.agent.lease import LONGEST_S, MOST_HOLDERS, MOST_PORTS, Change, LeaseError, Leases
from hub.agent.place import KeeperError, Place, boottime
from hub.clock import boot_id
from hub.tasks import Tasks
from tests.support.agent import Home, soon, status
from tests.support.hub_process import pause
from tests.support.netns import inside

BOOT = "8d1d0f4e-0000-4000-8000-000000000000"


@pytest.fixture
def home() -> Iterator[Home]:
    """Return a namespace with sysctls of its own."""
    with Home() as made:
        yield made


async def becomes(home: Home, wanted: int, seconds: float = 20) -> bool:
    """Return whether the sysctl became `wanted` in time."""
    return await asyncio.to_thread(soon, lambda: home.sysctl() == wanted, seconds)


class Talk:
    """A keeper with somebody who listens to it."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._tasks = Tasks()
        self.link: KeeperLink

    async def __aenter__(self) -> KeeperLink:
        """Start it."""
        self.link = await asyncio.to_thread(self._home.keeper)
        await self._tasks.__aenter__()
        self._tasks.run("keeper", self.link.listen())
        return self.link

    async def __aexit__(self, *exc: object) -> None:
        """Leave it alone, as the death of the agent does."""
        await self._tasks.__aexit__(*exc)
        self.link.close()


def test_engage_when_first_then_the_old_value_is_kept_and_2_is_written() -> None:
    """The first lease remembers what stood there."""
    leases = Leases(BOOT)
    assert leases.engage("a", 100, 1) == Change(write=2)
    assert (leases.old, leases.left("a", 40)) == (1, 60)


def test_end_when_others_hold_then_nothing_changes() -> None:
    """Only the last holder's end puts the old value back."""
    leases = Leases(BOOT)
    leases.engage("a", 100, 0)
    leases.engage("b", 200, 2)
    assert leases.expire(150, 2) == Change()
    assert leases.release("a", 2) == Change()
    assert leases.release("b", 2) == Change(write=0)
    assert (leases.old, leases.until) == (None, {})


def test_engage_when_it_stands_at_2_already_then_2_stays() -> None:
    """An administrator's own 2 is neither written nor taken away."""
    leases = Leases(BOOT)
    assert leases.engage("a", 100, 2) == Change()
    assert leases.expire(100, 2) == Change()


def test_end_when_somebody_else_changed_it_then_their_value_stays() -> None:
    """What is not 2 any more at the end is left alone and reported."""
    leases = Leases(BOOT)
    leases.engage("a", 100, 1)
    assert leases.expire(100, 0) == Change(foreign=0)


def test_renewal_when_somebody_else_changed_it_then_2_again_and_theirs_at_the_end() -> None:
    """A renewal sets 2 again, and the value it found is what stands there in the end."""
    leases = Leases(BOOT)
    leases.engage("a", 100, 1)
    assert leases.engage("a", 200, 0) == Change(write=2, foreign=0)
    assert leases.expire(200, 2) == Change(write=0)


def test_engage_when_too_many_hold_then_it_is_refused_and_renewals_are_not() -> None:
    """The number of holders is bounded."""
    leases = Leases(BOOT)
    for number in range(MOST_HOLDERS):
        leases.engage(str(number), 100, 1 if number == 0 else 2)
    with pytest.raises(LeaseError):
        leases.engage("one more", 100, 2)
    leases.engage("0", 200, 2)


@pytest.mark.parametrize(
    ("holder", "ports"), [("", ()), ("a" * 257, ()), ("a", range(1, MOST_PORTS + 2)), ("a", [0])]
)
def test_engage_when_the_wish_is_no_wish_then_it_is_refused(holder: str, ports: list[int]) -> None:
    """What could not be read back is not written: whoever asks bounds nothing by itself."""
    leases = Leases(BOOT)
    with pytest.raises(LeaseError):
        leases.engage(holder, 100, 1, ports)
    assert leases == Leases(BOOT)


steps = st.lists(
    st.tuples(
        st.sampled_from(["engage", "release", "pass", "restart"]),
        st.sampled_from("abc"),
        st.integers(1, 50),
    ),
    max_size=40,
)


@given(st.integers(0, 2), steps)
def test_leases_when_anything_happens_then_2_exactly_while_somebody_holds(
    old: int, taken: list[tuple[str, str, int]]
) -> None:
    """Whatever comes in which order, and however often it is restarted, nothing is left behind."""
    leases, now, value = Leases(BOOT), 0.0, old
    held: dict[str, float] = {}
    for step, holder, seconds in taken:
        if step == "engage":
            held[holder] = now + seconds
            change = leases.engage(holder, now + seconds, value)
        elif step == "release":
            held.pop(holder, None)
            change = leases.release(holder, value)
        elif step == "pass":
            now += seconds
            held = {name: end for name, end in held.items() if end > now}
            change = leases.expire(now, value)
        else:
            leases, change = Leases.load(leases.dump(), BOOT, now), Change()
        value = value if change.write is None else change.write
        assert value == (2 if held else old)
        assert leases.until == held


def record(**more: Any) -> str:
    """Return a record of leases that is right but for `more`."""
    return json.dumps({"boot_id": BOOT, "old": 1, "until": {"a": 5}, "ports": {}} | more)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"boot_id": "%s", "old": 7, "until": {}, "ports": {}}'.replace("%s", BOOT),
        '{"boot_id": "%s", "old": null, "until": {"a": 5}, "ports": {}}'.replace("%s", BOOT),
        '{"boot_id": "%s", "old": 1, "until": {"a": "x"}, "ports": {}}'.replace("%s", BOOT),
        '{"boot_id": "%s", "old": 1, "until": {"a": NaN}, "ports": {}}'.replace("%s", BOOT),
        record(old=True),
        record(old=1.0),
        record(old=[1]),
        pytest.param(record(until={"a": 10**400}), id="a deadline beyond any number"),
        record(ports={"a": [float("inf")]}),
        record(ports={"a": [-1]}),
        record(ports={"a": [65536]}),
        pytest.param(record(until={"a" * 257: 5}), id="a holder without end"),
        pytest.param("[" * 100_000, id="brackets without end"),
    ],
)
def test_record_when_damaged_then_it_is_refused(text: str) -> None:
    """Nothing is concluded from a file that makes no sense."""
    with pytest.raises(LeaseError):
        Leases.load(text, BOOT, 0)


def test_record_when_of_another_boot_then_nobody_holds() -> None:
    """The sysctl of a new boot is the administrator's, whatever was held before."""
    leases = Leases("another boot")
    leases.engage("a", 100, 1)
    assert Leases.load(leases.dump(), BOOT, 0).until == {}


def test_record_when_a_deadline_is_too_far_then_it_is_cut() -> None:
    """No file can hold a sysctl for longer than a lease may last."""
    leases = Leases(BOOT, 1, {"a": 1e12})
    assert Leases.load(leases.dump(), BOOT, 50).until == {"a": 50 + LONGEST_S}


def test_record_when_a_link_a_pipe_or_endless_then_nobody_holds(tmp_path: Path) -> None:
    """Whoever reads it neither waits nor follows, and says which file it is."""
    place = Place(tmp_path)
    good = Leases(boot_id(), 1, {"a": boottime() + 60})
    place.save(good)
    assert place.load().until == good.until
    place.leases.rename(tmp_path / "elsewhere")
    place.leases.symlink_to(tmp_path / "elsewhere")
    assert place.load().until == {}
    place.forget()
    os.mkfifo(place.leases)
    assert place.load().until == {}
    place.forget()
    place.leases.write_bytes(b" " * (1 << 20))
    assert place.load().until == {}


async def test_keeper_when_engaged_and_released_then_the_real_sysctl_follows(home: Home) -> None:
    """2 while held, then the old value; the keeper is no root and has one capability."""
    async with Talk(home) as keeper:
        held = await keeper.engage("a", 60)
        assert (held.syncookies, held.old, held.engaged_s) == (2, 1, 60)
        assert await asyncio.to_thread(home.sysctl) == 2

        pid = await asyncio.to_thread(home.keeper_pid)
        assert (await asyncio.to_thread(status, pid, "Uid")).split() == ["1"] * 4
        for name in ("CapEff", "CapPrm"):
            assert int(await asyncio.to_thread(status, pid, name), 16) == 1 << 12
        assert (await asyncio.to_thread(status, pid, "NoNewPrivs")).strip() == "1"

        assert (await keeper.state("b")).engaged_s == 0
        assert (await keeper.release("a")).syncookies == 1
        assert await asyncio.to_thread(home.sysctl) == 1


async def test_keeper_when_alone_then_it_restores_at_the_deadline_and_ends(home: Home) -> None:
    """Whoever asked is gone: the sysctl is put back in time, and nothing is left running."""
    async with Talk(home) as keeper:
        await keeper.engage("a", 10)
        pid = await asyncio.to_thread(home.keeper_pid)
    assert await asyncio.to_thread(home.sysctl) == 2
    assert await becomes(home, 1)
    assert await asyncio.to_thread(soon, lambda: _ended(pid))
    assert not await asyncio.to_thread((home.runtime / "keeper" / "lease.json").exists)


async def test_keeper_when_another_starts_then_it_takes_over_without_a_gap(home: Home) -> None:
    """A new keeper continues the leases, the sysctl is not touched, the old one goes."""
    async with Talk(home) as keeper:
        await keeper.engage("a", 60)
        old = await asyncio.to_thread(home.keeper_pid)
        async with Talk(home) as other:
            assert await asyncio.to_thread(home.keeper_pid) != old
            assert await asyncio.to_thread(soon, lambda: _ended(old))
            state = await other.state("a")
            assert (state.syncookies, state.old) == (2, 1)
            assert 50 < state.engaged_s <= 60
            with pytest.raises(KeeperGoneError):
                await keeper.state("a")
            await other.release("a")
    assert await asyncio.to_thread(home.sysctl) == 1


async def test_keeper_when_killed_then_the_next_one_goes_on(home: Home) -> None:
    """Kill -9 leaves a record by which the next keeper restores."""
    async with Talk(home) as keeper:
        await keeper.engage("a", 60)
        os.kill(await asyncio.to_thread(home.keeper_pid), signal.SIGKILL)
        assert await asyncio.to_thread(soon, lambda: _gone(keeper))
        with pytest.raises(KeeperGoneError):
            await keeper.engage("a", 60)
    assert await asyncio.to_thread(home.sysctl) == 2
    async with Talk(home) as keeper:
        assert (await keeper.release("a")).syncookies == 1


async def test_keeper_when_terminated_then_it_restores_at_once(home: Home) -> None:
    """The plain signal to end is the careful end."""
    async with Talk(home) as keeper:
        await keeper.engage("a", 60)
        os.kill(await asyncio.to_thread(home.keeper_pid), signal.SIGTERM)
        assert await becomes(home, 1)


async def test_keeper_when_somebody_else_sets_it_then_theirs_stays(home: Home) -> None:
    """A value that is not ours any more is not overwritten at the end."""
    async with Talk(home) as keeper:
        await keeper.engage("a", 60)
        await asyncio.to_thread(home.set_sysctl, 0)
        assert (await keeper.release("a")).syncookies == 0
        assert await asyncio.to_thread(home.sysctl) == 0


async def test_keeper_when_the_record_is_damaged_then_it_still_serves(home: Home) -> None:
    """A damaged file costs its leases and not the service."""
    async with Talk(home) as keeper:
        await keeper.release("a")
    await asyncio.to_thread((home.runtime / "keeper" / "lease.json").write_text, "{")
    async with Talk(home) as keeper:
        assert (await keeper.engage("a", 60)).syncookies == 2
        assert (await asyncio.to_thread(home.leases))["old"] == 1
        await keeper.release("a")


async def test_keeper_when_the_sysctl_cannot_be_written_then_it_says_so(home: Home) -> None:
    """A refusal of the kernel is an error of the request, and no lease is on record."""
    await asyncio.to_thread(home.fake_sysctl)
    async with Talk(home) as keeper:
        with pytest.raises(KeeperError, match="cannot set net"):
            await keeper.engage("a", 60)
        assert (await keeper.state("a")).engaged_s == 0
        assert not await asyncio.to_thread((home.runtime / "keeper" / "lease.json").exists)


async def test_keeper_when_ports_are_named_then_their_listeners_send_cookies(home: Home) -> None:
    """Each listener at a named port sends a cookie at once, and nothing else is left of it."""

    def listen() -> list[socket.socket]:
        return [
            socket.create_server(("127.0.0.1", 8001)),
            socket.create_server(("0.0.0.0", 8002)),
            socket.create_server(("::1", 8003), family=socket.AF_INET6),
            socket.create_server(("127.0.0.1", 8004)),
        ]

    async with Talk(home) as keeper:
        made = await asyncio.to_thread(inside, home.namespace, listen)
        before = await asyncio.to_thread(cookies_sent, home)
        await keeper.engage("a", 60, [8001, 8002, 8003, 9999])
        assert await asyncio.to_thread(soon, lambda: cookies_sent(home) == before + 3)
        assert home_ports(await asyncio.to_thread(home.leases)) == [8001, 8002, 8003, 9999]
        await asyncio.to_thread(pause, 0.3)
        assert await asyncio.to_thread(cookies_sent, home) == before + 3
        for one in made:
            one.settimeout(0)
            with pytest.raises(BlockingIOError):
                one.accept()
            one.close()
        await keeper.release("a")


async def test_keeper_when_another_takes_over_then_it_sends_for_the_same_ports(home: Home) -> None:
    """The ports are on record with their lease."""
    made = await asyncio.to_thread(
        inside, home.namespace, lambda: socket.create_server(("127.0.0.1", 8001))
    )
    async with Talk(home) as keeper:
        await keeper.engage("a", 60, [8001])
        assert await asyncio.to_thread(soon, lambda: cookies_sent(home) == 1)
    async with Talk(home) as keeper:
        assert await asyncio.to_thread(soon, lambda: cookies_sent(home) == 2)
        await keeper.release("a")
    made.close()


def cookies_sent(home: Home) -> int:
    """Return how many cookies the namespace's TCP has sent."""
    text = inside(home.namespace, Path("/proc/thread-self/net/netstat").read_text)
    names, values = (line.split() for line in text.splitlines() if line.startswith("TcpExt:"))
    return int(values[names.index("SyncookiesSent")])


def home_ports(document: dict[str, Any]) -> list[int]:
    """Return the ports on record for the holder a."""
    ports: list[int] = document["ports"]["a"]
    return ports


@pytest.mark.parametrize("seconds", [0, 9, 86401])
async def test_engage_when_the_time_is_out_of_bounds_then_it_is_refused(
    home: Home, seconds: int
) -> None:
    """Leases last 10 s to a day."""
    async with Talk(home) as keeper:
        with pytest.raises(KeeperError, match="SECONDS"):
            await keeper.engage("a", seconds)
        assert await asyncio.to_thread(home.sysctl) == 1


async def test_keeper_when_many_ask_at_once_then_each_gets_its_own_answer(home: Home) -> None:
    """Answers belong to their questions."""
    async with Talk(home) as keeper:
        held = await asyncio.gather(
            *(keeper.engage(f"holder{number}", 20 + number) for number in range(30))
        )
        assert [one.engaged_s for one in held] == list(range(20, 50))
        assert len((await asyncio.to_thread(home.leases))["until"]) == 30
        await keeper.restore()
        assert await asyncio.to_thread(home.sysctl) == 1


def _ended(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _gone(keeper: KeeperLink) -> bool:
    return keeper._gone
