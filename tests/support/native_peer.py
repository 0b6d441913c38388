# SPDX-License-Identifier: Apache-2.0
"""The other end of synproxyd's control socket, with answers that a test gives."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub.engines.native.keys import Prepared, Secrets, ServerClock, ServerKeys, Standing, SynAck
from hub.mitigations.model import Mitigation

KEYS = ServerKeys(Secrets(bytes(32), None, bytes(16), "flow"), SynAck(), ServerClock(1, 2, 3))
HELLO: dict[str, Any] = {
    "ok": True,
    "version": 1,
    "daemon": "0.2.0",
    "pid": 4711,
    "started_ms": 5,
    "interfaces": [{"name": "outside", "ifindex": 4, "mode": "native"}],
    "tcp_modes": ["isn-sync", "reset"],
}
"""Of one that was started with --no-splice, or is older than the mode."""
SPLICING: dict[str, Any] = {**HELLO, "tcp_modes": ["isn-sync", "splice", "reset"]}
Answer = Callable[[dict[str, Any]], bytes | None]


@dataclass
class Peer:
    """The other end of the socket; answers each question as `answer` says, None closes."""

    answer: Answer
    hello: dict[str, Any]
    asked: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer line by line."""
        self.connections += 1
        self.writers.append(writer)
        while line := await reader.readline():
            question = json.loads(line)
            self.asked.append(question)
            hello = question["op"] == "hello" and self.answer(question) == b""
            said = json.dumps(self.hello).encode() + b"\n" if hello else self.answer(question)
            if said is None:
                break
            writer.write(said)
        writer.close()


@asynccontextmanager
async def peer(
    path: Path, answer: Answer, hello: dict[str, Any] | None = None
) -> AsyncIterator[Peer]:
    """Listen at `path`."""
    made = Peer(answer, hello or HELLO)
    server = await asyncio.start_unix_server(made.serve, path)
    try:
        yield made
    finally:
        server.close()
        for writer in made.writers:
            writer.close()
        await asyncio.to_thread(path.unlink)


def line(**fields: Any) -> bytes:
    """Return one line of JSON."""
    return json.dumps(fields).encode() + b"\n"


def says(answer: bytes) -> Answer:
    """Greet as usual, and answer everything else so."""
    return lambda question: b"" if question["op"] == "hello" else answer


def takes(question: dict[str, Any]) -> bytes:
    """Greet as usual, and take everything."""
    return b"" if question["op"] == "hello" else line(ok=True, outcome="would_create")


class Said:
    """Knows of each server's keys what a test says."""

    def __init__(self, standing: Standing) -> None:
        self.now = standing

    def standing(self, mitigation: Mitigation) -> Standing:
        """Return it."""
        del mitigation
        return self.now

    async def prepare(self, mitigation: Mitigation, seconds: float) -> Prepared:
        """Return it."""
        del mitigation, seconds
        return Prepared(self.now)

    def release(self, mitigation_id: str) -> None:
        """Do nothing."""
        del mitigation_id
