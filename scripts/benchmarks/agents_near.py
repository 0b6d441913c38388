# SPDX-License-Identifier: Apache-2.0
"""The hub's side of `agents_1000_round_s`: polls a thousand agents over kept connections.

Prints one JSON object: seconds of each round, and bytes of memory for each agent.
"""

import asyncio
import json
import resource
import sys
from ipaddress import ip_address
from pathlib import Path

from hub.clock import SystemClock
from hub.isn_sync.identity import Identity
from hub.isn_sync.inventory import Agent
from hub.isn_sync.link import Link
from hub.isn_sync.pins import Pins
from hub.isn_sync.server import Parts, Server
from hub.isn_sync.settings import IsnSync
from hub.log import configure
from hub.metrics import Metrics

AGENTS = 1000
ROUNDS = 7


def resident() -> int:
    """Return this process's resident memory, bytes."""
    text = Path("/proc/self/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


async def measure(folder: Path) -> dict[str, object]:
    """Connect to each, then poll all of them some times."""
    clock = SystemClock()
    identity = await Identity.open(folder / "id")
    pins = await Pins.open(folder / "known_hosts", clock)
    config = IsnSync(timeout="60s")
    parts = Parts(config, clock, Metrics(), None, lambda: None, lambda _address: ())
    before = resident()
    servers = []
    for number in range(AGENTS):
        host = ip_address(f"127.1.{number // 250}.{number % 250 + 1}")
        agent = Agent(host, 7100, "hub", (host,))
        servers.append(Server(agent, Link(agent, identity, pins, clock, timeout=60.0), parts))
    answered = sum(await asyncio.gather(*(server.poll() for server in servers)))
    after = resident()
    rounds = []
    for _ in range(ROUNDS):
        began = clock.monotonic()
        answered = min(answered, sum(await asyncio.gather(*(one.poll() for one in servers))))
        rounds.append(clock.monotonic() - began)
    trouble = sorted({server.why for server in servers if server.why})
    await asyncio.gather(*(server.link.close() for server in servers))
    return {
        "answered": answered,
        "rounds": rounds,
        "bytes": (after - before) / AGENTS,
        "trouble": trouble[:3],
    }


def main() -> None:
    """Measure and print."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))
    configure("error", "json")
    print(json.dumps(asyncio.run(measure(Path(sys.argv[1])))), flush=True)


if __name__ == "__main__":
    main()
