# SPDX-License-Identifier: Apache-2.0
"""Trusted host keys in known_hosts format: matching, changing, and files of a person's making."""

import asyncio
import stat
import subprocess
from ipaddress import ip_address
from pathlib import Path

import asyncssh
import pytest
from structlog.testing import capture_logs

from hub.errors import RefusedError
from hub.isn_sync.files import FileError
from hub.isn_sync.inventory import Agent
from hub.isn_sync.pins import Pins
from tests.support.engines import FakeClock

KEY = asyncssh.generate_private_key("ssh-ed25519", comment="")
OTHER = asyncssh.generate_private_key("ssh-ed25519", comment="")
ECDSA = asyncssh.generate_private_key("ecdsa-sha2-nistp256", comment="")


def public(key: asyncssh.SSHKey) -> str:
    """Return `KIND KEY`."""
    return " ".join(key.export_public_key().decode().split()[:2])


def at(host: str, port: int = 7100) -> Agent:
    """Return an agent."""
    address = ip_address(host)
    return Agent(host=address, port=port, user="fnm-agent", services=(address,))


A, B = at("192.0.2.1"), at("2001:db8::1", 7101)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is to be; its folder does not exist."""
    return tmp_path / "isn-sync" / "known_hosts"


@pytest.fixture
def clock() -> FakeClock:
    """A clock that the test moves."""
    return FakeClock()


def pins_with(path: Path, text: str, clock: FakeClock) -> Pins:
    """Return pins over a file of that text."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    return asyncio.run(Pins.open(path, clock))


def test_pinned_when_there_is_no_file_then_nobody(path: Path, clock: FakeClock) -> None:
    """Without a file nobody is trusted."""
    assert asyncio.run(Pins.open(path, clock)).pinned(A) == ()


@pytest.mark.parametrize(
    ("names", "agent", "found"),
    [
        ("[192.0.2.1]:7100", A, True),
        ("192.0.2.1", A, False),
        ("192.0.2.1", at("192.0.2.1", 22), True),
        ("[192.0.2.1]:22", at("192.0.2.1", 22), False),
        ("[192.0.2.1]:7101", A, False),
        ("web1,[192.0.2.1]:7100,[192.0.2.2]:7100", A, True),
        ("[2001:db8::1]:7101", B, True),
        ("[192.0.2.*]:7100", A, True),
        ("[192.0.2.*]:7100,![192.0.2.1]:7100", A, False),
        ("*", A, True),
        ("192.0.2.0/24", at("192.0.2.1", 22), False),
    ],
)
def test_pinned_when_named_then_by_openssh_s_rules(
    path: Path, clock: FakeClock, names: str, agent: Agent, *, found: bool
) -> None:
    """A line counts for the address and port it names, patterns included, and for no others."""
    pins = pins_with(path, f"# edge\n\n{names} {public(KEY)} a comment\n", clock)
    assert (pins.pinned(agent) == (KEY.convert_to_public(),)) is found


def test_pinned_when_hashed_by_ssh_keygen_then_found(path: Path, clock: FakeClock) -> None:
    """Names that OpenSSH has hashed are recognized, trusted anew and forgotten."""
    pins_with(path, f"[192.0.2.1]:7100 {public(KEY)}\n", clock)
    subprocess.run(["ssh-keygen", "-H", "-f", str(path)], capture_output=True, check=True)
    assert "192.0.2.1" not in path.read_text()
    pins = asyncio.run(Pins.open(path, clock))
    assert (len(pins.pinned(A)), pins.pinned(at("192.0.2.2"))) == (1, ())
    asyncio.run(pins.trust(A, OTHER))
    assert pins.pinned(A) == (OTHER.convert_to_public(),)


def test_pinned_when_of_another_kind_or_revoked_then_not_trusted(
    path: Path, clock: FakeClock
) -> None:
    """Only ed25519 keys count; a revoked key counts nowhere, and cannot be trusted again."""
    text = (
        f"[192.0.2.1]:7100 {public(ECDSA)}\n[192.0.2.1]:7100 {public(KEY)}\n"
        f"@revoked * {public(KEY)}\n@cert-authority * {public(OTHER)}\n"
    )
    pins = pins_with(path, text, clock)
    assert (pins.pinned(A), pins.revoked(A)) == ((), (KEY.convert_to_public(),))
    for key in (KEY, ECDSA):
        with pytest.raises(RefusedError):
            asyncio.run(pins.trust(A, key))
    assert path.read_text() == text


def test_file_when_lines_are_bad_then_named_and_the_others_count(
    path: Path, clock: FakeClock
) -> None:
    """One bad line costs that line alone; its number is in the log."""
    text = (
        "nonsense\n# comment\n"
        f"@strange [192.0.2.1]:7100 {public(KEY)}\n"
        "[192.0.2.1]:7100 ssh-ed25519 AAAA\n"
        f"|9|x|y {public(KEY)}\n"
        "\xff\x00\n"
        f"[192.0.2.1]:7100 {public(KEY)}\n"
    )
    with capture_logs() as logs:
        pins = pins_with(path, text, clock)
    assert [one["line"] for one in logs] == [1, 3, 4, 5, 6]
    assert {one["event"] for one in logs} == {"isn.known_hosts_line_skipped"}
    assert pins.pinned(A) == (KEY.convert_to_public(),)


def test_trust_when_new_then_the_file_is_made_and_openssh_finds_it(
    path: Path, clock: FakeClock
) -> None:
    """The first trusted key makes the file, for its owner alone, in OpenSSH's words."""
    pins = asyncio.run(Pins.open(path, clock))
    asyncio.run(pins.trust(A, KEY))
    asyncio.run(pins.trust(B, OTHER))
    assert (pins.pinned(A), pins.pinned(B)) == (
        (KEY.convert_to_public(),),
        (OTHER.convert_to_public(),),
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = subprocess.run(
        ["ssh-keygen", "-F", "[2001:db8::1]:7101", "-f", str(path)],
        capture_output=True,
        check=True,
        text=True,
    )
    assert public(OTHER) in found.stdout


def test_trust_when_another_was_trusted_then_that_one_no_more(path: Path, clock: FakeClock) -> None:
    """Trusting a key takes the trust from the one before, and touches nothing else."""
    text = (
        f"# mine\n[192.0.2.2]:7100,[192.0.2.1]:7100 {public(KEY)} both\n192.0.2.1 {public(KEY)}\n"
    )
    pins = pins_with(path, text, clock)
    asyncio.run(pins.trust(A, OTHER))
    assert path.read_text() == (
        f"# mine\n[192.0.2.2]:7100 {public(KEY)} both\n192.0.2.1 {public(KEY)}\n"
        f"[192.0.2.1]:7100 {public(OTHER)}\n"
    )
    before = path.stat().st_ino
    asyncio.run(pins.trust(A, OTHER))
    assert path.stat().st_ino == before


def test_forget_when_pinned_then_gone_and_the_rest_stays(path: Path, clock: FakeClock) -> None:
    """Forgetting takes out one agent; comments, others and bad lines stay as they are."""
    text = f"# mine\n\nnonsense \n[192.0.2.2]:7100 {public(KEY)}\n"
    pins = pins_with(path, f"{text}[192.0.2.1]:7100 {public(OTHER)}\n", clock)
    asyncio.run(pins.forget(A))
    asyncio.run(pins.forget(B))
    assert (path.read_text(), pins.pinned(A)) == (text, ())


def test_change_when_a_pattern_pins_it_then_refused(path: Path, clock: FakeClock) -> None:
    """A line that pins others too is not changed behind the person who wrote it."""
    pins = pins_with(path, f"[192.0.2.*]:7100 {public(KEY)}\n", clock)
    for change in (pins.forget(A), pins.trust(A, OTHER)):
        with pytest.raises(RefusedError, match="known_hosts:1"):
            asyncio.run(change)
    assert pins.pinned(A) == (KEY.convert_to_public(),)


def test_refresh_when_the_file_changes_then_within_a_second(path: Path, clock: FakeClock) -> None:
    """What a person writes into the file counts without a restart; what he takes out, too."""
    pins = pins_with(path, "", clock)
    path.write_text(f"[192.0.2.1]:7100 {public(KEY)}\n")
    asyncio.run(pins.refresh())
    assert pins.pinned(A) == ()
    for text, found in (("", 1), ("", 0)):
        clock.now += 1.0
        asyncio.run(pins.refresh())
        assert len(pins.pinned(A)) == found
        path.write_text(text)
    path.unlink()
    clock.now += 1.0
    asyncio.run(pins.refresh())
    assert pins.pinned(A) == ()


def test_refresh_when_others_may_write_then_refused_until_mended(
    path: Path, clock: FakeClock
) -> None:
    """A file that others can write is refused for every agent, and read once it is set right."""
    pins = pins_with(path, f"[192.0.2.1]:7100 {public(KEY)}\n", clock)
    path.chmod(0o646)
    clock.now += 1.0
    for _ in range(2):
        with pytest.raises(FileError, match="chmod go-w"):
            asyncio.run(pins.refresh())
    path.chmod(0o644)
    clock.now += 1.0
    asyncio.run(pins.refresh())
    assert len(pins.pinned(A)) == 1
