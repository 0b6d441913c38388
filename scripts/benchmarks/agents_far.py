# SPDX-License-Identifier: Apache-2.0
"""The agents' side of `agents_1000_round_s`: the agent's own server on every address of loopback.

One process stands for a thousand machines, so its bounds for one machine are set aside.
"""

import asyncio
import resource
import sys
from pathlib import Path

import asyncssh

from hub.agent.commands import Commands
from hub.agent.keeper_link import KeeperLink, make_folder
from hub.agent.kernel.sources import open_sources
from hub.agent.keys import KeysFile
from hub.agent.limits import Limits
from hub.agent.listening import listen
from hub.agent.privileges import account
from hub.agent.server import Server, options
from hub.clock import SystemClock
from hub.tasks import Tasks

WIDE = Limits(
    connections=5000,
    waiting=5000,
    waiting_per_source=5000,
    burst=5000,
    rate=5000.0,
    source_burst=5000,
    source_rate=5000.0,
    login_s=120.0,
)
KEEPER = "daemon"


async def serve(folder: Path, keeper: KeeperLink) -> None:
    """Serve until killed."""
    proc = folder / "proc"
    key = asyncssh.read_private_key(str(folder / "host"))
    keys = KeysFile(folder / "keys", owners=(0,))
    commands = Commands(open_sources(proc), proc, keeper)
    server = Server(keys, commands, options(key, WIDE), SystemClock(), WIDE)
    async with Tasks() as tasks:
        tasks.run("keeper", keeper.listen())
        tasks.run("ssh", server.serve(listen("0.0.0.0", 7100)))  # noqa: S104 - in a namespace
        print("ready", flush=True)
        await tasks.wait()


def main() -> None:
    """Make ready and serve."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))
    folder = Path(sys.argv[1])
    place = make_folder(folder / "run", account(KEEPER))
    asyncssh.set_log_level("CRITICAL")
    asyncio.run(serve(folder, KeeperLink.start(place, folder / "proc", KEEPER)))


if __name__ == "__main__":
    main()
