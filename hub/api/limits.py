# SPDX-License-Identifier: Apache-2.0
"""Limits that hold on every listener, and what is said of those who are turned away."""

from dataclasses import dataclass
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_TODO: Final = {
    "peer": "add FastNetMon's user to intake.unix.allow_users and restart, or ask who calls there",
    "signature": "compare key id, key and clock of the sender with intake.tcp.hmac_keys",
    "certificate": "check the sender's certificate and tls.client_ca; a stranger is a scanner",
    "handshake": "check the sender's ca_file and certificate; a stranger is a scanner",
    "host": "call the page by its address, or add the name to api.page.names",
    "cross_site": "nothing; another site has made a browser call the page",
    "login": "give the name and token of one of api.page.users; a stranger is a scanner",
    "token": "check the token of the callback's URL or header",
    "connections": "look who holds them open, and filter that source",
    "connections_of_source": "look what this source does, and filter it",
    "accept": "raise LimitNOFILE= of the hub's unit",
    "too_long": "raise max_body if its reports are that long",
    "overloaded": "the sender keeps it; see fnm-hub status for what holds the hub up",
    "store": "the sender keeps it; see store.write_failed",
    "storefull": "the sender keeps it; make room on the journal's disk",
    "noncesfull": "look for a sender in a loop",
    "intake": "install the fnm-notify of the hub's own release there",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener grants to those it does not know.

    Attributes:
        head: seconds for a whole request head, and for an idle connection.
        body: seconds for a whole request body.
        handshake: seconds for a TLS handshake.
        connections: connections of the TCP listener at a time.
        local: connections of the local detector's socket at a time; those beyond wait.
        per_source: of these, how many one source address may hold.
        backlog: connections that the kernel keeps waiting while we are busy: a detector
            that reports a burst opens one for each call.
    """

    head: float = 10.0
    body: float = 15.0
    handshake: float = 5.0
    connections: int = 512
    local: int = 8192
    per_source: int = 256
    backlog: int = 4096


def log_refusal(*, source: str, reason: str, via: str, detail: str = "") -> None:
    """Log `intake.refused`; `hub.repeats` sees to it that nobody can multiply these lines.

    Args:
        source: address or user id of the sender.
        reason: from a small fixed set.
        via: the listener.
        detail: more for the operator.
    """
    log.warning(
        "intake.refused",
        source=source,
        reason=reason,
        via=via,
        detail=detail,
        todo=_TODO.get(reason, "look who it is; see the reasons in docs/operations.md"),
    )
