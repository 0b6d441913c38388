# SPDX-License-Identifier: Apache-2.0
"""FastNetMon's JSON: Advanced (script and web callback), Community's Redis and MongoDB values.

Taken by shape. The command line is asked only for what the document does not say.
"""

import json
import math
import re
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any, Final

from hub.errors import NotUnderstoodError
from hub.intake.address import parse_address, spellings
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
from hub.intake.packets import Packets, Way, host_way, network_way, read_detailed, read_lines
from hub.intake.values import MOST, amount, plain, word
from hub.net import IPAddress, IPNetwork

_START: Final = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*\{")
_LONGEST_NUMBER: Final = 20
_NETWORKS: Final = 65_536
"""More networks than this are not read from one host group."""
_TOP: Final = frozenset({"action", "ip", "hostgroup_name", "attack_details", "flow_spec_rules"})
_PARTIAL: Final = frozenset({Action.PARTIAL_BLOCK, Action.PARTIAL_UNBLOCK})
_NAMES: Final = {
    "tcp": "tcp", "tcp_syn": "syn_tcp", "udp": "udp", "icmp": "icmp",
    "fragmented": "ip_fragmented", "dropped": "dropped",
}  # fmt: skip


def is_document(stdin: bytes) -> bool:
    """Say whether `stdin` starts as a JSON object."""
    return _START.match(stdin) is not None


def load_document(stdin: bytes) -> dict[str, Any]:
    """Return the JSON object in `stdin`, with None for every number that no field can hold.

    Bytes that are no UTF-8 become U+FFFD: a broken country name must not cost the event.

    Raises:
        NotUnderstoodError: not JSON, cut off, or nested too deep to be read.
    """
    text = stdin.decode("utf-8", "replace").lstrip("\ufeff").rstrip("\0")
    try:
        document = json.loads(
            text, parse_int=_whole, parse_float=_finite, parse_constant=lambda _: None
        )
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise NotUnderstoodError(
            f"stdin starts like a JSON object but cannot be read: {reason}",
            todo="check whether what lies between FastNetMon and the hub cuts its input",
        ) from None
    return _unwrapped(document)


def parse_advanced(document: Mapping[str, Any], call: Call) -> Report:
    """Return the report that one document is.

    Raises:
        NotUnderstoodError: no known action, or nothing that is attacked.
    """
    details = _details(document)
    action = _action(document, call)
    networks = _networks(document.get("hostgroup_networks"))
    rules = tuple(plain(rule) for rule in _items(document, "flow_spec_rules", dict))
    scope = _scope(document)
    target, spelling = None, ""
    if scope is Scope.HOST:
        target, spelling = _target(document, action, call, rules)
    hostgroup = word(document.get("hostgroup_name")) or word(details.get("host_group"))
    if scope is Scope.HOSTGROUP and hostgroup is None and not networks:
        raise NotUnderstoodError("the host group has neither a name nor networks")
    counters = _counters(details)
    way = network_way(networks) if target is None else host_way(spellings(target, spelling))
    packets = _packets(document, way)
    return Report(
        action=action,
        scope=scope,
        target=target,
        dialect=_dialect(document, details),
        hostgroup=hostgroup,
        attack_uuid=_uuid(details),
        reported=_reported(details),
        derived=derive(counters, packets.ways, rounding=0),
        counters=counters,
        packets=packets.count,
        networks=networks,
        flow_spec_rules=rules,
    )


def _whole(digits: str) -> int | None:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else None


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def _unwrapped(document: dict[str, Any]) -> dict[str, Any]:
    """Return the attack in a MongoDB document, which holds it under one key per attack."""
    if document.keys() & _TOP:
        return document
    inner = [
        value for value in document.values() if isinstance(value, dict) and value.keys() & _TOP
    ]
    return inner[0] if len(inner) == 1 else document


def _details(document: Mapping[str, Any]) -> Mapping[str, Any]:
    details = document.get("attack_details")
    if not isinstance(details, dict):
        return {}
    # The oldest releases wrote the labels of the text as keys: "Total incoming pps".
    return {key.lower().replace(" ", "_"): value for key, value in details.items()}


def _action(document: Mapping[str, Any], call: Call) -> Action:
    said = document.get("action")
    if isinstance(said, str) and said:
        try:
            return Action(said)
        except ValueError:
            raise NotUnderstoodError(
                f"the action {said[:64]!a} is none that FastNetMon is known to report"
            ) from None
    if call.action is not None:
        return call.action
    if isinstance(document.get("attack_details"), dict) and "ip" in document:
        return Action.BAN  # Redis and MongoDB before 1.2.3: written at a ban, without saying so
    raise NotUnderstoodError("neither the document nor the arguments name an action")


def _scope(document: Mapping[str, Any]) -> Scope:
    said = document.get("alert_scope")
    if isinstance(said, str) and said in {Scope.HOST.value, Scope.HOSTGROUP.value}:
        return Scope(said)
    address = _address(document)
    nowhere = address is None or address.is_unspecified
    return Scope.HOSTGROUP if nowhere and word(document.get("hostgroup_name")) else Scope.HOST


def _address(document: Mapping[str, Any]) -> IPAddress | None:
    text = document.get("ip")
    return parse_address(text) if isinstance(text, str) else None


def _target(
    document: Mapping[str, Any], action: Action, call: Call, rules: tuple[dict[str, Any], ...]
) -> tuple[IPAddress | None, str]:
    """Return the attacked host and how it was spelled; None for flow spec rules on no one host."""
    for address, spelling in (
        (_address(document), document.get("ip")),
        (call.address, call.spelling),
    ):
        if address is not None and not address.is_unspecified:
            return address, str(spelling)
    if action in _PARTIAL and rules:
        return _destination(rules), ""
    said = document.get("ip")
    if isinstance(said, str) and said:
        raise NotUnderstoodError(f"the ip {said[:64]!a} is not the address of one host")
    raise NotUnderstoodError("neither the document nor the arguments name a target")


def _destination(rules: tuple[dict[str, Any], ...]) -> IPAddress | None:
    """Return the one host that all rules are about, if there is one.

    A rule made by hand carries `0.0.0.0` as its address; what it blocks is in its prefix.
    """
    texts = [rule.get("destination_prefix") for rule in rules]
    hosts = {parse_address(text) if isinstance(text, str) else None for text in texts}
    host = hosts.pop()
    return None if hosts or host is None or host.is_unspecified else host


def _networks(value: Any) -> tuple[IPNetwork, ...]:
    networks: list[IPNetwork] = []
    for text in value[:_NETWORKS] if isinstance(value, list) else ():
        if isinstance(text, str):
            try:
                networks.append(ip_network(text, strict=False))
            except ValueError:
                continue
    return tuple(networks)


def _items(document: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    value = document.get(key)
    return [item for item in value if isinstance(item, kind)] if isinstance(value, list) else []


def _dialect(document: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    uuid = details.get("attack_uuid")
    stored = "action" not in document or (
        isinstance(uuid, str) and not uuid.strip("0-") and "attack_direction" not in details
    )
    return "community-json" if stored else "advanced-json"


def _uuid(details: Mapping[str, Any]) -> str | None:
    uuid = word(details.get("attack_uuid"))
    return uuid if uuid is not None and uuid.strip("0-") else None


def _reported(details: Mapping[str, Any]) -> Reported:
    return Reported(
        direction=word(details.get("attack_direction"))
        or word(details.get("attack_detection_threshold_direction")),
        attack_type=word(details.get("attack_type")),
        protocol=word(details.get("attack_protocol")),
        pps=amount(details.get("initial_attack_power")),
    )


def _counters(details: Mapping[str, Any]) -> Counters:
    return {
        way: {
            kind: Counter(
                pps=amount(details.get(f"{_prefix(way, kind)}_pps")),
                bps=_bits(details, f"{_prefix(way, kind)}_traffic"),
                flows=amount(details.get(f"total_{way}_flows")) if kind == "total" else None,
            )
            for kind in TRAFFIC_KINDS
        }
        for way in WAYS
    }


def _prefix(way: str, kind: str) -> str:
    return f"total_{way}" if kind == "total" else f"{way}_{_NAMES[kind]}"


def _bits(details: Mapping[str, Any], key: str) -> int | None:
    """Return bits per second; releases before 1.2.3 give bytes per second only."""
    bits = amount(details.get(f"{key}_bits"))
    if bits is None and (octets := amount(details.get(key))) is not None and octets <= MOST // 8:
        bits = octets * 8
    return bits


def _packets(document: Mapping[str, Any], way: Way) -> Packets:
    """Return the packet lines; a document may hold them twice, as text and as objects."""
    dump = document.get("packet_dump")
    lines = [dump] if isinstance(dump, str) else _items(document, "packet_dump", str)
    text = "\n".join(["", *lines]).encode("ascii", "replace")
    detailed = read_detailed(document.get("packet_dump_detailed"), way)
    plain_text = read_lines(text, way)
    return detailed if detailed.count >= plain_text.count else plain_text
