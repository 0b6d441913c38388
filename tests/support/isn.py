# SPDX-License-Identifier: Apache-2.0
"""Everything that ISN sync takes, for real: a guest with an agent, synproxyd, and the hub."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import asyncssh

from scripts.lab.guest_server import ECHO
from tests.support.guest import Protected
from tests.support.guest_agent import GuestAgent, agent_in, known_host
from tests.support.hub_process import HubProcess, until
from tests.support.netns import GATEWAY, SERVER4, SERVER6
from tests.support.stack import fresh_client
from tests.support.stack_daemon import Daemon, plain_daemon
from tests.support.stack_talk import Client

P = ParamSpec("P")
T = TypeVar("T")

TARGETS: Final = {4: SERVER4, 6: SERVER6}
_MORE: Final = """
attacks: {hold_growth: 1.0, hold: {quiet: 1s}}
services:
  - {name: guest, prefixes: [SERVER4/32, "SERVER6/128"], tcp_ports: PORTS}
isn_sync:
  servers: SERVER4(SERVER6)
  key: FOLDER/isn/id_ed25519
  known_hosts: FOLDER/isn/known_hosts
  poll_interval: 1s
  probe_interval: 1s
  timeout: 4s
  good_probes: 2
"""
_RULES: Final = """
rules:
  - name: tcp
    when: {direction: [incoming, unknown], protocol: tcp}
    then: [TCP]
    ttl: TTL
    linger: 1s
"""


class GatewayHub(HubProcess):
    """A hub in the gateway's namespace, with agents.

    Args:
        folder: for everything that it writes.
        protected: the stand with the guest.
        daemon: synproxyd on the gateway.
        tcp: the countermeasure of its one rule.
        ports: of the service.
    """

    def __init__(
        self,
        folder: Path,
        protected: Protected,
        daemon: Daemon,
        *,
        tcp: str = "tcp",
        ports: tuple[int, ...] = (8080, 8025, 8090, 8091, 8092, 8093),
        ttl: str = "10m",
    ) -> None:
        super().__init__(folder, native=daemon.control, ttl=ttl)
        self.namespace = protected.stand.names[GATEWAY]
        self._tcp = tcp
        self._values |= {"SERVER4": SERVER4, "SERVER6": SERVER6, "PORTS": str(list(ports))}
        off = self.config_text.replace("nftables: {nft: NFT}", "nftables: {enabled: false}")
        self.config_text = off + _MORE

    def write_rules(self, text: str) -> None:
        """Write the one rule."""
        del text
        super().write_rules(_RULES.replace("TCP", self._tcp))

    def agent(self) -> dict[str, Any]:
        """Return what the operator sees of the agent."""
        (found,) = self.get("/v1/agents")["items"]
        view: dict[str, Any] = found
        return view

    def standing(self, family: int = 4) -> str:
        """Return how an address stands."""
        rows = {one["address"]: one for one in self.agent()["addresses"]}
        word: str = rows[TARGETS[family]]["standing"]
        return word


class Shield:
    """A protected guest; every blocking call runs aside, so that no event loop waits."""

    def __init__(
        self, protected: Protected, daemon: Daemon, hub: GatewayHub, agent: GuestAgent
    ) -> None:
        self.protected, self.daemon, self.hub, self.agent = protected, daemon, hub, agent

    async def aside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` returns, called by a thread."""
        return await asyncio.to_thread(partial(work, *args, **kwargs))

    async def until(self, what: str, look: Callable[[], T], seconds: float = 15.0) -> T:
        """Return the first true answer of `look`."""
        try:
            return await self.aside(until, what, look, seconds)
        except AssertionError as error:
            state = json.dumps(await self.aside(self.hub.agent), indent=1)
            log = (await self.aside(self.hub.log))[-4000:]
            raise AssertionError(f"{error}\n{state}\n{log}\n{await self.agent.log()}") from error

    async def ready(self) -> None:
        """Wait until the agent answers."""
        await self.until("the agent answers", lambda: self.hub.agent()["state"] == "ok")

    async def until_text(self, event: str, *, seconds: float = 15.0) -> None:
        """Wait until the hub has logged something under this name."""
        await self.until(event, lambda: bool(self.hub.logged(event)), seconds)

    async def netstat(self) -> Counter[str]:
        """Return the guest's extended TCP counters."""
        text = (await self.protected.read("/proc/net/netstat")).decode()
        rows = [line.split() for line in text.splitlines() if line.startswith("TcpExt:")]
        pairs = zip(rows[0][1:], rows[1][1:], strict=True)
        return Counter({name: int(value) for name, value in pairs})

    def everything_shown(self) -> list[bytes]:
        """Return all that hub and synproxyd show or leave behind, and of their processes."""
        hub = self.hub
        seen = [hub.log().encode(), self.daemon.log().encode()]
        paths = ("status", "agents", "key", "attacks", "mitigations", "events")
        seen += [json.dumps(hub.get(f"/v1/{path}")).encode() for path in paths]
        seen.append(hub.request("GET", "/metrics")[1].encode())
        seen += [path.read_bytes() for path in hub.folder.glob("journal*")]
        for pid in (hub.pid, self.daemon.pid):
            seen += [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
        return seen

    async def mode(self, family: int = 4) -> str:
        """Return the mode that is in force for an address; empty where none is."""
        rows = (await self.daemon.ask(op="list"))["mitigations"]
        here = (row for row in rows if row["target"].split("/")[0] == TARGETS[family])
        modes = [row["mode"] for row in here if row["kind"] == "tcp"]
        return modes[0] if modes else ""

    async def ban(self, *families: int, pps: int = 100_000) -> None:
        """Report an attack."""
        for family in families or (4, 6):
            _ = await self.aside(self.hub.send, "ban", TARGETS[family], pps=pps)

    async def unban(self, *families: int) -> None:
        """Report its end."""
        for family in families or (4, 6):
            _ = await self.aside(self.hub.send, "unban", TARGETS[family])

    async def protect(self, *families: int) -> None:
        """Report an attack, and wait until ISN sync is in force against it."""
        await self.ban(*families)
        await self.in_force("isn-sync", *families)

    async def in_force(self, mode: str = "isn-sync", *families: int, seconds: float = 15.0) -> None:
        """Wait until a mode is in force."""
        for family in families or (4, 6):
            await self._until_mode(mode, family, seconds)

    async def client(self, family: int = 4, port: int = ECHO) -> Client:
        """Return a new connection from an address that is not proven."""
        source = (fresh_client(family), 0)
        return Client(*await self.protected.stand.connect(TARGETS[family], port, source=source))

    async def serves(self, *families: int) -> None:
        """Connect anew and talk, over each family."""
        for family in families or (4, 6):
            client = await self.client(family)
            assert await client.says(b"hello") == b"hello"
            client.reset()

    async def serves_soon(self, seconds: float = 10.0) -> None:
        """Do as `serves`, with tries meanwhile: a server that has started forgets its window."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    await self.serves()
                except (OSError, EOFError, TimeoutError):
                    continue
                return

    async def syncookies(self) -> str:
        """Return the guest's setting."""
        return await self.protected.sysctl("net.ipv4.tcp_syncookies")

    async def _until_mode(self, mode: str, family: int, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while await self.mode(family) != mode:  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.02)  # noqa: TID251
        except TimeoutError:
            state = json.dumps(await self.aside(self.hub.agent), indent=1)
            text = f"{mode!r} is not in force for IPv{family}, {await self.mode(family)!r} is"
            log = (await self.aside(self.hub.log))[-6000:]
            raise AssertionError(f"{text}\n{state}\n{log}\n{await self.agent.log()}") from None


@asynccontextmanager
async def shielded(
    protected: Protected, folder: Path, *, agent: Sequence[str] = (), **settings: Any
) -> AsyncIterator[Shield]:
    """Run agent, synproxyd and hub until the context ends.

    Args:
        protected: the stand with the guest.
        folder: for everything that the hub writes.
        agent: options of the agent.
        settings: of `GatewayHub`.
    """
    key, host_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    daemon = await asyncio.to_thread(lambda: Daemon(protected.stand, plain_daemon()))
    hub = GatewayHub(folder, protected, daemon, **settings)

    def start() -> None:
        daemon.__enter__()
        _make_ready(folder, key, known_host(host_key))
        hub.begin()

    async with AsyncExitStack() as stack:
        try:
            # The guest is slow: all that is on this side of the wire starts meanwhile.
            made, failed = await asyncio.gather(
                stack.enter_async_context(agent_in(protected, key, host_key, options=agent)),
                asyncio.to_thread(start),
                return_exceptions=True,
            )
            for one in (made, failed):
                if isinstance(one, BaseException):
                    raise one
            assert isinstance(made, GuestAgent)
            yield Shield(protected, daemon, hub, made)
        finally:
            await asyncio.to_thread(hub.kill)
            await asyncio.to_thread(daemon.close)


@asynccontextmanager
async def protecting(
    protected: Protected, folder: Path, *families: int, **settings: Any
) -> AsyncIterator[Shield]:
    """Do as `shielded`; ISN sync is in force from the beginning."""
    async with shielded(protected, folder, **settings) as shield:
        await shield.ready()
        await shield.protect(*families)
        yield shield


def _make_ready(folder: Path, key: asyncssh.SSHKey, known_host: str) -> None:
    place = folder / "isn"
    place.mkdir(mode=0o700)
    private = place / "id_ed25519"
    private.touch(0o600)
    private.write_bytes(key.export_private_key())
    (place / "known_hosts").write_text(known_host)
