# SPDX-License-Identifier: Apache-2.0
"""What webhooks and commands are told: one versioned JSON object for each switch on and off."""

import json
from typing import Any, Final, Literal

from hub.mitigations.model import Mitigation

VERSION: Final = 1
"""Grows when a field changes its meaning or goes; a new field alone does not change it."""

State = Literal["on", "off"]


def message(mitigation: Mitigation, state: State) -> dict[str, Any]:
    """Return the JSON object that tells of `mitigation`.

    The fields: `v`, `kind` (`notify` or `command`), `state`, `mitigation` and `revision` (together
    with `state` they name the message: a repeated one has the same three), `rule`, `target`,
    `service` (null where there is none), `engine`, `attacks`, `created_at` and `deadline` (Unix
    seconds), `reason` (why it goes off, empty while on), `drill` (true for what is no real attack).
    """
    return {
        "v": VERSION,
        "kind": mitigation.action.kind,
        "state": state,
        "mitigation": mitigation.id,
        "revision": mitigation.revision,
        "rule": mitigation.rule,
        "target": str(mitigation.target),
        "service": mitigation.service.name if mitigation.service else None,
        "engine": mitigation.engine,
        "attacks": list(mitigation.attacks),
        "created_at": mitigation.created_at,
        "deadline": mitigation.deadline,
        "reason": mitigation.reason,
        "drill": bool(mitigation.drill),
    }


def encode(mitigation: Mitigation, state: State) -> bytes:
    """Return `message` as one line of ASCII JSON."""
    return json.dumps(message(mitigation, state), separators=(",", ":")).encode() + b"\n"


def key(mitigation: Mitigation, state: State) -> str:
    """Return what names the message: the same for each repetition of it."""
    return f"{mitigation.id}:{mitigation.revision}:{state}"
