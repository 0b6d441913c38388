# SPDX-License-Identifier: Apache-2.0
"""The page as a whole, and the parts of it that change."""

from collections.abc import Mapping

from hub.api.page.markup import Html, el, together
from hub.api.page.protection import agents, engines, mitigations
from hub.api.page.record import decisions
from hub.api.page.snapshot import Snapshot
from hub.api.page.summary import summary, title, warnings
from hub.api.page.timeline import attacks
from hub.api.page.traffic import traffic
from hub.api.page.words import moment

_PARTS = {
    "warnings": ("Warnings", warnings),
    "attacks": ("Attacks", attacks),
    "traffic": ("Packets by verdict", traffic),
    "mitigations": ("Countermeasures", mitigations),
    "engines": ("Engines", engines),
    "agents": ("Agents", agents),
    "decisions": ("Last decisions", decisions),
}
_SAFE = "Read-only: fnm-hub on the gateway changes things. All times are UTC, by the hub's clock."


def parts(snapshot: Snapshot) -> dict[str, str]:
    """Return what changes, by the id of the element that it fills; and the page's title."""
    found: dict[str, str] = {
        "title": title(snapshot),
        "summary": summary(snapshot),
        "as-of": moment(snapshot.now),
    }
    return found | {name: make(snapshot) for name, (_, make) in _PARTS.items()}


def document(snapshot: Snapshot, changing: Mapping[str, str]) -> Html:
    """Return the whole page.

    Args:
        snapshot: of this moment.
        changing: its `parts`.
    """
    body = [
        el("a", "To the attacks", href="#h-attacks", class_="skip"),
        _header(snapshot, changing),
        el("main", *(_section(name, changing[name]) for name in _PARTS)),
        el("footer", el("p", _SAFE), el("p", f"fnm-hub {snapshot.status['version']}")),
    ]
    page = el(
        "html",
        _head(changing["title"]),
        el("body", *body),
        lang="en",
        data_version=snapshot.status["version"],
    )
    return together([Html("<!DOCTYPE html>"), page, Html("\n")])


def _head(name: str) -> Html:
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name_="color-scheme", content="light dark"),
        el("title", name),
        el("link", rel="icon", href="page/icon.svg", type="image/svg+xml"),
        el("link", rel="stylesheet", href="page/style.css"),
        el("script", src="page/script.js", defer=True),
        el("noscript", el("meta", http_equiv="refresh", content="10")),
    )


def _header(snapshot: Snapshot, changing: Mapping[str, str]) -> Html:
    name = el("h1", "fnm-hub ", el("span", f"on {snapshot.host}", class_="host"))
    shown = el("span", Html(changing["as-of"]), id="as-of")
    live = el("span", "Not live: reload for news.", id="live", role="status")
    return el(
        "header",
        el("div", name, el("p", "As of ", shown, " UTC. ", live, class_="as-of")),
        el("div", Html(changing["summary"]), id="summary"),
    )


def _section(name: str, content: str) -> Html:
    heading = el("h2", _PARTS[name][0], id=f"h-{name}")
    return el("section", heading, el("div", Html(content), id=name), aria_labelledby=f"h-{name}")
