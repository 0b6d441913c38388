# SPDX-License-Identifier: Apache-2.0
"""scripts/fnm-notify as real processes: HTTPS to hubs on other hosts, always verified."""

from pathlib import Path

import pytest

from hub.intake.envelope import decode
from hub.intake.signing import Verifier
from tests.support.notify import (
    COMMUNITY_BAN,
    COMMUNITY_UNBAN,
    TEXT,
    Pki,
    Place,
    https,
    hub,
    make_pki,
    silent,
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return an own configuration, socket path and spool."""
    return Place(tmp_path)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Return certificates of one authority."""
    return make_pki(tmp_path_factory.mktemp("pki") / "own")


@pytest.fixture
def key_file(place: Place) -> Path:
    """Return a file with a shared key."""
    path = place.root / "key"
    path.write_text("5a" * 32 + "\n")
    path.chmod(0o600)
    return path


def test_https_when_signed_then_the_hub_verifies_it(place: Place, pki: Pki, key_file: Path) -> None:
    """The script's signature is what hub.intake.signing checks, body and path included."""
    with hub(tls=pki.server_context()) as played:
        https(place, pki, played.port, key_id="fnm1", key_file=key_file)
        assert silent(place.call(*COMMUNITY_BAN, stdin=TEXT)) == (0, b"", "")
    (request,) = played.requests
    verifier = Verifier({"fnm1": b"\x5a" * 32}, 300.0)
    assert (
        verifier.verify(
            method=request.method,
            path=request.path,
            headers=request.headers,
            body=request.body,
            now=float(request.headers["X-FNM-Timestamp"]),
        )
        == "fnm1"
    )
    assert decode(request.body).args == COMMUNITY_BAN


def test_https_when_the_report_is_large_then_it_fits_the_hubs_limit(place: Place, pki: Pki) -> None:
    """640 KiB are kept, so that the request stays below 1 MiB."""
    with hub(tls=pki.server_context()) as played:
        https(place, pki, played.port)
        assert place.call(*COMMUNITY_BAN, stdin=bytes(2**20)).status == 0
    envelope = decode(played.bodies[0])
    assert (len(envelope.stdin), envelope.truncated) == (640 * 2**10, True)
    assert len(played.bodies[0]) < 2**20


def test_https_when_the_certificate_itself_is_the_ca_file_then_it_is_pinned(
    place: Place, pki: Pki
) -> None:
    """A leaf certificate as ca_file is trusted alone."""
    with hub(tls=pki.server_context()) as played:
        https(place, pki, played.port, ca_file=pki.server)
        assert silent(place.call(*COMMUNITY_UNBAN)) == (0, b"", "")
    assert len(played.requests) == 1


def test_https_when_the_hub_is_not_proved_then_it_gets_nothing(
    place: Place, pki: Pki, tmp_path: Path
) -> None:
    """Another authority, another name, no authority at all: the event stays here."""
    stranger = make_pki(tmp_path / "stranger")
    elsewhere = make_pki(tmp_path / "elsewhere", "192.0.2.99")
    for server, ca in ((stranger, pki.ca), (elsewhere, elsewhere.ca), (pki, "")):
        with hub(tls=server.server_context()) as played:
            https(place, pki, played.port, ca_file=ca)
            call = place.call(*COMMUNITY_UNBAN)
        assert (call.status, played.requests) == (0, [])
        assert "CERTIFICATE_VERIFY_FAILED" in call.stderr
    assert len(place.spooled()) == 3


def test_https_when_the_hub_wants_a_certificate_then_ours_is_shown(place: Place, pki: Pki) -> None:
    """Mutual TLS works with client_cert and client_key, and not without."""
    with hub(tls=pki.server_context(mutual=True)) as played:
        https(place, pki, played.port)
        assert place.call(*COMMUNITY_UNBAN).status == 0
        assert (played.requests, len(place.spooled())) == ([], 1)
        https(place, pki, played.port, client_cert=pki.client, client_key=pki.client_key)
        assert silent(place.call(*COMMUNITY_UNBAN)) == (0, b"", "")
    assert len(played.requests) == 2
    assert place.spooled() == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "https://",
        "https://user@127.0.0.1:1",
        "https://127.0.0.1:port",
        "https://127.0.0.1:1/\x7f",
        "https://127.0.0.1:1",
        "https://[::1]:1/x",
        "https://name.invalid/",
    ],
)
def test_https_when_the_url_leads_nowhere_then_the_call_is_spooled(place: Place, url: str) -> None:
    """A wrong URL, plain HTTP, a closed port, an unknown name: said, and spooled."""
    place.configure(url=url)
    call = place.call(*COMMUNITY_UNBAN)
    assert (call.status, call.stdout, len(place.spooled())) == (0, b"", 1)
    assert len(call.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("mode", "text", "why"),
    [
        (0o644, "5a" * 32, "mode 0644"),
        (0o660, "5a" * 32, "mode 0660"),
        (0o600, "5a" * 31, "64 or more hex digits"),
        (0o600, "not hex " * 10, "64 or more hex digits"),
        (0o640, None, "No such file"),
    ],
)
def test_https_when_the_key_cannot_be_used_then_nothing_is_sent(  # noqa: PLR0917
    place: Place, pki: Pki, key_file: Path, mode: int, text: str | None, why: str
) -> None:
    """A key that others can read is not used; the report never quotes it."""
    key_file.write_text(text or "")
    key_file.chmod(mode)
    if text is None:
        key_file.unlink()
    with hub(tls=pki.server_context()) as played:
        https(place, pki, played.port, key_id="fnm1", key_file=key_file)
        call = place.call(*COMMUNITY_UNBAN)
    assert (call.status, played.requests, len(place.spooled())) == (0, [], 1)
    assert why in call.stderr
    assert text is None or text not in call.stderr


def test_https_when_it_is_unauthorized_then_it_is_said_what_to_check(
    place: Place, pki: Pki
) -> None:
    """401 has few causes, and the line names them."""
    with hub(401, tls=pki.server_context()) as played:
        https(place, pki, played.port)
        call = place.call(*COMMUNITY_UNBAN)
    assert "answered 401; check key_id, key_file, client_cert and the clocks" in call.stderr
    assert len(place.spooled()) == 1
