# SPDX-License-Identifier: Apache-2.0
"""The guards: each says in one clause why a mitigation must not happen, or nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from hub.config import Guard as Policy
from hub.net import IPNetwork, covers, overlap

WARN_AT = 0.8


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not.

    Attributes:
        guard: `own_prefixes`, `never_block`, `impossible_target`, `width`, `cap`, `freeze`,
            `hold_off` or `ttl`.
        why: the clause for the operator, with the values compared.
        todo: what to do when the operator wants it all the same.
    """

    guard: str
    why: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Live:
    """How many mitigations are live now, dry-run ones among them.

    Attributes:
        total: all of them.
        by_engine: count by engine name.
        by_rule: count by rule name.
    """

    total: int = 0
    by_engine: Mapping[str, int] = field(default_factory=dict)
    by_rule: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """How far one cap is used."""

    cap: str
    used: int
    limit: int

    @property
    def near(self) -> bool:
        """Tell whether the operator should be warned."""
        return self.limit > 0 and self.used >= WARN_AT * self.limit


def check_target(target: IPNetwork, policy: Policy) -> Refusal | None:
    """Return why nothing may ever be done to `target`; also asked just before applying.

    The never-block list holds in both directions: a target inside a listed prefix, and a
    target that contains one.
    """
    for guard in TARGET_GUARDS:
        if (refusal := guard.check(target, policy)) is not None:
            return refusal
    return None


def check_caps(engine: str, rule: str, live: Live, policy: Policy) -> Refusal | None:
    """Return which cap one more mitigation would break."""
    for usage in cap_usage(engine, rule, live, policy):
        if usage.used >= usage.limit:
            return Refusal(
                "cap",
                f"{usage.used} of {usage.limit} mitigations allowed by {usage.cap} are live",
                "release some, or raise the cap in the configuration",
            )
    return None


def cap_usage(engine: str, rule: str, live: Live, policy: Policy) -> list[Usage]:
    """Return how far each cap that concerns this engine and rule is used."""
    caps = policy.caps
    usages = [Usage("guard.caps.total", live.total, caps.total)]
    if engine in caps.per_engine:
        used = live.by_engine.get(engine, 0)
        usages.append(Usage(f"guard.caps.per_engine.{engine}", used, caps.per_engine[engine]))
    if caps.per_rule is not None:
        used = live.by_rule.get(rule, 0)
        usages.append(Usage(f"guard.caps.per_rule ({rule})", used, caps.per_rule))
    return usages


def _impossible(target: IPNetwork, _policy: Policy) -> Refusal | None:
    address = target.network_address
    kinds = {
        "the default route": target.prefixlen == 0,
        "multicast": target.is_multicast,
        "loopback": target.is_loopback,
        "link-local": target.is_link_local,
        "unspecified": address.is_unspecified,
        "the broadcast address": str(target) == "255.255.255.255/32",
    }
    for kind, holds in kinds.items():
        if holds:
            return Refusal(
                "impossible_target",
                f"{target} is {kind}; nothing is ever done to it",
                "look why the detector reports it: its networks_list should not hold it",
            )
    return None


def _not_ours(target: IPNetwork, policy: Policy) -> Refusal | None:
    own = policy.own_prefixes
    if any(covers(prefix, target) for prefix in own):
        return None
    return Refusal(
        "own_prefixes",
        f"{target} is in none of the {len(own)} prefixes of guard.own_prefixes",
        "add the prefix to guard.own_prefixes if it is yours",
    )


def _never_block(target: IPNetwork, policy: Policy) -> Refusal | None:
    for prefix in policy.never_block:
        if overlap(prefix, target):
            return Refusal(
                "never_block",
                f"{target} touches {prefix} of guard.never_block",
                "meet it by hand, or take the prefix off the list if it may be met",
            )
    return None


def _too_wide(target: IPNetwork, policy: Policy) -> Refusal | None:
    narrowest = _narrowest(target, policy)
    if target.prefixlen >= narrowest:
        return None
    return Refusal(
        "width",
        f"{target} is wider than /{narrowest}",
        f"lower guard.min_prefix_v{target.version} to allow it",
    )


def _narrowest(target: IPNetwork, policy: Policy) -> int:
    return policy.min_prefix_v4 if target.version == 4 else policy.min_prefix_v6  # noqa: PLR2004


def _owned_by(target: IPNetwork, policy: Policy) -> str:
    prefix = next((str(one) for one in policy.own_prefixes if covers(one, target)), "?")
    return f"{target} is in {prefix} of guard.own_prefixes"


def _unlisted(target: IPNetwork, policy: Policy) -> str:
    return f"{target} touches none of the {len(policy.never_block)} prefixes of guard.never_block"


def _narrow(target: IPNetwork, policy: Policy) -> str:
    narrowest = _narrowest(target, policy)
    return f"{target} is not wider than /{narrowest} (guard.min_prefix_v{target.version})"


class TargetGuard(NamedTuple):
    """One guard on the target alone.

    Attributes:
        check: says why not, or nothing.
        words: says why it lets the target pass; only asked when it does.
    """

    name: str
    check: Callable[[IPNetwork, Policy], Refusal | None]
    words: Callable[[IPNetwork, Policy], str]


TARGET_GUARDS: Final = (
    TargetGuard("impossible_target", _impossible, lambda target, _: f"{target} can be a host's"),
    TargetGuard("own_prefixes", _not_ours, _owned_by),
    TargetGuard("never_block", _never_block, _unlisted),
    TargetGuard("width", _too_wide, _narrow),
)
"""In the order in which they are asked."""
