# SPDX-License-Identifier: Apache-2.0
"""What a server's SYN-ACK teaches about its options, and where that contradicts its settings."""

from typing import Final

from hub.engines.native.keys import SynAck
from hub.isn_sync.report import Report
from hub.isn_sync.segments import SynAckSegment

_DEFAULT: Final = SynAck()


def syn_ack(reply: SynAckSegment, *, v6: bool) -> SynAck:
    """Return what our own SYN-ACK must show in the server's place, one hop nearer the client."""
    return SynAck(
        mss4=_DEFAULT.mss4 if v6 or reply.mss is None else reply.mss,
        mss6=reply.mss if v6 and reply.mss is not None else _DEFAULT.mss6,
        window=reply.window,
        wscale=reply.wscale,
        ttl=max(1, reply.ttl - 1),
        sack=reply.sack,
        timestamps=reply.tsval is not None,
        ecn=reply.ecn,
    )


def contradictions(report: Report, reply: SynAckSegment, *, cookie: bool) -> str:
    """Return which options of a SYN-ACK the server's settings contradict; empty when none.

    ECN is left out: a route may have it switched on by itself. A cookie without timestamps has
    nowhere to keep options, so that the kernel grants none.

    Args:
        report: with the settings.
        reply: to a SYN that asked for every option.
        cookie: whether it carries one.
    """
    nowhere = cookie and reply.tsval is None
    pairs = (
        ("timestamps", "tcp_timestamps", report.timestamps, reply.tsval is not None, False),
        ("SACK", "tcp_sack", report.sack, reply.sack, nowhere),
        (
            "window scaling",
            "tcp_window_scaling",
            report.window_scaling,
            reply.wscale is not None,
            nowhere,
        ),
    )
    said: list[str] = []
    for option, sysctl, setting, shown, excused in pairs:
        if setting is None or bool(setting) == shown or (excused and not shown):
            continue
        verb = "offers" if shown else "has no"
        said.append(f"its SYN-ACK {verb} {option} although {sysctl} is {setting}")
    if not said:
        return ""
    return f"{', and '.join(said)}: something on the way changes it, or the setting is new"
