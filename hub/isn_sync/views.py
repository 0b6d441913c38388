# SPDX-License-Identifier: Apache-2.0
"""What the operator API shows of agents and of the hub's key; see docs/protocols.md."""

from collections.abc import Iterable
from typing import Any

from hub.clock import Clock
from hub.isn_sync.identity import Identity
from hub.isn_sync.server import Server
from hub.isn_sync.standing import Address

View = dict[str, Any]


def agent_view(server: Server, clock: Clock) -> View:
    """Return one agent."""
    report, link = server.known.report, server.link
    engaged = server.lease.until - clock.monotonic()
    return {
        "name": server.agent.name,
        "host": str(server.agent.host),
        "port": server.agent.port,
        "user": server.agent.user,
        "services": [str(one) for one in server.agent.services],
        "state": server.state,
        "why": server.why,
        "agent": f"{report.kind} {report.version}".strip() if report else "",
        "release": report.release if report else "",
        "source": report.source if report else "",
        "boot_id": report.boot_id if report else "",
        "polled_at": server.polled_at,
        "rtt_ms": server.rtt_ms,
        "host_key": link.host_key,
        "offered_key": link.offered,
        "key": "" if not link.connected else "previous" if link.used_previous_key else "current",
        "engaged_until": clock.time() + engaged if engaged > 0 else None,
        "syncookies": report.syncookies if report else None,
        "skew_ms": server.skew_ms,
        "timestamp_scheme": server.known.scheme or "",
        "uses": sorted(server.uses),
        "addresses": [_address(one, server.standings[one]) for one in server.standings],
    }


def key_view(identity: Identity, servers: Iterable[Server]) -> View:
    """Return the public half of the hub's key, and of the one before while it is in use."""
    previous = None
    if identity.previous is not None:
        used_by = [server.agent.name for server in servers if server.link.used_previous_key]
        previous = {
            "line": identity.previous.public_line(),
            "fingerprint": identity.previous.fingerprint,
            "used_by": used_by,
        }
    return {
        "line": identity.public_line(),
        "fingerprint": identity.fingerprint,
        "previous": previous,
    }


def _address(address: Any, standing: Address) -> View:
    return {
        "address": str(address),
        "standing": standing.word,
        "why": standing.why,
        "since": standing.since,
        "ports": [
            {
                "port": number,
                "verdict": port.verdict,
                "why": port.why,
                "at": port.at,
                "good_at": port.good_at,
            }
            for number, port in sorted(standing.ports.items())
        ],
    }
