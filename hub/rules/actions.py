# SPDX-License-Identifier: Apache-2.0
"""The countermeasures that a rule can ask for, with their parameters."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from hub.fields import STORED, Count, Duration, Name, Network, StrictModel
from hub.yamlerrors import mistake

FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
"""TCP flags by their bit, lowest first (RFC 9293 section 3.1)."""

PortRange = Annotated[str, Field(pattern=r"^\d{1,5}(-\d{1,5})?$")]


DEFAULT_SORB_PPS = 100


class Tcp(StrictModel):
    """A SYN proxy in front of the target's TCP ports.

    `fallback` is what is done where `isn-sync` is wanted and the server's keys cannot be trusted.
    """

    kind: Literal["tcp"] = "tcp"
    mode: Literal["auto", "isn-sync", "splice", "reset", "kernel"] = "auto"
    fallback: Literal["splice", "reset", "pass"] = "splice"

    @property
    def wants_keys(self) -> bool:
        """Tell whether the protected server's own keys are used where they are known."""
        return self.mode in {"auto", "isn-sync"}

    @model_validator(mode="after")
    def _falls_back_from_something(self, info: ValidationInfo) -> Self:
        # The journal writes every field: there it says nothing of what somebody has asked for.
        given = "fallback" in self.model_fields_set and info.context != STORED
        if given and not self.wants_keys:
            text = f"mode {self.mode} has nothing to fall back from"
            raise mistake(text, todo="remove it, or use mode: isn-sync", at=("fallback",))
        return self


class AclRule(StrictModel):
    """One line of a filter; every field that is given must match.

    `flags` names TCP flags that must be set, and behind a `!` those that must not: `syn,!ack`.
    """

    action: Literal["drop", "pass", "limit"]
    protocol: Literal["any", "tcp", "udp", "icmp", "gre", "esp", "sctp"] = "any"
    sources: tuple[Network, ...] = ()
    source_ports: tuple[PortRange, ...] = ()
    destination_ports: tuple[PortRange, ...] = ()
    fragments: bool | None = None
    length: PortRange | None = None
    flags: str | None = None
    icmp_types: tuple[PortRange, ...] = ()
    pps: Annotated[Count | None, Field(ge=1)] = None


class Acl(StrictModel):
    """Drop, pass and limit rules for the target, first match wins, the rest passes."""

    kind: Literal["acl"] = "acl"
    rules: Annotated[tuple[AclRule, ...], Field(min_length=1, max_length=64)]


class Sorb(StrictModel):
    """A threshold per source: who exceeds it is blocked for a while."""

    kind: Literal["sorb"] = "sorb"
    pps: Annotated[Count | None, Field(ge=1)] = None
    bps: Annotated[Count | None, Field(ge=1)] = None
    block: Annotated[Duration, Field(ge=1, le=86400)] = 600.0

    @model_validator(mode="before")
    @classmethod
    def _some_threshold(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("pps") is None and value.get("bps") is None:
            return {**value, "pps": DEFAULT_SORB_PPS}
        return value


class Notify(StrictModel):
    """Tell a webhook or a command of the configuration; nothing is left to undo."""

    kind: Literal["notify"] = "notify"
    to: Name


class Command(StrictModel):
    """Run a command of the configuration with `on`, and with `off` at the end."""

    kind: Literal["command"] = "command"
    run: Name


Action = Annotated[Tcp | Acl | Sorb | Notify | Command, Field(discriminator="kind")]
"""One countermeasure with its parameters."""


def flag_bits(text: str) -> tuple[int, int]:
    """Return mask and value of the TCP header's byte of flags that `flags` means.

    Raises:
        ValueError: an unknown flag, or one that must be set and not set.
    """
    mask = value = 0
    for word in text.split(","):
        name = word.strip().removeprefix("!")
        if name not in FLAGS:
            msg = f"{name!r} is not one of {', '.join(FLAGS)}"
            raise ValueError(msg)
        bit = 1 << FLAGS.index(name)
        if mask & bit:
            msg = f"names {name} twice"
            raise ValueError(msg)
        mask |= bit
        value |= 0 if word.strip().startswith("!") else bit
    return mask, value
