# SPDX-License-Identifier: Apache-2.0
"""What engines answer, written into the ledger."""

from collections.abc import Mapping, Sequence
from typing import Any

from hub.effects import Effects
from hub.mitigations.executor import Answer, Order, Verb
from hub.mitigations.model import Mitigation
from hub.pipeline.releasing import release
from hub.pipeline.state import State
from hub.pipeline.words import audit, say


def applied(state: State, order: Order, now: float, answer: Answer | None = None) -> Effects:
    """Write down that an engine has put a mitigation in force, how, and why by nothing better."""
    effects = Effects()
    row = state.ledger.applied(order.mitigation.id, order.mitigation.revision, now)
    if row is not None:
        carried = answer.carried if answer else None
        why = "; ".join(carried.down) if carried else ""
        _note(effects, row, "mitigation.active", why, now=now, details=_how(answer))
    return effects


def _how(answer: Answer | None) -> dict[str, Any]:
    """Return in which mode it is in force, and how long that took."""
    if answer is None:
        return {}
    carried = answer.carried
    taken = {} if carried is None else {"mode": carried.mode, "down": list(carried.down)}
    return {
        **taken,
        "ordered_at": answer.ordered_at,
        "engine_seconds": round(answer.seconds, 6),
        "tries": answer.tries,
    }


def released(state: State, order: Order, now: float) -> Effects:
    """Write down that an engine has taken a mitigation back."""
    effects = Effects()
    row = state.ledger.released(order.mitigation.id, order.mitigation.revision, now)
    if row is not None:
        _note(effects, row, "mitigation.released", row.reason, now=now)
    return effects


def planned(state: State, order: Order, steps: Sequence[str], now: float) -> Effects:
    """Write down what an engine would have done."""
    effects = Effects()
    row = state.ledger.get(order.mitigation.id)
    if row is not None:
        say(effects, "info", "mitigation.would_apply", row, "; ".join(steps))
        audit(effects, now, "mitigation.would_apply", "", mitigation=row, trace=steps)
    return effects


def trouble(state: State, order: Order, error: str, now: float) -> Effects:
    """Write down that an engine could not do it yet; it is tried again.

    The same trouble again is neither logged nor written: the row says it already.
    """
    effects = Effects()
    before = state.ledger.get(order.mitigation.id)
    row = state.ledger.trouble(order.mitigation.id, error)
    if row is not None and before is not None and before.error != error:
        effects.mitigations[row.id] = row
        what = f"mitigation.{order.verb}_retry"
        say(
            effects,
            "warning",
            what,
            row,
            error,
            todo="see why; the target is not protected by it meanwhile",
        )
        audit(effects, now, what, error, outcome="error", mitigation=row)
    return effects


def failed(state: State, order: Order, error: str, now: float) -> Effects:
    """Write down that an engine will never do it.

    What was in force before stays so until the deadline that the engine knows. What an engine
    without leases may have half begun is taken back. An answer to an older order is ignored.
    """
    effects = Effects()
    row = state.ledger.get(order.mitigation.id)
    if row is None or row.revision != order.mitigation.revision:
        return effects
    if order.verb is Verb.APPLY and row.active_at is not None:
        after = state.ledger.keep(row.id, error)
    elif order.verb is Verb.APPLY and _may_be_half_done(state, row):
        release(state, row, f"could not be applied: {error}", now, effects)
        after = state.ledger.trouble(row.id, error)
    else:
        after = state.ledger.close(row.id, error, now)
    if after is not None:
        effects.mitigations[after.id] = after
        say(
            effects,
            "error",
            "mitigation.failed",
            after,
            error,
            todo="mend what why says, then fnm-hub reload; block by hand meanwhile",
        )
        audit(effects, now, "mitigation.failed", error, outcome="error", mitigation=after)
    return effects


def _may_be_half_done(state: State, row: Mitigation) -> bool:
    engine = state.engines.get(row.engine)
    return engine is not None and engine.lasting and not engine.leases


def missing(state: State, row: Mitigation, now: float) -> Effects:
    """Put in force again what the engine no longer has."""
    effects = Effects()
    after = state.ledger.reapply(row, row.deadline)
    if after is None:
        return effects
    effects.mitigations[after.id] = after
    effects.orders.append(Order(Verb.APPLY, after))
    why = "the engine no longer has it; applying it again"
    say(
        effects,
        "warning",
        "mitigation.missing",
        after,
        why,
        todo="find out who took it away; it is put in force again",
    )
    audit(effects, now, "mitigation.missing", why, mitigation=after)
    return effects


def _note(
    effects: Effects,
    row: Mitigation,
    what: str,
    why: str,
    *,
    now: float,
    details: Mapping[str, Any] | None = None,
) -> None:
    effects.mitigations[row.id] = row
    say(effects, "info", what, row, why)
    audit(effects, now, what, why, outcome="ok", mitigation=row, details=details)
