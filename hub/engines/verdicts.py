# SPDX-License-Identifier: Apache-2.0
"""What became of the packets that a counter of an engine counts."""

from typing import Final

from hub.engines.native.reasons import Reason, Verdict

_NATIVE: Final = {Verdict.PASS: "pass", Verdict.TX: "answer", Verdict.DROP: "drop"}
_NFTABLES: Final = {
    "tcp.known_passed": ("pass", "of a flow that the server knows"),
    "tcp.unknown_passed": ("pass", "of a flow not seen before, let through to ask the server"),
    "tcp.cookie_valid": ("pass", "ACK with a valid SYN cookie"),
    "tcp.syn_packets": ("answer", "SYN answered with a cookie"),
    "tcp.cookie_invalid": ("drop", "ACK without a valid SYN cookie"),
    "tcp.invalid_dropped": ("drop", "fits no flow"),
    "acl.dropped": ("drop", "an acl rule drops it"),
    "acl.limited": ("drop", "beyond the limit of an acl rule"),
    "sorb.dropped": ("drop", "its source is above its threshold, or blocked"),
}
"""Each packet that nftables judges is in one of these; its other counters count it once more."""


def verdict_of(counter: str) -> str | None:
    """Return one of `hub.history.VERDICTS`, None for a counter of anything else.

    Args:
        counter: as the telemetry of `native` or `nftables` names it.
    """
    reason = Reason.of(counter)
    if reason is not None:
        return _NATIVE[reason.verdict]
    return _NFTABLES.get(counter, (None, ""))[0]


def words_of(counter: str) -> str:
    """Return what such a counter means; empty for one that has no verdict."""
    reason = Reason.of(counter)
    return _NFTABLES.get(counter, (None, ""))[1] if reason is None else reason.words
