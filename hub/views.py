# SPDX-License-Identifier: Apache-2.0
"""What the operator API shows: JSON objects made of the core's records (docs/protocols.md)."""

import json
from dataclasses import asdict
from typing import Any, Final

from hub.attacks.model import Attack
from hub.documents import Switch
from hub.mitigations.model import Mitigation
from hub.rates import Rates
from hub.store.records import AuditRow, StoredEvent

View = dict[str, Any]
DRILL_NOTE: Final = "drill: "
"""How the note of an event begins that was taken in under a drill's mark."""


def attack_view(attack: Attack, mitigations: list[str]) -> View:
    """Return an attack with the ids of its mitigations."""
    return {
        "id": attack.id,
        "targets": [str(target) for target in attack.targets],
        "hostgroup": attack.hostgroup,
        "direction": str(attack.direction),
        "attack_type": str(attack.attack_type),
        "protocol": attack.protocol,
        "state": str(attack.state),
        "started_at": attack.started_at,
        "updated_at": attack.updated_at,
        "ends_at": attack.ends_at,
        "ended_at": attack.ended_at,
        "end_reason": attack.end_reason,
        "held": attack.held,
        "pps": attack.pps,
        "bps": attack.bps,
        "linger": attack.linger,
        "holders": [
            {
                "detector": holder.detector,
                "attack_uuid": holder.key or None,
                "direction": holder.direction,
                "since": holder.since.time,
            }
            for holder in attack.holders
        ],
        "episodes": attack.episodes,
        "reported": asdict(attack.reported),
        "events": list(attack.events),
        "mitigations": mitigations,
        "drill": attack.drill or None,
    }


def rates_view(rates: Rates) -> View:
    """Return a measurement."""
    numbers = {one: getattr(rates, one) for one in Rates.__dataclass_fields__ if one != "packets"}
    return {**numbers, "packets": dict(rates.packets)}


def mitigation_view(row: Mitigation, rates: Rates | None = None) -> View:
    """Return a mitigation with what is measured of it now."""
    return {
        "id": row.id,
        "target": str(row.target),
        "action": row.action.model_dump(mode="json"),
        "engine": row.engine,
        "service": row.service.name if row.service else None,
        "rule": row.rule,
        "state": str(row.state),
        "created_at": row.created_at,
        "active_at": row.active_at,
        "deadline": row.deadline,
        "released_at": row.released_at,
        "attacks": list(row.attacks),
        "error": row.error,
        "reason": row.reason,
        "revision": row.revision,
        "drill": row.drill or None,
        "rates": None if rates is None else rates_view(rates),
    }


def event_view(event: StoredEvent) -> View:
    """Return an event without its bytes."""
    return {
        "number": event.number,
        "delivery_id": event.delivery_id,
        "detector": event.detector,
        "stamp": event.stamp,
        "received_at": event.received_at,
        "via": event.via,
        "action": event.action,
        "target": event.target,
        "status": event.status,
        "attack": event.attack or None,
        "note": event.note,
        "drill": event.status == "done" and event.note.startswith(DRILL_NOTE),
    }


def audit_view(row: AuditRow) -> View:
    """Return an audit row; what its document holds beyond the common fields is in `details`."""
    document = json.loads(row.doc)
    common = {key: document.pop(key, "") for key in ("outcome", "reason")}
    trace = document.pop("trace", [])
    return {
        "seq": row.seq,
        "time": row.at,
        "actor": row.actor,
        "what": row.kind,
        "event": row.event,
        "attack": row.attack or None,
        "mitigation": row.mitigation or None,
        **common,
        "trace": trace,
        "details": document,
    }


def switch_view(switch: Switch | None) -> View | None:
    """Return a brake, None when it is off."""
    return None if switch is None else asdict(switch)
