# SPDX-License-Identifier: Apache-2.0
"""Makes the engines that the configuration names, in the order of preference."""

from hub.clock import Clock
from hub.config import Config
from hub.engines.command import CommandEngine
from hub.engines.native.engine import NativeEngine
from hub.engines.native.keys import IsnKeys, NoKeys
from hub.engines.nftables.engine import NftablesEngine
from hub.engines.nftables.sysctl import StateStore
from hub.mitigations.engine import Engine


def build_engines(
    config: Config, *, clock: Clock, kept: StateStore, keys: IsnKeys | None = None
) -> dict[str, Engine]:
    """Return the engines by name; nothing is started yet.

    Args:
        config: the whole configuration.
        clock: the time that deadlines are in.
        kept: what engines must remember across a restart.
        keys: where the keys for ISN sync are looked up; by default none are known.
    """
    engines: dict[str, Engine] = {}
    if config.engines.native.enabled:
        native = NativeEngine(config.engines.native, config.services, clock, keys or NoKeys())
        engines[native.name] = native
    if config.engines.nftables.enabled:
        nftables = NftablesEngine(config.engines.nftables, config.services, clock, kept)
        engines[nftables.name] = nftables
    for name, webhook in config.engines.webhook.items():
        # httpx is loaded only where it is used: without it a hub is up sooner.
        from hub.engines.webhook import WebhookEngine  # noqa: PLC0415

        engines[name] = WebhookEngine(name, webhook, clock)
    for name, command in config.engines.command.items():
        engines[name] = CommandEngine(name, command, clock)
    return engines
