# SPDX-License-Identifier: Apache-2.0
"""Everything about one attack or one event."""

import base64
import binascii
import json
from typing import Any

from hub.cli.lists import (
    action_word,
    attack_target,
    left,
    show_events,
    show_mitigations,
)
from hub.cli.text import STATE_STYLES, Screen, age, amount, clean, clock, join, moment, target

_MAX_RAW_LINES = 200


def show_attack(screen: Screen, attack: dict[str, Any]) -> None:
    """Print the answer of `/v1/attacks/{id}`."""
    now = float(attack["now"])
    state = clean(attack["state"])
    drill = f"  DRILL {clean(attack['drill'])}" if attack.get("drill") else ""
    screen.text(
        f"attack {clean(attack['id'])}  {state}  {attack_target(attack)}{drill}",
        STATE_STYLES.get(state, "bold"),
    )
    if attack.get("hostgroup") or len(attack["targets"]) > 1:
        screen.field("targets", ", ".join(target(one) for one in attack["targets"]))
    kind = (clean(attack["attack_type"]), clean(attack["protocol"]), clean(attack["direction"]))
    screen.field("kind", ", ".join(kind))
    reported = attack.get("reported") or {}
    said = [f"{clean(key)} {clean(value)}" for key, value in reported.items() if value is not None]
    screen.field("reported as", ", ".join(said) or "nothing")
    screen.field("highest", f"{amount(attack['pps'])} packets/s, {amount(attack['bps'])} bit/s")
    screen.field("started", moment(attack["started_at"], now))
    screen.field("last news", moment(attack["updated_at"], now))
    if attack.get("ended_at") is not None:
        screen.field("ended", moment(attack["ended_at"], now))
    else:
        screen.field("ends", f"{age(attack['ends_at'], now)} unless something arrives")
    if attack.get("held"):
        screen.field("held", f"{clean(attack['held'])}; no detector reports it any more")
    if attack.get("episodes", 1) > 1:
        screen.field("episodes", f"{attack['episodes']}: it comes and goes")
    for holder in attack.get("holders", []):
        screen.field("held by", _holder(holder, now))
    heading(screen, "mitigations")
    show_mitigations(screen, {"now": now, "items": attack["mitigations"]})
    heading(screen, "decisions")
    _audit(screen, attack.get("audit", []))
    heading(screen, "events")
    show_events(screen, {"now": now, "items": attack["events"]})


def show_mitigation(screen: Screen, mitigation: dict[str, Any], now: float) -> None:
    """Print one mitigation in a few lines; of one the journal has lost, there is only its id."""
    state = clean(mitigation["state"])
    if "target" not in mitigation:
        screen.text(f"mitigation {clean(mitigation['id'])}  {state}")
        return
    line = join(
        (
            f"mitigation {clean(mitigation['id'])}",
            state.replace("_", "-"),
            f"{action_word(mitigation['action'])} on {target(mitigation['target'])}",
            f"by {clean(mitigation['engine'])}",
        )
    )
    screen.text(line, STATE_STYLES.get(state, ""))
    screen.field("remaining", left(mitigation, now))
    if mitigation.get("error"):
        screen.field("error", clean(mitigation["error"]), "alarm")


def show_event(screen: Screen, event: dict[str, Any]) -> None:
    """Print the answer of `/v1/events/{n}`, with what the detector wrote."""
    now = float(event["now"])
    what = f"{clean(event.get('action') or '?')} {target(event.get('target') or '-')}"
    screen.text(f"event {clean(event['number'])}  {what}  {clean(event['status'])}", "bold")
    screen.field("detector", f"{clean(event['detector'])} via {clean(event['via'])}")
    screen.field("stamp", moment(event["stamp"], now))
    screen.field("received", moment(event["received_at"], now))
    screen.field("delivery", clean(event["delivery_id"]))
    if event.get("attack"):
        screen.field("attack", clean(event["attack"]))
    if event.get("note"):
        screen.field("note", clean(event["note"]), "yellow")
    heading(screen, "understood as")
    report = event.get("report")
    if report is None:
        screen.line("  nothing", "yellow")
    else:
        for line in json.dumps(report, indent=2, ensure_ascii=True).splitlines():
            screen.text(line, indent=2)
    if event.get("audit"):
        heading(screen, "decisions")
        _audit(screen, event["audit"])
    heading(screen, "as it came")
    _raw(screen, event.get("raw") or "")


def heading(screen: Screen, text: str) -> None:
    """Begin a part of the answer."""
    screen.line()
    screen.line(text, "bold")


def _holder(holder: dict[str, Any], now: float) -> str:
    parts = [clean(holder["detector"]), f"since {moment(holder['since'], now)}"]
    if holder.get("direction"):
        parts.append(f"says {clean(holder['direction'])}")
    if holder.get("attack_uuid"):
        parts.append(clean(holder["attack_uuid"]))
    return ", ".join(parts)


def _audit(screen: Screen, entries: list[dict[str, Any]]) -> None:
    if not entries:
        screen.line("none")
    for entry in entries:
        parts = [clean(entry.get(key) or "") for key in ("actor", "what", "outcome")]
        screen.text(join((clock(entry.get("time")), *parts)))
        if entry.get("reason"):
            screen.text(f"because {clean(entry['reason'])}", indent=10)
        for line in entry.get("trace") or []:
            shown = line if isinstance(line, str) else json.dumps(line)
            screen.text(clean(shown), "dim", indent=10)


def _raw(screen: Screen, raw: str) -> None:
    try:
        content = base64.b64decode(raw)
    except (binascii.Error, ValueError):
        screen.line("  unreadable", "yellow")
        return
    try:
        envelope = json.loads(content)
        words = " ".join(str(word) for word in envelope["args"])
        stdin = base64.b64decode(envelope["stdin"])
    except (ValueError, KeyError, TypeError, RecursionError):
        _lines(screen, content)
        return
    screen.field("arguments", clean(words) or "none")
    if envelope.get("truncated"):
        screen.field("", "the sender cut the rest off", "yellow")
    _lines(screen, stdin)


def _lines(screen: Screen, content: bytes) -> None:
    lines = content.decode("utf-8", "surrogateescape").splitlines()
    for line in lines[:_MAX_RAW_LINES]:
        screen.text(clean(line.replace("\t", "    ")), indent=2)
    if len(lines) > _MAX_RAW_LINES:
        screen.line(f"  {len(lines) - _MAX_RAW_LINES} more lines: add --json", "dim")
