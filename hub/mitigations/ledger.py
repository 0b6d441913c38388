# SPDX-License-Identifier: Apache-2.0
"""The ledger: what is to be in force, who asked for it, and how far each intent has come. Pure."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from hub.config import Service
from hub.guard.checks import Live
from hub.mitigations.model import Mitigation, MitigationState
from hub.net import IPNetwork
from hub.rules.actions import Action

RENEW_SHARE = 0.02
"""A repeated report renews a lease only when it adds at least this share of its length."""

OUTDOING = 1_000_000
"""What a revision grows by to be above every one that an engine may have seen meanwhile."""

LIVE = frozenset(
    {
        MitigationState.APPLYING,
        MitigationState.ACTIVE,
        MitigationState.RELEASING,
        MitigationState.DRY_RUN,
    }
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a rule asks for, after an engine has been found and before any guard was asked.

    Attributes:
        named: the rule itself names the engine.
    """

    target: IPNetwork
    action: Action
    engine: str
    service: Service | None
    rule: str
    ttl: float
    dry_run: bool
    named: bool = False
    drill: str = ""

    @property
    def key(self) -> str:
        """Return what makes two proposals the same mitigation; a drill's is never a real one's."""
        return f"{self.target} {self.engine} {self.action!r} {self.drill}"


class Ledger:
    """Every mitigation that is not over. Synchronous; takes the time as an argument.

    Args:
        rows: what an earlier run left open.
        messengers: engines that only carry messages; their rows count in no cap, nor do a drill's.
    """

    def __init__(self, rows: Iterable[Mitigation] = (), messengers: Collection[str] = ()) -> None:
        self._messengers = frozenset(messengers)
        self._rows: dict[str, Mitigation] = {}
        self._keys: dict[str, str] = {}
        self._held: dict[str, set[str]] = {}
        self._engines: Counter[str] = Counter()
        self._used: Counter[str] = Counter()
        for row in rows:
            self._put(row)

    def __iter__(self) -> Iterator[Mitigation]:
        """Iterate over all that is not over, oldest first."""
        return iter(tuple(self._rows.values()))

    def __len__(self) -> int:
        """Return how many are not over."""
        return len(self._rows)

    def get(self, mitigation_id: str) -> Mitigation | None:
        """Return one that is not over."""
        return self._rows.get(mitigation_id)

    def held_by(self, attack_id: str) -> list[str]:
        """Return the ids of the mitigations that an attack holds."""
        return sorted(self._held.get(attack_id, ()))

    def find(self, proposal: Proposal) -> Mitigation | None:
        """Return the live mitigation that already does what `proposal` asks for."""
        row = self._rows.get(self._keys.get(proposal.key, ""))
        return row if row is not None and row.state in LIVE else None

    def live(self) -> Live:
        """Count what is live, for the caps."""
        return Live(self._engines.total(), self._engines, self._used)

    def begin(
        self, proposal: Proposal, attack_id: str, now: float, salt: str, *, delivery: str = ""
    ) -> Mitigation:
        """Write the intent to apply, or the dry-run row. `salt` makes the id unique."""
        text = f"{proposal.key}/{attack_id}/{now}/{salt}"
        state = MitigationState.DRY_RUN if proposal.dry_run else MitigationState.APPLYING
        return self._put(
            Mitigation(
                id="m-" + hashlib.sha256(text.encode()).hexdigest()[:10],
                target=proposal.target,
                action=proposal.action,
                engine=proposal.engine,
                service=proposal.service,
                rule=proposal.rule,
                state=state,
                created_at=now,
                deadline=now + proposal.ttl,
                ttl=proposal.ttl,
                attacks=(attack_id,),
                delivery=delivery,
                drill=proposal.drill,
            )
        )

    def join(
        self, row: Mitigation, proposal: Proposal, holders: tuple[str, ...], now: float
    ) -> Mitigation:
        """Let these attacks hold `row`, and extend it to a deadline that is clearly later.

        An engine that only carries messages need not hear of the new deadline. Nothing prolongs
        a drill's. A release that was only intended is taken back: the attack is there again.
        """
        state = row.state
        if state is MitigationState.RELEASING:
            state = MitigationState.APPLYING
        deadline = row.deadline
        later = now + proposal.ttl > row.deadline + RENEW_SHARE * proposal.ttl
        if later and not row.drill:
            deadline = now + proposal.ttl
            if state is MitigationState.ACTIVE and row.engine not in self._messengers:
                state = MitigationState.APPLYING
        after = replace(
            row,
            attacks=holders,
            deadline=deadline,
            state=state,
            revision=row.revision + 1,
            reason="" if state is MitigationState.APPLYING else row.reason,
        )
        return row if _same(row, after) else self._put(after)

    def applied(self, mitigation_id: str, revision: int, now: float) -> Mitigation | None:
        """Write the fact that the engine put it in force; an older revision changes nothing."""
        row = self._rows.get(mitigation_id)
        if row is None or row.state is not MitigationState.APPLYING or row.revision != revision:
            return None
        first = row.active_at if row.active_at is not None else now
        return self._put(
            replace(
                row,
                state=MitigationState.ACTIVE,
                active_at=first,
                lease_until=row.deadline,
                error="",
            )
        )

    def reapply(self, seen: Mitigation, deadline: float) -> Mitigation | None:
        """Write the intent to apply again, until `deadline`, what was active when it was seen.

        Returns None when it has changed since: an older look at it must undo nothing.
        """
        row = self._rows.get(seen.id)
        if row is None or row.state is not MitigationState.ACTIVE or row.revision != seen.revision:
            return None
        return self._put(
            replace(
                row,
                state=MitigationState.APPLYING,
                deadline=deadline,
                revision=row.revision + 1,
            )
        )

    def trouble(self, mitigation_id: str, error: str) -> Mitigation | None:
        """Keep the intent and note why it has not come true yet."""
        row = self._rows.get(mitigation_id)
        return None if row is None else self._put(replace(row, error=error))

    def close(self, mitigation_id: str, error: str, now: float) -> Mitigation | None:
        """Close it as failed."""
        row = self._rows.get(mitigation_id)
        if row is None:
            return None
        return self._close(replace(row, state=MitigationState.FAILED, error=error, released_at=now))

    def keep(self, mitigation_id: str, error: str) -> Mitigation | None:
        """Note that a renewal failed: the former lease goes on, to its own deadline."""
        row = self._rows.get(mitigation_id)
        if row is None:
            return None
        return self._put(
            replace(row, state=MitigationState.ACTIVE, deadline=row.lease_until, error=error)
        )

    def releasing(self, mitigation_id: str, reason: str, now: float) -> Mitigation | None:
        """Write the intent to release; a dry-run row, in force nowhere, is over at once."""
        row = self._rows.get(mitigation_id)
        if row is None or row.state is MitigationState.RELEASING:
            return None
        if row.state is MitigationState.DRY_RUN:
            over = replace(row, state=MitigationState.RELEASED, released_at=now, reason=reason)
            return self._close(over)
        return self._put(
            replace(
                row,
                state=MitigationState.RELEASING,
                reason=reason,
                revision=row.revision + 1,
            )
        )

    def released(self, mitigation_id: str, revision: int, now: float) -> Mitigation | None:
        """Write the fact that the engine took it back; an older revision changes nothing."""
        row = self._rows.get(mitigation_id)
        if row is None or row.state is not MitigationState.RELEASING or row.revision != revision:
            return None
        over = replace(row, state=MitigationState.RELEASED, released_at=now, error="")
        return self._close(over)

    def leave(self, attack_id: str) -> tuple[list[Mitigation], list[Mitigation]]:
        """Let an ended attack go of what it held.

        Returns:
            What nobody holds any more, and what others still hold.
        """
        free: list[Mitigation] = []
        held: list[Mitigation] = []
        for mitigation_id in self.held_by(attack_id):
            row = self._rows[mitigation_id]
            others = tuple(held for held in row.attacks if held != attack_id)
            if others:
                held.append(self._put(replace(row, attacks=others)))
            else:
                free.append(row)
        return free, held

    def outdo(self, mitigation_id: str, state: MitigationState, deadline: float) -> Mitigation:
        """Go on with a row of an older ledger, ahead of all that engines have seen since.

        Raises:
            KeyError: it is over.
        """
        row = self._rows[mitigation_id]
        revision, lease = row.revision + OUTDOING, max(row.lease_until, deadline)
        return self._put(
            replace(row, state=state, deadline=deadline, revision=revision, lease_until=lease)
        )

    def overdue(self, now: float) -> list[Mitigation]:
        """Return what is past its deadline and not yet being released."""
        return [
            row
            for row in self._rows.values()
            if row.deadline <= now and row.state is not MitigationState.RELEASING
        ]

    def _put(self, row: Mitigation) -> Mitigation:
        before = self._rows.get(row.id)
        if before is None:
            self._count(row, 1)
        for attack_id in before.attacks if before else ():
            self._let_go(attack_id, row.id)
        for attack_id in row.attacks:
            self._held.setdefault(attack_id, set()).add(row.id)
        self._rows[row.id] = row
        self._keys[key_of(row)] = row.id
        return row

    def _close(self, row: Mitigation) -> Mitigation:
        del self._rows[row.id]
        self._count(row, -1)
        for attack_id in row.attacks:
            self._let_go(attack_id, row.id)
        if self._keys.get(key_of(row)) == row.id:
            del self._keys[key_of(row)]
        return row

    def _count(self, row: Mitigation, change: int) -> None:
        if row.engine not in self._messengers and not row.drill:
            self._engines[row.engine] += change
            self._used[row.rule] += change

    def _let_go(self, attack_id: str, mitigation_id: str) -> None:
        held = self._held.get(attack_id, set())
        held.discard(mitigation_id)
        if not held:
            self._held.pop(attack_id, None)


def key_of(row: Mitigation) -> str:
    """Return what makes two rows, or a row and a proposal, the same mitigation."""
    return f"{row.target} {row.engine} {row.action!r} {row.drill}"


def _same(before: Mitigation, after: Mitigation) -> bool:
    return replace(after, revision=before.revision) == before
