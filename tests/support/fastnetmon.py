# SPDX-License-Identifier: Apache-2.0
"""FastNetMon's calls for tests: the recorded ones, and texts of any release made to measure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.intake.model import Counter, Counters, no_counters

FOLDER = Path(__file__).parents[1] / "data" / "fastnetmon"
LABELS = {
    "fragmented": "ip fragmented",
    "dropped": "dropped",
    "tcp": "tcp",
    "tcp_syn": "syn tcp",
    "udp": "udp",
    "icmp": "icmp",
}
Speeds = Mapping[str, Mapping[str, int]]
"""`{"incoming": {"total": 5, "udp": 5}}`; what is absent is 0."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One recorded call."""

    name: str
    args: tuple[str, ...]
    stdin: bytes


def samples() -> list[Sample]:
    """Return every recorded call, in the order of their names."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        if path.stem == "timelines":
            continue
        record = json.loads(path.read_bytes())
        text = json.dumps(record["payload"]) if "payload" in record else record["stdin"]
        found.append(Sample(path.stem, tuple(record.get("args") or ()), text.encode()))
    return found


def sample(name: str) -> Sample:
    """Return one recorded call."""
    return next(found for found in samples() if found.name == name)


def payload(name: str, **changes: Any) -> dict[str, Any]:
    """Return the document of one recorded call, with top-level fields replaced."""
    document: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_bytes())["payload"]
    return {**document, **changes}


def pps(**ways: Mapping[str, int]) -> Counters:
    """Return counters of packets per second; kinds that are absent are 0."""
    return {
        way: {kind: Counter(pps=ways.get(way, {}).get(kind, 0)) for kind in kinds}
        for way, kinds in no_counters().items()
    }


def packet_line(
    source: str, destination: str, protocol: str, *, flags: str = "", frag: int = 0, ratio: int = 1
) -> str:
    """Return one packet line as 1.1.3 to 1.2.9 print it."""
    shown = f" flags: {flags}" if flags else ""
    return (
        f"2026-11-21 02:10:08.687420 {source}:0 > {destination}:0 protocol: {protocol}{shown}"
        f" frag: {frag}  packets: 1 size: 42 bytes ttl: 64 sample ratio: {ratio}  \n"
    )


def text_report(
    *, dialect: str, speeds: Speeds, mbps: Speeds | None = None, network: str = "", dump: str = ""
) -> str:
    """Return a text report.

    Args:
        dialect: `a` (1.1.3 to 1.2.5) or `b` (from 1.2.6).
        speeds: packets per second by direction and traffic kind.
        mbps: megabits per second, the same way.
        network: prefix for the subnet counters of 1.1.x to 1.2.2, dialect `a` only.
        dump: packet lines.
    """
    out = [
        "IP: 192.0.2.10",
        "Attack type: unknown",
        "Initial attack power: 500 packets per second",
        "Peak attack power: 500 packets per second",
        "Attack direction: outgoing",
        "Attack protocol: tcp",
    ]
    for label in ("Total", "Average") if dialect == "a" else ("Total",):
        for what, table, unit in (
            ("traffic", mbps or {}, "mbps"),
            ("pps", speeds, "packets per second"),
            ("flows", {}, "flows per second"),
        ):
            out += [
                f"{label} {way} {what}: {table.get(way, {}).get('total', 0)} {unit}"
                for way in ("incoming", "outgoing")
            ]
    for kind, label in LABELS.items():
        if kind == "dropped" and dialect == "a":
            continue
        for what, table, unit in (
            ("traffic", mbps or {}, "mbps"),
            ("pps", speeds, "packets per second"),
        ):
            out += [
                f"{way.capitalize()} {label} {what}: {table.get(way, {}).get(kind, 0)} {unit}"
                for way in ("incoming", "outgoing")
            ]
    text = "\n".join(out) + "\n"
    if dialect == "b":
        return f"{text}\n\n\nAttack traffic dump\n\n{dump}\n\nFlow dump\n\n"
    if network:
        text += f"\nNetwork: {network}\n"
        for label in ("Network", "Average network"):
            text += "".join(
                f"{label} {way} traffic: 977 mbps\n" for way in ("incoming", "outgoing")
            )
            text += "".join(
                f"{label} {way} pps: 9044 packets per second\n" for way in ("incoming", "outgoing")
            )
    return (
        f"{text}\nAverage packet size for incoming traffic: 54.3 bytes \n"
        f"Average packet size for outgoing traffic: 0.0 bytes \n\n\n{dump}"
    )
