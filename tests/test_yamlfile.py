# SPDX-License-Identifier: Apache-2.0
"""Strict YAML: what is refused, where the mistake is, and what the operator is told to write."""

import os
import socket
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, SecretStr

from hub import yamlfile
from hub.errors import ConfigError
from hub.fields import Duration, Network, StrictModel
from hub.yamlfile import MAX_BYTES, MAX_DEPTH, MAX_NODES, load, load_model, parse, scan
from hub.yamlnode import format_path


class Inner(StrictModel):
    """A part with one field of each troublesome kind."""

    wait: Duration = 1.0
    count: Annotated[int, Field(ge=2, le=9)] = 2
    mode: Literal["fast", "slow"] = "fast"
    on_off: bool = False
    ratio: float = 1.0
    label: str | None = None


class Outer(StrictModel):
    """The whole file."""

    name: str
    parts: tuple[Inner, ...] = ()
    prefixes: tuple[Network, ...] = ()
    tokens: dict[str, SecretStr] = Field(default_factory=dict)


def wrong(text: str | bytes) -> list[str]:
    """Return the mistakes of the YAML reader in `text`, as printed."""
    content = text.encode() if isinstance(text, str) else text
    return [str(each) for each in parse(content, "a.yaml").problems]


def mistakes(folder: Path, text: str) -> list[str]:
    """Return the mistakes in `text` as an `Outer`, as printed, without the folder."""
    path = folder / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_model(path, Outer)
    return [str(each).replace(str(path), "a.yaml") for each in caught.value.problems]


@pytest.fixture(params=["C", "pure"])
def either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test with the C parser, and with the one in Python that stands in for it."""
    if request.param == "pure":
        monkeypatch.setattr(yamlfile, "_LOADER", yaml.SafeLoader)


@pytest.mark.usefixtures("either_parser")
def test_load_when_strict_yaml_then_data_and_places(tmp_path: Path) -> None:
    """Plain data comes back as written, and every value knows its line and column."""
    path = tmp_path / "a.yaml"
    path.write_bytes(
        b"\xef\xbb\xbf# \xc3\xa9\r\nname: web\r\nlist:\r\n  - 1\r\n  - [-2, 0.5]\r\n"
        b"map: {a: true, 'b c': null, 010: \"010\", on: ~b}\r\ntext: >\r\n  a\r\n  b\r\nempty:\r\n"
    )
    document = load(path)
    assert document.data == {
        "name": "web",
        "list": (1, (-2, 0.5)),
        "map": {"a": True, "b c": None, "010": "010", "on": "~b"},
        "text": "a b\n",
        "empty": None,
    }
    found = document.locate(("list", 1, 0))
    assert (found.node.line, found.node.column) == (5, 6)
    assert document.locate(("map", "b c")).key == (6, 16)
    assert format_path(("map", "b c", 0, "x")) == "map['b c'][0].x"


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a: off",
            (
                "a.yaml:1:4: 'off' is a word to some YAML readers and false to others; "
                'write false, or "off" in quotes for the word'
            ),
        ),
        (
            "a: [Yes, n]",
            (
                "a.yaml:1:5: 'Yes' is a word to some YAML readers and true to others; "
                'write true, or "Yes" in quotes for the word'
            ),
        ),
        (
            "a: 010",
            (
                "a.yaml:1:4: a number with a leading zero is octal to some YAML readers; "
                "write a plain decimal number, or quote it if it is text"
            ),
        ),
        (
            "a: 12:30",
            (
                "a.yaml:1:4: numbers joined by ':' are one number in base 60 to some YAML "
                "readers; quote it, or write a duration as 12m30s"
            ),
        ),
        (
            "a: 1:2:3:4:5:6:7:8",
            (
                "a.yaml:1:4: numbers joined by ':' are one number in base 60 to "
                "some YAML readers; quote it, or write a duration as 12m30s"
            ),
        ),
        (
            "a: 1e3",
            (
                "a.yaml:1:4: a number with an exponent is text to some YAML readers; "
                "write it out or quote it"
            ),
        ),
        (
            "a: 0x1f",
            (
                "a.yaml:1:4: hexadecimal, octal and binary numbers are read differently by "
                "YAML readers; write a plain decimal number, or quote it if it is text"
            ),
        ),
        (
            "a: 1_000",
            (
                "a.yaml:1:4: this spelling of a number is read differently by YAML readers; "
                "write a plain decimal number, or quote it if it is text"
            ),
        ),
        ("a: .nan", "a.yaml:1:4: infinity and not-a-number are no values here; write a number"),
        (
            "a: 2026-11-21",
            ("a.yaml:1:4: a date becomes a time stamp for some YAML readers; quote it"),
        ),
        ("a: ~", "a.yaml:1:4: '~' is another spelling of nothing; write null, or \"~\" in quotes"),
        (
            "a: 1\nb: 2\na: 3",
            ("a.yaml:3:1: 'a' stands twice in this mapping, first on line 1; keep one of them"),
        ),
        (
            "a: &x 1\nb: 2",
            (
                "a.yaml:1:4: anchors and aliases (& and *) are not read; "
                "write the value out, or quote it if it begins with & or *"
            ),
        ),
        (
            "a: *x",
            (
                "a.yaml:1:4: anchors and aliases (& and *) are not read; "
                "write the value out, or quote it if it begins with & or *"
            ),
        ),
        ("<<: {a: 1}", "a.yaml:1:1: merge keys (<<) are not read; write the fields out"),
        (
            "a: !!python/object:os.system x",
            (
                "a.yaml:1:4: tags (!...) are not read; "
                "remove it, or quote the value if it begins with !"
            ),
        ),
        (
            "a: !x {b: 1}",
            (
                "a.yaml:1:4: tags (!...) are not read; "
                "remove it, or quote the value if it begins with !"
            ),
        ),
        ("a:\n\t- b", "a.yaml:2:1: a tab stands in the indentation; write spaces"),
        (
            "a: 1\n---\nb: 2",
            ("a.yaml:2:1: a second document begins here; keep one document a file, without ---"),
        ),
        (
            "%YAML 1.1\n---\na: 1",
            ("a.yaml:1:1: directives (%YAML, %TAG) are not read; remove the line"),
        ),
        (
            "? [a]\n: b",
            (
                "a.yaml:1:3: a list or mapping stands where a key belongs; "
                "write key: value, and quote a value that begins with [ or {"
            ),
        ),
        ("{: b}", "a.yaml:1:2: a key or value is missing; write key: value"),
        ("?\n: b", "a.yaml:1:2: a key is missing; write key: value"),
        ("", "a.yaml: is empty; write at least one key: value"),
        ("# nothing", "a.yaml: is empty; write at least one key: value"),
        ("a: >= 50k", ('a.yaml:1:5: a value begins with > or |; put it in quotes, as ">= 50k"')),
        (
            "a: b: c",
            (
                "a.yaml:1:5: a ': ' stands where none can be; "
                "put the value in quotes, or indent this line to match its neighbours"
            ),
        ),
        ("a: @b", "a.yaml:1:4: a value cannot begin with @; put it in quotes"),
        (
            "  a: 1\n b: 2",
            (
                "a.yaml:2:2: this line does not belong to what is above it; "
                "indent the lines of one mapping or list alike, with spaces"
            ),
        ),
        (
            "- a\nb: c",
            (
                "a.yaml:2:1: this line does not fit what is above it; "
                "indent the lines of one mapping or list alike, with spaces"
            ),
        ),
        (
            "a: b\u2028c",
            (
                "a.yaml:1:5: character U+2028 is invisible or a control character; "
                "remove it, or write it as an escape in double quotes"
            ),
        ),
        (
            "a: b\x00",
            (
                "a.yaml:1:5: character U+0000 is invisible or a control character; "
                "remove it, or write it as an escape in double quotes"
            ),
        ),
        (
            "a: \u202eb",
            (
                "a.yaml:1:4: character U+202E is invisible or a control character; "
                "remove it, or write it as an escape in double quotes"
            ),
        ),
    ],
)
def test_parse_when_not_strict_then_says_where_and_what(text: str, expected: str) -> None:
    """What YAML readers disagree about is refused at its place, with what to write instead."""
    assert wrong(text)[0] == expected


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize("text", ["a:\tb", "a: b\tc", "a: [b,\tc]", "\ta: b", "a: b\n \tc: d"])
def test_parse_when_tab_stands_anywhere_but_in_quotes_then_refused(text: str) -> None:
    """A tab that is no part of a quoted text is refused by both parsers, and named."""
    assert " tab " in wrong(text)[0]
    assert wrong("# a\tcomment\na: 'b\tc' # a\tcomment") == []


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(
    ("text", "line"),
    [("a: [1, 2", 1), ("a: {b: 1\nc: 2", 1), ("a: 'b\nc: 1", 1), ('a: "\\q"', 1), ("a: b\nc", 2)],
)
def test_parse_when_syntax_is_broken_then_one_mistake_with_its_line(text: str, line: int) -> None:
    """Broken syntax is one mistake, which names the line where it began and says what to do."""
    problems = parse(text.encode(), "a.yaml").problems
    assert len(problems) == 1
    assert problems[0].line >= line
    assert problems[0].todo != ""
    assert problems[0].column >= 1


def test_parse_when_not_utf8_then_names_the_byte() -> None:
    """A byte that is no UTF-8 is shown with its place, counted in characters."""
    expected = ["a.yaml:2:5: byte 0xff is not UTF-8; save the file as UTF-8"]
    assert wrong("a: 1\né: b".encode() + b"\xff") == expected


def test_parse_when_too_large_deep_or_long_then_refused() -> None:
    """Size, nesting and number of values are limited, so that no file can hang a reload."""
    assert "larger than 1 MiB" in wrong(b" " * (MAX_BYTES + 1))[0]
    assert f"nested deeper than {MAX_DEPTH} levels" in wrong("[" * (MAX_DEPTH + 1))[0]
    assert f"more than {MAX_NODES} values" in wrong("[" + "1," * (MAX_NODES + 1) + "]")[0]


def test_scan_when_no_plain_file_then_says_what_to_do(tmp_path: Path) -> None:
    """A missing file, a folder, a FIFO, a socket and a bad name are told apart, none hangs."""
    os.mkfifo(tmp_path / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(tmp_path / "socket"))
        told = {
            name: str(scan(tmp_path / name).problems[0]).removeprefix(str(tmp_path))
            for name in ("gone", "", "fifo", "socket", "a\0b")
        }
    finally:
        listener.close()
    assert told["gone"] == "/gone: does not exist; create it or correct the path"
    assert told[""] == ": is a directory; name the file in it"
    assert told["fifo"] == "/fifo: cannot be read: is not a regular file; name a plain file"
    assert told["socket"].startswith("/socket: cannot be read: ")
    assert "is no path" in told["a\0b"]


def test_scan_when_not_permitted_then_names_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that may not be read says which user must be let in."""

    def forbidden(*_arguments: Any, **_options: Any) -> int:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.yaml"
    with monkeypatch.context() as patch:  # root, as in CI, may read everything
        patch.setattr(os, "open", forbidden)
        problem = scan(path).problems[0]
    assert problem.what == "may not be read"
    assert f"user id {os.geteuid()}" in problem.todo


def test_load_model_when_right_then_the_model(tmp_path: Path) -> None:
    """Lists become tuples, durations seconds, prefixes networks."""
    path = tmp_path / "a.yaml"
    path.write_text("name: x\nparts: [{wait: 5m, ratio: 2}]\nprefixes: [192.0.2.0/24]\n")
    model = load_model(path, Outer)
    assert model.parts == (Inner(wait="5m", ratio=2.0),)
    assert str(model.prefixes[0]) == "192.0.2.0/24"


def test_load_model_when_many_mistakes_then_all_in_line_order(tmp_path: Path) -> None:
    """YAML and model mistakes stand in one report, in line order, each with a way out."""
    text = (
        "prefixes:\n"
        "  - 192.0.2.1/24\n"
        "  - 5\n"
        "parts:\n"
        "  - wait: 5\n"
        "    count: 10\n"
        "    moed: fast\n"
        "  - mode: fats\n"
        "    on_off: off\n"
        "    label: 5\n"
        "  - count: '3'\n"
        "    on_off: 'no'\n"
        "    ratio: true\n"
        "    mode:\n"
        "  - just text\n"
        "tokens: []\n"
    )
    hint = "write it as 192.0.2.0/24 or 2001:db8::/32"
    assert mistakes(tmp_path, text) == [
        "a.yaml:1:1: 'name' is missing; add name: ...",
        (
            f"a.yaml:2:5: prefixes[0]: '192.0.2.1/24' is not a prefix: 192.0.2.1/24 has host bits "
            f"set; {hint}"
        ),
        f"a.yaml:3:5: prefixes[1]: 5 is not a prefix; {hint}",
        (
            "a.yaml:5:11: parts[0].wait: 5 is not a duration; write a number and a unit, as 250ms, "
            "30s, 15m, 1h30m"
        ),
        "a.yaml:6:12: parts[0].count: 10 is above the most allowed, 9",
        "a.yaml:7:5: parts[0].moed: unknown field; did you mean 'mode'?",
        "a.yaml:8:11: parts[1].mode: 'fats' is not one of fast, slow; did you mean 'fast'?",
        (
            "a.yaml:9:13: 'off' is a word to some YAML readers and false to others; write false, "
            'or "off" in quotes for the word'
        ),
        "a.yaml:10:12: parts[1].label: expected text, found a number; put it in quotes",
        (
            "a.yaml:11:12: parts[2].count: expected a whole number, found text; "
            "write it in digits, without quotes"
        ),
        (
            "a.yaml:12:13: parts[2].on_off: expected true or false, found text; write true or "
            "false, without quotes"
        ),
        (
            "a.yaml:13:12: parts[2].ratio: expected a number, found true or false; write it "
            "without quotes"
        ),
        "a.yaml:14:10: parts[2].mode: has no value; give it one, or remove the line",
        "a.yaml:15:5: parts[3]: expected a mapping, found text; write key: value lines",
        "a.yaml:16:9: tokens: expected a mapping, found a list; write key: value lines",
    ]


def test_load_model_when_field_is_nothing_like_a_known_one_then_lists_them(tmp_path: Path) -> None:
    """An unknown field without a near neighbour comes with all fields that may stand there."""
    assert mistakes(tmp_path, "name: a\nzzz: 1") == [
        "a.yaml:2:1: zzz: unknown field; known here: name, parts, prefixes, tokens"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "name: a\ntokens: {a: 123456789}",
        "name: a\ntokens: {a: [hunter2]}",
        "name: a\ntokens: {a: {b: hunter2}}",
        "name: a\ntokens: hunter2",
        "name: a\ntokns: {a: hunter2}",
        "name: a\ntokens: {a: 0123456789}",
        "name: a\ntokens: {a: !x hunter2}",
        "name: a\ntokens: {a: hunter2, a: hunter2}",
        "name: a\ntokens: {a: @hunter2}",
        "name: a\ntokens: {a: 'hunter2}",
        "name: a\ntokens: {a: hunter2: b}",
    ],
)
def test_load_model_when_secret_is_in_the_way_then_never_shown(tmp_path: Path, text: str) -> None:
    """Whatever is wrong around a secret, no message contains it."""
    said = " ".join(mistakes(tmp_path, text))
    assert "hunter2" not in said
    assert "123456789" not in said


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_parse_when_any_bytes_then_data_or_problems(content: bytes) -> None:
    """No bytes make the reader fail in any other way than by saying so."""
    document = parse(content, "a.yaml")
    assert (document.root is not None) or document.problems
    assert all(problem.line >= 0 and problem.column >= 0 for problem in document.problems)


_PIECES = st.one_of(
    st.sampled_from(["b: ", "- ", "  ", ": ", "&x ", "*x", "!t ", "---\n", "...\n", "? ", "<<: "]),
    st.sampled_from(["off", "é", *"a\n[]{},'\"|>#\t0\\%~=\r-"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_PIECES, max_size=40).map("".join))
def test_parse_when_any_yaml_like_text_then_both_parsers_agree_on_data(text: str) -> None:
    """Pieces of YAML in any order never crash, and what is accepted has one meaning only."""
    ours = parse(text.encode(), "a.yaml")
    if ours.root is None or ours.problems:
        assert ours.problems
        return
    theirs = yaml.load(text, Loader=TextKeys)  # noqa: S506 - a safe loader of ours
    assert ours.data == _tuples(theirs)


class TextKeys(yamlfile._LOADER):  # type: ignore[misc]
    """PyYAML's own reading, with every key as it is spelled."""


def _mapping(loader: TextKeys, node: yaml.MappingNode) -> dict[str, Any]:
    return {key.value: loader.construct_object(value, deep=True) for key, value in node.value}


TextKeys.add_constructor("tag:yaml.org,2002:map", _mapping)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return value
