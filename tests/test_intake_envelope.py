# SPDX-License-Identifier: Apache-2.0
"""hub.intake.envelope: what one side writes the other reads; nothing else gets in."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.errors import IntakeError
from hub.intake.envelope import Envelope, decode, encode

GOOD: dict[str, Any] = {
    "v": 1,
    "id": "0123456789abcdef",
    "detector": "fnm1",
    "stamp": 1790000000.5,
    "args": ["192.0.2.10", "incoming", "300", "ban"],
    "stdin": "SVA=",
}

_SIMPLE = "0123456789ABCDEFabcdef._:-"
ENVELOPES = st.builds(
    Envelope,
    id=st.text(_SIMPLE, min_size=8, max_size=64),
    detector=st.text(_SIMPLE, min_size=1, max_size=64),
    stamp=st.floats(0, 2**40),
    args=st.lists(
        st.binary(max_size=30).map(lambda raw: raw.decode("utf-8", "surrogateescape")), max_size=5
    ).map(tuple),
    stdin=st.binary(max_size=500),
    truncated=st.booleans(),
    mono=st.none() | st.floats(0, 2**40),
    boot=st.text("0123456789abcdef-", max_size=64),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def refusal(body: bytes) -> str:
    """Return why `body` is refused."""
    with pytest.raises(IntakeError) as caught:
        decode(body)
    return str(caught.value)


@given(ENVELOPES)
def test_decode_when_given_what_encode_wrote_then_nothing_is_changed(envelope: Envelope) -> None:
    """Any bytes in arguments and standard input travel."""
    assert decode(encode(envelope)) == envelope


def test_decode_when_optional_fields_are_missing_then_they_have_defaults() -> None:
    """A sender may leave out what it cannot know."""
    envelope = decode(json.dumps(GOOD).encode())
    assert envelope == Envelope(
        "0123456789abcdef", "fnm1", 1790000000.5, tuple(GOOD["args"]), b"IP", truncated=False
    )


@pytest.mark.parametrize("key", GOOD)
def test_decode_when_a_needed_field_is_missing_then_it_is_refused(key: str) -> None:
    """Nothing else has a default."""
    fields = {name: value for name, value in GOOD.items() if name != key}
    assert "the envelope" in refusal(json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("v", 2),
        ("v", "1"),
        ("id", "short"),
        ("id", "x" * 65),
        ("id", "../../../etc/passwd"),
        ("id", "0123456789abcdef\n"),
        ("id", 12345678),
        ("detector", ""),
        ("detector", "fnm 1"),
        ("detector", "fnm\udcff"),
        ("stamp", "1790000000"),
        ("stamp", True),
        ("stamp", None),
        ("stamp", float("nan")),
        ("stamp", float("inf")),
        ("stamp", 10**400),
        ("mono", "1"),
        ("mono", float("nan")),
        ("boot", None),
        ("boot", "x y"),
        ("args", "ban"),
        ("args", [1]),
        ("args", None),
        ("stdin", "no base64!"),
        ("stdin", "SVA"),
        ("stdin", "SV\nA="),
        ("stdin", "\udcff"),
        ("stdin", None),
    ],
)
def test_decode_when_a_field_has_a_wrong_value_then_it_is_named(key: str, value: object) -> None:
    """The refusal says which field, so that its sender can be mended."""
    text = refusal(json.dumps(GOOD | {key: value}).encode())
    assert ("version 1" if key == "v" else key) in text


@pytest.mark.parametrize("body", [b"", b"\xff", b"null", b"[]", b"[" * 200_000, b'"x"', b"{"])
def test_decode_when_the_body_is_no_object_then_it_is_refused(body: bytes) -> None:
    """Whatever stands there, the error is one an operator may read."""
    assert "the envelope is not" in refusal(body)


@given(st.binary(max_size=300))
def test_decode_when_given_any_bytes_then_only_a_refusal_is_raised(body: bytes) -> None:
    """Hostile bodies are refused, never an error of another kind."""
    with suppress(IntakeError):
        assert decode(body).id


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_decode_when_a_field_holds_any_json_then_only_a_refusal_is_raised(
    key: str, value: object
) -> None:
    """Types are checked, not assumed."""
    try:
        envelope = decode(json.dumps(GOOD | {key: value}).encode())
    except IntakeError:
        return
    assert decode(encode(envelope)) == envelope
