# SPDX-License-Identifier: Apache-2.0
"""A daemon in memory behind the real sockets, for tests of the HTTP side and of the CLI."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Any

from hub.api.daemon import Accepted, View
from hub.drills.model import Hook
from hub.errors import RefusedError
from hub.intake.envelope import Envelope, encode
from hub.pipeline.drilling import Wish

NOW = 1_700_000_000.0


class FixedClock:
    """A clock that stands still until a test moves it; sleeping takes real time."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def time(self) -> float:
        """Return the set time."""
        return self.now

    def monotonic(self) -> float:
        """Return the set time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Wait on the running loop."""
        await asyncio.sleep(seconds)  # noqa: TID251 - the loop's own time is meant


def event_view(number: int, **changed: Any) -> View:
    """Return an event as the lists show it."""
    return {
        "number": number,
        "delivery_id": f"delivery-{number}",
        "detector": "fnm1",
        "stamp": NOW - 60,
        "received_at": NOW - 59.9,
        "via": "unix",
        "action": "ban",
        "target": "192.0.2.10",
        "status": "applied",
        "attack": "a-0123456789",
        "note": "",
        **changed,
    }


def mitigation_view(**changed: Any) -> View:
    """Return a mitigation as the lists show it."""
    return {
        "id": "m-0123456789",
        "target": "192.0.2.10/32",
        "action": {"kind": "tcp", "mode": "auto"},
        "engine": "nftables",
        "service": "web",
        "rule": "syn-flood",
        "state": "active",
        "created_at": NOW - 60,
        "active_at": NOW - 59.8,
        "deadline": NOW + 750,
        "hold_until": 0.0,
        "released_at": None,
        "attacks": ["a-0123456789"],
        "error": "",
        "revision": 1,
        "dry_run": False,
        **changed,
    }


def attack_view(**changed: Any) -> View:
    """Return an attack as the lists show it."""
    return {
        "id": "a-0123456789",
        "targets": ["192.0.2.10/32"],
        "hostgroup": None,
        "direction": "incoming",
        "attack_type": "syn_flood",
        "protocol": "tcp",
        "state": "active",
        "started_at": NOW - 123,
        "updated_at": NOW - 60,
        "ends_at": NOW + 3477,
        "ended_at": None,
        "pps": 120_000,
        "bps": 80_000_000,
        "holders": [
            {"detector": "fnm1", "attack_uuid": None, "direction": "outgoing", "since": NOW - 123}
        ],
        "episodes": 1,
        "reported": {
            "direction": "outgoing",
            "attack_type": "unknown",
            "protocol": "tcp",
            "pps": 25_000,
        },
        "events": [17],
        "mitigations": ["m-0123456789"],
        **changed,
    }


class MemoryDrills:
    """Drills of which none ever begins."""

    def __init__(self) -> None:
        self.hooks: list[tuple[str, str, Hook]] = []

    async def begin(self, wish: Wish, *, actor: str, reason: str) -> View:
        """Return what was wished for."""
        return {
            "id": "d-0123456789",
            "token": "t",
            "actor": actor,
            "reason": reason,
            **asdict(wish),
        }

    async def look(self) -> View:
        """Refuse: there is none."""
        raise RefusedError("there has been no drill", todo="run one: fnm-hub drill")

    def ran(self, drill_id: str, call: str, hook: Hook) -> None:
        """Keep it."""
        self.hooks.append((drill_id, call, hook))

    async def finish(self, drill_id: str, *, actor: str, why: str) -> View:
        """Return what was said."""
        return {"id": drill_id, "actor": actor, "why": why}


class MemoryDaemon:
    """Keeps what it is given; shows what a test puts in."""

    def __init__(self) -> None:
        self.drills = MemoryDrills()
        self.accepted: list[tuple[Envelope, bytes, str]] = []
        self.failing: Exception | None = None
        self.not_ready: list[str] = []
        self.calls: list[tuple[str, str, str]] = []
        self.attack_rows = [attack_view()]
        self.mitigation_rows = [mitigation_view()]
        self.event_rows = [event_view(17)]
        self.queues: list[asyncio.Queue[View | None]] = []
        self.heard = asyncio.Event()
        self.state: View = status_view()
        self.past: View = history_view()
        self.decision_rows = [decision_view()]
        self.agent_rows = [agent_view()]
        self.key_row = key_view()
        self.explained: dict[str, View] = {}

    async def accept(self, envelope: Envelope, *, raw: bytes, via: str) -> Accepted:
        """Keep one event, once by its id."""
        self._fail()
        for number, (known, _, _) in enumerate(self.accepted, 1):
            if known.id == envelope.id:
                return Accepted(number, is_new=False)
        self.accepted.append((envelope, raw, via))
        return Accepted(len(self.accepted), is_new=True)

    def status(self) -> View:
        """Return the set state."""
        return self.state

    def history(self) -> View:
        """Return the set past."""
        return self.past

    async def attacks(self, *, include_ended: bool, limit: int) -> list[View]:
        """Return the rows that were put in."""
        rows = [row for row in self.attack_rows if include_ended or row["state"] != "ended"]
        return rows[:limit]

    async def attack(self, attack_id: str) -> View | None:
        """Return one row with all about it."""
        for row in self.attack_rows:
            if row["id"] == attack_id:
                return {
                    **row,
                    "events": self.event_rows,
                    "mitigations": self.mitigation_rows,
                    "audit": [
                        {
                            "time": NOW - 60,
                            "actor": "rule syn-flood",
                            "what": "tcp by nftables",
                            "outcome": "applied",
                            "reason": "attack_type is syn_flood",
                            "trace": ["syn-flood: attack_type == syn_flood: yes"],
                        }
                    ],
                }
        return None

    async def decisions(self, *, limit: int) -> list[View]:
        """Return the rows that were put in."""
        self._fail()
        return self.decision_rows[:limit]

    async def mitigations(self, *, include_ended: bool, limit: int) -> list[View]:
        """Return the rows that were put in."""
        rows = self.mitigation_rows
        return [row for row in rows if include_ended or row["state"] != "released"][:limit]

    async def events(self, *, before: int | None, limit: int) -> list[View]:
        """Return the rows that were put in."""
        rows = [row for row in self.event_rows if before is None or row["number"] < before]
        return rows[:limit]

    async def explain(self, thing: str) -> View | None:
        """Return the set explanation of a thing that has one."""
        self._fail()
        return self.explained.get(thing)

    async def event(self, number: int) -> View | None:
        """Return one row with its bytes."""
        for row in self.event_rows:
            if row["number"] == number:
                call = Envelope(
                    id="delivery-17",
                    detector="fnm1",
                    stamp=NOW - 60,
                    args=("192.0.2.10", "incoming", "1000", "ban"),
                    stdin=b"IP: 192.0.2.10\nAttack type: syn_flood\n",
                )
                raw = base64.b64encode(encode(call)).decode("ascii")
                return {**row, "raw": raw, "report": {"action": "ban", "target": "192.0.2.10"}}
        return None

    async def release(self, mitigation_id: str, *, actor: str, reason: str) -> View:
        """Mark one row as being released."""
        self._fail()
        for row in self.mitigation_rows:
            if row["id"] == mitigation_id:
                self.calls.append(("release", actor, reason))
                return {**row, "state": "releasing"}
        raise RefusedError(
            "there is no such mitigation", where=mitigation_id, todo="fnm-hub mitigations --all"
        )

    async def freeze(self, *, actor: str, reason: str) -> View:
        """Note the call."""
        return self._changed("freeze", actor, reason)

    async def unfreeze(self, *, actor: str, reason: str) -> View:
        """Note the call."""
        return self._changed("unfreeze", actor, reason)

    async def drain(self, *, actor: str, reason: str) -> View:
        """Note the call."""
        return self._changed("drain", actor, reason)

    async def arm(self, *, actor: str, reason: str) -> View:
        """Say so."""
        return self._changed("arm", actor, reason)

    async def disarm(self, *, actor: str, reason: str, let_go: bool) -> View:
        """Say so."""
        return self._changed("disarm --release" if let_go else "disarm", actor, reason)

    async def reload(self, *, actor: str) -> View:
        """Note the call."""
        return self._changed("reload", actor, "")

    def agents(self) -> list[View]:
        """Return the rows that were put in."""
        return self.agent_rows

    async def trust_agent(self, name: str, *, fingerprint: str, actor: str, reason: str) -> View:
        """Pin the key that a row has shown, as the hub does."""
        self._fail()
        row = self._agent(name)
        if row["offered_key"] != fingerprint:
            raise RefusedError("it has shown another key", where=name, todo="fnm-hub agents")
        self.calls.append((f"trust {name} {fingerprint}", actor, reason))
        row.update(state="new", why="", host_key=fingerprint, offered_key="")
        return row

    async def forget_agent(self, name: str, *, actor: str, reason: str) -> View:
        """Take the key from a row."""
        self._fail()
        row = self._agent(name)
        self.calls.append((f"forget {name}", actor, reason))
        row.update(state="new", host_key="")
        return row

    def key(self) -> View:
        """Return the set key."""
        self._fail()
        return self.key_row

    async def rotate_key(self, *, actor: str, reason: str) -> View:
        """Note the call and move the key on."""
        self._fail()
        self.calls.append(("rotate", actor, reason))
        used_by = [row["name"] for row in self.agent_rows]
        before = {key: self.key_row[key] for key in ("line", "fingerprint")}
        self.key_row = key_view("B", previous={**before, "used_by": used_by})
        return self.key_row

    async def subscribe(self) -> AsyncIterator[View]:
        """Yield what `publish` is given from now on, until `end`."""
        queue: asyncio.Queue[View | None] = asyncio.Queue()
        self.queues.append(queue)
        self.heard.set()
        try:
            while (item := await queue.get()) is not None:
                yield item
        finally:
            self.queues.remove(queue)
            if not self.queues:
                self.heard.clear()

    def publish(self, item: View | None) -> None:
        """Hand `item` to every reader; None ends them."""
        for queue in self.queues:
            queue.put_nowait(item)

    def ready(self) -> Sequence[str]:
        """Return the set reasons."""
        return self.not_ready

    async def metrics(self) -> bytes:
        """Return one sample."""
        return b"# TYPE fnm_hub_up gauge\nfnm_hub_up 1.0\n"

    def _agent(self, name: str) -> View:
        for row in self.agent_rows:
            if row["name"] == name:
                return row
        raise RefusedError("there is no such agent", where=name, todo="fnm-hub agents")

    def _changed(self, what: str, actor: str, reason: str) -> View:
        self._fail()
        self.calls.append((what, actor, reason))
        return self.state

    def _fail(self) -> None:
        if self.failing is not None:
            raise self.failing


def agent_view(**changed: Any) -> View:
    """Return an agent that works, with one proven address."""
    return {
        "name": "192.0.2.1",
        "host": "192.0.2.1",
        "port": 7100,
        "user": "fnm-agent",
        "services": ["192.0.2.1"],
        "state": "ok",
        "why": "",
        "agent": "fnm-agent 0.1.0",
        "release": "6.1.0-56-cloud-amd64",
        "source": "kcore",
        "boot_id": "8be4df61-93ca-11d2-aa0d-00e098032b8c",
        "polled_at": NOW - 3,
        "rtt_ms": 1.25,
        "host_key": "SHA256:" + "H" * 43,
        "offered_key": "",
        "key": "current",
        "engaged_until": NOW + 170,
        "syncookies": 2,
        "skew_ms": 12,
        "timestamp_scheme": "flow",
        "uses": ["m-0123456789"],
        "addresses": [
            {
                "address": "192.0.2.1",
                "standing": "proven",
                "why": "",
                "since": NOW - 60,
                "ports": [
                    {"port": 80, "verdict": "match", "why": "", "at": NOW - 9, "good_at": NOW - 9},
                    {
                        "port": 443,
                        "verdict": "silent",
                        "why": "no answer",
                        "at": NOW - 9,
                        "good_at": None,
                    },
                ],
            }
        ],
        **changed,
    }


def key_view(letter: str = "A", **changed: Any) -> View:
    """Return the hub's own SSH key."""
    return {
        "line": f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{letter * 43} fnm-hub@edge",
        "fingerprint": f"SHA256:{letter * 43}",
        "previous": None,
        **changed,
    }


def decision_view(**changed: Any) -> View:
    """Return a row of the audit record."""
    return {
        "seq": 7,
        "time": NOW - 60,
        "actor": "rule syn-flood",
        "what": "decision",
        "event": 17,
        "attack": "a-0123456789",
        "mitigation": "m-0123456789",
        "outcome": "applied",
        "reason": "attack_type is syn_flood",
        "trace": ["syn-flood: matched"],
        "details": {"target": "192.0.2.10/32"},
        **changed,
    }


def history_view(**changed: Any) -> View:
    """Return what one engine has counted in two samples."""
    return {
        "span": 900.0,
        "engines": [
            {
                "name": "nftables",
                "time": [NOW - 6, NOW - 1],
                "seconds": [5.0, 5.0],
                "pass": [10, 20],
                "answer": [50_000, 100_000],
                "drop": [0, 500],
                "packets": {
                    "tcp.cookie_invalid": [0, 500],
                    "tcp.known_passed": [10, 20],
                    "tcp.syn_packets": [50_000, 100_000],
                },
            }
        ],
        **changed,
    }


def status_view(**changed: Any) -> View:
    """Return the state of a hub that works."""
    return {
        "version": "0.1.0",
        "pid": 4242,
        "started_at": NOW - 7380,
        "now": NOW,
        "dry_run": False,
        "frozen": None,
        "draining": False,
        "rules": {
            "version": "3f2a9c1d0b",
            "files": ["/etc/fnm-hub/rules/default.yaml"],
            "count": 3,
            "loaded_at": NOW - 7380,
        },
        "counts": {
            "attacks": {"active": 3, "ending": 1},
            "mitigations": {"active": 4, "applying": 1, "dry_run": 0},
            "events": {"accepted": 12_345, "pending": 0, "not_understood": 2},
        },
        "engines": [
            {
                "name": "nftables",
                "kinds": ["acl", "sorb", "tcp"],
                "ok": True,
                "detail": "",
                "telemetry": {"dropped_packets": 1_234_567},
            },
            {
                "name": "oncall",
                "kinds": ["notify"],
                "ok": False,
                "detail": "https://alerts.example.net: connection refused",
                "telemetry": {},
            },
        ],
        "caps": {"total": {"used": 4, "limit": 1000}},
        "store": {"path": "/var/lib/fnm-hub/journal.sqlite3", "recovered_from": None},
        "spool": {"path": "/var/spool/fnm-hub", "waiting": 0, "bad": 0},
        "warnings": [],
        **changed,
    }
