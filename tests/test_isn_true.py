# SPDX-License-Identifier: Apache-2.0
"""ISN sync for real: a stock kernel serves clients whose SYN was answered by us."""

import asyncio
import re
from itertools import chain
from pathlib import Path

import pytest

from scripts.lab.guest_server import BULK, ECHO, FILLER, GREETER, INFO, NARROW
from tests.support.guest import Known, Protected, ask_known
from tests.support.isn import TARGETS, Shield, protecting, shielded
from tests.support.netns import CLIENT, SYN, spoofed, tcp_packet
from tests.support.stack_talk import BANNER

LIKE = (ECHO, GREETER, BULK, FILLER, INFO)
SIZE = 4 << 20
SETTINGS: dict[str, dict[str, object]] = {
    "usual": {},
    "no timestamps": {"tcp_timestamps": 0},
    "no window scaling": {"tcp_window_scaling": 0},
    "no sack": {"tcp_sack": 0},
    "ecn": {"tcp_ecn": 1},
}


async def agreements(shield: Shield) -> dict[tuple[str, int], list[dict[str, object]]]:
    """Return what both sides have agreed on, by the client's settings and the family."""
    found = {}
    for name, values in SETTINGS.items():
        async with shield.protected.stand.setting(CLIENT, values):
            for family in TARGETS:
                client = await shield.client(family, INFO)
                server = await ask_known(client.reader, client.writer)
                found[name, family] = [server.info.agreed(), client.info.agreed()]
                client.reset()
    return found


async def with_itself(shield: Shield) -> dict[tuple[str, int], list[dict[str, object]]]:
    """Return what is agreed on with the server's own cookies, once its agent answers."""
    await shield.ready()
    await shield.protected.sysctl("net.ipv4.tcp_syncookies", 2)
    found = await agreements(shield)
    await shield.protected.sysctl("net.ipv4.tcp_syncookies", 1)
    return found


@pytest.mark.long
async def test_connection_when_protected_then_agreed_on_as_with_the_server_itself(
    protected: Protected, tmp_path: Path
) -> None:
    """Both ends believe the same as after a handshake with the server's own cookies."""
    async with shielded(protected, tmp_path, ports=LIKE) as shield:
        direct = await with_itself(shield)
        plain = await agreements(shield)
        await shield.protect()
        through = await agreements(shield)
        counts = await shield.daemon.in_force()
    assert through == direct
    assert counts["cookie_sent"] >= counts["cookie_good"] == len(direct)
    # What a cookie cannot carry without timestamps is lost with the server's own cookies, too.
    for name in ("usual", "no window scaling", "no sack"):
        for family in TARGETS:
            assert through[name, family] == plain[name, family], name


async def one_of_each(shield: Shield, number: int) -> None:
    """Open one connection of a kind, use it, and see that all of it arrives."""
    family = 4 if number % 2 else 6
    match number // 2 % 5:
        case 0:
            client = await shield.client(family, GREETER)
            assert await client.reader.readexactly(len(BANNER)) == BANNER
            assert await client.says(b"hello") == b"hello"
        case 1:
            client = await shield.client(family, ECHO)
            assert await client.says(bytes(range(256)) * 64) == bytes(range(256)) * 64
        case 2:
            client = await shield.client(family, BULK)
            size = SIZE if number < 20 else SIZE // 64
            assert await client.exchange(size) == (size, size)
        case 3:
            client = await shield.client(family, FILLER)
            client.writer.write((SIZE // 32).to_bytes(8, "big"))
            async with asyncio.timeout(30):
                assert len(await client.reader.readexactly(SIZE // 32)) == SIZE // 32
        case _:
            client = await shield.client(family, ECHO)
            client.writer.write(b"half")
            client.writer.write_eof()
            async with asyncio.timeout(10):
                assert await client.reader.read(-1) == b"halfgoodbye"
    client.reset()


async def narrow_of(shield: Shield, family: int) -> Known:
    """Return what the server makes of a connection to the listener with the small buffer."""
    client = await shield.client(family, NARROW)
    known = await ask_known(client.reader, client.writer)
    client.reset()
    return known


async def test_connections_when_of_every_kind_and_under_a_flood_then_all_are_whole(
    protected: Protected, tmp_path: Path
) -> None:
    """A hundred clients among thousands of invented SYNs, none of which reaches the server."""
    async with protecting(protected, tmp_path) as shield:
        before = await shield.netstat()
        floods = [
            (tcp_packet(source, target, 1024 + n % 60000, ECHO, SYN) for n, source in sources)
            for target in TARGETS.values()
            for sources in [enumerate(spoofed(target, 7))]
        ]
        stand = protected.stand
        async with stand.flood(floods[0], TARGETS[4]), stand.flood(floods[1], TARGETS[6]):
            for first in range(0, 100, 20):
                await asyncio.gather(*(one_of_each(shield, first + n) for n in range(20)))
        counts, after = await shield.daemon.in_force(), await shield.netstat()
        assert counts["cookie_good"] >= 100
        assert counts["cookie_sent"] >= 2000 + 100
        # What is proven passes natively; the rest of what the server answered are probes.
        assert after["SyncookiesSent"] - before["SyncookiesSent"] < 500
        assert after["SyncookiesRecv"] - before["SyncookiesRecv"] >= 100
        assert after["SyncookiesFailed"] == before["SyncookiesFailed"]
        assert after["PAWSEstab"] == before["PAWSEstab"]
        for family in TARGETS:
            # Listeners differ, so that all announce what the smallest window scale allows.
            known = await narrow_of(shield, family)
            assert known.info.options == {"timestamps", "sack", "wscale"}


@pytest.mark.long
async def test_secrets_when_in_use_then_nowhere_to_be_read(
    protected: Protected, tmp_path: Path
) -> None:
    """Not in a log, an answer, a metric, the journal, a command line or an environment."""
    async with protecting(protected, tmp_path) as shield:
        await shield.serves()
        answer = (await shield.agent.ask("get")).fields()
        secrets = [value for name, value in answer.items() if name.endswith("secret")]
        assert len(secrets) >= 3
        assert all(re.fullmatch("(?!0+$)[0-9a-f]{32,64}", value) for value in secrets)
        seen = await shield.aside(shield.everything_shown)
        seen.append((await shield.agent.log()).encode())
        seen.append(repr(await shield.daemon.ask(op="list")).encode())
        seen.append(repr(await shield.daemon.ask(op="stats")).encode())
    assert sum(map(len, seen)) > 10_000
    for secret in secrets:
        raw = bytes.fromhex(secret)
        needles = [secret.encode(), secret.upper().encode(), raw, repr(raw)[2:-1].encode()]
        # Half of it is as bad: two keys of 16 bytes each.
        needles += chain.from_iterable(
            (half.hex().encode(), half) for half in (raw[:16], raw[16:]) if half
        )
        assert not any(needle in b"".join(seen) for needle in needles)


@pytest.mark.long
async def test_old_kernel_when_protected_then_by_its_own_scheme_of_timestamps(
    protected_old: Protected, tmp_path: Path
) -> None:
    """The offset by pair of hosts, which the probe finds by itself."""
    async with shielded(protected_old, tmp_path, ports=LIKE) as shield:
        direct = await with_itself(shield)
        await shield.protect()
        assert (await shield.aside(shield.hub.agent))["timestamp_scheme"] == "host"
        assert await agreements(shield) == direct
