# SPDX-License-Identifier: Apache-2.0
"""What ISN sync needs of a protected server: its secrets, its SYN-ACK and its clocks."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from hub.net import IPNetwork


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """Memory of the server's kernel, as it is there; shown nowhere.

    Attributes:
        cookie: `syncookie_secret`, 32 bytes.
        cookie6: `syncookie6_secret`, None where only IPv4 is protected.
        timestamp: `net_secret` with the scheme `flow`, `ts_secret` with `host`; 16 bytes.
        timestamp_scheme: `none` where timestamps have no offset.
    """

    cookie: bytes
    cookie6: bytes | None
    timestamp: bytes
    timestamp_scheme: Literal["flow", "host", "none"]

    def __repr__(self) -> str:
        """Return what may be seen by anybody."""
        return f"Secrets(hidden, timestamp_scheme={self.timestamp_scheme!r})"

    def wire(self) -> dict[str, str]:
        """Return the field `keys` of a request."""
        fields = {"cookie": self.cookie.hex(), "timestamp_scheme": self.timestamp_scheme}
        if self.cookie6 is not None:
            fields["cookie6"] = self.cookie6.hex()
        if self.timestamp_scheme != "none":
            fields["timestamp"] = self.timestamp.hex()
        return fields


@dataclass(frozen=True, slots=True)
class SynAck:
    """What the server's own SYN-ACK shows."""

    mss4: int = 1460
    mss6: int = 1440
    window: int = 65160
    wscale: int = 7
    ttl: int = 64
    sack: bool = True
    timestamps: bool = True
    ecn: bool = False

    def wire(self) -> dict[str, Any]:
        """Return the field `profile` of a request."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class ServerClock:
    """The server's clocks at one moment of this machine's.

    Attributes:
        monotonic_ms: CLOCK_MONOTONIC here at that moment.
        cookie_ms: the server's `jiffies64` in milliseconds then.
        timestamp_ms: its TCP timestamp clock then, without offset.
    """

    monotonic_ms: int
    cookie_ms: int
    timestamp_ms: int

    def wire(self) -> dict[str, int]:
        """Return the field `clock` of a request."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """All of it."""

    secrets: Secrets
    syn_ack: SynAck
    clock: ServerClock


class IsnKeys(Protocol):
    """Source of such keys."""

    def lookup(self, service: str | None, target: IPNetwork) -> ServerKeys | None:
        """Return the keys of the server behind `target`, None where they are not known now."""
        ...


class NoKeys:
    """Knows no server's keys."""

    def lookup(self, service: str | None, target: IPNetwork) -> ServerKeys | None:
        """Return None."""
        del service, target
        return None
