# SPDX-License-Identifier: Apache-2.0
"""Secrets and certificates: what is loaded, what is refused, and that nothing leaks."""

from pathlib import Path

import pytest

from hub.api.gates import Tokens
from hub.api.secure import check_intake, is_loopback, load_token, server_context
from hub.config import Intake, TcpIntake, TlsFiles
from hub.errors import ConfigError
from tests.support.api_tls import Pki, make_pki


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """A CA and what it has signed."""
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.0.2.1", False),
        ("localhost.example.net", False),
        ("127.0.0.1.example.net", False),
        ("2130706433", False),
    ],
)
def test_loopback_when_asked_then_only_what_surely_is(host: str, *, expected: bool) -> None:
    """Only a loopback address or `localhost` itself counts as loopback."""
    assert expected == is_loopback(host)


def test_check_when_loopback_then_nothing_to_say() -> None:
    """The default listener may open."""
    assert check_intake(Intake(tcp=TcpIntake()), "config.yaml") == []


def test_token_when_good_then_without_the_line_end(tmp_path: Path) -> None:
    """The token is what stands in the file, without white space around it."""
    path = tmp_path / "token"
    path.write_bytes(b"0123456789abcdef\n")
    path.chmod(0o600)
    assert load_token(path) == b"0123456789abcdef"


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (b"short\n", 0o600, "shorter than 16"),
        (b"", 0o600, "shorter than 16"),
        (b"0123456789abcdef", 0o644, "chmod 0600"),
        (b"0123456789abcdef", 0o640, "chmod 0600"),
        (None, 0, "cannot read"),
    ],
)
def test_token_when_bad_then_refused_without_showing_it(
    tmp_path: Path, content: bytes | None, mode: int, message: str
) -> None:
    """A missing, short or open token is an error with its file, and is not quoted."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(ConfigError, match=message) as caught:
        load_token(path)
    assert str(path) in str(caught.value)
    assert "0123456789abcdef" not in str(caught.value)


def test_tokens_when_printed_then_names_alone() -> None:
    """A log line or a traceback with the tokens in it shows none."""
    assert repr(Tokens([("fnm-adv", b"0123456789abcdef")])) == "Tokens(['fnm-adv'])"


@pytest.mark.parametrize("broken", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize("how", ["missing", "rubbish"])
def test_tls_when_a_file_is_bad_then_its_name_in_the_error(
    pki: Pki, tmp_path: Path, broken: str, how: str
) -> None:
    """A TLS file that cannot be used is named."""
    path = tmp_path / broken
    if how == "rubbish":
        path.write_bytes(b"no PEM")
        path.chmod(0o600)
    files = {"certificate": pki.server.certificate, "key": pki.server.key, "client_ca": pki.ca}
    with pytest.raises(ConfigError) as caught:
        server_context(TlsFiles(**{**files, broken: path}), webhooks=False)
    assert str(path) in str(caught.value)


def test_tls_when_the_key_is_another_s_then_refused(pki: Pki) -> None:
    """Certificate and key must fit."""
    files = TlsFiles(certificate=pki.server.certificate, key=pki.client.key)
    with pytest.raises(ConfigError, match="fits the key"):
        server_context(files, webhooks=False)


def test_tls_when_the_key_is_open_to_all_then_refused(pki: Pki, tmp_path: Path) -> None:
    """A private key that every user can read is no secret."""
    path = tmp_path / "open.key"
    path.write_bytes(pki.server.key.read_bytes())
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 0600"):
        server_context(TlsFiles(certificate=pki.server.certificate, key=path), webhooks=False)
