# SPDX-License-Identifier: Apache-2.0
"""What the HTTP side counts, in a registry of its own."""

from itertools import product
from typing import Final

from prometheus_client import CollectorRegistry, Counter, generate_latest

_REASONS: Final = (
    "peer",
    "signature",
    "certificate",
    "handshake",
    "token",
    "connections",
    "connections_of_source",
    "accept",
    "too_long",
    "slow",
    "broken",
    "encoding",
    "intake",
    "overloaded",
    "store",
    "storefull",
    "noncesfull",
)


class Counters:
    """Counters of one set of listeners.

    Labels are bounded: no address, no id, nothing a sender can choose.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._refused = Counter(
            "fnm_hub_intake_refused",
            "Detector calls and connections refused",
            ["via", "reason"],
            registry=self._registry,
        )
        for labels in product(("unix", "tcp"), _REASONS):
            # At 0 from the start: an alert does not see an increase from nothing.
            self._refused.labels(*labels)
        self._operator = Counter(
            "fnm_hub_operator_requests",
            "Requests on the operator's socket",
            ["code"],
            registry=self._registry,
        )

    def refused(self, via: str, reason: str) -> None:
        """Count one detector call or connection that was turned away."""
        self._refused.labels(via, reason).inc()

    def operator(self, code: int) -> None:
        """Count one answer on the operator's socket."""
        self._operator.labels(str(code)).inc()

    def text(self) -> bytes:
        """Return the counters in Prometheus' text format."""
        return generate_latest(self._registry)
