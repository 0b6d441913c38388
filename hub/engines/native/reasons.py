# SPDX-License-Identifier: Apache-2.0
"""Why the native engine gave a packet its verdict; written by native/tools/reasons."""

from enum import IntEnum, StrEnum, unique
from typing import Self


@unique
class Verdict(StrEnum):
    """What became of a packet."""

    PASS = "pass"  # noqa: S105 - no password
    TX = "tx"
    DROP = "drop"


@unique
class Reason(IntEnum):
    """The index of a counter; `word` names it in statistics and samples."""

    verdict: Verdict
    words: str

    def __new__(cls, value: int, verdict: Verdict, words: str) -> Self:
        """Return the member for `value`."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.verdict = verdict
        member.words = words
        return member

    @property
    def word(self) -> str:
        """The reason's name on the control socket."""
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> "Reason | None":
        """Return the reason that synproxyd calls `word`; None for a newer engine's reason."""
        return cls.__members__.get(word.upper())

    UNPROTECTED = 0, Verdict.PASS, "no countermeasure is in force for the destination"
    NOT_IP = 1, Verdict.PASS, "neither IPv4 nor IPv6"
    NOT_CONCERNED = 2, Verdict.PASS, "no countermeasure on the destination judges this kind"
    WATCHED = 3, Verdict.PASS, "counted and learned, nothing is enforced"
    ACL_PASS = 4, Verdict.PASS, "an acl rule passes it past every other countermeasure"
    KNOWN_FLOW = 5, Verdict.PASS, "belongs to a flow in the flow table"
    LEARNED_FLOW = 6, Verdict.PASS, "belongs to a flow that was open before protection began"
    COOKIE_GOOD = 7, Verdict.PASS, "ACK with a valid SYN cookie"
    PROVEN_SYN = 8, Verdict.PASS, "SYN of a proven source, within its bucket"
    PROVEN_ACK = 9, Verdict.PASS, "segment of a proven source, within its bucket"
    GRACE = 10, Verdict.PASS, "unknown segment within the grace time and its bucket"
    UNKNOWN_ACK = 11, Verdict.PASS, "unknown segment within the bucket for such"
    SYN_ACK_IN = 12, Verdict.PASS, "answer to a SYN of the server's own, or what follows it"
    ICMP_ERROR = 13, Verdict.PASS, "ICMP error, path MTU discovery among them"
    COOKIE_SENT = 14, Verdict.TX, "SYN answered with a cookie"
    RESET_SENT = 15, Verdict.TX, "valid cookie answered with RST; the source is proven now"
    BAD_IP = 16, Verdict.DROP, "IP header or length is malformed"
    BAD_TRANSPORT = 17, Verdict.DROP, "TCP, UDP or ICMP header is cut off or malformed"
    BAD_FLAGS = 18, Verdict.DROP, "combination of TCP flags that no stack sends"
    BAD_SOURCE = 19, Verdict.DROP, "source address or port that cannot be genuine"
    BAD_CHECKSUM = 20, Verdict.DROP, "IP or TCP checksum is wrong"
    FRAGMENT = 21, Verdict.DROP, "fragment of a TCP segment"
    EXT_HEADERS = 22, Verdict.DROP, "IPv6 extension headers beyond what is walked"
    COOKIE_BAD = 23, Verdict.DROP, "segment of no known flow and without a valid cookie"
    RST_UNKNOWN = 24, Verdict.DROP, "RST of no known flow"
    SYN_ACK_LIMITED = 25, Verdict.DROP, "the same beyond the bucket for such"
    ICMP_LIMITED = 26, Verdict.DROP, "ICMP error beyond the bucket for such"
    COOKIE_LIMITED = 27, Verdict.DROP, "SYN from a prefix that gets no more answers now"
    ACL_DROP = 28, Verdict.DROP, "an acl rule drops it"
    ACL_LIMITED = 29, Verdict.DROP, "beyond the limit of an acl rule"
    SORB_OVER = 30, Verdict.DROP, "source exceeds its threshold and is blocked from now on"
    SORB_BLOCKED = 31, Verdict.DROP, "source is blocked"
    NO_ROOM = 32, Verdict.DROP, "the frame could not be resized for the answer"
    NO_STATE = 33, Verdict.PASS, "a table of the engine itself could not be read"
    SPLICE_OPEN = 34, Verdict.PASS, "ACK with a valid SYN cookie, made the SYN for the server"
    SPLICE_CLIENT = 35, Verdict.PASS, "translated from a client of a spliced flow"
    SPLICE_SERVER = 36, Verdict.PASS, "translated from the server of a spliced flow"
    SPLICE_ICMP = 37, Verdict.PASS, "ICMP error on a spliced flow, translated"
    SPLICE_PROBE = 38, Verdict.PASS, "SYN let through to learn what the server answers"
    SPLICE_ANSWERED = 39, Verdict.TX, "SYN-ACK of the server, answered for the client"
    SPLICE_REFUSED = 40, Verdict.TX, "SYN to a port that the server refuses, answered with RST"
    SPLICE_HELD = 41, Verdict.DROP, "first data, kept until the server has answered"
    SPLICE_EARLY = 42, Verdict.DROP, "segment of a flow whose server has not answered yet"
    SPLICE_SILENT = 43, Verdict.DROP, "SYN to a port on which the server does not answer"
    SPLICE_FULL = 44, Verdict.DROP, "no room for another spliced flow"
    SPLICE_OVER = 45, Verdict.DROP, "segment that no longer fits its spliced flow"
