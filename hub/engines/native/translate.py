# SPDX-License-Identifier: Apache-2.0
"""Turns a mitigation into a request to synproxyd, or says why that cannot be (pure)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hub.config import NativeEngine as NativeConfig
from hub.engines.native.acl import acl_fields, acl_steps
from hub.engines.native.keys import ServerKeys, Standing
from hub.engines.native.modes import Choice, Mode, Obstacle, choose
from hub.errors import EnginePermanentError
from hub.mitigations.model import Mitigation
from hub.net import IPNetwork
from hub.rules.able import FEATURES, KINDS, NATIVE, needs
from hub.rules.actions import Acl, Sorb, Tcp
from hub.units import format_duration

LONGEST_MS: Final = 604_800_000
WATCHED: Final = "watch-"
_PROVEN: Final[Mapping[Mode, str]] = {
    "isn-sync": "take proven clients to the server as they are, by the server's own keys",
    "splice": "open a connection to the server for each proven client, and translate its numbers",
    "reset": "reset a client's first connection once it is proven; its next one passes",
}
"""What becomes of a client that has proven itself."""


@dataclass(frozen=True, slots=True)
class Request:
    """What synproxyd is asked, and the same in words.

    Attributes:
        fields: of the operation `put`; may hold secrets, so they are in no repr.
        steps: one a line.
        choice: how a `tcp` is carried out, None for anything else.
    """

    fields: dict[str, Any]
    steps: tuple[str, ...]
    choice: Choice | None = None

    def __repr__(self) -> str:
        """Return only what may be seen by anybody."""
        return f"Request({self.fields['id']!r}, steps={self.steps!r})"


def request(
    mitigation: Mitigation,
    config: NativeConfig,
    standing: Standing,
    now: float,
    obstacle: Obstacle | None = None,
) -> Request:
    """Return what to ask for `mitigation`.

    Args:
        mitigation: what is to be put in force.
        config: the engine's section.
        standing: of the server behind its target, looked at where a `tcp` wants its keys.
        now: Unix seconds, of the clock that the deadline is in.
        obstacle: what stands in the way of splicing its target, None where nothing does.

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
    choice: Choice | None = None
    if isinstance(action, Tcp):
        choice = choose(action, standing, obstacle, where)
        body, steps = _tcp(mitigation, choice, config)
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
    end = f"synproxyd ends it by itself after {format_duration(left)}"
    return Request(fields, (*steps, end), choice)


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
    mitigation: Mitigation, choice: Choice, config: NativeConfig
) -> tuple[dict[str, Any], list[str]]:
    service = mitigation.service
    body: dict[str, Any] = {
        "mode": choice.mode,
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
    if choice.keys is not None:
        body |= _key_fields(choice.keys)
    shown = f"port {', '.join(map(str, ports))}" if ports else "every port"
    passed = (
        f"pass {config.grace_pps} segments/s of unknown flows for {format_duration(config.grace)}, "
        f"then {config.unknown_pps}/s"
    )
    steps = [
        f"answer SYNs to {mitigation.target}, {shown}, with a cookie",
        *choice.down,
        _PROVEN[choice.mode],
        passed,
    ]
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
