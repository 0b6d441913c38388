# SPDX-License-Identifier: Apache-2.0
"""The section `isn_sync` of the configuration."""

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints

from hub.errors import ConfigError
from hub.fields import AbsolutePath, Duration, Port, StrictModel
from hub.isn_sync.inventory import Agent, Inventory, merge, parse_servers
from hub.net import IPAddress
from hub.yamlfile import scan


def _address(value: Any) -> Any:
    return ip_address(value) if isinstance(value, str) else value


Address = Annotated[IPAddress, BeforeValidator(_address)]
"""One address of either family."""
AgentUser = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
"""A user name of Unix, useradd(8)."""


class IsnAgent(StrictModel):
    """One agent, and the addresses whose server it speaks for."""

    host: Address
    port: Port | None = None
    user: AgentUser | None = None
    services: tuple[Address, ...] = ()


class IsnSync(StrictModel):
    """Agents on protected servers, from which the native engine has their cookie secrets."""

    servers: str = ""
    agents: tuple[IsnAgent, ...] = ()
    port: Port = 7100
    user: AgentUser = "fnm-agent"
    key: AbsolutePath = Path("/var/lib/fnm-hub/isn-sync/id_ed25519")
    known_hosts: AbsolutePath = Path("/var/lib/fnm-hub/isn-sync/known_hosts")
    poll_interval: Annotated[Duration, Field(ge=1.0, le=300.0)] = 8.0
    probe_interval: Annotated[Duration, Field(ge=1.0, le=30.0)] = 25.0
    timeout: Annotated[Duration, Field(ge=0.5, le=60.0)] = 5.0
    good_probes: Annotated[int, Field(ge=1, le=100)] = 3

    def inventory(self, *, file: str = "isn_sync", first_line: int = 1) -> Inventory:
        """Return every agent that either form names.

        Args:
            file: for messages.
            first_line: of `servers` in that file.

        Raises:
            ConfigError: with every mistake in `servers`, or where the two contradict each other.
        """
        listed = parse_servers(
            self.servers, port=self.port, user=self.user, file=file, first_line=first_line
        )
        written = [
            Agent(
                one.host,
                one.port or self.port,
                one.user or self.user,
                tuple(dict.fromkeys((one.host, *one.services))),
            )
            for one in self.agents
        ]
        return merge([*listed, *written], file=file)


def check_servers(config: IsnSync, path: Path) -> None:
    """Raise ConfigError with every mistake in the list of servers, as it stands in `path`."""
    node = scan(path).root
    for key in ("isn_sync", "servers"):
        node = node.children.get(key) if node is not None else None
    line, indent = 1, 0
    if node is not None:
        line = node.line
        if "\n" in node.value:
            # A block scalar begins on the line after its indicator, and loses its indentation.
            written = path.read_text("utf-8-sig").splitlines()[line:]
            line += 1
            indent = next((len(one) - len(one.lstrip(" ")) for one in written if one.strip()), 0)
    try:
        _ = config.inventory(file=str(path), first_line=line)
    except ConfigError as error:
        raise ConfigError(
            [
                replace(one, column=one.column + indent) if one.column else one
                for one in error.problems
            ]
        ) from None
