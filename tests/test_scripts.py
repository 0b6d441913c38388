# SPDX-License-Identifier: Apache-2.0
"""The scripts a newcomer types, and the files they read."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHELL = re.compile(rb"#!.*\b(ba|da)?sh\b")
POLICY = Path("/usr/sbin/policy-rc.d")


def _shell_scripts() -> list[Path]:
    files = [path for folder in ("scripts", ".ci") for path in (ROOT / folder).iterdir()]
    return sorted(path for path in files if path.is_file() and SHELL.match(path.read_bytes()))


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.partition("==") for line in lines if not line.startswith("#")]
    return {name: version for name, _, version in pins}


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_shell_scripts_when_checked_then_shellcheck_finds_nothing() -> None:
    """Every shell script of the project passes shellcheck."""
    scripts = _shell_scripts()
    names = [path.relative_to(ROOT).as_posix() for path in scripts]
    assert {".ci/run", "scripts/demo", "scripts/setup", "scripts/test"} <= set(names)

    command = ["shellcheck", "--external-sources", "--check-sourced", *map(str, scripts)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_scripts_when_in_the_tree_then_they_can_be_run() -> None:
    """Everything directly in scripts/ is a program, with its mode and its first line."""
    programs = [path for path in (ROOT / "scripts").iterdir() if path.is_file()]
    for path in [*programs, ROOT / ".ci/run"]:
        assert os.access(path, os.X_OK), f"{path} is not executable"
        assert path.read_bytes().startswith(b"#!"), f"{path} has no first line"


def test_constraints_when_read_then_each_line_is_one_exact_version() -> None:
    """Pins are versions only: no address, no hash, no option, sorted, each package once."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]

    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][\w.]*", line)] == []
    assert sorted(pins, key=str.casefold) == pins
    assert len(pins) == len({pin.partition("==")[0].casefold() for pin in pins})


def test_constraints_when_compared_to_pyproject_then_every_requirement_is_pinned() -> None:
    """What the project asks for by name, for running, testing and building, has a pin."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["dev"],
        *project["build-system"]["requires"],
    ]
    names = {re.split(r"[^A-Za-z0-9._-]", text)[0] for text in wanted}
    pinned = {name.casefold().replace("_", "-") for name in _pins()}

    assert set() == {name.casefold().replace("_", "-") for name in names} - pinned


def test_setup_files_when_read_then_they_name_no_address() -> None:
    """Packages come from wherever the machine's own clients are set up to take them."""
    parts = (ROOT / "scripts").glob("*/*.sh")
    files = [*_shell_scripts(), *parts, ROOT / "constraints.txt", ROOT / "pyproject.toml"]
    telling = re.compile(r"://|--(extra-)?index-url|--find-links|--trusted-host")
    found = {path.name: telling.findall(path.read_text()) for path in files}

    assert {name: matches for name, matches in found.items() if matches} == {}


def test_readme_when_followed_then_its_commands_and_links_exist() -> None:
    """Each program that README.md tells to type, and each file it links to, is there."""
    text = (ROOT / "README.md").read_text()
    commands = set(re.findall(r"^(?:sudo )?(scripts/[\w-]+)", text, re.MULTILINE))
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)

    assert {"scripts/demo", "scripts/test"} <= commands
    assert [name for name in [*commands, *links] if not (ROOT / name).exists()] == []


def test_licence_when_read_then_it_is_the_whole_text() -> None:
    """LICENSE is the full Apache License 2.0, as Debian ships it."""
    assert (
        Path("/usr/share/common-licenses/Apache-2.0").read_text() == (ROOT / "LICENSE").read_text()
    )


class _Machine:
    """Runs the real scripts/setup with apt and dpkg of our own, in its own view of the disk."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.sbin, self.run = folder / "bin", folder / "sbin", folder / "run"
        self.log = folder / "apt.log"
        for path in (self.bin, self.sbin, self.run):
            path.mkdir()
        self.policy = self.sbin / POLICY.name
        self.lacks("hping3")
        self.apt("exit 0")

    def lacks(self, package: str) -> None:
        """Let every package but this one be installed."""
        _program(
            self.bin / "dpkg-query",
            f'for p; do case $p in -*|*%*|*{{*|{package}) ;; *) echo "$p installed";; esac; done',
        )

    def apt(self, end: str) -> None:
        """Let apt-get note its arguments and the policy it finds, and then do `end`."""
        note = f'echo "$*" >>{self.log}; [ -x {POLICY} ] && {POLICY}; echo "policy $?" >>{self.log}'
        _program(self.bin / "apt-get", f"{note}; {end}")

    def setup(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run scripts/setup up to the Python part, which fails unless `environment` mends it."""
        binds = f"mount --bind {self.sbin} /usr/sbin && mount --bind {self.run} /run"
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", f"{binds} && exec {ROOT}/scripts/setup"],
            env={
                "PATH": f"{self.bin}:/usr/bin:/bin",
                "FNM_PYTHON": "/bin/false",
                "FNM_VENV": str(self.run / "venv"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def calls(self) -> list[str]:
        """Return what apt-get noted."""
        return self.log.read_text().splitlines() if self.log.exists() else []


def test_setup_when_one_package_is_missing_then_it_installs_that_one_without_services(
    tmp_path: Path,
) -> None:
    """Only what is missing is installed, no service may start meanwhile, and later they may."""
    machine = _Machine(tmp_path)
    machine.setup()

    asked, policy = machine.calls()
    assert asked.startswith("install ")
    assert [word for word in asked.split()[1:] if re.fullmatch(r"[a-z0-9]+", word)] == ["hping3"]
    assert policy == "policy 101"
    assert not machine.policy.exists()


def test_setup_when_apt_fails_then_it_updates_once_and_leaves_no_policy(tmp_path: Path) -> None:
    """A failing apt is retried once after an update; then the error says what to do."""
    machine = _Machine(tmp_path)
    machine.apt("exit 100")
    done = machine.setup()

    assert [line.split()[0] for line in machine.calls()[::2]] == ["install", "update", "install"]
    assert done.returncode == 1
    assert "apt-get could not install: hping3" in done.stderr
    assert "what to do:" in done.stderr
    assert not machine.policy.exists()


def test_setup_when_the_machine_has_a_policy_then_it_stays(tmp_path: Path) -> None:
    """A policy-rc.d that somebody else put there is neither replaced nor removed."""
    machine = _Machine(tmp_path)
    _program(machine.policy, "exit 104")
    before = machine.policy.read_bytes()
    machine.setup()

    assert machine.calls()[1] == "policy 104"
    assert before == machine.policy.read_bytes()


def test_setup_when_a_killed_run_left_its_policy_then_the_next_run_removes_it(
    tmp_path: Path,
) -> None:
    """No machine is left for ever without services by a set-up that was killed."""
    machine = _Machine(tmp_path)
    machine.lacks("nothing")
    _program(machine.policy, "# made by fnm-hub scripts/setup\nexit 101")
    machine.setup()

    assert machine.calls() == []
    assert not machine.policy.exists()


def test_setup_when_not_root_then_it_says_so() -> None:
    """Without root the first line says what is needed, before anything is changed."""
    may_read = "+dac_read_search"
    done = subprocess.run(
        [
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
            *(f"--inh-caps={may_read}", f"--ambient-caps={may_read}", "scripts/setup"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("set-up failed: it must run as root")


def test_setup_when_the_venv_is_something_else_then_it_is_left_alone(tmp_path: Path) -> None:
    """FNM_VENV pointing at a folder of files never empties it."""
    machine = _Machine(tmp_path)
    machine.lacks("nothing")
    done = machine.setup(FNM_VENV=str(machine.bin), FNM_PYTHON="/usr/bin/python3")

    assert done.returncode == 1
    assert "is no virtual environment" in done.stderr
    assert {path.name for path in machine.bin.iterdir()} == {"apt-get", "dpkg-query"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a checkout with the real scripts/test and tools that only say what they were asked."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".ci").mkdir()
    (tmp_path / "venv/bin").mkdir(parents=True)
    for name in ("scripts/test", ".ci/run"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
        (tmp_path / name).chmod(0o755)
    (tmp_path / "native/tools").mkdir(parents=True)
    (tmp_path / "native/Makefile").write_text("format-check:\n\t@echo clang-format\n")
    _program(tmp_path / "native/tools/reasons", 'echo "reasons $*"')
    _program(tmp_path / "scripts/setup", 'echo "setup $*"')
    _program(tmp_path / "venv/bin/python", 'echo "python $*"; exit 5')
    for tool in ("ruff", "mypy"):
        _program(tmp_path / "venv/bin" / tool, f'echo "{tool} $*"')
    return tmp_path


def _run(checkout: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / argv[0], *argv[1:]],
        env={**os.environ, "FNM_VENV": str(checkout / "venv")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("script", ["scripts/test", ".ci/run"])
def test_test_when_all_checks_pass_then_pytest_speaks_last_and_decides(
    checkout: Path, script: str
) -> None:
    """Set-up, static checks, tests; pytest's exit status is the run's, its line the last one."""
    done = _run(checkout, script)
    lines = done.stdout.splitlines()

    assert done.returncode == 5
    assert lines[0] == "setup --apt-for test"
    workers = "-n 3 --no-loadscope-reorder"
    assert lines[-1] == f"python -m pytest {workers} -m not long"
    said = {"ruff check .", "ruff format --check .", "clang-format", "reasons --check"}
    assert said <= set(lines)


def test_test_when_asked_for_all_then_leaves_nothing_out(checkout: Path) -> None:
    """The checks and every test, the long ones as well."""
    lines = _run(checkout, "scripts/test", "--all").stdout.splitlines()
    assert "ruff check ." in lines
    assert lines[-1] == "python -m pytest -n 3 --no-loadscope-reorder"


def test_test_when_a_static_check_fails_then_all_are_shown_and_no_test_runs(
    checkout: Path,
) -> None:
    """One failing linter fails the run, by name, after the other linters have spoken too."""
    _program(checkout / "venv/bin/ruff", "exit 1")
    done = _run(checkout, "scripts/test")

    assert done.returncode == 1
    assert "[ruff check] [ruff format]" in done.stderr
    assert "mypy" in done.stdout
    assert "pytest" not in done.stdout


def test_test_when_given_arguments_then_only_pytest_runs_with_them(checkout: Path) -> None:
    """Arguments go to pytest as they are, and the static checks are left out."""
    done = _run(checkout, "scripts/test", "-k", "one or two")

    assert done.stdout.splitlines() == ["setup --apt-for test", "python -m pytest -k one or two"]
