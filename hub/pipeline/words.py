# SPDX-License-Identifier: Apache-2.0
"""How a state change is said: one log line and one audit row, with the ids that join them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hub.attacks.model import Attack
from hub.effects import Effects, Level
from hub.mitigations.model import Mitigation
from hub.store.records import AuditRow


def say(
    effects: Effects, level: Level, event: str, row: Mitigation, why: str, *, todo: str = ""
) -> None:
    """Add the canonical log line of a change of `row`; a warning or error names the next step."""
    effects.log(
        level,
        event,
        mitigation=row.id,
        attacks=list(row.attacks),
        target=str(row.target),
        kind=row.action.kind,
        engine=row.engine,
        rule=row.rule,
        state=str(row.state),
        deadline=round(row.deadline, 3),
        delivery=row.delivery,
        why=why,
        **({"todo": todo} if todo else {}),
        **marked(row.drill),
    )


def audit(
    effects: Effects,
    now: float,
    kind: str,
    reason: str,
    *,
    outcome: str = "",
    attack: Attack | None = None,
    mitigation: Mitigation | None = None,
    event: int | None = None,
    actor: str = "hub",
    trace: Sequence[str] = (),
    details: Mapping[str, Any] | None = None,
) -> None:
    """Add the audit rows from which the change can be explained alone, one an attack."""
    document: dict[str, Any] = {"outcome": outcome, "reason": reason, "trace": list(trace)}
    if mitigation is not None:
        document |= {
            "target": str(mitigation.target),
            "action": mitigation.action.model_dump(mode="json"),
            "engine": mitigation.engine,
            "rule": mitigation.rule,
            "state": str(mitigation.state),
            "deadline": mitigation.deadline,
        }
    drill = mitigation.drill if mitigation is not None else attack.drill if attack else ""
    document |= {**marked(drill), **(details or {})}
    held_by = mitigation.attacks if mitigation else ()
    about = [attack.id] if attack else [*held_by] or [""]
    text = json.dumps(document)
    effects.audit += [
        AuditRow(
            at=now,
            kind=kind,
            actor=actor,
            event=event,
            attack=attack_id,
            mitigation=mitigation.id if mitigation else "",
            doc=text,
        )
        for attack_id in about
    ]


def marked(drill: str) -> dict[str, str]:
    """Return the field that marks a line or a document as a drill's; none for what is real."""
    return {"drill": drill} if drill else {}


def rule_line(rule: Mapping[str, Any]) -> str:
    """Return one rule of a decision's trace in a line: matched, or the clause that failed."""
    if rule["matched"]:
        return f"{rule['rule']}: matched"
    failed = next((clause for clause in rule["clauses"] if not clause["held"]), None)
    if failed is None:
        return f"{rule['rule']}: did not match"
    return f"{rule['rule']}: {failed['clause']} is {failed['seen']}, wanted {failed['wanted']}"
