# SPDX-License-Identifier: Apache-2.0
"""Secrets that systemd hands over: found by name, with systemd's modes, and nowhere else."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from hub.api.secure import load_token
from hub.config import HmacKey, WebhookEngine
from hub.credentials import CredentialError, located
from hub.engines.http import Poster
from hub.errors import ConfigError, EnginePermanentError
from hub.intake.signing import load_key

KEY = "5a" * 32
HANDED = {
    "key": f"{KEY}\n".encode(),
    "url": b"https://chat.example.net/hooks/very-secret\n",
    "empty": b" \n",
    "binary": b"\xff\xfe",
}


@pytest.fixture
def handed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder as systemd makes it, with credentials of mode 0440."""
    folder = tmp_path / "credentials"
    folder.mkdir(mode=0o700)
    for name, content in HANDED.items():
        folder.joinpath(name).write_bytes(content)
        folder.joinpath(name).chmod(0o440)
    folder.chmod(0o550)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


@pytest.mark.parametrize("form", ["credential:key", "path"])
def test_secret_when_handed_over_then_read_with_the_mode_of_systemd(
    handed: Path, form: str
) -> None:
    """0440 is an access list's mask there: keys and tokens are taken, by name and by path."""
    path = Path(form) if form != "path" else handed / "key"
    assert load_key(path) == bytes.fromhex(KEY)
    assert load_token(path) == KEY.encode()


def test_secret_when_others_may_read_it_then_refused_also_there(handed: Path) -> None:
    """For everybody is for everybody; and a folder that others write to is not systemd's."""
    handed.joinpath("key").chmod(0o444)
    with pytest.raises(ConfigError, match="open to others"):
        load_key(Path("credential:key"))
    handed.joinpath("key").chmod(0o440)
    for mode in (0o570, 0o551, 0o557):
        handed.chmod(mode)
        for load in (load_key, load_token):
            with pytest.raises(ConfigError, match="open to others"):
                load(Path("credential:key"))


def test_secret_when_it_lies_elsewhere_then_the_group_may_not_read_it(
    tmp_path: Path, handed: Path
) -> None:
    """The exception is for the folder of systemd, not for what lies below or beside it."""
    for place in (tmp_path / "key", handed / "below" / "key"):
        handed.chmod(0o750)
        place.parent.mkdir(exist_ok=True)
        place.write_text(KEY)
        place.chmod(0o440)
        with pytest.raises(ConfigError, match="0440 is open to others"):
            load_key(place)


def test_credential_when_not_handed_over_then_said_what_the_unit_lacks(
    handed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another name, and a hub that was started by hand."""
    for load in (load_key, load_token):
        with pytest.raises(ConfigError, match=r"credential:other.*LoadCredential=other:"):
            load(Path("credential:other"))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(CredentialError, match="no credentials"):
        located(Path("credential:key"))
    with pytest.raises(ConfigError, match="open to others"):
        load_key(handed / "key")


@pytest.mark.parametrize("name", ["", "../key", "a/b", ".", "..", ".hidden", "a b", "x" * 129])
def test_name_when_it_is_no_file_name_then_refused(handed: Path, name: str) -> None:
    """In the configuration, and where it is used."""
    del handed
    with pytest.raises(ValueError, match="names no credential"):
        HmacKey.model_validate({"id": "a", "secret_file": f"credential:{name}"})
    with pytest.raises(CredentialError):
        located(Path(f"credential:{name}"))


def test_path_when_relative_then_still_refused() -> None:
    """Only the scheme is new."""
    with pytest.raises(ValueError, match="not an absolute path"):
        HmacKey.model_validate({"id": "a", "secret_file": "keys/key"})
    made = WebhookEngine.model_validate({"url": "https://x", "token_file": "credential:a"})
    assert str(made.token_file) == "credential:a"


async def test_url_when_a_credential_then_read_at_the_start_and_never_shown(handed: Path) -> None:
    """The path of a webhook's URL is its secret; errors name the credential alone."""
    del handed
    poster = Poster(SecretStr("credential:url"), 1.0)
    await poster.open()
    assert poster.host == "chat.example.net"
    poster.check()
    await poster.close()
    assert "secret" not in repr(vars(poster))
    for name in ("empty", "binary"):
        with pytest.raises(EnginePermanentError, match=f"credential:{name}: it holds no text"):
            await Poster(SecretStr(f"credential:{name}"), 1.0).open()
    with pytest.raises(EnginePermanentError, match="LoadCredential=gone:"):
        await Poster(SecretStr("credential:gone"), 1.0).open()
