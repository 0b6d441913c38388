# SPDX-License-Identifier: Apache-2.0
"""The native engine on paths that lose and reorder segments, or that are narrow."""

from collections.abc import Iterator

import pytest

from tests.support.stack import BOTH_FAMILIES
from tests.support.stack_daemon import Daemon, dropped, oracle_daemon
from tests.support.stack_path import (
    JUMBO,
    MEGABYTES,
    NARROW,
    JumboStand,
    NarrowStand,
    RoughStand,
    exchange_over_bad_wire,
    exchange_over_narrow_link,
)
from tests.support.stack_talk import BULK, Server

CLIENTS = 4


@pytest.fixture(scope="module")
def rough() -> Iterator[RoughStand]:
    """Return a lab with a bad wire."""
    with RoughStand() as made:
        yield made


@pytest.fixture(scope="module")
def narrow() -> Iterator[NarrowStand]:
    """Return a lab with a narrow link."""
    with NarrowStand() as made:
        yield made


@pytest.fixture(scope="module")
def jumbo() -> Iterator[JumboStand]:
    """Return a lab with wide links."""
    with JumboStand() as made:
        yield made


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Return the engine on the gateway of the lab that the test has."""
    name = next(one for one in ("rough", "narrow", "jumbo") if one in request.fixturenames)
    with Daemon(request.getfixturevalue(name), oracle_daemon()) as made:
        yield made


@BOTH_FAMILIES
async def test_lost_and_overtaken_segments_are_made_good(
    rough: RoughStand, engine: Daemon, family: int
) -> None:
    """Data arrive whole over a wire that loses and delays 1 %, and the engine drops none of it."""
    async with rough.wire() as wire, Server(rough).running() as server:
        await engine.begin(await rough.profiles())
        wire.lost = wire.late = 0.01
        clients = [await server.client(family, BULK) for _ in range(CLIENTS)]
        await exchange_over_bad_wire(rough, wire, clients)
    counts = await engine.in_force()
    assert counts["cookie_good"] >= CLIENTS
    assert counts["cookie_bad"] == 0


@BOTH_FAMILIES
async def test_a_narrow_link_is_found_out(narrow: NarrowStand, engine: Daemon, family: int) -> None:
    """A router's report that a packet is too big reaches the server, and the flow goes on."""
    async with Server(narrow).running() as server:
        await engine.begin(await narrow.profiles())
        client = await exchange_over_narrow_link(narrow, server, family)
        counts = await engine.in_force()
        assert server.last_info[client.name].pmtu == NARROW
        assert counts["cookie_good"] == 1
        assert counts["icmp_error"] >= 1


@BOTH_FAMILIES
async def test_frames_of_several_pages_pass(jumbo: JumboStand, engine: Daemon, family: int) -> None:
    """With jumbo frames a connection is like one whose cookie the server has made itself."""
    size = 20 * MEGABYTES
    async with Server(jumbo).running() as server:
        profiles = await jumbo.profiles()
        direct = await server.client(family)
        assert await direct.says(b"hello") == b"hello"
        await engine.begin(profiles)
        ours = await server.client(family)
        assert await ours.says(b"hello") == b"hello"
        assert server.info(ours).agreed() == server.info(direct).agreed()
        assert ours.info.agreed() == direct.info.agreed()
        bulk = await server.client(family, BULK)
        assert await bulk.exchange(size) == (size, size)
        assert server.last_info[bulk.name].pmtu == JUMBO
        # Now: `direct` is of before, and unknown is what comes of it when it is closed.
        counts = await engine.in_force()
    assert counts["cookie_good"] >= 2
    assert dropped(counts) == {}
