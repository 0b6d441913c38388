# SPDX-License-Identifier: Apache-2.0
"""The SYN proxy: its chains before tracking, at the proxy, and on the way back."""

from typing import Final

from hub.config import Service, TcpProfile
from hub.engines.nftables.expr import (
    ACCEPT,
    DROP,
    NOTRACK,
    RETURN,
    Json,
    any_bit,
    below,
    count,
    field,
    is_,
    is_not,
    jump,
    meta,
    no_flag,
    one_of,
    only_flag,
)
from hub.engines.nftables.profile import Draft
from hub.net import IPNetwork

LOWEST_MSS: Final = 536
LONGER_HEADER: Final = 20
"""An IPv6 header is so many bytes longer than an IPv4 one; the MSS is that much smaller."""
UNKNOWN_PPS: Final = 100
UNKNOWN_BURST: Final = 200


def tcp_draft(target: IPNetwork, service: Service | None, interface: str | None) -> Draft:
    """Return how the TCP ports of `target` are proxied.

    Args:
        target: says the family only; the gates hold the address.
        service: gives the ports and what is announced; all ports without one.
        interface: where clients come from, None for anywhere.
    """
    profile = service.tcp if service else TcpProfile()
    ports = sorted(set(service.tcp_ports)) if service else []
    announced = _announced(profile, target.version)
    outside = [[is_not(meta("iifname"), interface), RETURN]] if interface else []
    to_other = [[is_not(field("tcp", "dport"), one_of(ports)), RETURN]] if ports else []
    from_other = [[is_not(field("tcp", "sport"), one_of(ports)), RETURN]] if ports else []
    from_outside = [[is_(meta("iifname"), interface), RETURN]] if interface else []
    return Draft(
        kind="tcp",
        version=target.version,
        chains={
            "_raw": [*to_other, *_untrack(interface)],
            "_syn": [*outside, *to_other, *_proxy(announced)],
            "_back": [*from_outside, *from_other, [jump(f"learn{target.version}")]],
        },
        gates={"raw": "_raw", "syn": "_syn", "back": "_back"},
        sets={},
        steps=_steps(announced, ports, interface),
    )


def _announced(profile: TcpProfile, version: int) -> Json:
    mss = profile.mss if version == 4 else max(LOWEST_MSS, profile.mss - LONGER_HEADER)  # noqa: PLR2004
    flags = ["timestamp"] * profile.timestamps + ["sack-perm"] * profile.sack
    announced: Json = {"mss": mss, "wscale": profile.wscale}
    return {**announced, "flags": flags} if flags else announced


def _untrack(interface: str | None) -> list[list[Json]]:
    # The chain serves two hooks: only where packets leave is there an output interface.
    if interface is None:
        return [[NOTRACK]]
    return [[is_(meta("iifname"), interface), NOTRACK], [is_not(meta("oif"), 0), NOTRACK]]


def _proxy(announced: Json) -> list[list[Json]]:
    # A client in the handshake faces a closed window and cannot send data: data or an end of
    # an unknown flow belongs to one older than our tracking. A few may ask the server.
    data = [any_bit(field("tcp", "flags"), "psh", "fin"), no_flag("syn", "rst")]
    return [
        [only_flag("syn"), count("tcp_syn"), {"synproxy": announced}],
        [*data, below(UNKNOWN_PPS, UNKNOWN_BURST), count("tcp_unknown"), ACCEPT],
        [only_flag("ack"), count("tcp_ack"), {"synproxy": announced}],
        [count("tcp_invalid"), DROP],
    ]


def _steps(announced: Json, ports: list[int], interface: str | None) -> tuple[str, ...]:
    where = f"TCP ports {', '.join(map(str, ports))}" if ports else "all TCP ports"
    options = " ".join(announced.get("flags", ["no timestamps, no sack"]))
    return (
        f"answer SYNs to {where} with SYN cookies"
        + (f" where they come in by {interface}" if interface else ""),
        f"announce mss {announced['mss']}, wscale {announced['wscale']}, {options}",
        "pass proven clients and the flows already open, drop what fits no flow",
    )
