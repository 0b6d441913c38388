# SPDX-License-Identifier: Apache-2.0
"""What the HTTP side asks of the daemon behind it, and the shapes of what it shows."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hub.drills.model import Hook
from hub.intake.envelope import Envelope
from hub.pipeline.drilling import Wish

View = dict[str, Any]
"""One object as the operator API shows it: JSON values only, times in Unix seconds."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """One event that is durable.

    Attributes:
        number: its number in the journal.
        is_new: False when the same envelope id was accepted before.
    """

    number: int
    is_new: bool


class Drills(Protocol):
    """Drills, of which one is under way at a time."""

    async def begin(self, wish: Wish, *, actor: str, reason: str) -> View:
        """Begin one and return it with its `token`.

        Raises:
            IntakeError: the wish makes no sense.
            RefusedError: one is under way, or it may not be there.
        """
        ...

    async def look(self) -> View:
        """Return the drill under way with its stages as they are now, else the newest.

        Raises:
            RefusedError: there has been none.
        """
        ...

    def ran(self, drill_id: str, call: str, hook: Hook) -> None:
        """Note how the hook of one call ended.

        Raises:
            RefusedError: that drill is not under way.
        """
        ...

    async def finish(self, drill_id: str, *, actor: str, why: str) -> View:
        """End it, take back what it put in force, and return its result.

        Args:
            drill_id: of the drill under way, or of the newest one.
            actor: who asks.
            why: why it did not run to its end; empty when it did.

        Raises:
            RefusedError: it is neither.
        """
        ...


class Daemon(Protocol):
    """The running hub, seen from its sockets; docs/protocols.md lists the fields of each view."""

    async def accept(self, envelope: Envelope, *, raw: bytes, via: str) -> Accepted:
        """Take one event; it is durable on return.

        Args:
            envelope: the call.
            raw: the bytes it came in, as they came.
            via: `unix`, `tcp` or `webhook`.

        Raises:
            OverloadedError: no room now; the sender keeps its copy.
            StoreError: the journal cannot take it; the sender keeps its copy.
        """
        ...

    def status(self) -> View:
        """Return the state of the whole."""
        ...

    def history(self) -> View:
        """Return what engines counted lately: `{span, engines}`."""
        ...

    async def attacks(self, *, include_ended: bool, limit: int) -> list[View]:
        """Return attacks, newest first."""
        ...

    async def attack(self, attack_id: str) -> View | None:
        """Return one attack.

        In place of ids, `events` and `mitigations` hold their views; `audit` holds
        `{time, actor, what, outcome, reason, trace}`, oldest first.
        """
        ...

    async def decisions(self, *, limit: int) -> list[View]:
        """Return the newest rows of the audit record, newest first.

        Raises:
            StoreError: the journal cannot be read.
        """
        ...

    async def mitigations(self, *, include_ended: bool, limit: int) -> list[View]:
        """Return mitigations, newest first."""
        ...

    async def events(self, *, before: int | None, limit: int) -> list[View]:
        """Return events with numbers below `before`, newest first."""
        ...

    async def event(self, number: int) -> View | None:
        """Return one event with `raw` (base64 of its bytes) and `report` (parsed, or None)."""
        ...

    async def explain(self, thing: str) -> View | None:
        """Return why something was done, or nothing was; None where nothing is known of it.

        Args:
            thing: number of an event, id of an attack or a mitigation, address or prefix.

        Raises:
            IntakeError: it is none of these.
        """
        ...

    async def release(self, mitigation_id: str, *, actor: str, reason: str) -> View:
        """End one mitigation and return it.

        Raises:
            RefusedError: no such mitigation, or none that could be released.
        """
        ...

    async def freeze(self, *, actor: str, reason: str) -> View:
        """Start nothing new from now on, keep what is in force; survives a restart.

        Returns `{frozen, draining, live}`, as `unfreeze` and `drain` do.
        """
        ...

    async def unfreeze(self, *, actor: str, reason: str) -> View:
        """End the freeze."""
        ...

    async def drain(self, *, actor: str, reason: str) -> View:
        """Release everything and start nothing new; survives a restart."""
        ...

    async def reload(self, *, actor: str) -> View:
        """Read the rules again and swap at once, or change nothing.

        Returns `{version, before, count}` of the rules.

        Raises:
            ConfigError: with every mistake; nothing has changed.
        """
        ...

    async def arm(self, *, actor: str, reason: str) -> View:
        """Leave dry-run; survives a restart. Returns `{armed, dry_run, ...}` as in `status`.

        Raises:
            NotReadyError: with everything that is missing.
        """
        ...

    async def disarm(self, *, actor: str, reason: str, let_go: bool) -> View:
        """Go back to dry-run at once, with `let_go` also taking back what is in force."""
        ...

    @property
    def drills(self) -> "Drills":
        """The drills of this hub."""
        ...

    def agents(self) -> list[View]:
        """Return every agent of isn_sync as it stands; empty where none is configured."""
        ...

    async def trust_agent(self, name: str, *, fingerprint: str, actor: str, reason: str) -> View:
        """Pin the host key that an agent has shown, and return the agent.

        Raises:
            RefusedError: no such agent, or it has not shown a key of that fingerprint.
        """
        ...

    async def forget_agent(self, name: str, *, actor: str, reason: str) -> View:
        """Trust an agent's host key no more, and return the agent.

        Raises:
            RefusedError: no such agent.
        """
        ...

    def key(self) -> View:
        """Return the hub's own SSH key: `{line, fingerprint, previous}`.

        Raises:
            RefusedError: isn_sync is not configured.
        """
        ...

    async def rotate_key(self, *, actor: str, reason: str) -> View:
        """Make a new SSH key and return it; the one before is offered to agents as well.

        Raises:
            RefusedError: the key before this one is still in use, or isn_sync is not configured.
        """
        ...

    def subscribe(self) -> AsyncIterator[View]:
        """Return what happens from now on.

        Each item is `{"type": ..., "time": ..., ...}`: type `event` with `event`, type `attack`
        with `change` and `attack`, type `mitigation` with `change` and `mitigation`, type
        `notice` with `level` and `text`; the inner objects are the views of the lists.
        """
        ...

    def ready(self) -> Sequence[str]:
        """Return the reasons why the hub is not ready; empty when it is."""
        ...

    async def metrics(self) -> bytes:
        """Return the hub's metrics in Prometheus' text format."""
        ...
