# SPDX-License-Identifier: Apache-2.0
"""Reads what synproxyd answers: what is in force, and what it measures (pure)."""

from collections.abc import Mapping
from typing import Any, Final

from hub.engines.native.translate import WATCHED
from hub.errors import EngineTemporaryError
from hub.mitigations.engine import Installed
from hub.rates import Rates

OURS: Final = "m-"


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


def measured(answer: Mapping[str, Any]) -> dict[str, Rates]:
    """Return what `list` says is measured, by mitigation id."""
    return {
        str(one["id"]): rates_of(one["rates"], one.get("packets", {}))
        for one in listed(answer)
        if str(one["id"]).startswith(OURS)
    }


def revisions(answer: Mapping[str, Any]) -> dict[str, int]:
    """Return the revision in force by id."""
    return {str(one["id"]): int(one["revision"]) for one in listed(answer)}


def rates_of(said: Mapping[str, int], packets: Mapping[str, int]) -> Rates:
    """Return the rates of one mitigation.

    A client that proves itself has been answered once before, and where its proof is answered by a
    reset, twice: none of that is hostile.
    """
    answered, cookies = said.get("answered_pps", 0), said.get("cookie_sent_pps", 0)
    good, dropped = said.get("cookie_good_pps", 0), said.get("dropped_pps", 0)
    proven = max(good, answered - cookies)
    return Rates(
        hostile_pps=dropped + max(0, cookies - proven),
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
