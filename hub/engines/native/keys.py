# SPDX-License-Identifier: Apache-2.0
"""What ISN sync needs of a protected server: its secrets, its SYN-ACK and its clocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from hub.mitigations.model import Mitigation
from hub.net import IPAddress

Flow = tuple[IPAddress, int, IPAddress, int]
"""Client, its port, server, its port."""


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
    """What the server's own SYN-ACK shows; `wscale` is None where it takes no window scaling."""

    mss4: int = 1460
    mss6: int = 1440
    window: int = 65160
    wscale: int | None = 7
    ttl: int = 64
    sack: bool = True
    timestamps: bool = True
    ecn: bool = False

    def wire(self) -> dict[str, Any]:
        """Return the field `profile` of a request."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in fields.items() if value is not None}


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

    def drifted(self, other: "ServerClock", cookie_ms: int, timestamp_ms: int) -> bool:
        """Tell whether the two disagree by more than so much."""
        passed = other.monotonic_ms - self.monotonic_ms
        return (
            abs(other.cookie_ms - self.cookie_ms - passed) > cookie_ms
            or abs(other.timestamp_ms - self.timestamp_ms - passed) > timestamp_ms
        )

    def wire(self) -> dict[str, int]:
        """Return the field `clock` of a request."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """All of it."""

    secrets: Secrets
    syn_ack: SynAck
    clock: ServerClock


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a target can be protected with its server's own keys now.

    Attributes:
        keys: None where it cannot.
        why: what stands in the way; empty with `keys`.
        unknown: nothing speaks for it or against it yet, so that what is in force stays.
    """

    keys: ServerKeys | None = None
    why: str = ""
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A server that has been made ready, and the connections that were open then."""

    standing: Standing
    flows: Sequence[Flow] = ()


class IsnKeys(Protocol):
    """Source of such keys."""

    def standing(self, mitigation: Mitigation) -> Standing:
        """Tell how the server behind the mitigation's target stands now; asks nobody."""
        ...

    async def prepare(self, mitigation: Mitigation, seconds: float) -> Prepared:
        """Make the server ready to take cookies for `seconds`, and prove that it does.

        In this order: the server answers every SYN with a cookie, a probe finds the cookie that
        we compute, its open connections are read. Never raises where a server is not ready.
        """
        ...

    def release(self, mitigation_id: str) -> None:
        """Say that this mitigation is not in force any more."""
        ...


class NoKeys:
    """Knows no server's keys."""

    _NONE = Standing(why="no agent in isn_sync answers for it")

    def standing(self, mitigation: Mitigation) -> Standing:
        """Return that nothing is known."""
        del mitigation
        return self._NONE

    async def prepare(self, mitigation: Mitigation, seconds: float) -> Prepared:
        """Return that nothing is known."""
        del mitigation, seconds
        return Prepared(self._NONE)

    def release(self, mitigation_id: str) -> None:
        """Do nothing."""
        del mitigation_id
