# SPDX-License-Identifier: Apache-2.0
"""Mode splice in front of servers with other kernels than ours: stock Debian ones."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from scripts.lab.guest_server import BULK, GREETER, INFO
from tests.support.guest import Protected, ask_known
from tests.support.netns import CLIENT, SYN, spoofed, tcp_packet
from tests.support.stack import TARGETS, fresh_client
from tests.support.stack_daemon import Daemon, plain_daemon
from tests.support.stack_talk import BANNER, Client

SIZE = 4 << 20
SETTINGS: dict[str, dict[str, object]] = {
    "usual": {},
    "no timestamps": {"tcp_timestamps": 0},
    "no window scaling": {"tcp_window_scaling": 0},
    "no sack": {"tcp_sack": 0},
    "ecn": {"tcp_ecn": 1},
}
Agreements = dict[tuple[str, int], list[dict[str, object]]]


@pytest.fixture(
    params=["protected", pytest.param("protected_old", marks=pytest.mark.long)],
    ids=["newest", "oldest"],
)
def guest(request: pytest.FixtureRequest) -> Protected:
    """Return a guest of one kernel after the other."""
    made: Protected = request.getfixturevalue(request.param)
    return made


@asynccontextmanager
async def spliced(guest: Protected) -> AsyncIterator[Daemon]:
    """Run synproxyd on the gateway in front of the guest."""
    daemon = await asyncio.to_thread(lambda: Daemon(guest.stand, plain_daemon()).__enter__())
    try:
        yield daemon
    finally:
        await asyncio.to_thread(daemon.close)


async def protect(daemon: Daemon) -> None:
    """Protect both of the guest's addresses."""
    for family, target in TARGETS.items():
        bits = 32 if family == 4 else 128
        await daemon.ask(
            op="put",
            id=f"m-{family}",
            revision=1,
            target=f"{target}/{bits}",
            expires_ms=600_000,
            kind="tcp",
            tcp={"mode": "splice"},
        )


async def client_of(guest: Protected, family: int, port: int) -> Client:
    """Return a new connection."""
    source = (fresh_client(family), 0)
    return Client(*await guest.stand.connect(TARGETS[family], port, source=source))


async def agreements(guest: Protected) -> Agreements:
    """Return what both sides have agreed on, by the client's settings and the family."""
    found = {}
    for name, values in SETTINGS.items():
        async with guest.stand.setting(CLIENT, values):
            for family in TARGETS:
                client = await client_of(guest, family, INFO)
                server = await ask_known(client.reader, client.writer)
                found[name, family] = [server.info.agreed(), client.info.agreed()]
                client.reset()
    return found


async def test_a_guests_clients_are_served_as_without_us(guest: Protected) -> None:
    """Options agree with direct connections, a greeting is heard at once, bulk data is whole."""
    await guest.sysctl("net.ipv4.tcp_syncookies", 1)
    direct = await agreements(guest)
    async with spliced(guest) as daemon:
        await protect(daemon)
        # The first of all teaches what the guest takes; this one offers everything.
        async with guest.stand.setting(CLIENT, SETTINGS["ecn"]):
            for family in TARGETS:
                (await client_of(guest, family, INFO)).reset()
        through = await agreements(guest)
        counted = await daemon.counts()
        assert through == direct
        assert counted["splice_open"] >= len(direct) - 2
        for family, target in TARGETS.items():
            flood = (tcp_packet(one, target, 1024, GREETER, SYN) for one in spoofed(target, 5))
            async with guest.stand.flood(flood, target, least=2000):
                for _ in range(3):
                    greeted = await client_of(guest, family, GREETER)
                    async with asyncio.timeout(5):
                        assert await greeted.reader.readexactly(len(BANNER)) == BANNER
                    greeted.reset()
            bulk = await client_of(guest, family, BULK)
            assert await bulk.exchange(SIZE) == (SIZE, SIZE)
            bulk.reset()
        counted = await daemon.counts() - counted
    await asyncio.sleep(0)  # noqa: TID251 - lets the aborted connections end
    assert counted["cookie_sent"] >= 4000
    assert counted["splice_probe"] <= 10
    assert counted["splice_full"] == counted["splice_over"] == 0
