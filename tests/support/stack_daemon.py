# SPDX-License-Identifier: Apache-2.0
"""synproxyd on the gateway of a stand, and its control socket."""

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, Self

from tests.support import bpf_abi as abi
from tests.support.native_build import NATIVE, built
from tests.support.netns import GATEWAY, OUTSIDE, run
from tests.support.stack import TARGETS, Profile, Stand
from tests.support.stack_xdp import forget, mapped

LONG_MS: Final = 600_000
_STARTING_S: Final = 20
_VERDICTS: Final = dict(
    re.findall(r"FNM_REASON\((\w+), (\w+),", (NATIVE / "bpf" / "reasons.h").read_text())
)
_NO_GRACE: Final = {"for_ms": 0, "pps": 0}


def oracle_daemon() -> Path:
    """Return the daemon whose cookies are those of this kernel."""
    return built("build/tests/synproxyd-oracle") / "tests" / "synproxyd-oracle"


def plain_daemon() -> Path:
    """Return the daemon that is for use."""
    return built("build/synproxyd") / "synproxyd"


class RefusedError(AssertionError):
    """It has not done what it was asked."""

    def __init__(self, operation: str, answer: dict[str, Any]) -> None:
        super().__init__(f"{operation}: {answer}")
        self.answer = answer


class Daemon:
    """A synproxyd with a bpf file system of its own: when that goes, all that it pinned goes."""

    def __init__(self, stand: Stand, program: Path) -> None:
        self.stand = stand
        self.program = program
        self.folder = Path(tempfile.mkdtemp(prefix="fnm"))
        self._pins = self.folder / "bpf"
        self._socket = self.folder / "control.sock"
        self._log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._revision = 1
        self._before: Counter[str] = Counter()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def control(self) -> Path:
        """Its control socket."""
        return self._socket

    def __enter__(self) -> Self:
        """Start it on an empty file system."""
        try:
            self._pins.mkdir()
            run("mount", "-t", "bpf", "bpf", str(self._pins))
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it and all that it has left."""
        self.close()

    def close(self) -> None:
        """End it and all that it has left."""
        self.kill()
        run("umount", str(self._pins), check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    # the process

    def start(self, program: Path | None = None, *options: str) -> None:
        """Start it, from another file if one is given, and wait until it answers."""
        command = [
            *("nsenter", f"--net=/run/netns/{self.stand.names[GATEWAY]}"),
            *(str(program or self.program), "run", "--interface", OUTSIDE),
            *("--pin-dir", str(self._pins / "s"), "--socket", str(self._socket)),
            *("--verify-checksums", "on", *options),
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _STARTING_S  # noqa: TID251 - another process is waited for
        while not self._answers():
            if self._process.poll() is not None:
                raise AssertionError(f"synproxyd has ended:\n{self.log()}")
            if time.monotonic() > deadline:  # noqa: TID251
                raise AssertionError(f"synproxyd does not answer:\n{self.log()}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as made:
            made.settimeout(_STARTING_S)
            try:
                made.connect(str(self._socket))
                made.sendall(b'{"op":"hello","version":1}\n')
                return bool(made.recv(1 << 16))
            except OSError:
                return False

    def stop(self) -> None:
        """End it as systemd does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a word."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(10)

    def log(self) -> str:
        """Return what it has printed."""
        return self._log.read_text() if self._log.exists() else ""

    def copy(self) -> Path:
        """Return another file with the same program."""
        made = self.folder / "synproxyd-new"
        shutil.copy2(self.program, made)
        return made

    # the socket

    async def hello(self) -> dict[str, Any]:
        """Return what it says of itself."""
        return await self._talk({"op": "hello", "version": 1})

    async def ask(self, **request: Any) -> dict[str, Any]:
        """Return the answer to a request, on a connection of its own."""
        return await self._talk({"op": "hello", "version": 1}, request)

    async def _talk(self, *requests: dict[str, Any]) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=1 << 24)
        try:
            answer: dict[str, Any] = {}
            for one in requests:
                writer.write(json.dumps(one).encode() + b"\n")
                line = await reader.readline()
                if not line:
                    raise EOFError("synproxyd has closed the connection")
                answer = json.loads(line)
                if not answer["ok"]:
                    raise RefusedError(one["op"], answer)
            return answer
        finally:
            writer.close()

    async def protect(
        self,
        profiles: Mapping[int, Profile],
        *,
        mode: str = "isn-sync",
        newer: bool = False,
        expires_ms: int = LONG_MS,
        has: Mapping[str, bool] | None = None,
        **settings: Any,
    ) -> list[str]:
        """Put `tcp` on the server's addresses; return what came of it.

        `has` is what else is known of the server; without `newer` it is the same revision again.
        """
        self._revision += newer
        outcomes = []
        for family, profile in profiles.items():
            tcp = {"mode": mode, "grace": _NO_GRACE, "unknown_pps": 0} | settings
            if mode == "isn-sync":
                tcp |= _of_this_kernel(family, profile, has or {})
            answer = await self.ask(
                op="put",
                id=f"m-{family}",
                revision=self._revision,
                target=str(ip_network(TARGETS[family])),
                expires_ms=expires_ms,
                kind="tcp",
                tcp=tcp,
            )
            outcomes.append(answer["outcome"])
        return outcomes

    async def release(self) -> None:
        """Delete what `protect` has put."""
        for family in TARGETS:
            await self.ask(op="delete", id=f"m-{family}", revision=self._revision)
        self._revision += 1

    async def begin(self, profiles: Mapping[int, Profile], **settings: Any) -> None:
        """Protect anew, with every count at 0; proven sources and flows are kept."""
        await self.release()
        await self.protect(profiles, **settings)
        self._before = await self._work()

    async def refusal(self, target: str, mode: str) -> dict[str, Any]:
        """Return why a `tcp` that is only planned for would be refused."""
        plan = {"op": "put", "check": True, "id": "plan", "revision": 1, "kind": "tcp"}
        plan |= {"target": str(ip_network(target)), "expires_ms": LONG_MS, "tcp": {"mode": mode}}
        try:
            raise AssertionError(f"it is not refused: {await self.ask(**plan)}")
        except RefusedError as refused:
            return refused.answer

    async def watch(self) -> None:
        """Learn the flows to the server's addresses."""
        for family, target in TARGETS.items():
            await self.ask(
                op="put",
                id=f"watch-{family}",
                revision=1,
                target=str(ip_network(target)),
                expires_ms=LONG_MS,
                kind="watch",
                watch={"ports": []},
            )

    async def load(self, flows: Iterable[Sequence[object]]) -> int:
        """Enter flows that are open already; return how many."""
        answer = await self.ask(op="load", flows=[list(flow) for flow in flows])
        loaded: int = answer["loaded"]
        return loaded

    async def counts(self) -> Counter[str]:
        """Return how often each reason was given."""
        return Counter((await self.ask(op="stats"))["packets"])

    async def in_force(self) -> Counter[str]:
        """Return how often each reason was given by what is in force."""
        total: Counter[str] = Counter()
        for one in (await self.ask(op="list"))["mitigations"]:
            total.update(one["packets"])
        return total

    async def entered(self) -> tuple[int, int]:
        """Return how many flows and sources have been entered since protection began anew."""
        work = await self._work()
        work.subtract(self._before)
        return work["flows_inserted"], work["sources_inserted"]

    async def _work(self) -> Counter[str]:
        return Counter((await self.ask(op="stats"))["work"])

    def forget_flows(self) -> None:
        """Empty the flow tables, as if newer flows had taken their places."""
        for name in ("flows4", "flows6"):
            with mapped(self._map(name)) as memory:
                memory[:] = bytes(len(memory))

    def filters_in_use(self) -> tuple[int, int]:
        """Return which of two filters is asked for flows and for sources; each round swaps them."""
        with mapped(self._map("control")) as memory:
            flows, sources = abi.Control.from_buffer_copy(memory).filter_now
        return flows, sources

    def forget_servers(self) -> None:
        """Forget what servers have shown of themselves, as the program does in time."""
        forget(self._map("backends"))

    def _map(self, name: str) -> Path:
        (path,) = self._pins.glob(f"s/v*/maps/{name}")
        return path

    async def ids(self) -> set[str]:
        """Return what is in force."""
        return {one["id"] for one in (await self.ask(op="list"))["mitigations"]}

    async def age_ms(self) -> int:
        """Return how long the youngest mitigation has been in force."""
        listed = await self.ask(op="list")
        return min(int(one["age_ms"]) for one in listed["mitigations"])


def by_verdict(counts: Mapping[str, int]) -> Counter[str]:
    """Return how many were passed, sent back and dropped."""
    total: Counter[str] = Counter()
    for reason, number in counts.items():
        total[_VERDICTS[reason]] += number
    return total


def dropped(counts: Mapping[str, int]) -> dict[str, int]:
    """Return what of the counts are drops."""
    return {name: number for name, number in counts.items() if _VERDICTS[name] == "DROP" and number}


def _of_this_kernel(family: int, profile: Profile, has: Mapping[str, bool]) -> dict[str, object]:
    now = time.monotonic_ns() // 1_000_000
    shown: dict[str, object] = {
        f"mss{family}": profile.mss,
        "window": profile.window,
        "ttl": profile.ttl,
        "timestamps": True,
        "sack": has.get("sack", True),
        "ecn": has.get("ecn", False),
    }
    if has.get("wscale", True):
        shown["wscale"] = profile.wscale
    return {
        "profile": shown,
        # The oracle takes its cookies from the kernel, so the keys are not asked.
        "keys": {"cookie": "00" * 32, "cookie6": "00" * 32, "timestamp_scheme": "none"},
        "clock": {"monotonic_ms": now, "cookie_ms": now, "timestamp_ms": now},
    }
