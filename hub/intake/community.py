# SPDX-License-Identifier: Apache-2.0
"""FastNetMon Community: text on stdin, in the dialects of 1.1 to 1.2.5 and from 1.2.6 on.

The two differ in a few lines only and both may be cut off anywhere, so one reader takes every
line it knows from wherever it stands, and the dialect is only a name.
"""

import re
from typing import Final

from hub.errors import NotUnderstoodError
from hub.intake.address import spellings
from hub.intake.arguments import Call
from hub.intake.derive import derive
from hub.intake.model import (
    TRAFFIC_KINDS,
    WAYS,
    Action,
    Counter,
    Counters,
    Report,
    Reported,
    Scope,
)
from hub.intake.packets import host_way, read_lines
from hub.intake.values import MOST, word
from hub.net import IPAddress

MBPS: Final = 1_000_000
"""Traffic is printed in whole megabits per second, rounded down."""
_HEAD: Final = 65_536
"""The head has 3 kB at most and comes first."""

_SPEED: Final = re.compile(
    rb"\n(?:Total )?([Ii]ncoming|[Oo]utgoing) (?:(ip fragmented|dropped|tcp|syn tcp|udp|icmp) )?"
    rb"(traffic|pps|flows): (\d{1,19})"
    rb"(?:( mbps| packets per second| flows per second)(?=[ \t\r]{0,8}(?:\n|\Z))|(?=\r?\n))"
)
_WORD: Final = re.compile(
    rb"\n(Attack type|Attack direction|Attack protocol|Initial attack power): ([^\r\n]{1,64})"
    rb"(?=\r?\n)"
)
_POWER: Final = re.compile(rb"(\d{1,19}) packets per second")
_FLOW: Final = re.compile(
    rb"\n\S{1,64}:\d{1,5} [<>] \S{1,64}:\d{1,5} \d{1,20} bytes \d{1,20} packets"
    rb"(?=[ \t\r]{0,8}(?:\n|\Z))"
)
_ONLY_A: Final = re.compile(rb"\nAverage (?:in|out|packet)")
_ONLY_B: Final = re.compile(rb"\n(?:Incoming|Outgoing) dropped |\nAttack traffic dump\r?\n")

_KINDS: Final = {
    b"": "total", b"tcp": "tcp", b"syn tcp": "tcp_syn", b"udp": "udp", b"icmp": "icmp",
    b"ip fragmented": "fragmented", b"dropped": "dropped",
}  # fmt: skip
_UNITS: Final = {
    b"traffic": ("bps", b" mbps", MBPS),
    b"pps": ("pps", b" packets per second", 1),
    b"flows": ("flows", b" flows per second", 1),
}


def parse_community(call: Call, stdin: bytes) -> Report:
    """Return the report of one call with text, garbage or nothing on stdin.

    Whatever stdin holds, a command line that names an action and a host is an event; lines that
    are not understood leave their fields None.

    Raises:
        NotUnderstoodError: the command line names no action or no host.
    """
    action, target = _require(call)
    text = b"\n" + stdin
    head = text[:_HEAD]
    counters = _counters(head)
    packets = read_lines(text, host_way(spellings(target, call.spelling)))
    return Report(
        action=action,
        scope=Scope.HOST,
        target=target,
        dialect=_dialect(call, head),
        reported=_reported(call, head),
        derived=derive(counters, packets.ways, rounding=MBPS),
        counters=counters,
        packets=packets.count,
        flows=sum(1 for _ in _FLOW.finditer(text)),
    )


def _require(call: Call) -> tuple[Action, IPAddress]:
    if call.action is None:
        raise NotUnderstoodError(
            "no argument is an action that FastNetMon knows and stdin is no JSON document",
            todo="FastNetMon passes IP DIRECTION PPS ACTION, or ACTION IP with JSON on stdin",
        )
    if call.address is None:
        raise NotUnderstoodError(
            f"the argument {call.spelling[:64]!a} is not the address of one host",
            todo="FastNetMon passes one IPv4 or IPv6 address",
        )
    if call.address.is_unspecified:
        raise NotUnderstoodError(f"the unspecified address {call.address} cannot be a target")
    return call.action, call.address


def _dialect(call: Call, head: bytes) -> str:
    if _ONLY_B.search(head):
        return "community-b"
    if _ONLY_A.search(head) or call.action is Action.ATTACK_DETAILS:
        return "community-a"
    return "community" if call.community else "advanced"


def _reported(call: Call, head: bytes) -> Reported:
    words: dict[bytes, str] = {}
    for key, value in _WORD.findall(head):
        words.setdefault(key, value.decode("utf-8", "replace").rstrip(" \t"))
    pps = call.pps
    if pps is None and (power := _POWER.match(words.get(b"Initial attack power", "").encode())):
        pps = _bounded(int(power[1]))
    return Reported(
        direction=call.direction or word(words.get(b"Attack direction")),
        attack_type=word(words.get(b"Attack type")),
        protocol=word(words.get(b"Attack protocol")),
        pps=pps,
    )


def _counters(head: bytes) -> Counters:
    cells: dict[tuple[str, str], dict[str, int | None]] = {}
    for way, kind, what, number, unit in _SPEED.findall(head):
        name, wanted, factor = _UNITS[what]
        if unit == wanted or (what == b"flows" and not unit):
            cell = cells.setdefault((way.decode().lower(), _KINDS[kind]), {})
            cell.setdefault(name, _bounded(int(number) * factor))
    return {
        way: {kind: Counter(**cells.get((way, kind), {})) for kind in TRAFFIC_KINDS} for way in WAYS
    }


def _bounded(value: int) -> int | None:
    return value if value <= MOST else None
