# SPDX-License-Identifier: Apache-2.0
"""Random countermeasures, most of them SYN proxies, on a few targets."""

import random
from ipaddress import ip_network
from typing import Any, Final

from tests.support.model_scene import (
    FOREVER,
    Keys,
    Ports,
    Rate,
    Rule,
    Scene,
    Slot,
    Sorb,
    Tcp,
    per_second,
)
from tests.support.packets import ACK, ICMP, ICMP6, SYN, TCP, UDP

HOSTS: Final = ("192.0.2.10", "192.0.2.11", "203.0.113.77", "2001:db8::10", "2001:db8::11")


def _rate(rng: random.Random, *, may_be_none: bool = True) -> Rate:
    if may_be_none and rng.random() < 0.3:
        return Rate()
    return per_second(rng.choice((1, 10, 1000, 10**6)), burst=rng.choice((0, 1, 3, 20)))


def _ports(rng: random.Random) -> Ports:
    return rng.choice(((), (), ((80, 80),), ((1, 100), (443, 443)), ((0, 65535),)))


def _key(rng: random.Random) -> tuple[int, int]:
    return rng.getrandbits(64), rng.getrandbits(64)


def _tcp(rng: random.Random) -> Tcp:
    keys = Keys((_key(rng), _key(rng)), (_key(rng), _key(rng)), _key(rng))
    return Tcp(
        mode=rng.choice(("isn-sync", "reset")),
        keys=keys,
        cookie_offset=rng.choice((rng.getrandbits(64), rng.getrandbits(33))),
        ts_offset=rng.choice((rng.getrandbits(64), rng.getrandbits(32))),
        scheme=rng.choice(("flow", "flow", "host", "none")),
        mss4=rng.randrange(1, 65536),
        mss6=rng.randrange(1, 65536),
        window=rng.randrange(65536),
        wscale=rng.randrange(15),
        ttl=rng.randrange(1, 256),
        has_sack=rng.random() < 0.8,
        has_wscale=rng.random() < 0.8,
        has_timestamps=rng.random() < 0.8,
        has_ecn=rng.random() < 0.5,
        grace_until=rng.choice((0, FOREVER)),
        grace=_rate(rng),
        unknown=_rate(rng),
        learned=_rate(rng),
        syn_ack_in=_rate(rng),
        icmp=_rate(rng),
        source=_rate(rng),
        ceiling=rng.choice((Rate(), _rate(rng))),
    )


def _span(rng: random.Random, most: int) -> tuple[int, int]:
    low, high = sorted((rng.randrange(most), rng.randrange(most)))
    return low, high


def _rule(rng: random.Random) -> Rule:
    rule = Rule(action=rng.choice(("drop", "pass", "limit")))
    if rule.action == "limit":
        rule.limit = _rate(rng)
    sources = ("198.51.0.0/16", "198.51.2.0/23", "198.51.1.3/32", "2001:db8:100::/40", "::/0")
    choices: dict[str, Any] = {
        "source": lambda: ip_network(rng.choice((*sources, "2001:db8:101:1::/64", "0.0.0.0/0"))),
        "protocol": lambda: rng.choice((TCP, UDP, ICMP, ICMP6, 132, 47)),
        "source_ports": lambda: rng.choice(((53, 53), (1024, 65535), _span(rng, 65536))),
        "destination_ports": lambda: rng.choice(((80, 80), (443, 500), _span(rng, 65536))),
        "length": lambda: rng.choice(((0, 60), (61, 65535), _span(rng, 1500))),
        "flags": lambda: rng.choice(((SYN | ACK, SYN), (0xFF, ACK), (ACK, ACK), (0x40, 0x40))),
        "icmp_type": lambda: rng.choice(((3, 3), (0, 8), (128, 129), _span(rng, 256))),
        "icmp_code": lambda: rng.choice(((0, 0), (1, 255))),
        "fragments": lambda: rng.random() < 0.5,
        "family": lambda: rng.choice((4, 6)),
    }
    for name in rng.sample(sorted(choices), rng.choice((1, 1, 2, 2, 3))):
        setattr(rule, name, choices[name]())
    if rule.source is not None and rule.family is not None:
        rule.family = None
    return rule


def _sorb(rng: random.Random) -> Sorb:
    byte = 1_000_000_000 * 1024 // rng.choice((1000, 100_000, 10**7))
    bps = Rate(byte, rng.choice((10**8, 10**9, 3 * 10**9)))
    return Sorb(
        pps=_rate(rng), bps=rng.choice((Rate(), bps)), block_ms=rng.choice((1, 1000, 600_000))
    )


def _slot(rng: random.Random, kind: str, number: int) -> Slot:
    settings: Tcp | Sorb | list[Rule] | None = None
    if kind == "tcp":
        settings = _tcp(rng)
    elif kind == "sorb":
        settings = _sorb(rng)
    elif kind == "acl":
        settings = [_rule(rng) for _ in range(rng.choice((0, 1, 3, 8, 60)))]
    deadline = 1 if rng.random() < 0.1 else FOREVER
    return Slot(settings=settings, ports=_ports(rng), generation=number, deadline=deadline)


def random_scene(rng: random.Random, *, verify: bool) -> Scene:
    """Return a few countermeasures on a few targets, most of them SYN proxies."""
    kinds = ["tcp", *rng.choices(("tcp", "tcp", "acl", "sorb", "watch"), k=rng.randrange(8))]
    slots = {number: _slot(rng, kind, number) for number, kind in enumerate(kinds, 1)}
    scene = Scene(slots=slots, verify=verify)
    for text in HOSTS:
        scene.targets[ip_network(text)] = _some(rng, slots)
    if rng.random() < 0.5:
        scene.targets[ip_network("192.0.2.0/24")] = _some(rng, slots)
        scene.targets[ip_network("2001:db8::/48")] = _some(rng, slots)
    return scene


def _some(rng: random.Random, slots: dict[int, Slot]) -> tuple[int, ...]:
    chosen = rng.sample(sorted(slots), rng.randrange(1, len(slots) + 1))
    kept: list[int] = []
    for index in chosen:
        same = [one for one in kept if slots[one].kind == slots[index].kind]
        if len(same) < 4:
            kept.append(index)
    return tuple(kept)
