# SPDX-License-Identifier: Apache-2.0
"""hub.intake.signing: only holders of a key get through, each request once."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.errors import ConfigError
from hub.intake.signing import NoncesFullError, UnauthorizedError, Verifier, load_key, sign

OLD, NEW = b"\x5a" * 32, b"\xc3" * 40
NOW = 1_790_000_000
NONCE = "0123456789abcdef"
PATH = "/v1/events/fastnetmon"


def rfc_2104(key: bytes, message: bytes) -> str:
    """Return HMAC-SHA256 as RFC 2104 section 2 builds it."""
    padded = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).hexdigest()


def signed(
    body: bytes = b"{}",
    *,
    secret: bytes = OLD,
    key: str = "old",
    at: int | str = NOW,
    nonce: str = NONCE,
) -> dict[str, str]:
    """Return the headers of a signed request."""
    signature = sign(secret, method="POST", path=PATH, timestamp=at, nonce=nonce, body=body)
    return {
        "X-FNM-Key": key,
        "X-FNM-Timestamp": str(at),
        "X-FNM-Nonce": nonce,
        "X-FNM-Signature": signature,
    }


def check(
    verifier: Verifier,
    headers: dict[str, str],
    *,
    body: bytes = b"{}",
    now: float = NOW,
    path: str = PATH,
    method: str = "POST",
) -> str:
    """Return the key id of a request, or what the client may know and the reason."""
    try:
        return verifier.verify(method=method, path=path, headers=headers, body=body, now=now)
    except UnauthorizedError as error:
        return f"{error}: {error.reason}"


@pytest.fixture
def verifier() -> Verifier:
    """Return a verifier with two live keys."""
    return Verifier({"old": OLD, "new": NEW}, 300.0)


@pytest.mark.parametrize(
    ("key", "message", "digest"),
    [
        (
            b"\x0b" * 20,
            b"Hi There",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        ),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            b"\xaa" * 20,
            b"\xdd" * 50,
            "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
        ),
        (
            b"\xaa" * 131,
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
    ],
)
def test_reference_when_given_rfc_4231_then_it_is_right(
    key: bytes, message: bytes, digest: str
) -> None:
    """What the next test compares with computes the vectors of RFC 4231."""
    assert rfc_2104(key, message) == digest


@given(st.binary(min_size=32, max_size=200), st.binary(max_size=300))
def test_sign_when_given_any_body_then_it_is_hmac_of_the_documented_message(
    secret: bytes, body: bytes
) -> None:
    """Method, path, timestamp and nonce stand on a line each, then the body as it is."""
    shown = sign(secret, method="POST", path="/x?y=1", timestamp=NOW, nonce=NONCE, body=body)
    message = b"POST\n/x?y=1\n1790000000\n0123456789abcdef\n" + body
    assert shown == "v1=" + rfc_2104(secret, message)


def test_sign_when_compared_with_openssl_then_both_agree() -> None:
    """A client of any kind can be built from the document; `openssl dgst -mac HMAC` made this."""
    assert (
        signed()["X-FNM-Signature"]
        == "v1=97a74f554da8fb178c76571c7e42313bdab5a5a42fd901d6c19727a5f686f27e"
    )


@pytest.mark.parametrize("field", ["method", "path", "nonce"])
def test_sign_when_a_line_holds_a_break_then_it_is_refused(field: str) -> None:
    """Fields cannot run into each other, so no two requests have one message."""
    fields = {"method": "POST", "path": PATH, "nonce": NONCE} | {field: "a\nb"}
    with pytest.raises(ValueError, match="single lines"):
        sign(OLD, timestamp=NOW, body=b"", **fields)


@pytest.mark.parametrize(("key", "secret"), [("old", OLD), ("new", NEW)])
def test_verify_when_either_live_key_signed_then_its_id_is_returned(
    verifier: Verifier, key: str, secret: bytes
) -> None:
    """During a rotation both keys work."""
    assert check(verifier, signed(secret=secret, key=key)) == key


def test_verify_when_header_names_are_in_lower_case_then_they_count(verifier: Verifier) -> None:
    """Proxies change the case of header names."""
    headers = {name.lower(): value for name, value in signed().items()}
    assert check(verifier, headers) == "old"


@pytest.mark.parametrize("name", ["Key", "Timestamp", "Nonce", "Signature"])
def test_verify_when_a_header_is_missing_or_twice_then_it_is_refused(
    verifier: Verifier, name: str
) -> None:
    """No header has a default, and none is ambiguous."""
    headers = signed()
    twice = headers | {f"x-fnm-{name.lower()}": "other"}
    del headers[f"X-FNM-{name}"]
    assert check(verifier, headers) == f"unauthorized: X-FNM-{name} is missing"
    assert check(verifier, twice) == f"unauthorized: X-FNM-{name} is there twice"


def test_verify_when_anything_signed_is_changed_then_it_is_refused(verifier: Verifier) -> None:
    """The signature covers method, path, timestamp, nonce and body, and belongs to one key."""
    wrong = "unauthorized: the signature does not fit key 'old'"
    assert check(verifier, signed(), body=b"{ }") == wrong
    assert check(verifier, signed(), path=PATH + "?x") == wrong
    assert check(verifier, signed(), method="PUT") == wrong
    assert check(verifier, signed() | {"X-FNM-Timestamp": str(NOW + 1)}) == wrong
    assert check(verifier, signed() | {"X-FNM-Nonce": NONCE + "0"}) == wrong
    assert check(verifier, signed(secret=NEW)) == wrong
    assert check(verifier, signed()) == "old"


@given(st.text(max_size=100))
def test_verify_when_the_signature_is_any_text_then_it_is_refused(text: str) -> None:
    """No text of any alphabet passes or raises anything else."""
    verifier = Verifier({"old": OLD}, 300.0)
    answer = check(verifier, signed() | {"X-FNM-Signature": text})
    assert answer == "unauthorized: the signature does not fit key 'old'"


def test_verify_when_the_signature_is_written_otherwise_then_it_is_refused(
    verifier: Verifier,
) -> None:
    """One spelling only: no other version, no capitals, nothing around it."""
    right = signed()["X-FNM-Signature"]
    for text in (right[3:], "v2=" + right[3:], right.upper(), right + " ", right[:-2], ""):
        answer = check(verifier, signed() | {"X-FNM-Signature": text})
        assert answer == "unauthorized: the signature does not fit key 'old'"


def test_verify_when_the_key_is_unknown_then_it_is_refused(verifier: Verifier) -> None:
    """A key that was taken away is one like any other that never was."""
    assert check(verifier, signed(key="older")) == (
        "unauthorized: key id 'older' is not one of ['new', 'old']"
    )


@pytest.mark.parametrize("skew", [-300, 300])
def test_verify_when_the_timestamp_is_at_the_edge_then_it_passes(
    verifier: Verifier, skew: int
) -> None:
    """The window is inclusive, to both sides."""
    assert check(verifier, signed(at=NOW + skew)) == "old"


@pytest.mark.parametrize("skew", [-301, 301])
def test_verify_when_the_timestamp_is_beyond_then_it_is_refused(
    verifier: Verifier, skew: int
) -> None:
    """An old request is not taken again, and the log says that clocks may be to blame."""
    answer = check(verifier, signed(at=NOW + skew))
    assert answer.startswith(f"unauthorized: signed at {NOW + skew}, {-skew:+} s from our clock")
    assert answer.endswith("compare the clocks")


@pytest.mark.parametrize("at", ["", "-1", "1e9", "1790000000.5", "²", "1" * 13, " 1790000000"])
def test_verify_when_the_timestamp_is_malformed_then_it_is_refused(
    verifier: Verifier, at: str
) -> None:
    """Whole seconds in ASCII digits, nothing else."""
    assert check(verifier, signed(at=at)) == "unauthorized: the timestamp or the nonce is malformed"


@pytest.mark.parametrize("nonce", ["", "short", "0" * 65, "0123456789abcde/", "0123456789abcdeé"])
def test_verify_when_the_nonce_is_malformed_then_it_is_refused(
    verifier: Verifier, nonce: str
) -> None:
    """16 to 64 characters that need no escaping anywhere."""
    answer = check(verifier, signed(nonce=nonce))
    assert answer == "unauthorized: the timestamp or the nonce is malformed"


def test_verify_when_a_path_cannot_be_signed_then_it_is_refused(verifier: Verifier) -> None:
    """A line break or a lone surrogate in the path is no way to an error of another kind."""
    for path in ("/a\n1", "/\ud800"):
        answer = check(verifier, signed(), path=path)
        assert answer == "unauthorized: the method or the path cannot be signed"


def test_verify_when_a_request_comes_again_then_it_is_refused(verifier: Verifier) -> None:
    """A replay fails as long as its timestamp would be accepted; the last second included."""
    replay = "unauthorized: the nonce was used before: a replay"
    ahead = signed(at=NOW + 300)
    assert check(verifier, ahead) == "old"
    for later in (0.0, 0.9, 299.0, 300.0, 600.0):
        assert check(verifier, ahead, now=NOW + later) == replay
    assert check(verifier, ahead, now=NOW + 601).startswith("unauthorized: signed at")


def test_verify_when_a_forged_request_used_a_nonce_then_the_real_one_passes(
    verifier: Verifier,
) -> None:
    """Only requests that a key signed leave a trace: nobody else can burn nonces or memory."""
    for number in range(100):
        check(verifier, signed(secret=b"x" * 32, nonce=f"{number:016d}"))
    check(verifier, signed(secret=b"x" * 32))
    assert verifier.nonces == 0
    assert check(verifier, signed()) == "old"


def test_verify_when_two_keys_use_one_nonce_then_both_pass(verifier: Verifier) -> None:
    """Detectors choose their nonces without knowing each other."""
    assert check(verifier, signed()) == "old"
    assert check(verifier, signed(secret=NEW, key="new")) == "new"


def test_verify_when_the_nonce_memory_is_full_then_nothing_is_forgotten() -> None:
    """The next request is refused for now, a replay still is, and time makes room."""
    verifier = Verifier({"old": OLD}, 300.0, max_nonces=3)
    for number in range(3):
        assert check(verifier, signed(nonce=f"{number:016d}", at=NOW + number)) == "old"
    assert check(verifier, signed(nonce=f"{0:016d}")).endswith("a replay")
    with pytest.raises(NoncesFullError) as caught:
        verifier.verify(method="POST", path=PATH, headers=signed(), body=b"{}", now=NOW)
    assert caught.value.retryable
    assert check(verifier, signed(at=NOW + 301), now=NOW + 301) == "old"
    assert verifier.nonces == 3


def test_verify_when_the_window_has_passed_then_nonces_are_forgotten(verifier: Verifier) -> None:
    """Memory is bounded by the window, not by the run of the daemon."""
    for second in range(0, 3000, 10):
        now = NOW + second
        check(verifier, signed(at=now, nonce=f"{second:016d}"), now=now)
    assert verifier.nonces == 31


def test_verifier_when_shown_then_no_key_is_in_it(verifier: Verifier) -> None:
    """Logs and tracebacks may hold it."""
    assert repr(verifier) == "Verifier(keys=['new', 'old'], nonces=0)"


@pytest.mark.parametrize("keys", [{}, {"short": b"x" * 31}])
def test_verifier_when_keys_are_weak_or_missing_then_it_is_not_made(keys: dict[str, bytes]) -> None:
    """A verifier that lets nobody or anybody through is a mistake found at the start."""
    with pytest.raises(ValueError, match="keys"):
        Verifier(keys, 300.0)


def key_file(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    """Return a key file."""
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_load_key_when_the_file_is_private_then_the_key_is_returned(tmp_path: Path) -> None:
    """One line of hex as `openssl rand -hex 32` writes it."""
    assert load_key(key_file(tmp_path, "5a" * 32 + "\n")) == OLD


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o602, 0o666])
def test_load_key_when_others_may_open_the_file_then_it_is_refused(
    tmp_path: Path, mode: int
) -> None:
    """Group counts as others; the error says which command helps."""
    path = key_file(tmp_path, "5a" * 32, mode)
    with pytest.raises(ConfigError) as caught:
        load_key(path)
    assert f"{path}: a key with mode {mode:04o} is open to others" in str(caught.value)
    assert f"chmod 0600 {path}" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "5a" * 31, "not hex at all", "5a" * 16 + "\n" + "zz" * 16, "é"]
)
def test_load_key_when_the_file_holds_no_key_then_it_says_so_without_it(
    tmp_path: Path, text: str
) -> None:
    """The error says how to make a key, and never quotes what is there."""
    with pytest.raises(ConfigError) as caught:
        load_key(key_file(tmp_path, text))
    assert "openssl rand -hex 32" in str(caught.value)
    assert not text or text.strip() not in str(caught.value)
    assert caught.value.__cause__ is None


def test_load_key_when_the_file_is_missing_then_it_says_so(tmp_path: Path) -> None:
    """The path and the way to make it."""
    with pytest.raises(ConfigError, match=r"nothing: the key cannot be read: No such file"):
        load_key(tmp_path / "nothing")
