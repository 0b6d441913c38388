# SPDX-License-Identifier: Apache-2.0
"""Runs `fnm-hub` as a process of its own."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "import sys; from hub.cli.main import main; sys.exit(main())"]


@dataclass(frozen=True)
class Done:
    """What a process left behind."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Return the lines of standard output."""
        return self.out.splitlines()


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the test's environment without what steers colours, in UTC, plus `changes`."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in {"NO_COLOR", "TERM", "COLUMNS"} and not key.startswith("LC_")
    }
    return {**kept, "TZ": "UTC", "TERM": "xterm", "LANG": "C.UTF-8", **(changes or {})}


def run_cli(
    *args: str, stdin: bytes = b"", env: Mapping[str, str] | None = None, timeout: float = 60
) -> Done:
    """Run `fnm-hub` with `args` to its end."""
    done = subprocess.run(
        [*COMMAND, *args],
        input=stdin,
        capture_output=True,
        env=environment(env),
        cwd=ROOT,
        timeout=timeout,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


async def cli(*args: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Done:
    """Do as `run_cli` beside a running event loop."""
    return await asyncio.to_thread(run_cli, *args, stdin=stdin, env=env)
