# SPDX-License-Identifier: Apache-2.0
"""The hub's SSH key: made, guarded, exchanged, and never shown."""

import asyncio
import stat
import subprocess
import tempfile
from pathlib import Path

import asyncssh
import pytest

from hub.errors import RefusedError
from hub.isn_sync import identity as module
from hub.isn_sync.files import FileError
from hub.isn_sync.identity import Identity


def subprocess_output(*command: str) -> str:
    """Return what a program prints."""
    return subprocess.run(command, capture_output=True, check=True, text=True, timeout=20).stdout


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the key is to be; its folder does not exist."""
    return tmp_path / "isn-sync" / "id_ed25519"


def test_open_when_there_is_none_then_made_for_its_owner_alone(path: Path) -> None:
    """The first start makes an ed25519 key that OpenSSH can read, and nothing else beside it."""
    made = asyncio.run(Identity.open(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["id_ed25519"]
    shown = subprocess_output("ssh-keygen", "-y", "-f", str(path))
    assert shown.split()[:2] == made.public_line().split()[:2]
    assert subprocess_output("ssh-keygen", "-lf", str(path)).split()[1] == made.fingerprint
    assert (made.previous, offered(made)) == (None, [made.fingerprint])


def test_open_when_there_is_one_then_the_same_again(path: Path) -> None:
    """A restart keeps the key."""
    first = asyncio.run(Identity.open(path))
    assert asyncio.run(Identity.open(path)).public_line() == first.public_line()


def test_open_when_made_by_ssh_keygen_then_used(path: Path) -> None:
    """A key that a person made with OpenSSH is taken, with its comment."""
    path.parent.mkdir()
    subprocess_output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "edge1", "-f", str(path))
    line = asyncio.run(Identity.open(path)).public_line()
    assert line == path.with_name("id_ed25519.pub").read_text().strip()


def test_line_when_tagged_then_one_harmless_word(path: Path) -> None:
    """The tag names the hub; nothing in it can end the line or add to it."""
    made = asyncio.run(Identity.open(path))
    assert made.public_line("hub-1@edge").split()[2] == "hub-1@edge"
    assert made.public_line("a b\ncommand=x").split()[2:] == ["a-b-command-x"]
    assert made.public_line().split()[2].startswith("fnm-hub@")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_open_when_others_may_then_refused(path: Path, mode: int) -> None:
    """A key that others can open is no secret any more; the error says how to set it right."""
    asyncio.run(Identity.open(path))
    path.chmod(mode)
    with pytest.raises(FileError, match=f"chmod go-rwx {path}"):
        asyncio.run(Identity.open(path))


def test_open_when_others_may_write_the_folder_then_refused(path: Path) -> None:
    """Whoever can write the folder could put a key of his own there."""
    asyncio.run(Identity.open(path))
    path.parent.chmod(0o770)
    with pytest.raises(FileError, match="go-w"):
        asyncio.run(Identity.open(path))


def offered(identity: Identity) -> list[str]:
    """Return the fingerprints of the keys that agents are offered, in order."""
    keys = identity.keys()
    return [key.fingerprint for key in keys]


def ecdsa() -> bytes:
    """Return a key of another kind."""
    return asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_private_key()


def locked() -> bytes:
    """Return a key with a passphrase."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "key")
        subprocess_output("ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(path))
        return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no private key"),
        (b"ssh-ed25519 AAAA nonsense\n", "no private key"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n", "no private key"),
        (b"\xff" * 100_000, "more than 65536 bytes"),
        (ecdsa(), "not ssh-ed25519"),
        (locked(), "passphrase"),
    ],
    ids=["empty", "public", "cut", "huge", "ecdsa", "locked"],
)
def test_open_when_the_file_is_wrong_then_refused_and_left(
    path: Path, content: bytes, why: str
) -> None:
    """A file that is no usable key is named, left alone, and not quoted."""
    path.parent.mkdir(mode=0o700)
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(FileError, match=why) as caught:
        asyncio.run(Identity.open(path))
    assert path.read_bytes() == content
    assert "c2VjcmV0" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_open_when_it_is_a_folder_then_refused(path: Path) -> None:
    """What is no file is not waited for and not replaced."""
    path.mkdir(parents=True, mode=0o700)
    path.parent.chmod(0o700)
    with pytest.raises(FileError, match="regular"):
        asyncio.run(Identity.open(path))


def test_rotate_when_done_then_both_are_offered_across_restarts(path: Path) -> None:
    """After an exchange the new key comes first and the old one stays, until it is dropped."""
    made = asyncio.run(Identity.open(path))
    old = made.fingerprint
    asyncio.run(made.rotate())
    new = made.fingerprint
    for one in (made, asyncio.run(Identity.open(path))):
        assert offered(one) == [new, old]
        assert one.previous is not None
        assert one.previous.fingerprint == old
    modes = [stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()]
    assert modes == [0o600, 0o600]
    asyncio.run(made.drop_previous())
    asyncio.run(made.drop_previous())
    for one in (made, asyncio.run(Identity.open(path))):
        assert offered(one) == [new]


def test_rotate_when_one_is_under_way_then_refused_unless_forced(path: Path) -> None:
    """A second exchange would lock out agents that have only the first key."""
    made = asyncio.run(Identity.open(path))
    asyncio.run(made.rotate())
    before = offered(made)
    with pytest.raises(RefusedError, match="fnm-hub key show"):
        asyncio.run(made.rotate())
    assert offered(made) == before
    asyncio.run(made.rotate(force=True))
    assert offered(made)[1:] == before[:1]


def test_rotate_when_it_breaks_off_then_no_key_is_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the two files leaves the old key in use, now and after a restart."""
    made = asyncio.run(Identity.open(path))
    old = made.fingerprint

    def broken(_path: Path) -> None:
        raise FileError("no space left on device", where=str(path))

    with monkeypatch.context() as patched:
        patched.setattr(module, "_make", broken)
        with pytest.raises(FileError):
            asyncio.run(made.rotate())
    for one in (made, asyncio.run(Identity.open(path))):
        assert offered(one) == [old]
    asyncio.run(made.rotate())
    assert offered(made)[1:] == [old]


def test_identity_when_shown_then_no_private_half(path: Path) -> None:
    """Neither repr shows more than a fingerprint."""
    made = asyncio.run(Identity.open(path))
    secret = path.read_text().splitlines()[1:-1]
    shown = f"{made!r} {made.current!r} {made.keys()!r} {made.public_line()}"
    assert made.fingerprint in shown
    assert not any(line in shown for line in secret)
