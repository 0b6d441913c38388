# SPDX-License-Identifier: Apache-2.0
"""Keeps what a release leaves on disk: `python -m tests.support.release_fixture`, as root.

To be run once, with the code of a release that is about to be published. It makes
`tests/data/releases/VERSION/` by a real hub: a journal with everything open that can be, the
configuration and rules of that release, what it has told the kernel, known hosts. What is there is
never changed: `tests/test_upgrade.py` starts every later hub on a copy of it. Deadlines are ten
years ahead.
"""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from hub import __version__
from hub.intake.envelope import Envelope, encode
from tests.support.hub_process import REPOSITORY, HubProcess, until
from tests.support.store import opened

RELEASES: Final = Path(__file__).parents[1] / "data" / "releases"
PENDING: Final = ("192.0.2.40", "192.0.2.41")
"""Targets of bans that were accepted and not yet taken in."""
KNOWN_HOST: Final = (
    "[192.0.2.10]:7100 ssh-ed25519"
    " AAAAC3NzaC1lZDI1NTE5AAAAIGRGXUTAxDFqJK9o0gFtwBJ0NUDSGOB9hoS2A0mIZpmN\n"
)
RULES: Final = """# As an operator of that release may have them.
rules:
  - name: stuck-on
    when: {target: 192.0.2.20/32}
    then: [{command: {run: later}}]
    ttl: 3650d
  - name: broken
    when: {target: 192.0.2.21/32}
    then: [{command: {run: broken}}]
    ttl: 3650d
  - name: stuck-off
    when: {target: 192.0.2.22/32}
    then: [{command: {run: stuck}}]
    ttl: 3650d
    linger: 0s
  - name: rehearsed
    when: {target: 192.0.2.23/32}
    then: [tcp]
    ttl: 3650d
    dry_run: true
  - name: tcp
    when: {direction: [incoming, unknown], protocol: tcp}
    then: [tcp]
    ttl: 3650d
    linger: 0s
  - name: rest
    when: {direction: [incoming, unknown]}
    then: [{sorb: {pps: 100, block: 10m}}]
    ttl: 3650d
    linger: 3650d
"""
CONFIG: Final = """# As an operator of that release may have it.
dry_run: false
services:
  - {name: shop, prefixes: [192.0.2.10/32], tcp_ports: [80, 443], tcp: {mss: 1440, wscale: 8}}
guard:
  own_prefixes: [192.0.2.0/24, 2001:db8::/32]
  never_block: [192.0.2.66/32]
  caps: {total: 1000, per_rule: 500}
  max_ttl: 3650d
  hold_off: 3650d
attacks: {lifetime: 3650d, max_hold: 1h}
rules: [rules.yaml]
reconcile_interval: 1s
intake:
  unix: {path: FOLDER/intake.sock, allow_users: [root]}
  spool: FOLDER/spool
  spool_interval: 200ms
api: {path: FOLDER/api.sock, metrics_port: 0}
store: {path: FOLDER/journal.sqlite3, keep_events: 3650d, keep_audit: 3650d}
isn_sync: {key: FOLDER/id_ed25519, known_hosts: FOLDER/known_hosts}
engines:
  nftables: {enabled: true, command_timeout: 10s}
  command:
    later: {argv: [/bin/sh, -c, "exit 75"]}
    broken: {argv: [/bin/sh, -c, "exit 1"]}
    stuck: {argv: [/bin/sh, -c, 'test "$FNM_STATE" = on']}
"""


_NFT: Final = """#!/bin/sh
# Keeps each transaction that the hub makes, in order.
if [ "$*" != "-j -f -" ]; then exec nft "$@"; fi
order=$(mktemp FOLDER/order.XXXXXX)
cat > "$order"
nft -j -f "$order" || exit
grep -q '"list"' "$order" || { cat "$order"; echo; } >> FOLDER/orders
"""


class Release(HubProcess):
    """A hub with the files of a release, which name their folder `FOLDER`."""

    def begin(self) -> None:
        """Start it on the files that are in its folder."""
        (self.folder / "spool").mkdir(exist_ok=True)
        self.start()

    def ready(self) -> bool:
        """Tell whether it does all but what the commands that fail are there for."""
        if self._process is None or self._process.poll() is not None:
            raise AssertionError("the hub has ended: " + self.log()[-3000:])
        try:
            reasons = self.request("GET", "/readyz")[1]["reasons"]
        except OSError:
            return False
        failing = ("engine later", "engine broken", "engine stuck")
        return all(reason.startswith(failing) for reason in reasons)


def place(folder: Path, kept: Path) -> None:
    """Make a folder as that release had it, from what was kept of it."""
    for name in ("rules.yaml", "known_hosts", "journal.sqlite3"):
        shutil.copy(kept / name, folder / name)
        (folder / name).chmod(0o600)
    # The hub's lock says that this is a journal of ours.
    (folder / "journal.sqlite3.lock").write_text("1\n")
    text = (kept / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("FOLDER", str(folder)))


def rows(journal: Path, query: str) -> list[Any]:
    """Return what a query finds in a journal, which is not changed."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def make(folder: Path) -> None:
    """Let a hub leave all that it can in `folder`, with its transactions in the kernel."""
    (folder / "rules.yaml").write_text(RULES)
    (folder / "known_hosts").write_text(KNOWN_HOST)
    nft = folder / "nft"
    nft.write_text(_NFT.replace("FOLDER", str(folder)))
    nft.chmod(0o755)
    config = CONFIG.replace("command_timeout: 10s", f"command_timeout: 10s, nft: {nft}")
    (folder / "config.yaml").write_text(config.replace("FOLDER", str(folder)))
    with Release(folder) as hub:
        for target in ("192.0.2.10", "192.0.2.11", "2001:db8::10"):
            hub.send("ban", target)
        hub.send("ban", "192.0.2.12", udp=True)
        for number in range(20, 24):
            hub.send("ban", f"192.0.2.{number}")
        hub.send("ban", "192.0.2.13", udp=True)
        hub.send("ban", "192.0.2.14")
        until("all decided", lambda: len(hub.mitigations(ended=True)) == 10)
        until("all in force", lambda: len(hub.active()) == 7)
        hub.send("unban", "192.0.2.13")  # lingers for ever
        hub.send("unban", "192.0.2.14")  # over at once
        hub.send("unban", "192.0.2.22")  # cannot be taken back
        by_hand = next(row for row in hub.active() if row["target"] == "192.0.2.12/32")
        hub.post(f"/v1/mitigations/{by_hand['id']}/release", reason="by hand")
        until("released", lambda: len(hub.active()) == 4)
        hub.post("/v1/freeze", reason="kept for the next release")
        hub.request("POST", "/v1/events/fastnetmon", b"no envelope", sock="intake.sock")
        hub.send("nonsense", "192.0.2.15")
        hub.kill(signal.SIGKILL)


async def leave_pending(journal: Path) -> None:
    """Accept two more bans, as a hub that is killed before it takes them in."""
    async with opened(journal) as store:
        for target in PENDING:
            envelope = Envelope(
                id=f"pending-{target}",
                detector="fnm1",
                stamp=1.0,
                args=(target, "incoming", "1000", "ban"),
                stdin=b"",
            )
            raw, at = encode(envelope), float((await store.events(limit=1))[0].received_at)
            await store.append_event(
                delivery_id=envelope.id,
                detector=envelope.detector,
                stamp=at,
                received_at=at,
                via="unix",
                raw=raw,
            )


def keep(folder: Path, kept: Path) -> None:
    """Keep what a hub has left."""
    kept.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "journal.sqlite3")) as connection:
        # One file, to be copied as one.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("VACUUM")
    for name in ("rules.yaml", "known_hosts", "journal.sqlite3"):
        shutil.copy(folder / name, kept / name)
    (kept / "config.yaml").write_text(CONFIG)
    # Each line is one transaction of the engine nftables.
    shutil.copy(folder / "orders", kept / "orders.jsonl")


def main() -> int:
    """Make the fixture of this release; refuse where there is one already."""
    kept = RELEASES / __version__
    if kept.exists() or os.geteuid() != 0:
        print(f"run it as root, with no {kept.relative_to(REPOSITORY)}", file=sys.stderr)  # noqa: T201
        return 1
    with tempfile.TemporaryDirectory(prefix="fnm-release-") as name:
        folder = Path(name)
        make(folder)
        asyncio.run(leave_pending(folder / "journal.sqlite3"))
        keep(folder, kept)
    subprocess.run(["ls", "-l", str(kept)], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
