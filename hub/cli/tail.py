# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub tail`: one line for whatever happens, across restarts of the daemon."""

import json
import time
from collections.abc import Iterator
from typing import Any, Final

from hub.cli.client import Client, UnreachableError
from hub.cli.lists import action_word, attack_target
from hub.cli.text import STATE_STYLES, Screen, amount, clean, clock, join, target

_AGAIN_SECONDS: Final = 1.0
_LEVELS: Final = {"warning": "yellow", "error": "alarm"}


def follow(client: Client) -> Iterator[dict[str, Any]]:
    """Yield what happens for ever; a restart of the daemon shows as two `connection` items.

    Raises:
        UnreachableError: nobody answered from the start.
    """
    seen = False
    up = False
    while True:
        try:
            for item in client.lines("/v1/stream"):
                if not up:
                    yield {"type": "connection", "up": True, "first": not seen}
                    seen = up = True
                if item.get("type") != "heartbeat":
                    yield item
        except UnreachableError:
            if not seen:
                raise
        if up:
            yield {"type": "connection", "up": False, "first": False}
            up = False
        time.sleep(_AGAIN_SECONDS)


def show_item(screen: Screen, item: dict[str, Any], *, as_json: bool) -> None:
    """Print one item on one line and hand it over at once."""
    if as_json:
        if item.get("type") != "connection":
            screen.raw(json.dumps(item))
    elif item.get("type") == "connection":
        _connection(screen, item)
    else:
        text, style = _words(item)
        screen.line(join((clock(item.get("time")), text)), style)
    screen.flush()


def _connection(screen: Screen, item: dict[str, Any]) -> None:
    if item.get("first"):
        if screen.has_reader:
            screen.line("-- waiting for what happens; Ctrl-C ends --", "dim")
    elif item.get("up"):
        screen.line("-- the daemon is back; what happened meanwhile: fnm-hub events --", "green")
    else:
        screen.line("-- the daemon went away; waiting for it --", "alarm")


def _words(item: dict[str, Any]) -> tuple[str, str]:
    kind = item.get("type")
    about = item.get(kind) if isinstance(kind, str) else None
    if kind == "notice":
        return f"{'notice':10}  {clean(item.get('text', ''))}", _LEVELS.get(
            item.get("level", ""), ""
        )
    if not isinstance(about, dict):
        return f"{clean(kind)[:10]:10}  {clean(json.dumps(item))}", ""
    change = clean(item.get("change") or about.get("state") or "").replace("_", "-")
    style = STATE_STYLES.get(about.get("state", ""), "")
    if kind == "event":
        return _event(about)
    if kind == "attack":
        return _attack(about, change), style
    if kind == "mitigation":
        return _mitigation(about, change), style
    return f"{clean(kind)[:10]:10}  {clean(json.dumps(about))}", ""


def _event(event: dict[str, Any]) -> tuple[str, str]:
    status = event.get("status", "")
    text = join(
        (
            f"{'event':10}",
            f"#{clean(event.get('number', '?'))} {clean(event.get('action') or '?')}",
            target(event.get("target") or "-"),
            f"from {clean(event.get('detector', '?'))}",
            clean(status),
            "DRILL" if event.get("drill") else "",
            clean(event.get("note") or ""),
        )
    )
    return text, STATE_STYLES.get(status, "")


def _attack(attack: dict[str, Any], change: str) -> str:
    return join(
        (
            f"{'attack':10}",
            clean(attack.get("id", "?")),
            change,
            attack_target({"targets": [], **attack}),
            "DRILL" if attack.get("drill") else "",
            clean(attack.get("attack_type", "")),
            f"{amount(attack.get('pps'))} pps",
        )
    )


def _mitigation(mitigation: dict[str, Any], change: str) -> str:
    action = action_word(mitigation.get("action", {}))
    return join(
        (
            f"{'mitigation':10}",
            clean(mitigation.get("id", "?")),
            change,
            f"{action} on {target(mitigation.get('target', '-'))}",
            f"by {clean(mitigation.get('engine', '?'))}",
            "DRILL" if mitigation.get("drill") else "",
            clean(mitigation.get("error") or ""),
        )
    )
