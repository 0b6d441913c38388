# SPDX-License-Identifier: Apache-2.0
"""The agent's installer, into a folder of its own: what it lays down, keeps and removes."""

import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts/install-agent"
UNITS = ("fnm-agent.service", "fnm-keeper.service")


@pytest.fixture(scope="module")
def stage() -> Iterator[Path]:
    """Return a folder with an installed agent, which other users can look into."""
    made = Path(mkdtemp(prefix="fnm-install-"))
    made.chmod(0o755)
    done = install(made)
    assert done.returncode == 0, done.stderr
    (made / "told").write_text(done.stdout)
    yield made
    shutil.rmtree(made)


def install(stage: Path, *more: str, source: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
    """Run the installer."""
    return subprocess.run(
        [source, "--root", stage, *more], capture_output=True, text=True, check=False, timeout=110
    )


def mode(path: Path) -> int:
    """Return a file's permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_install_when_done_then_the_program_runs_with_few_packages(stage: Path) -> None:
    """The environment has asyncssh, structlog and what they need, at the project's pins."""
    python = stage / "opt/fnm-agent/venv/bin/python"
    done = subprocess.run(
        [python, "-I", "-m", "hub.agent.main", "version"], capture_output=True, check=True
    )
    assert done.stdout.startswith(b"fnm-agent ")
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    ).stdout.split()
    pins = (ROOT / "constraints.txt").read_text().split()
    packages = {line.partition("==")[0]: line for line in listed}
    assert set(packages) - {"pip", "setuptools"} == {
        *("asyncssh", "structlog", "cryptography", "cffi", "pycparser", "typing_extensions"),
    }
    assert {packages["asyncssh"], packages["structlog"], packages["cryptography"]} <= set(pins)
    site = next((stage / "opt/fnm-agent/venv/lib").glob("python*/site-packages/hub"))
    assert {path.name for path in site.glob("*.py")} == {
        *(
            "__init__.py",
            "clock.py",
            "credentials.py",
            "errors.py",
            "journald.py",
            "log.py",
            "repeats.py",
            "systemd.py",
            "tasks.py",
        ),
    }
    ours = {path.relative_to(ROOT / "hub") for path in (ROOT / "hub/agent").rglob("*.py")}
    assert {path.relative_to(site) for path in (site / "agent").rglob("*.py")} == ours


def test_install_when_done_then_the_files_have_their_modes(stage: Path) -> None:
    """The host key is root's alone; the keys file only root can write."""
    assert mode(stage / "etc/fnm-agent/host_ed25519") == 0o600
    assert mode(stage / "etc/fnm-agent/keys") == 0o644
    assert mode(stage / "usr/local/sbin/fnm-agent") == 0o755
    open_to_all = [
        path
        for path in (stage / "opt/fnm-agent").rglob("*")
        if not path.is_symlink() and mode(path) & 0o022
    ]
    assert open_to_all == []


def test_install_when_done_then_it_tells_what_comes_next(stage: Path) -> None:
    """Fingerprint, a line for known_hosts, the port and the next step."""
    told = (stage / "told").read_text()
    assert re.search(r"host key: +SHA256:[A-Za-z0-9+/]{43}\n", told)
    assert re.search(r"known_hosts: +\[[^]]+\]:7100 ssh-ed25519 AAAA\S+\n", told)
    assert "TCP port 7100" in told
    assert "fnm-hub key show" in told


def test_install_when_run_again_then_keys_and_host_key_stay(stage: Path) -> None:
    """A rerun is the update: programs are replaced, keys are not."""
    keys, host_key = stage / "etc/fnm-agent/keys", stage / "etc/fnm-agent/host_ed25519"
    keys.write_text("# mine\n")
    before = host_key.read_bytes()
    marker = stage / "opt/fnm-agent/venv/marker"
    marker.touch()
    (stage / "opt/fnm-agent/new").mkdir()  # left by a run that was killed
    (stage / "opt/fnm-agent/old").mkdir()

    assert install(stage).returncode == 0
    assert keys.read_text() == "# mine\n"
    assert host_key.read_bytes() == before
    assert not marker.exists()
    assert [path.name for path in (stage / "opt/fnm-agent").iterdir()] == ["venv"]


@pytest.mark.parametrize("name", UNITS)
def test_unit_when_verified_then_systemd_has_no_complaint(stage: Path, name: str) -> None:
    """Every directive is known; it is the file of the repository."""
    installed = (stage / "etc/systemd/system" / name).read_bytes()
    assert installed == (ROOT / "scripts/units" / name).read_bytes()
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={stage}", name],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in verified.stderr.splitlines() if "fnm-" in line]
    wrong = ("Unknown", "Failed to parse", "Invalid")
    assert [line for line in ours if any(word in line for word in wrong)] == []


def test_uninstall_when_asked_then_the_keys_stay_unless_purged(tmp_path: Path) -> None:
    """-d removes everything but /etc/fnm-agent; --purge that as well; both may be repeated."""
    for folder in ("opt/fnm-agent/venv/bin", "etc/fnm-agent", "etc/systemd/system"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/fnm-agent/keys").touch()
    for name in UNITS:
        (tmp_path / "etc/systemd/system" / name).touch()
    for _ in range(2):
        assert install(tmp_path, "-d").returncode == 0
        left = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert left == [tmp_path / "etc/fnm-agent/keys"]
    for _ in range(2):
        assert install(tmp_path, "--uninstall", "--purge").returncode == 0
        assert not (tmp_path / "etc/fnm-agent").exists()


def test_install_when_called_wrongly_then_it_says_what_to_do(tmp_path: Path) -> None:
    """Unknown words and missing parts are errors with a next step; help is help."""
    for words in (["--frobnicate"], ["--purge"]):
        done = install(tmp_path, *words)
        assert done.returncode == 1
        assert "what to do: " in done.stderr
    shown = install(tmp_path, "--help")
    assert shown.returncode == 0
    assert "usage: scripts/install-agent" in shown.stdout
    assert shown.stdout.rstrip().endswith("without a package index")
    lonely = tmp_path / "scripts/install-agent"
    lonely.parent.mkdir()
    shutil.copy(SCRIPT, lonely)
    done = install(tmp_path, source=lonely)
    assert "there is no hub/agent beside this script" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["scripts"]
