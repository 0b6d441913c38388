# SPDX-License-Identifier: Apache-2.0
"""The agent's keys file: who may ask, and what a bad line or a bad file costs."""

import os
from pathlib import Path

import asyncssh
import pytest
from structlog.testing import capture_logs

from hub.agent.keys import KeyLineError, KeysFile, fingerprint, parse, parse_line


def line_of(tag: str = "hub1", algorithm: str = "ssh-ed25519") -> str:
    """Return a fresh public key's line, with its tag and without an end."""
    key = asyncssh.generate_private_key(algorithm)
    kind, data, *_ = key.export_public_key().decode().split()
    return f"{kind} {data} {tag}".strip()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a keys file goes, with the mode it has when installed."""
    made = tmp_path / "keys"
    made.touch(0o644)
    made.chmod(0o644)
    return made


def test_line_when_an_ed25519_key_then_its_fingerprint_is_opensshs() -> None:
    """A line gives the key, its tag, and the fingerprint that ssh-keygen -l prints."""
    line = line_of("hub one")
    key = parse_line(line)

    assert key is not None
    assert key.tag == "hub one"
    assert key.fingerprint == asyncssh.import_public_key(line).get_fingerprint()
    assert fingerprint(key.blob) == key.fingerprint


@pytest.mark.parametrize("line", ["", "   ", "# a comment", "  # another"])
def test_line_when_empty_or_a_comment_then_it_is_no_key(line: str) -> None:
    """Empty lines and comments mean nothing."""
    assert parse_line(line) is None


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("ssh-ed25519", "the key is missing"),
        ("ssh-ed25519 AAAA hub", "this is no ed25519 key"),
        ("ssh-ed25519 !!!! hub", "this is no ed25519 key"),
        ("ssh-rsa AAAAB3NzaC1yc2E= hub", "keys of the type ssh-rsa are not taken"),
        ("sk-ssh-ed25519@openssh.com AAAA", "keys of the type sk-ssh-ed25519@openssh.com"),
        ('command="x" ssh-ed25519 AAAA hub', "options before the key are not taken"),
        ("restrict,pty ssh-rsa AAAA hub", "options before the key are not taken"),
        ("nonsense", "this is no key"),
    ],
)
def test_line_when_not_taken_then_it_says_why(line: str, what: str) -> None:
    """Each reason has words of its own."""
    with pytest.raises(KeyLineError) as caught:
        parse_line(line)
    assert caught.value.what.startswith(what)


def test_line_when_the_key_is_cut_or_longer_then_it_is_refused() -> None:
    """A key that is not exactly one ed25519 point is none."""
    kind, data, _ = line_of().split()
    for wrong in (data[:-4], data + "AAAA", data.replace("AAAAC3", "AAAAC4", 1)):
        with pytest.raises(KeyLineError):
            parse_line(f"{kind} {wrong}")


def test_tag_when_it_could_disturb_a_terminal_then_it_is_made_harmless() -> None:
    """Control characters and foreign letters of a tag do not reach the log."""
    key = parse_line(line_of("hub\x1b[31m\u00e4" + "x" * 200))
    assert key is not None
    assert key.tag.startswith("hub?[31m?x")
    assert len(key.tag) == 64


def test_file_when_some_lines_are_bad_then_the_others_count() -> None:
    """One bad line is never fatal, and is known by its number."""
    good, other = line_of("a"), line_of("b")
    keys, refused = parse(f"# hubs\n{good}\nssh-rsa AAAA x\n\n{other}\n{good}\n")

    assert [key.tag for key in keys.values()] == ["a", "b"]
    assert [number for number, _ in refused] == [3, 6]


def test_file_when_changed_then_it_is_read_again_at_the_next_look(path: Path) -> None:
    """A key is taken and refused again without a restart; an unchanged file is not read again."""
    first, second = line_of("first"), line_of("second")
    path.write_text(first + "\n")
    file = KeysFile(path)
    with capture_logs() as logs:
        assert [key.tag for key in file.keys().values()] == ["first"]
        assert [key.tag for key in file.keys().values()] == ["first"]
        path.write_text(second + "\n")
        os.utime(path, ns=(1, 1))
        assert [key.tag for key in file.keys().values()] == ["second"]
    assert [entry["event"] for entry in logs] == ["keys.read", "keys.read"]


def test_file_when_lines_are_bad_then_the_log_names_them_by_number(path: Path) -> None:
    """The log says which line was skipped, why, and what to do."""
    path.write_text("\nssh-dss AAAA hub\n")
    with capture_logs() as logs:
        assert KeysFile(path).keys() == {}
    assert logs[0]["event"] == "keys.line_skipped"
    assert (logs[0]["line"], logs[0]["todo"]) == (2, "use an ed25519 key")


def test_file_when_others_can_write_it_then_it_gives_no_key(path: Path) -> None:
    """A file that somebody else could have written lets nobody in, and is taken when mended."""
    path.write_text(line_of() + "\n")
    file = KeysFile(path)
    for mode in (0o664, 0o646):
        path.chmod(mode)
        assert KeysFile(path).keys() == {}
    path.chmod(0o664)
    assert file.keys() == {}
    path.chmod(0o644)
    assert len(file.keys()) == 1
    os.chown(path, 65534, -1)
    assert file.keys() == {}


def test_file_when_it_goes_then_nobody_is_let_in_and_the_log_says_so_once(path: Path) -> None:
    """A file that is gone takes its keys along; the complaint does not fill the log."""
    path.write_text(line_of() + "\n")
    file = KeysFile(path)
    assert len(file.keys()) == 1
    text = path.read_text()
    path.unlink()
    with capture_logs() as logs:
        assert file.keys() == {}
        assert file.keys() == {}
    assert [entry["event"] for entry in logs] == ["keys.unusable"]
    path.write_text(text)
    assert len(file.keys()) == 1


def test_file_when_huge_then_it_is_not_read(path: Path) -> None:
    """A file of more than 1 MiB costs no memory and gives no key."""
    path.write_text((line_of() + "\n") * 20_000)
    assert KeysFile(path).keys() == {}


def test_file_when_it_is_a_folder_then_it_gives_no_key(tmp_path: Path) -> None:
    """What is no file lets nobody in."""
    assert KeysFile(tmp_path).keys() == {}
