# SPDX-License-Identifier: Apache-2.0
"""HTML in which nothing from outside becomes markup: whatever is not `Html` is escaped."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from hub.shown import clean

_VOID: Final = frozenset({"link", "meta"})


class Html(str):
    """Text that is markup already; made by this module alone."""

    __slots__ = ()


def el(name: str, /, *content: Any, **attributes: Any) -> Html:
    """Return an element.

    Args:
        name: of the element; never from outside.
        content: `Html` as it is, anything else as text with its control characters made visible;
            None is left out, a list stands for its items.
        attributes: by name, `class_` for `class` and `data_label` for `data-label`; None and
            False leave one out, True gives it without a value.
    """
    head = "".join([name, *(_attribute(*one) for one in attributes.items())])
    if name in _VOID:
        return Html(f"<{head}>")
    return Html(f"<{head}>{together(content)}</{name}>")


def together(content: Iterable[Any]) -> Html:
    """Return several pieces, one behind the other."""
    return Html("".join(_piece(one) for one in content))


def svg(*content: Any, **attributes: Any) -> Html:
    """Return a drawing; attributes as in `el`, with the case that SVG wants."""
    named = {_SVG.get(name, name): value for name, value in attributes.items()}
    return el("svg", *content, **named)


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str
) -> Html:
    """Return a table, or the paragraph `empty` where there is no row.

    Each cell carries the title of its column: on a phone a row stands as a list of these. The
    roles keep it a table there for who listens to it.
    """
    body = [
        el(
            "tr",
            *(
                el("td", el("div", cell), role="cell", data_label=title)
                for title, cell in zip(columns, row, strict=True)
            ),
            role="row",
        )
        for row in rows
    ]
    if not body:
        return el("p", empty, class_="quiet")
    head = [el("th", title, scope="col", role="columnheader") for title in columns]
    return el(
        "table",
        el("caption", caption),
        el("thead", el("tr", *head, role="row"), role="rowgroup"),
        el("tbody", *body, role="rowgroup"),
        role="table",
    )


def badge(word: str, kind: str) -> Html:
    """Return a word that stands out; `kind` is `good`, `watch`, `bad` or `plain`."""
    return el("span", word, class_=f"badge {kind}")


def _attribute(name: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    shown = name.rstrip("_").replace("_", "-")
    return f" {shown}" if value is True else f' {shown}="{escape(clean(value))}"'


def _piece(one: Any) -> str:
    if one is None:
        return ""
    if isinstance(one, Html):
        return one
    if isinstance(one, list | tuple):
        return together(one)
    return escape(clean(one))


_SVG: Final = {"view_box": "viewBox", "preserve_aspect_ratio": "preserveAspectRatio"}
