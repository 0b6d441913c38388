# SPDX-License-Identifier: Apache-2.0
"""Real listeners around a daemon in memory, and clients that speak to them."""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from hub.api.limits import Limits
from hub.api.server import Bound, serve
from hub.config import Api, Config, Intake, UnixIntake
from hub.intake.envelope import Envelope, encode
from tests.support.api_daemon import FixedClock, MemoryDaemon

ENVELOPE = Envelope(
    id="0123456789abcdef",
    detector="fnm1",
    stamp=1_700_000_000.0,
    args=("192.0.2.10", "incoming", "1000", "ban"),
    stdin=b"IP: 192.0.2.10\n",
)
BODY = encode(ENVELOPE)
EVENTS = "/v1/events/fastnetmon"
NOBODY = 65534


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a folder that every user may look into, gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="fnm-hub-test-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def config_in(path: Path, **intake: Any) -> Config:
    """Return a configuration whose sockets are in `path`; `intake` adds to that section."""
    return Config(
        api=Api(path=path / "api.sock", metrics_port=0),
        intake=Intake(unix=UnixIntake(path=path / "intake.sock"), **intake),
    )


@asynccontextmanager
async def serving(
    config: Config,
    daemon: MemoryDaemon,
    *,
    limits: Limits | None = None,
    wall: FixedClock | None = None,
) -> AsyncIterator[Bound]:
    """Serve `daemon` as the hub does."""
    clock = FixedClock()
    async with serve(config, daemon, clock, wall=wall or clock, limits=limits) as bound:
        yield bound


@asynccontextmanager
async def unix_session(path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """Yield an HTTP client for the Unix socket at `path`; URLs begin with http://hub."""
    connector = aiohttp.UnixConnector(path=str(path))
    async with aiohttp.ClientSession("http://hub", connector=connector) as session:
        yield session


async def answer_of(response: aiohttp.ClientResponse) -> tuple[int, dict[str, Any]]:
    """Return status and JSON object of `response`."""
    async with response:
        return response.status, json.loads(await response.read())


async def raw_exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes
) -> bytes:
    """Send `sent`, then return everything that comes until the other side closes."""
    writer.write(sent)
    try:
        await writer.drain()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def request_bytes(
    path: str, body: bytes, *, length: int | None = None, headers: str = "", close: bool = True
) -> bytes:
    """Return a POST as it goes over the wire; `length` may lie."""
    size = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nHost: hub\r\nContent-Length: {size}\r\n{headers}"
    return (head + ("Connection: close\r\n" if close else "") + "\r\n").encode("ascii") + body


AS_USER = """
import os, sys
code = compile(sys.argv.pop(2), "child", "exec")
# Everything is loaded first: the interpreter may be where the other user cannot look.
import encodings.idna, grp, json, pwd, socket, hub.cli.main, hub.cli.overview, hub.cli.arguments
hub.cli.arguments.build_parser()
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv.pop(1)))
exec(code)
"""


async def run_python(code: str, *args: str, uid: int | None = None) -> tuple[int, str, str]:
    """Run `code` in a Python process of its own; return exit code, output and errors.

    Args:
        code: sees `args` in sys.argv from 1 on.
        args: arguments.
        uid: user to become before `code` runs.
    """
    command = [sys.executable, "-c", code, *args]
    if uid is not None:
        command = [sys.executable, "-c", AS_USER, str(uid), code, *args]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        capture_output=True,
        timeout=60,
        check=False,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    return done.returncode, done.stdout, done.stderr
