# SPDX-License-Identifier: Apache-2.0
"""Text for terminals: within its width, and unable to steer them."""

import base64
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.cli.details import show_attack, show_event, show_mitigation
from hub.cli.lists import show_attacks, show_events, show_mitigations
from hub.cli.overview import show_status
from hub.cli.tail import show_item
from hub.cli.text import (
    Cell,
    Column,
    Screen,
    age,
    amount,
    cells,
    clean,
    clock,
    cut,
    remaining,
    target,
    wrap,
)
from tests.support.api_daemon import NOW, attack_view, event_view, mitigation_view, status_view

HOSTILE = st.one_of(
    st.text(max_size=200),
    st.sampled_from(
        [
            "\x1b[2J\x1b]0;title\x07",
            "\x9b31m",
            "\u202egnp.exe",
            "a\r\nforged line",
            "\x00\x7f\x85\u2028",
            "\ud800",
            "x" * 300,
            "\u6f22" * 100,
            "e\u0301" * 100,
        ]
    ),
)


def screen() -> tuple[io.StringIO, Screen]:
    """Return a screen of 80 columns and what it writes to."""
    out = io.StringIO()
    return out, Screen(out, color=False)


def assert_fits(text: str) -> None:
    """Check that `text` is harmless and at most 80 columns wide."""
    for line in text.split("\n"):
        assert line.isprintable(), ascii(line)
        assert cells(line) <= 80, line


def mangled(view: Any, text: str, depth: int = 0) -> Any:
    """Return `view` with `text` in place of every string."""
    if isinstance(view, str):
        return text
    if isinstance(view, list):
        return [mangled(item, text, depth + 1) for item in view]
    if isinstance(view, dict):
        return {key: mangled(value, text, depth + 1) for key, value in view.items()}
    return view


@settings(deadline=None)
@given(HOSTILE)
def test_views_when_every_string_is_hostile_then_harmless_and_within_80_columns(text: str) -> None:
    """Whatever stands in an answer, no line steers the terminal or is wider than it."""
    out, made = screen()
    attack = {
        **attack_view(state="ending", episodes=3, hostgroup=None),
        "now": NOW,
        "events": [event_view(17), event_view(18, action=None, target=None, attack=None)],
        "mitigations": [mitigation_view(error="broken")],
        "audit": [{"time": NOW, "actor": "a", "what": "w", "outcome": "o", "reason": "r"}],
    }
    frozen = {"since": NOW - 5, "actor": "alice", "reason": "night"}
    status = status_view(frozen=frozen, warnings=["w"], draining=True, dry_run=True)
    report = {"action": "ban"}
    event = {**event_view(1, note="n"), "now": NOW, "raw": "eA==", "report": report}
    show_status(made, {**mangled(status, text), "engines": mangled(status["engines"], text)})
    show_attacks(made, mangled({"now": NOW, "items": [attack_view()]}, text))
    show_mitigations(made, mangled({"now": NOW, "items": [mitigation_view(error="e")]}, text))
    show_events(made, mangled({"now": NOW, "items": [event_view(1)]}, text))
    show_attack(made, mangled(attack, text))
    show_event(made, mangled(event, text))
    stdin = base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()
    raw = json.dumps({"args": [text], "stdin": stdin, "truncated": True}).encode()
    show_event(made, {**event, "raw": base64.b64encode(raw).decode()})
    show_mitigation(made, mangled(mitigation_view(error="e"), text), NOW)
    for kind, view in (
        ("event", event_view(1)),
        ("attack", attack_view()),
        ("mitigation", mitigation_view()),
        ("other", {"any": "thing"}),
    ):
        item = {"time": NOW, kind: mangled(view, text), "change": text, "type": kind}
        show_item(made, item, as_json=False)
    show_item(made, {"type": "notice", "time": NOW, "text": text, "level": text}, as_json=False)
    show_item(made, {"type": text, text: text}, as_json=False)
    assert_fits(out.getvalue())


@settings(deadline=None)
@given(HOSTILE, st.integers(2, 100))
def test_cut_when_any_text_then_no_wider_than_asked(text: str, width: int) -> None:
    """Cut text fits; text that fits is not cut."""
    shown = clean(text)
    assert cells(cut(shown, width)) <= width
    assert cells(shown) > width or cut(shown, width) == shown


@settings(deadline=None)
@given(HOSTILE, st.integers(2, 100))
def test_wrap_when_any_text_then_every_line_fits_and_nothing_is_lost(text: str, width: int) -> None:
    """Folding loses nothing but spaces."""
    shown = clean(text)
    lines = wrap(shown, width)
    assert all(cells(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == shown.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain \u00e9 \u6f22", "plain \u00e9 \u6f22"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\r\t\x7f", "a\\nb\\r\\t\\x7f"),
        ("\u202e\ud800", "\\u202e\\ud800"),
        (17, "17"),
        (None, "None"),
    ],
)
def test_clean_when_controls_then_escaped(text: Any, expected: str) -> None:
    """Letters stay; what could steer a terminal stands escaped."""
    assert expected == clean(text)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (None, "-"),
        (0, "0"),
        (999, "999"),
        (999.6, "1k"),
        (1_000, "1k"),
        (1_234, "1.2k"),
        (9_960, "10k"),
        (120_000, "120k"),
        (999_999, "1M"),
        (80_000_000, "80M"),
        (2_100_000_000, "2.1G"),
        (5 * 10**15, "5000T"),
    ],
)
def test_amount_when_any_then_short(number: float | None, expected: str) -> None:
    """Rates are shown in three digits and a unit."""
    assert expected == amount(number)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.10/32", "192.0.2.10"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("2001:db8::1/128", "2001:db8::1"),
        ("2001:db8::/32", "2001:db8::/32"),
    ],
)
def test_target_when_a_host_then_without_prefix_length(text: str, expected: str) -> None:
    """A single address is shown as one; a /32 of IPv6 stays a /32."""
    assert expected == target(text)


def test_times_when_before_and_after_now_then_said_so() -> None:
    """Ages and what remains are in words."""
    assert (age(NOW - 123, NOW), age(NOW + 750, NOW)) == ("2m 3s ago", "in 12m 30s")
    assert (
        remaining(NOW + 750, NOW),
        remaining(NOW - 1, NOW),
        remaining(None, NOW),
    ) == ("12m 30s", "over", "-")
    assert (clock(None), clock(1e300)) == ("-", "?")


def test_table_when_a_value_is_too_wide_then_its_row_goes_on_below() -> None:
    """An IPv6 address is shown whole; the rest of its row stands under the heads."""
    out, _ = screen()
    narrow = Screen(out, color=False, width=30)
    columns = (Column("ID"), Column("TARGET", least=10), Column("PPS", right=True))
    rows = [
        (Cell("a-1"), Cell("192.0.2.10"), Cell("7k")),
        (Cell("a-2"), Cell("2001:db8:1234:5678::1"), Cell("120k")),
    ]
    narrow.table(columns, rows)
    assert out.getvalue().splitlines() == [
        "ID   TARGET                PPS",
        "a-1  192.0.2.10             7k",
        "a-2  2001:db8:1234:5678::1",
        "                          120k",
    ]


def test_styles_when_colour_is_on_then_around_the_text_alone() -> None:
    """Colours do not shift columns."""
    plain, colored = io.StringIO(), io.StringIO()
    for out, color in ((plain, False), (colored, True)):
        Screen(out, color=color).table(
            (Column("STATE"), Column("N", right=True)), [(Cell("active", "green"), Cell("1"))]
        )
    text = colored.getvalue()
    assert "\x1b[32mactive\x1b[0m" in text
    for code in ("\x1b[1m", "\x1b[32m", "\x1b[0m"):
        text = text.replace(code, "")
    assert plain.getvalue() == text
