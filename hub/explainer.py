# SPDX-License-Identifier: Apache-2.0
"""Answers `explain`: what the journal tells of an event, an attack, a mitigation, an address."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Final

from hub.documents import read_attack, read_mitigation, readable
from hub.errors import IntakeError
from hub.explanation import (
    View,
    decision_view,
    entries,
    of_event,
    of_mitigation,
    refusal_view,
    told,
)
from hub.guard.checks import cap_usage
from hub.mitigations.model import Mitigation
from hub.net import IPNetwork, overlap
from hub.pipeline.guarding import target_guards
from hub.pipeline.state import State
from hub.rules.prospects import prospects
from hub.store.journal import Journal
from hub.store.records import StoredEvent
from hub.views import attack_view, event_view, mitigation_view

_ROWS: Final = 5000
_LATELY: Final = 20
_CLOSELY: Final = 3
_ID: Final = re.compile(r"[am]-[0-9A-Za-z_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Explainer:
    """Reads from the journal what was decided and done; only `address` looks at the present too.

    Attributes:
        state: the core.
        journal: holds the audit record.
        unready: says why engines cannot work.
    """

    state: State
    journal: Journal
    unready: Callable[[], list[str]]

    async def explain(self, thing: str, now: float) -> View | None:
        """Return the explanation of `thing`, None where nothing is known of it.

        Args:
            thing: number of an event, id of an attack or a mitigation, address or prefix.
            now: Unix seconds.

        Raises:
            IntakeError: `thing` is none of these.
            StoreError: the journal cannot be read.
        """
        if thing.isascii() and thing.isdigit() and len(thing) <= 18:  # noqa: PLR2004 - of SQLite
            return await self._event(int(thing))
        if _ID.fullmatch(thing):
            return await (self._attack(thing) if thing[0] == "a" else self._mitigation(thing))
        try:
            target = ip_network(thing, strict=False)
        except ValueError:
            raise IntakeError(
                f"{thing[:80]!r} is no event number, attack, mitigation, address or prefix",
                todo="give 17, a-0123456789, m-0123456789, 192.0.2.10 or 192.0.2.0/24",
            ) from None
        return await self._address(target, now)

    async def _event(self, number: int) -> View | None:
        event = await self.journal.event(number)
        rows = await self.journal.audit(event=number, limit=_ROWS)
        if event is None and not rows:
            return None
        ids = dict.fromkeys(row.attack for row in rows if row.attack)
        if event is not None and event.attack:
            ids[event.attack] = None
        found = of_event(await self._told(ids), number)
        origin = next((one["origin"] for one in found["decisions"] if one["origin"]), None)
        return {
            "kind": "event",
            "thing": str(number),
            "event": event and event_view(event),
            "origin": _origin(event) or (None if found["repeated"] else origin),
            "attacks": [await self._attack_view(one) for one in ids],
            **found,
        }

    async def _attack(self, name: str) -> View | None:
        whole = await self._told([name])
        about = await self._attack_view(name)
        if not whole["history"] and about["state"] is None:
            return None
        return {"kind": "attack", "thing": name, "attacks": [about], **whole}

    async def _mitigation(self, name: str) -> View | None:
        rows = await self.journal.audit(mitigation=name, limit=_ROWS)
        if not rows:
            return None
        ids = dict.fromkeys(row.attack for row in rows if row.attack)
        found = of_mitigation(await self._told(ids, mitigation=name), name)
        stored = await self.journal.mitigation(name)
        service = read_mitigation(stored).service if stored is not None else None
        return {
            "kind": "mitigation",
            "thing": name,
            "service": service and service.name,
            "attacks": [await self._attack_view(one) for one in ids],
            **found,
        }

    async def _told(self, attacks: Iterable[str], *, mitigation: str | None = None) -> View:
        rows = []
        for one in attacks:
            rows += await self.journal.audit(attack=one, limit=_ROWS)
        if mitigation is not None:
            rows += await self.journal.audit(mitigation=mitigation, limit=_ROWS)
        return told(entries({row.seq: row for row in rows}.values()))

    async def _attack_view(self, name: str) -> View:
        """Return an attack; of one whose row is gone, what its audit record tells."""
        live = self.state.tracker.get(name)
        if live is None and (row := await self.journal.attack(name)) is not None:
            live = read_attack(row)
        if live is not None:
            return attack_view(live, self.state.ledger.held_by(name))
        rows = entries(await self.journal.audit(attack=name, limit=_ROWS))
        about: View = {"id": name, "state": None, "targets": []}
        for entry in rows:
            if entry.row.kind.startswith("attack."):
                about["state"] = entry.row.kind.partition(".")[2]
                about |= entry.doc.get("about", {})
        return about

    # ---- an address -----------------------------------------------------------------------

    async def _address(self, target: IPNetwork, now: float) -> View:
        service = self.state.config.service_of(target)
        in_force = [row for row in self.state.ledger if overlap(row.target, target)]
        stored = await self.journal.attacks_on(target, _LATELY)
        attacks, _ = readable(stored, read_attack)
        live = [self.state.tracker.get(one.id) or one for one in attacks]
        events = await self.journal.events_on(target, _LATELY)
        closely = [await self._closely(one.id) for one in live[:_CLOSELY]]
        rules = prospects(self.state.rules, target, service.name if service else None)
        view: View = {
            "kind": "address",
            "thing": str(target),
            "service": service and service.name,
            "in_force": [mitigation_view(row, self.state.rates_of(row)) for row in in_force],
            "guards": target_guards(target, self.state.config.guard),
            "rules": rules,
            "rules_version": self.state.rules.version,
            "attacks": [attack_view(one, self.state.ledger.held_by(one.id)) for one in live],
            "lately": closely,
            "events": [event_view(one) for one in events],
        }
        goes_on = {one.id for one in live if self.state.tracker.get(one.id) is not None}
        return view | {"reasons": self._reasons(view, target, in_force, goes_on, now)}

    async def _closely(self, name: str) -> View:
        """Return the newest decision on an attack and what guards refused of it."""
        rows = entries(await self.journal.audit(attack=name, limit=_ROWS))
        decided = [one for one in rows if one.row.kind == "decision"]
        refused = [one for one in rows if one.row.kind == "mitigation.refused"]
        return {
            "attack": name,
            "decision": decision_view(decided[-1]) if decided else None,
            "refused": [refusal_view(one) for one in refused[-_LATELY:]],
        }

    def _reasons(
        self,
        view: View,
        target: IPNetwork,
        in_force: list[Mitigation],
        goes_on: set[str],
        now: float,
    ) -> list[View]:
        """Return why nothing happens, or not all that one might want; what matters most first."""
        found = [
            _reason("guard", f"{one['guard']}: {one['why']}", one["todo"])
            for one in view["guards"]
            if not one["passed"]
        ]
        found += self._brakes(target, now)
        found += [
            _reason("trouble", f"{row.id} is {row.state}: {row.error}", "see the engine's log")
            for row in in_force
            if row.error
        ]
        found += [_reason("engine", one, "see fnm-hub status") for one in self.unready()]
        if not any(one["possible"] and one["reached"] for one in view["rules"]):
            found.append(_reason("no_rule", "no rule can match an attack on it", "add a rule"))
        for one in view["lately"]:
            if one["attack"] in goes_on:
                found += _of_attack(one)
        if view["service"] is None:
            why = "no configured service covers it: rules that name a service do not match, and "
            why += "a SYN proxy uses defaults on every port"
            found.append(_reason("no_service", why, "describe it under services"))
        if not view["attacks"] and not view["events"]:
            why = "no detector has reported it, as far back as the journal reaches"
            todo = "does FastNetMon watch it? see networks_list, thresholds, and fnm-hub events"
            found.append(_reason("never_seen", why, todo))
        elif not goes_on and not in_force:
            found.append(_reason("no_attack", "no attack on it goes on now", ""))
        return found

    def _brakes(self, target: IPNetwork, now: float) -> list[View]:
        state, found = self.state, []
        if state.dry_run:
            found.append(
                _reason("dry_run", "dry-run: nothing is applied", "to protect: fnm-hub arm")
            )
        brake = state.memory.draining or state.memory.frozen
        if brake is not None:
            name = "drain" if state.memory.draining else "freeze"
            why = f"{brake.actor} put the {name} on: {brake.reason or 'no reason given'}"
            found.append(_reason(name, why, "take it off with: fnm-hub unfreeze"))
        for key, until in state.memory.hold_offs.items():
            held, _, what = key.partition(" ")
            if until > now and overlap(ip_network(held), target):
                why = f"an operator released {what} on {held}; held off for {until - now:.0f} s"
                found.append(_reason("hold_off", why, "wait, or lower guard.hold_off"))
        for usage in cap_usage("", "", state.ledger.live(), state.config.guard):
            if usage.used >= usage.limit:
                why = f"{usage.used} of {usage.limit} mitigations allowed by {usage.cap} are live"
                found.append(_reason("cap", why, "release some, or raise the cap"))
        return found


def _of_attack(one: View) -> list[View]:
    """Return why an attack that goes on is not met."""
    name, decision = one["attack"], one["decision"]
    found = [
        _reason("guard", f"{name}: {each['guard']} refused: {each['why']}", each["todo"])
        for each in one["refused"][-1:]
    ]
    if decision is not None and not decision["matched"]:
        missed = "; ".join(
            f"{rule['rule']} wants {rule['failed']['clause']} {rule['failed']['wanted']}, "
            f"seen {rule['failed']['seen']}"
            for rule in decision["rules"]
            if rule["failed"]
        )
        found.append(_reason("no_rule", f"{name}: no rule matched: {missed}", "add a rule"))
    return found


def _reason(what: str, why: str, todo: str) -> View:
    return {"what": what, "why": why, "todo": todo}


def _origin(event: StoredEvent | None) -> dict[str, Any] | None:
    if event is None:
        return None
    return {
        "delivery": event.delivery_id,
        "detector": event.detector,
        "stamp": event.stamp,
        "received_at": event.received_at,
    }
