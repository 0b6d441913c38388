# SPDX-License-Identifier: Apache-2.0
"""Reads what synproxyd answers: what is in force, and what it measures (pure)."""

from collections.abc import Mapping
from typing import Any, Final

from hub.engines.native.pace import Paces
from hub.engines.native.translate import WATCHED
from hub.errors import EngineTemporaryError
from hub.mitigations.engine import Installed
from hub.rates import Rates

OURS: Final = "m-"
_FIRST_SEGMENTS: Final = 10
"""That a client may send before it has heard anything, RFC 6928; more of them are a flood."""
_UNKNOWN: Final[Paces] = {}


def in_force(answer: Mapping[str, Any]) -> list[Installed]:
    """Return what `list` says is in force, without the hub's own watches."""
    found: list[Installed] = []
    for one in listed(answer):
        if str(one["id"]).startswith(WATCHED):
            continue
        kind = f"{one['kind']} {one['mode']}" if one.get("mode") else str(one["kind"])
        tag = str(one["id"]) if str(one["id"]).startswith(OURS) else ""
        what = f"{kind} on {one['target']}" + ("" if tag else f" with the id {one['id']}")
        found.append(Installed(tag, what, one["expires_ms"] / 1000))
    return found


def measured(answer: Mapping[str, Any], paces: Paces = _UNKNOWN) -> dict[str, Rates]:
    """Return what `list` says is measured, by mitigation id.

    Args:
        answer: to `list`.
        paces: packets a second by reason, of the same mitigations.
    """
    return {
        str(one["id"]): rates_of(one["rates"], one.get("packets", {}), paces.get(one["id"], {}))
        for one in listed(answer)
        if str(one["id"]).startswith(OURS)
    }


def revisions(answer: Mapping[str, Any]) -> dict[str, int]:
    """Return the revision in force by id."""
    return {str(one["id"]): int(one["revision"]) for one in listed(answer)}


def rates_of(
    said: Mapping[str, int], packets: Mapping[str, int], pace: Mapping[str, int] | None = None
) -> Rates:
    """Return the rates of one mitigation.

    A client that proves itself has been answered once before, and where its proof is answered by a
    reset, or spliced, twice: none of that is hostile. Nor is what a spliced client sends before
    the server has answered, which is dropped from the wire; who is refused has proven nothing.
    """
    pace = pace or {}
    answered, cookies = said.get("answered_pps", 0), said.get("cookie_sent_pps", 0)
    good, dropped = said.get("cookie_good_pps", 0), said.get("dropped_pps", 0)
    opened, refused = pace.get("splice_open", 0), pace.get("splice_refused", 0)
    early = min(pace.get("splice_held", 0) + pace.get("splice_early", 0), _FIRST_SEGMENTS * opened)
    proven = max(good, opened, answered - cookies - refused)
    return Rates(
        hostile_pps=max(0, dropped - early) + max(0, cookies - proven) + refused,
        dropped_pps=dropped,
        passed_pps=said.get("passed_pps", 0),
        syn_pps=said.get("syn_pps", 0),
        cookie_good_pps=proven,
        cookie_bad_pps=said.get("cookie_bad_pps", 0),
        pps=said.get("pps", 0),
        bps=said.get("bps", 0),
        packets=dict(packets),
    )


def listed(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entries of a `list`, or of one part of it."""
    found = answer.get("mitigations")
    if not isinstance(found, list):
        raise EngineTemporaryError(
            "synproxyd's list has no mitigations", todo="install both of one release"
        )
    return found
