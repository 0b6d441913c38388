# SPDX-License-Identifier: Apache-2.0
"""What the status page says of a moment, and that text from outside stays text."""

import asyncio
import json
import re
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from hub.api.page.document import document, parts
from hub.api.page.markup import Html, el, table
from hub.api.page.snapshot import Snapshot, take
from hub.api.page.summary import title
from hub.errors import StoreError
from tests.support.api_daemon import (
    NOW,
    MemoryDaemon,
    agent_view,
    attack_view,
    decision_view,
    history_view,
    mitigation_view,
    status_view,
)

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>\u202eevil\x00"
REPOSITORY = Path(__file__).parents[1]
STATIC = files("hub.api.page").joinpath("static")


class Reader(HTMLParser):
    """Collects elements and attributes, and checks that all are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "link"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that it ends what has begun last."""
        assert self._open.pop() == tag


@pytest.fixture
async def moment() -> Snapshot:
    """What the daemon in memory shows."""
    daemon = MemoryDaemon()
    daemon.state["engines"][0]["telemetry"] = {"tcp.syn_packets": 1_234_567, "tcp.ack_packets": 9}
    return await take(daemon, NOW)


def words(markup: str) -> str:
    """Return the text of markup."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", markup)).strip()


def spoiled(value: Any) -> Any:
    """Return JSON in which every text that is no state of ours is an attack on the page."""
    kept = {"id", "state", "standing", "name", "mode", "kind", "verdict"}
    if isinstance(value, dict):
        return {
            key: one if key in kept and isinstance(one, str) else spoiled(one)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [spoiled(one) for one in value]
    return EVIL if isinstance(value, str) else value


def test_text_when_from_outside_then_never_markup() -> None:
    """Content and attributes are escaped, control characters and overrides made visible."""
    made = el("p", EVIL, [EVIL, None, 5], title=EVIL, hidden=True, lang=None)
    reader = Reader(made)
    assert reader.elements == ["p"]
    assert [name for name, _ in reader.attributes] == ["title", "hidden"]
    assert "\x00" not in made
    assert "\u202e" not in made
    assert el("p", Html("<b>x</b>")) == "<p><b>x</b></p>"


def test_table_when_empty_then_a_sentence() -> None:
    """A head without rows says nothing; cells carry their titles for the phone."""
    assert table("c", ("A",), [], empty="None.") == '<p class="quiet">None.</p>'
    made = table("c", ("A", "B"), [("1", "<2>")], empty="")
    assert 'data-label="B"><div>&lt;2&gt;</div>' in made


def test_document_when_every_text_is_hostile_then_no_element_comes_of_it(
    moment: Snapshot,
) -> None:
    """Whatever a detector, an agent, an engine or an operator has said: it is shown as text."""
    kind = spoiled
    hostile = replace(
        moment,
        host=EVIL,
        attacks=[kind(attack_view(hostgroup=EVIL)), kind(attack_view(holders=[], held=EVIL))],
        mitigations=[kind(mitigation_view(reason=EVIL, error=EVIL, action={"kind": EVIL}))],
        agents=[kind(agent_view(state="untrusted", why=EVIL, name=EVIL))],
        decisions=[kind(decision_view()), kind(decision_view(details={"target": EVIL}))],
        status=kind(
            status_view(
                warnings=[EVIL],
                frozen={"since": NOW, "actor": EVIL, "reason": EVIL},
                caps={EVIL: {"used": 9, "limit": 10}},
            )
        ),
    )
    page = document(hostile, parts(hostile))
    reader = Reader(page)
    assert set(reader.elements).isdisjoint({"img", "iframe", "object", "style"})
    assert reader.elements.count("script") == 1
    assert not any(name.startswith("on") or name == "style" for name, _ in reader.attributes)
    sources = [value for name, value in reader.attributes if name in {"src", "href"}]
    assert sources == ["page/icon.svg", "page/style.css", "page/script.js", "#h-attacks"]
    assert page.count("&lt;script&gt;alert(1)") >= 12
    assert "\u202e" not in page


def test_document_when_read_then_sections_have_names_and_the_picture_words(
    moment: Snapshot,
) -> None:
    """Language, title, headings in order, one main; each section and each plot has a name."""
    page = document(moment, parts(moment))
    reader = Reader(page)
    assert page.startswith("<!DOCTYPE html><html lang=")
    assert ("lang", "en") in reader.attributes
    assert [reader.elements.count(name) for name in ("main", "h1", "header")] == [1, 1, 1]
    labels = [value for name, value in reader.attributes if name == "aria-labelledby"]
    ids = [value for name, value in reader.attributes if name == "id"]
    assert set(labels) < set(ids)
    assert len(ids) == len(set(ids))
    assert 'role="img" aria-label="Packets dropped over the last 15 minutes: now 100/s' in page


def test_mode_when_something_holds_it_back_then_said_in_words(moment: Snapshot) -> None:
    """Dry-run, freeze and drain stand in the title, in a badge and among the warnings."""
    assert title(moment).startswith("(3) ENFORCING - fnm-hub on ")
    frozen = {"since": NOW - 60, "actor": "alice", "reason": "router"}
    for state, word, warned in (
        (status_view(dry_run=True, warnings=["dry-run: nothing is applied"]), "DRY-RUN", "dry-run"),
        (status_view(frozen=frozen), "FROZEN", "frozen by alice since 22:12:20 : router"),
        (status_view(draining=True, frozen=frozen), "DRAINING", "draining: everything"),
    ):
        shown = parts(replace(moment, status=state))
        assert word in words(shown["summary"])
        assert word in title(replace(moment, status=state))
        assert warned in words(shown["warnings"])


def test_warnings_when_there_are_none_then_that_is_said(moment: Snapshot) -> None:
    """Silence would look like a page that has not loaded."""
    assert words(parts(moment)["warnings"]) == "No warnings."
    near = status_view(caps={"total": {"used": 8, "limit": 10}, "rule a": {"used": 1, "limit": 9}})
    text = words(parts(replace(moment, status=near))["warnings"])
    assert text == "cap total: 8 of 10 used"


def test_attacks_when_over_for_long_then_gone_and_live_ones_first(moment: Snapshot) -> None:
    """The time line is one hour; states are words, and bars differ by more than colour."""
    rows = [
        attack_view(id="a-1", state="ended", started_at=NOW - 900, ended_at=NOW - 600, holders=[]),
        attack_view(id="a-2", state="ending", started_at=NOW - 7200, holders=[], held="held"),
        attack_view(id="a-3", state="ended", started_at=NOW - 9000, ended_at=NOW - 3601),
    ]
    shown = parts(replace(moment, attacks=rows, mitigations=[]))["attacks"]
    assert re.findall(r"<code>(a-\d)</code>", shown) == ["a-2", "a-1"]
    assert "a-3" not in shown
    bars = re.findall(r'<rect x="([\d.]+)%" y="1" width="([\d.]+)%"[^>]*class="([\w ]+)"', shown)
    assert bars == [("0.00", "100.00", "attack ending"), ("75.00", "8.33", "attack ended")]
    assert 'fill="url(#stripes)"' in shown
    assert "ending, 2h" in words(shown)


def test_attacks_when_met_then_the_time_of_protection_is_on_the_line(moment: Snapshot) -> None:
    """From the moment the countermeasure was in force until it was released."""
    row = attack_view(started_at=NOW - 1800)
    shield = mitigation_view(active_at=NOW - 1800, released_at=NOW - 900, state="released")
    shown = parts(replace(moment, attacks=[row], mitigations=[shield]))["attacks"]
    assert re.findall(r'x="([\d.]+)%" y="16" width="([\d.]+)%"', shown) == [("50.00", "25.00")]


def test_traffic_when_shown_then_every_packet_counter_exactly(moment: Snapshot) -> None:
    """Counters with a verdict, in full, with what they mean; others are not packets."""
    shown = parts(moment)["traffic"]
    assert '<span data-counter="nftables tcp.syn_packets">1,234,567</span>' in shown
    assert "tcp.ack_packets" not in shown
    assert "20k/s" in words(shown)
    assert "oncall" not in shown


def test_plot_when_samples_are_given_then_columns_cover_their_time(moment: Snapshot) -> None:
    """A column a sample, as wide as its time and as high as its share of the highest."""
    past = history_view()
    past["engines"][0] |= {"drop": [5, 10], "time": [NOW - 450, NOW], "seconds": [5.0, 10.0]}
    shown = parts(replace(moment, history=past))["traffic"]
    (path,) = re.findall(r'd="([^"]+)" class="area drop"', shown)
    assert path == "M445.0,100V0.0H450.0V100ZM890.0,100V0.0H900.0V100Z"
    empty = {"span": 900.0, "engines": []}
    assert "second look" in parts(replace(moment, history=empty))["traffic"]


def test_mitigations_when_shown_then_remaining_rates_and_errors(moment: Snapshot) -> None:
    """What is over is not in force; what cannot be applied says why."""
    rates = {"hostile_pps": 12_000, "dropped_pps": 7, "passed_pps": 0}
    rows = [
        mitigation_view(id="m-1", deadline=NOW + 61, rates=rates),
        mitigation_view(id="m-2", state="applying", error="no answer", deadline=NOW - 1),
        mitigation_view(id="m-3", state="released", released_at=NOW),
    ]
    shown = words(parts(replace(moment, mitigations=rows))["mitigations"])
    assert "m-1 tcp by nftables 1m 1s 12k/s 7/s 0/s rule syn-flood" in shown
    assert "m-2 tcp by nftables over - - - rule syn-flood; no answer" in shown
    assert "m-3" not in shown


def test_engines_and_agents_when_shown_then_words_say_what_is_wrong(moment: Snapshot) -> None:
    """Not ready, untrusted, left: never by colour alone."""
    agent = agent_view(state="unreachable", why="no route")
    agent["addresses"][0] |= {"standing": "left", "why": "two wrong cookies"}
    shown = parts(replace(moment, agents=[agent]))
    assert "NOT READY oncall notify - https://alerts" in words(shown["engines"])
    assert "unreachable 192.0.2.1 192.0.2.1 left two wrong cookies" in words(shown["agents"])
    assert words(parts(replace(moment, agents=[]))["agents"]) == "No agent is configured."


class Broken(MemoryDaemon):
    """Its journal fails, or hangs where no error is given."""

    def __init__(self, error: StoreError | None) -> None:
        super().__init__()
        self._error = error

    async def decisions(self, *, limit: int) -> list[dict[str, Any]]:
        """Fail, or wait for ever."""
        if self._error is None:
            await asyncio.Event().wait()
            return self.decision_rows[:limit]
        raise self._error


@pytest.mark.parametrize(
    ("error", "said"), [(StoreError("disk I/O error"), "disk I/O error"), (None, "not answer")]
)
async def test_take_when_the_journal_cannot_be_read_then_what_is_open_stands(
    error: StoreError | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is there when it is needed most; what is missing is said."""
    monkeypatch.setattr("hub.api.page.snapshot.PATIENCE", 0.05)
    shown = parts(await take(Broken(error), NOW))
    assert "a-0123456789" in shown["attacks"]
    assert "m-0123456789" in shown["mitigations"]
    assert f"the journal cannot be read: {said}" in words(shown["warnings"]).replace("it does ", "")
    assert said in words(shown["decisions"])


def test_parts_when_sent_then_json(moment: Snapshot) -> None:
    """Every part is plain text to JSON, and stands in the page as it is sent."""
    page = document(moment, parts(moment))
    sent = json.loads(json.dumps(parts(moment)))
    assert f"<title>{sent.pop('title')}</title>" in page
    for name, text in sent.items():
        assert f'id="{name}"' in page
        assert text in page


def test_static_files_when_packed_then_none_is_missing_and_none_asks_the_world() -> None:
    """The package takes the folder along; no file names another place, or holds styles inline."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["package-data"] == {"hub.api.page": ["static/*"]}
    found = {one.name: one.read_text() for one in STATIC.iterdir()}
    assert found.keys() == {"style.css", "script.js", "icon.svg"}
    for name, text in found.items():
        there = re.findall(r"(?:https?:)?//[\w.]+\.\w+|url\(|@import|style=", text)
        assert there in ([], ["http://www.w3.org"]), name
