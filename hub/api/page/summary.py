# SPDX-License-Identifier: Apache-2.0
"""The head of the page: what the hub does now, and everything that is not as it should be."""

from typing import Any, Final

from hub.api.page.markup import Html, badge, el, together
from hub.api.page.snapshot import Snapshot
from hub.api.page.words import BAD, GOOD, WATCH, exact, lasted, moment

_NEAR: Final = 0.8


def mode(snapshot: Snapshot) -> tuple[str, str]:
    """Return in one word what the hub does, and how that is to be taken."""
    if snapshot.status["draining"]:
        return "DRAINING", BAD
    if snapshot.status["frozen"]:
        return "FROZEN", BAD
    if snapshot.status["dry_run"]:
        return "DRY-RUN", WATCH
    return "ENFORCING", GOOD


def title(snapshot: Snapshot) -> str:
    """Return the page's title, which a tab shows."""
    counts = snapshot.status["counts"]["attacks"]
    going = counts.get("active", 0)
    head = f"({going}) " if going else ""
    return f"{head}{mode(snapshot)[0]} - fnm-hub on {snapshot.host}"


def summary(snapshot: Snapshot) -> Html:
    """Return the facts beside the name."""
    status = snapshot.status
    counts, events = status["counts"], status["counts"]["events"]
    active, ending = (counts["attacks"].get(word, 0) for word in ("active", "ending"))
    facts = (
        ("attacks", f"{active} active, {ending} ending"),
        ("in force", str(counts["mitigations"].get("active", 0))),
        ("events", f"{exact(events['accepted'])} taken, {exact(events['pending'])} waiting"),
        ("spool", f"{status['spool']['waiting']} waiting"),
        ("rules", f"{status['rules']['count']}, {status['rules']['version']}"),
        ("running for", lasted(status["started_at"], snapshot.now)),
    )
    pairs = [el("div", el("dt", name), el("dd", value)) for name, value in facts]
    return together([el("p", badge(*mode(snapshot)), class_="mode"), el("dl", *pairs)])


def warnings(snapshot: Snapshot) -> Html:
    """Return what is not as it should be; or that all is well."""
    found = [*_brakes(snapshot), *snapshot.status["warnings"], *_caps(snapshot)]
    if snapshot.unreadable and not any("journal" in one for one in found if isinstance(one, str)):
        found.append(f"the journal cannot be read: {snapshot.unreadable}")
    if not found:
        return el("p", "No warnings.", class_="quiet")
    return el("ul", *(el("li", one) for one in found), class_="warnings")


def _brakes(snapshot: Snapshot) -> list[Any]:
    frozen, found = snapshot.status["frozen"], []
    if snapshot.status["draining"]:
        found.append(
            "draining: everything is released, and nothing begins; end it: fnm-hub unfreeze"
        )
    if frozen:
        why = f": {frozen['reason']}" if frozen["reason"] else ""
        by = together(["frozen by ", frozen["actor"], " since ", moment(frozen["since"]), why])
        found.append(together([by, "; nothing new begins; end it: fnm-hub unfreeze"]))
    return found


def _caps(snapshot: Snapshot) -> list[str]:
    return [
        f"cap {name}: {cap['used']} of {cap['limit']} used"
        for name, cap in snapshot.status["caps"].items()
        if cap["limit"] is not None and cap["used"] >= _NEAR * cap["limit"]
    ]
