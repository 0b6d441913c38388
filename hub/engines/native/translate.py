# SPDX-License-Identifier: Apache-2.0
"""Turns a mitigation into a request to synproxyd, or says why that cannot be (pure)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from hub.config import NativeEngine as NativeConfig
from hub.engines.native.acl import acl_fields, acl_steps
from hub.engines.native.keys import ServerKeys, Standing
from hub.errors import EnginePermanentError, EngineTemporaryError
from hub.mitigations.model import Mitigation
from hub.net import IPNetwork
from hub.rules.able import FEATURES, KINDS, NATIVE, needs
from hub.rules.actions import Acl, Sorb, Tcp
from hub.units import format_duration

LONGEST_MS: Final = 604_800_000
WATCHED: Final = "watch-"


@dataclass(frozen=True, slots=True)
class Request:
    """What synproxyd is asked, and the same in words.

    Attributes:
        fields: of the operation `put`; may hold secrets, so they are in no repr.
        steps: one a line.
    """

    fields: dict[str, Any]
    steps: tuple[str, ...]

    def __repr__(self) -> str:
        """Return only what may be seen by anybody."""
        return f"Request({self.fields['id']!r}, steps={self.steps!r})"


def request(
    mitigation: Mitigation, config: NativeConfig, standing: Standing, now: float
) -> Request:
    """Return what to ask for `mitigation`.

    Args:
        mitigation: what is to be put in force.
        config: the engine's section.
        standing: of the server behind its target, looked at where a `tcp` wants its keys.
        now: Unix seconds, of the clock that the deadline is in.

    Raises:
        EnginePermanentError: this engine cannot do that.
        EngineTemporaryError: not now.
    """
    where = f"mitigation {mitigation.id}"
    action, target = mitigation.action, mitigation.target
    if action.kind not in KINDS or needs(action) - FEATURES[NATIVE]:
        words = ", ".join(sorted(needs(action) - FEATURES[NATIVE])) or action.kind
        todo = f"let it do {', '.join(sorted(KINDS))}; tcp mode kernel is for nftables"
        raise EnginePermanentError(f"the native engine cannot do {words}", where=where, todo=todo)
    if isinstance(action, Tcp):
        body, steps = _tcp(mitigation, action, config, standing)
    elif isinstance(action, Acl):
        body = acl_fields(action, target, config.icmp_pps)
        steps = acl_steps(action, target, config.icmp_pps)
    elif isinstance(action, Sorb):
        body, steps = _sorb(action, target)
    else:
        raise EnginePermanentError(f"cannot do {action.kind}", where=where)
    left = mitigation.deadline - now
    fields = {
        "id": mitigation.id,
        "revision": mitigation.revision,
        "target": str(target),
        "expires_ms": min(max(1, round(1000 * left)), LONGEST_MS),
        "kind": action.kind,
        action.kind: body,
    }
    return Request(fields, (*steps, f"synproxyd ends it by itself after {format_duration(left)}"))


def watch(name: str, number: int, prefix: IPNetwork, ports: Sequence[int], ms: int) -> Request:
    """Return what to ask so that open flows of a service are known before an attack."""
    body = {"ports": list(ports)} if ports else {}
    fields = {
        "id": f"{WATCHED}{name}-{number}",
        "revision": 1,
        "target": str(prefix),
        "expires_ms": ms,
        "kind": "watch",
        "watch": body,
    }
    return Request(fields, (f"watch {prefix}",))


def _tcp(
    mitigation: Mitigation, action: Tcp, config: NativeConfig, standing: Standing
) -> tuple[dict[str, Any], list[str]]:
    service = mitigation.service
    keys = standing.keys if action.wants_keys else None
    if action.wants_keys and keys is None and action.fallback == "pass":
        raise EngineTemporaryError(
            f"isn-sync is not possible now: {standing.why}",
            where=f"mitigation {mitigation.id}",
            todo="see fnm-hub agents; the target is not protected meanwhile, as fallback is pass",
        )
    body: dict[str, Any] = {
        "mode": "reset" if keys is None else "isn-sync",
        "grace": {"for_ms": round(1000 * config.grace), "pps": config.grace_pps},
        "unknown_pps": config.unknown_pps,
        "learned_pps": config.learned_pps,
        "syn_ack_pps": config.syn_ack_pps,
        "icmp_pps": config.icmp_pps,
        "source_pps": config.source_pps,
        "ceiling_pps": config.ceiling_pps,
    }
    ports = service.tcp_ports if service else ()
    if ports:
        body["ports"] = list(ports)
    if keys is not None:
        body |= _key_fields(keys)
    shown = f"port {', '.join(map(str, ports))}" if ports else "every port"
    steps = [f"answer SYNs to {mitigation.target}, {shown}, with a cookie"]
    if keys is None:
        if action.wants_keys:
            steps.append(f"not by isn-sync: {standing.why}")
        steps.append("reset a client's first connection once it is proven; its next one passes")
    else:
        steps.append("take proven clients to the server as they are, by the server's own keys")
    steps.append(
        f"pass {config.grace_pps} segments/s of unknown flows for {format_duration(config.grace)}, "
        f"then {config.unknown_pps}/s"
    )
    return body, steps


def _key_fields(keys: ServerKeys) -> dict[str, Any]:
    return {
        "profile": keys.syn_ack.wire(),
        "keys": keys.secrets.wire(),
        "clock": keys.clock.wire(),
    }


def _sorb(action: Sorb, target: IPNetwork) -> tuple[dict[str, Any], list[str]]:
    body: dict[str, Any] = {"block_ms": round(1000 * action.block)}
    words: list[str] = []
    if action.pps is not None:
        body["pps"] = action.pps
        words.append(f"{action.pps} packets/s")
    if action.bps is not None:
        body["bps"] = action.bps
        words.append(f"{action.bps} bit/s")
    over = " or ".join(words)
    block = format_duration(action.block)
    return body, [f"block each source that exceeds {over} towards {target} for {block}"]
