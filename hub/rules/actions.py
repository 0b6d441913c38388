# SPDX-License-Identifier: Apache-2.0
"""The countermeasures that a rule can ask for, with their parameters."""

from typing import Annotated, Literal

from pydantic import Field

from hub.fields import Count, Duration, Name, Network, StrictModel

PortRange = Annotated[str, Field(pattern=r"^\d{1,5}(-\d{1,5})?$")]


class Tcp(StrictModel):
    """A SYN proxy in front of the target's TCP ports."""

    kind: Literal["tcp"] = "tcp"
    mode: Literal["auto", "kernel"] = "auto"


class AclRule(StrictModel):
    """One line of a filter; every field that is given must match."""

    action: Literal["drop", "pass", "limit"]
    protocol: Literal["any", "tcp", "udp", "icmp", "gre", "esp", "sctp"] = "any"
    sources: tuple[Network, ...] = ()
    source_ports: tuple[PortRange, ...] = ()
    destination_ports: tuple[PortRange, ...] = ()
    fragments: bool | None = None
    length: PortRange | None = None
    pps: Annotated[Count | None, Field(ge=1)] = None


class Acl(StrictModel):
    """Drop, pass and limit rules for the target, first match wins, the rest passes."""

    kind: Literal["acl"] = "acl"
    rules: Annotated[tuple[AclRule, ...], Field(min_length=1, max_length=64)]


class Sorb(StrictModel):
    """A threshold per source: who exceeds it is blocked for a while."""

    kind: Literal["sorb"] = "sorb"
    pps: Annotated[Count, Field(ge=1)] = 100
    block: Annotated[Duration, Field(ge=1, le=86400)] = 600.0


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
