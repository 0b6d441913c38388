# SPDX-License-Identifier: Apache-2.0
"""An nftables engine on the gateway of a lab, mitigations for it, and servers to protect."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from hub.clock import SystemClock
from hub.config import NftablesEngine as Config
from hub.config import Service
from hub.engines.nftables.engine import NftablesEngine
from hub.mitigations.engine import Installed
from hub.mitigations.model import Mitigation, MitigationState
from hub.rules.actions import Acl, AclRule, Action, Sorb, Tcp
from tests.support.netns import GATEWAY, SERVER, Lab

CLOCK: Final = SystemClock()
LOOSE: Final = "sys/net/netfilter/nf_conntrack_tcp_loose"
BANNER: Final = b"welcome\n"


class MemoryStore:
    """A `StateStore` that lasts as long as the test."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        """Return what was put last."""
        return self.kept.get(key)

    async def put(self, key: str, value: str) -> None:
        """Keep a value."""
        self.kept[key] = value


def engine_on(
    lab: Lab,
    store: MemoryStore | None = None,
    config: Config | None = None,
    services: Sequence[Service] = (),
    prefix: Sequence[str] | None = None,
) -> NftablesEngine:
    """Return an engine that acts on the lab's gateway; not started."""
    return NftablesEngine(
        config or Config(),
        services,
        CLOCK,
        store or MemoryStore(),
        prefix=lab.prefix(GATEWAY) if prefix is None else prefix,
        files=lab.files(GATEWAY),
    )


def mitigation(
    action: Action,
    target: str,
    number: int = 1,
    *,
    ttl: float = 120.0,
    service: Service | None = None,
    revision: int = 1,
) -> Mitigation:
    """Return a row of the ledger that ends `ttl` seconds from now."""
    now = CLOCK.time()
    return Mitigation(
        id=f"m-{number:010}",
        target=ip_network(target),
        action=action,
        engine="nftables",
        service=service,
        rule="test",
        state=MitigationState.APPLYING,
        created_at=now,
        deadline=now + ttl,
        ttl=ttl,
        revision=revision,
    )


def tcp() -> Tcp:
    """Return a SYN proxy."""
    return Tcp()


def acl(*rules: AclRule) -> Acl:
    """Return a filter."""
    return Acl(rules=rules)


def sorb(pps: int = 100, block: float = 600.0) -> Sorb:
    """Return a threshold per source; `block` in seconds."""
    return Sorb.model_construct(pps=pps, block=block)


DROP_ICMP: Final = acl(AclRule(action="drop", protocol="icmp"))


async def ruleset(lab: Lab) -> str:
    """Return the gateway's whole ruleset without counts."""
    return await lab.nft("--stateless", "list", "ruleset")


async def loose(lab: Lab) -> str:
    """Return the gateway's `nf_conntrack_tcp_loose`."""
    return (await lab.files(GATEWAY).read(LOOSE)).strip()


@asynccontextmanager
async def serving(lab: Lab, address: str, port: int, role: str = SERVER) -> AsyncIterator[None]:
    """Run a server that speaks first and then repeats what it is told."""
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            writer.write(BANNER)
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    listening = await lab.listen(role, address, port)
    server = await asyncio.start_server(serve, sock=listening)
    try:
        yield
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # noqa: TID251 - lets the aborted handlers end


class Conversation:
    """One connection to such a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @property
    def local_port(self) -> int:
        """The client's port."""
        port: int = self._writer.get_extra_info("sockname")[1]
        return port

    async def greeted(self) -> bytes:
        """Return the server's first line."""
        async with asyncio.timeout(10):
            return await self._reader.readline()

    async def echo(self, size: int = 4000) -> bool:
        """Send so many bytes; tell whether the same came back within 10 s."""
        sent = bytes(index % 251 for index in range(size))
        try:
            async with asyncio.timeout(10):
                self._writer.write(sent)
                await self._writer.drain()
                return sent == await self._reader.readexactly(size)
        except (OSError, EOFError, TimeoutError):
            return False

    async def close(self) -> None:
        """End it."""
        self._writer.close()
        try:
            async with asyncio.timeout(5):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()


async def talk(
    lab: Lab, address: str, port: int, source: tuple[str, int] | None = None
) -> Conversation:
    """Return a conversation that the server has opened."""
    conversation = Conversation(*await lab.connect(address, port, source=source))
    await conversation.greeted()
    return conversation


async def script(folder: Path, *lines: str) -> Config:
    """Return a configuration whose nft is a shell script."""
    path = folder / "nft"

    def write() -> None:
        path.write_text("\n".join(("#!/bin/sh", *lines, "")))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    await asyncio.to_thread(write)
    return Config(nft=path)


async def elements(lab: Lab) -> list[Any]:
    """Return every element of every gate, read by nft alone."""
    listing = json.loads(await lab.nft("-j", "list", "maps", "inet"))
    maps = [one["map"] for one in listing["nftables"] if "map" in one]
    return [element for one in maps for element in one.get("elem", [])]


def ids(found: Sequence[Installed]) -> list[str]:
    """Return the mitigations of an inventory, sorted."""
    return sorted(one.mitigation_id for one in found)
