# SPDX-License-Identifier: Apache-2.0
"""Watches the hub from outside, as an operator would, and tells what changes."""

from collections.abc import Callable
from time import sleep
from typing import Final, TypeVar

from hub.clock import Clock
from scripts.lab.commands import LabError, Process
from scripts.lab.hub_api import HubApi, Item
from scripts.lab.timeline import Timeline

_POLL: Final = 0.2
_OVER: Final = {"released", "failed", "dry_run"}
_KINDS: Final = {
    "tcp": "a SYN proxy: only clients that complete the handshake get through",
    "acl": "a filter that drops the flood's protocol",
    "sorb": "a limit per source: who sends too much is blocked for a while",
}

Found = TypeVar("Found")


class Watch:
    """Polls the hub five times a second while it waits, and says every change on the timeline.

    Args:
        processes: what must be running all the while.
        ours: what of it is of this project.
    """

    def __init__(
        self,
        api: HubApi,
        timeline: Timeline,
        clock: Clock,
        processes: tuple[Process, ...],
        *,
        ours: tuple[Process, ...] = (),
    ) -> None:
        self.ours = ours
        self._api, self._timeline, self._clock = api, timeline, clock
        self._processes = processes
        self._events: dict[int, Item] = {}
        self._told: dict[str, str] = {}
        self._mitigations: list[Item] = []
        self._attacks: list[Item] = []

    def event(self, action: str, since: float) -> Item | None:
        """Return the first event `action` that was stamped after `since`, Unix seconds."""
        return next(
            (
                item
                for _, item in sorted(self._events.items())
                if item["action"] == action and item["stamp"] >= since
            ),
            None,
        )

    def active(self, kind: str, since: float) -> Item | None:
        """Return the countermeasure of that kind which went live after `since`."""
        for item in self._mitigations:
            if item["action"]["kind"] == kind and item["created_at"] >= since:
                if item["state"] == "failed":
                    raise LabError(f"countermeasure {item['id']} failed: {item['error']}")
                if item["state"] == "active":
                    return item
        return None

    def attacks(self, since: float) -> int:
        """Count the attacks that began after `since`, Unix seconds."""
        return sum(item["started_at"] >= since for item in self._attacks)

    def bans(self, since: float) -> int:
        """Count the bans that were stamped after `since`, Unix seconds."""
        events = self._events.values()
        return sum(item["action"] == "ban" and item["stamp"] >= since for item in events)

    def unfinished(self) -> list[Item]:
        """Return the countermeasures that are not over."""
        return [item for item in self._mitigations if item["state"] not in _OVER]

    def until(
        self, what: str, find: Callable[[], Found | None], *, seconds: float, todo: str = ""
    ) -> Found:
        """Return what `find` returns as soon as that is not None.

        Raises:
            LabError: it stayed None for `seconds`, or a program of the lab has ended.
        """
        end = self._clock.monotonic() + seconds
        while True:
            self.poll()
            if (found := find()) is not None:
                return found
            if self._clock.monotonic() >= end:
                late = f"{what}: did not happen within {seconds:.0f} s{self._troubles()}"
                raise LabError(late, todo=todo)
            sleep(_POLL)

    def during(self, seconds: float) -> None:
        """Let `seconds` pass."""
        end = self._clock.monotonic() + seconds
        while self._clock.monotonic() < end:
            self.poll()
            sleep(_POLL)

    def poll(self) -> None:
        """Look once."""
        for process in self._processes:
            process.require()
        self._attacks = self._api.items("attacks")
        attacks = {item["id"]: item for item in self._attacks}
        self._mitigations = self._api.items("mitigations")
        for event in reversed(self._api.items("events")):
            if event["number"] not in self._events and event["status"] != "pending":
                self._events[event["number"]] = event
                self._tell_event(event, attacks.get(event["attack"] or ""))
        for item in reversed(list(attacks.values())):
            self._tell(item, self._attack_words)
        for item in reversed(self._mitigations):
            self._tell(item, self._mitigation_words)

    def _troubles(self) -> str:
        errors = [f"{item['id']}: {item['error']}" for item in self.unfinished() if item["error"]]
        return f"; the hub says {'; '.join(errors)}" if errors else ""

    def _tell(self, item: Item, words: Callable[[Item], str]) -> None:
        state = f"{item['state']} {item.get('held', '')}"
        if self._told.get(item["id"]) != state:
            self._told[item["id"]] = state
            if text := words(item):
                self._timeline.say("hub", text)

    def _tell_event(self, event: Item, attack: Item | None) -> None:
        target = event["target"]
        if event["action"] == "ban":
            reported = attack["reported"] if attack else {}
            text = (
                f"ban: {target} is under attack, in its words {reported.get('attack_type')} "
                f"{reported.get('direction')} at {reported.get('pps')} packets/s; calls fnm-notify"
            )
        elif event["action"] == "unban":
            text = f"unban: the attack on {target} is over; calls fnm-notify"
        else:
            text = f"{event['action']}: more about {target}; calls fnm-notify"
        self._timeline.say("fastnetmon", text)

    def _attack_words(self, item: Item) -> str:
        if item["state"] == "active":
            unclear = " (which side began it cannot be told from the report)"
            way = unclear if item["direction"] == "unknown" else f", {item['direction']}"
            return f"attack {item['id']}: {item['attack_type']}{way}"
        if item["held"]:
            return (
                f"attack {item['id']} is {item['held']}: the detector is blind to what is met, "
                "and its unban is not believed"
            )
        if item["state"] == "ending":
            wait = item["ends_at"] - self._clock.time()
            return (
                f"attack {item['id']} is ending: protection stays {wait:.0f} s in case it returns"
            )
        return f"attack {item['id']} has ended"

    def _mitigation_words(self, item: Item) -> str:
        kind = item["action"]["kind"]
        if item["state"] == "active":
            return (
                f"{kind} on {item['target']} is live in the kernel: {_KINDS.get(kind, kind)} "
                f"(rule {item['rule']}, {item['id']})"
            )
        if item["state"] == "failed":
            return f"{kind} on {item['target']} failed: {item['error']}"
        return f"{kind} on {item['target']} is off again" if item["state"] == "released" else ""
