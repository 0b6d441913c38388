# SPDX-License-Identifier: Apache-2.0
"""Makes the engines that the configuration names, in the order of preference."""

from hub.clock import Clock
from hub.config import Config
from hub.engines.command import CommandEngine
from hub.engines.nftables.engine import NftablesEngine
from hub.engines.nftables.sysctl import StateStore
from hub.engines.webhook import WebhookEngine
from hub.mitigations.engine import Engine


def build_engines(config: Config, *, clock: Clock, kept: StateStore) -> dict[str, Engine]:
    """Return the engines by name; nothing is started yet."""
    engines: dict[str, Engine] = {}
    if config.engines.nftables.enabled:
        nftables = NftablesEngine(config.engines.nftables, config.services, clock, kept)
        engines[nftables.name] = nftables
    for name, webhook in config.engines.webhook.items():
        engines[name] = WebhookEngine(name, webhook, clock)
    for name, command in config.engines.command.items():
        engines[name] = CommandEngine(name, command, clock)
    return engines
