# SPDX-License-Identifier: Apache-2.0
"""Turns a mitigation into the engine's terms, or says why that cannot be (pure)."""

import re
from typing import Final

from hub.config import NftablesEngine as NftablesConfig
from hub.config import Service
from hub.engines.nftables.acl import acl_draft
from hub.engines.nftables.mirror import Wanted
from hub.engines.nftables.profile import finish
from hub.engines.nftables.sorb import sorb_draft
from hub.engines.nftables.tcp import tcp_draft
from hub.errors import EnginePermanentError
from hub.mitigations.model import Mitigation
from hub.rules.able import FEATURES, KINDS, NFTABLES, needs
from hub.rules.actions import Acl, Sorb, Tcp

WIDEST: Final = {4: 8, 6: 16}
"""Shortest prefix by family: wider than that is a mistake, not a target."""
_ID: Final = re.compile(r"m-[A-Za-z0-9_-]{1,64}")


def interface_of(service: Service | None, config: NftablesConfig) -> str | None:
    """Return where attacks on `service` come in, None for anywhere."""
    return (service.interface if service else None) or config.interface


def wanted(mitigation: Mitigation, config: NftablesConfig) -> Wanted:
    """Return what `mitigation` asks of this engine.

    Raises:
        EnginePermanentError: this engine cannot do that.
    """
    where = f"mitigation {mitigation.id}"
    if not _ID.fullmatch(mitigation.id):
        raise EnginePermanentError("its id cannot serve as a tag", where=where)
    target, service, action = mitigation.target, mitigation.service, mitigation.action
    if target.prefixlen < WIDEST[target.version]:
        raise EnginePermanentError(
            f"{target} is wider than /{WIDEST[target.version]}", where=where, todo="name a narrower"
        )
    if missing := needs(action) - FEATURES[NFTABLES]:
        raise EnginePermanentError(
            f"nftables cannot do {', '.join(sorted(missing))}",
            where=where,
            todo="enable engines.native, or take it out of the rule",
        )
    interface = interface_of(service, config)
    if isinstance(action, Tcp):
        draft = tcp_draft(target, service, interface)
    elif isinstance(action, Acl):
        draft = acl_draft(target, action, interface)
    elif isinstance(action, Sorb):
        draft = sorb_draft(target, action, interface, config.max_sources)
    else:
        raise EnginePermanentError(
            f"{action.kind} is nothing that nftables can do",
            where=where,
            todo=f"let it do {', '.join(sorted(KINDS))}",
        )
    profile = finish(draft, config.table)
    return Wanted(mitigation.id, target, profile, mitigation.deadline)
