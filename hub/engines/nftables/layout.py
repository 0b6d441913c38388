# SPDX-License-Identifier: Apache-2.0
"""The table that is installed once: hooks, gates that stand open for nobody, counters.

A mitigation is an element with a timeout in a gate, a verdict map from the target to a chain
with the work. So the kernel ends it by itself, and nothing is looked up twice for a packet that
concerns nobody. Several mitigations may cover one address, hence several layers of each gate:
layers `h` hold addresses, layers `n` prefixes.

The elements of `flt` and `syn` count the packets they let in. What a filter drops is counted in
the sets `hits`, by the target's first address and the number of the profile: many targets share
the rule that drops.
"""

import hashlib
import json
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any, Final

from hub.engines.nftables.expr import (
    ACCEPT,
    COUNT,
    RETURN,
    Commands,
    Json,
    any_bit,
    at_least,
    concat,
    constant,
    count,
    field,
    forget,
    goto,
    is_,
    is_not,
    jump,
    masked,
    meta,
    no_flag,
    one_of,
    only_flag,
    remember,
    span,
    vmap,
)
from hub.net import IPNetwork

VERSIONS: Final = (4, 6)
TCP_LAYERS: Final = ("h0", "h1", "n0", "n1")
FILTER_LAYERS: Final = ("h0", "h1", "h2", "h3", "n0", "n1", "n2")
GATES: Final[dict[str, Sequence[str]]] = {
    "flt": FILTER_LAYERS,
    "raw": TCP_LAYERS,
    "syn": TCP_LAYERS,
    "back": TCP_LAYERS,
}
"""Groups of gates with their layers: filters; untracking; the proxy; the way back."""

COUNTED: Final = ("flt", "syn")
"""Groups whose elements count."""
HIT_SECONDS: Final = 3600
"""A target of which nothing was dropped for so long starts again from 0."""
HIT_TARGETS: Final = 65_536

COUNTERS: Final = (
    "acl_dropped",
    "acl_limited",
    "sorb_blocked",
    "sorb_dropped",
    "tcp_ack",
    "tcp_invalid",
    "tcp_known",
    "tcp_syn",
    "tcp_unknown",
)
LAYOUT_PREFIX: Final = "layout_"
BEFORE_DEFRAGMENTATION: Final = -450
RAW: Final = -300
AFTER_CONNTRACK: Final = -190
BEFORE_FILTER: Final = -10
KNOWN_SECONDS: Final = 3600
KNOWN_FLOWS: Final = 65_536
ICMP_ERRORS: Final = (3, 11, 12)
ICMPV6_ERRORS: Final = (1, 4)
NEIGHBOUR_DISCOVERY: Final = (133, 137)
LINK_HOP_LIMIT: Final = 255


def protocol(version: int) -> str:
    """Return nft's name of IPv4 or IPv6."""
    return "ip" if version == VERSIONS[0] else "ip6"


def address_type(version: int) -> str:
    """Return nft's data type for an address."""
    return f"ipv{version}_addr"


def gate(group: str, version: int, layer: str) -> str:
    """Return the name of one gate."""
    return f"{group}{version}_{layer}"


def gate_names() -> tuple[str, ...]:
    """Return the names of all gates."""
    return tuple(
        gate(group, version, layer)
        for group, layers in GATES.items()
        for version in VERSIONS
        for layer in layers
    )


def hits(version: int) -> str:
    """Return the name of the set that counts what filters drop."""
    return f"hits{version}"


def whole(target: IPNetwork) -> Json:
    """Return the expression of the destination, the same for every address in `target`."""
    destination = field(protocol(target.version), "daddr")
    if target.prefixlen == target.max_prefixlen:
        return destination
    return masked(destination, str(target.netmask))


def hit(target: IPNetwork, number: Any) -> Json:
    """Return the statement that counts a dropped packet of `target` under `number`.

    A full set ends its rule, so nothing else may stand in that.
    """
    key = concat(whole(target), constant(number))
    return remember(hits(target.version), key, HIT_SECONDS, COUNT)


def base(table: str) -> list[Json]:
    """Return the commands that create the whole empty table."""
    make = Commands(table)
    body = [
        *(make.add_counter(name) for name in COUNTERS),
        *_gates(make),
        *_filters(make),
        *_tracking(make),
        *_proxy(make),
        *_learning(make),
        *_hits(make),
    ]
    return [make.add_table(), make.add_chain(LAYOUT_PREFIX + digest(body)), *body]


def digest(value: object) -> str:
    """Return ten hexadecimal digits that stand for `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _gates(make: Commands) -> list[Json]:
    commands: list[Json] = []
    for group, layers in GATES.items():
        side = "saddr" if group == "back" else "daddr"
        for version in VERSIONS:
            chain = f"{group}{version}"
            commands.append(make.add_chain(chain))
            for layer in layers:
                name = gate(group, version, layer)
                interval = layer.startswith("n")
                counted = group in COUNTED
                commands.append(
                    make.add_map(name, address_type(version), interval=interval, counted=counted)
                )
                commands.append(make.add_rule(chain, vmap(field(protocol(version), side), name)))
    return commands


def _by_version(group: str) -> Json:
    ways = [["ipv4", goto(f"{group}4")], ["ipv6", goto(f"{group}6")]]
    return {"vmap": {"key": meta("nfproto"), "data": {"set": ways}}}


def _hook(make: Commands, name: str, hook: str, priority: int) -> Json:
    return make.add_chain(name, type="filter", hook=hook, prio=priority, policy="accept")


def _filters(make: Commands) -> list[Json]:
    # ICMP errors wait until conntrack has told whether they belong to a flow: path MTU discovery
    # has to survive. Only a neighbour on the link can send hop limit 255 (RFC 4861).
    errors = is_(field("icmp", "type"), one_of(ICMP_ERRORS))
    errors6 = is_(field("icmpv6", "type"), span(*ICMPV6_ERRORS))
    neighbours = is_(field("icmpv6", "type"), span(*NEIGHBOUR_DISCOVERY))
    from_link = is_(field("ip6", "hoplimit"), LINK_HOP_LIMIT)
    unrelated = is_not({"ct": {"key": "state"}}, "related")
    return [
        _hook(make, "filter_early", "prerouting", BEFORE_DEFRAGMENTATION),
        make.add_rule("filter_early", errors, RETURN),
        make.add_rule("filter_early", errors6, RETURN),
        make.add_rule("filter_early", from_link, neighbours, RETURN),
        make.add_rule("filter_early", _by_version("flt")),
        _hook(make, "filter_errors", "prerouting", AFTER_CONNTRACK),
        make.add_rule("filter_errors", errors, unrelated, goto("flt4")),
        make.add_rule("filter_errors", errors6, unrelated, goto("flt6")),
    ]


def _tracking(make: Commands) -> list[Json]:
    # The proxy's own last ACK to the server leaves with a wrong echoed timestamp when conntrack
    # sees it; since Linux 6.15 servers answer that with a challenge and wait. What SYNPROXY makes
    # has no socket, so the owner tells it from the machine's own connections.
    return [
        _hook(make, "raw_in", "prerouting", RAW),
        make.add_rule("raw_in", is_(meta("iifname"), "lo"), RETURN),
        make.add_rule("raw_in", only_flag("syn"), _by_version("raw")),
        _hook(make, "raw_out", "output", RAW),
        make.add_rule("raw_out", at_least(meta("skuid"), 0), RETURN),
        make.add_rule("raw_out", only_flag("ack"), _by_version("raw")),
    ]


def _flow(version: int, *, reverse: bool) -> Json:
    ip = protocol(version)
    client, server = ("daddr", "saddr") if reverse else ("saddr", "daddr")
    client_port, server_port = ("dport", "sport") if reverse else ("sport", "dport")
    return concat(
        field(ip, client), field("tcp", client_port), field(ip, server), field("tcp", server_port)
    )


def _known(version: int) -> str:
    return f"known{version}"


def _proxy(make: Commands) -> list[Json]:
    tracked_not = any_bit({"ct": {"key": "state"}}, "invalid", "untracked")
    tcp = is_(meta("l4proto"), "tcp")
    passed = (count("tcp_known"), ACCEPT)
    commands = [
        _hook(make, "proxy_forward", "forward", BEFORE_FILTER),
        _hook(make, "proxy_input", "input", BEFORE_FILTER),
        make.add_chain("proxy"),
        *_learn_rules(make, "proxy_forward"),
        make.add_rule("proxy_forward", tcp, tracked_not, jump("proxy")),
        make.add_rule("proxy_input", is_(meta("iifname"), "lo"), RETURN),
        make.add_rule("proxy_input", tcp, tracked_not, jump("proxy")),
    ]
    for version in VERSIONS:
        flow, known = _flow(version, reverse=False), _known(version)
        port, address = "inet_service", address_type(version)
        commands += [
            make.add_set(known, [address, port, address, port], KNOWN_FLOWS),
            make.add_rule("proxy", only_flag("syn"), forget(known, flow)),
            make.add_rule("proxy", no_flag("syn"), is_(flow, f"@{known}"), *passed),
        ]
    # Nothing leads to this rule. It keeps the kernel's SYNPROXY hooks in place, which translate
    # the timestamps of proxied connections for as long as these live, well past the protection.
    keep = make.add_rule("keep_hooks", {"synproxy": {"mss": 1460, "wscale": 7}})
    return [
        *commands,
        make.add_rule("proxy", _by_version("syn")),
        make.add_chain("keep_hooks"),
        keep,
    ]


def _learn_rules(make: Commands, chain: str) -> list[Json]:
    invalid = any_bit({"ct": {"key": "state"}}, "invalid")
    answers = any_bit(field("tcp", "flags"), "ack")
    return [
        make.add_rule(chain, invalid, no_flag("syn", "rst"), answers, jump(f"back{version}"))
        for version in VERSIONS
    ]


def _learning(make: Commands) -> list[Json]:
    # Only a server that has the connection answers without SYN or RST: a flow that conntrack
    # has never seen is proved by what comes back from it.
    commands = [
        _hook(make, "learn_out", "output", BEFORE_FILTER),
        *_learn_rules(make, "learn_out"),
    ]
    for version in VERSIONS:
        learn = remember(_known(version), _flow(version, reverse=True), KNOWN_SECONDS)
        commands += [make.add_chain(f"learn{version}"), make.add_rule(f"learn{version}", learn)]
    return commands


def _hits(make: Commands) -> list[Json]:
    # Nothing leads to these rules. nft 1.0.6 lets rules fill a set only if one does so in the
    # transaction that creates it.
    commands = [make.add_chain("keep_hits")]
    for version, anywhere in zip(VERSIONS, ("0.0.0.0/0", "::/0"), strict=True):
        name = hits(version)
        commands += [
            make.add_set(name, [address_type(version), "mark"], HIT_TARGETS),
            make.add_rule("keep_hits", hit(ip_network(anywhere), 1)),
        ]
    return commands
