# SPDX-License-Identifier: Apache-2.0
"""A thousand agents polled over real SSH on loopback, both sides on this machine's cores."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import asyncssh

from scripts.benchmarks.figure import Figure, median
from tests.support.agent import Agent, Home, memory, soon
from tests.support.hub_process import REPOSITORY

_MINUTES: int = 300


def polled() -> dict[str, Figure]:
    """Measure a round of polls, and what an agent costs on each side."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    with Home() as home:
        home.allow(key)
        host = asyncssh.generate_private_key("ssh-ed25519")
        (home.folder / "host").write_bytes(host.export_private_key())
        (home.folder / "id").write_bytes(key.export_private_key())
        (home.folder / "id").chmod(0o600)
        line = host.export_public_key().decode()
        (home.folder / "known_hosts").write_text(f"[127.*]:7100 {line}")
        with _far(home):
            found = json.loads(_run(home, "scripts.benchmarks.agents_near"))
        home.make_host_key()
        with Agent(home) as agent:
            resident = memory(agent.pid)
    if found["answered"] != 1000:  # noqa: PLR2004 - the key says so
        raise RuntimeError(f"only {found['answered']} agents answered: {found['trouble']}")
    one = resident / 2**20
    near = found["bytes"] / 1024
    return {
        "agents_1000_round_s": median(found["rounds"], "<= 2", "s"),
        "agent_memory_mb": Figure(one, "<= 64", "MiB", 1, (one, one)),
        "hub_memory_per_agent_kb": Figure(near, "<= 256", "KiB", 1, (near, near)),
    }


def _command(home: Home, module: str) -> list[str]:
    inside = ["ip", "netns", "exec", home.namespace]
    return [*inside, sys.executable, "-m", module, str(home.folder)]


def _run(home: Home, module: str) -> str:
    done = subprocess.run(
        _command(home, module), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True,
        timeout=_MINUTES,
    )  # fmt: skip
    return done.stdout


@contextmanager
def _far(home: Home) -> Iterator[None]:
    log = home.folder / "far.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            _command(home, "scripts.benchmarks.agents_far"), cwd=REPOSITORY, stdout=out, stderr=out
        )
    try:
        if not soon(lambda: "ready" in log.read_text() or process.poll() is not None, 30):
            raise RuntimeError(log.read_text())
        yield
    finally:
        process.terminate()
        process.wait(20)
