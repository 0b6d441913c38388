# SPDX-License-Identifier: Apache-2.0
"""Parts of the installer: wrong turns, FastNetMon's file, the first configuration."""

import subprocess
import sys
from pathlib import Path

import pytest

from hub.config import load_config

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts/install"
NOTIFY = "notify_script_path = /usr/local/bin/fnm-notify"
PARTS = """
set -euo pipefail
speaker=fnm-hub failure=failed no_fastnetmon='' changed=()
cd "$ROOT"
source scripts/shared/common.sh
source scripts/installer/places.sh
for part in files fastnetmon; do source "scripts/installer/$part.sh"; done
state=$FOLDER/state fastnetmon_conf=$FOLDER/fastnetmon.conf
mkdir -p "$state"
systemd_runs() { false; }
"""


def installer(*words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the installer where it cannot change anything, after `before` in its mount namespace."""
    closed = "for folder in /etc /opt /usr /var; do mount --bind -o ro $folder $folder; done"
    command = f'{closed}\n{before}\nexec "$@"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-ec", command, "sh", SCRIPT, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("words", "before", "said"),
    [
        (["--frobnicate"], "", "unknown argument '--frobnicate'"),
        (["--engine", "ebpf"], "", "--engine takes native or nftables, not 'ebpf'"),
        (["--own-prefix"], "", "--own-prefix takes a value"),
        (["--own-prefix", "--yes"], "", "--own-prefix takes a value"),
        (["--purge"], "", "--detach and --purge go with --uninstall"),
        (["--interface", "nowhere0"], "", "there is no interface nowhere0"),
        ([], "", "nobody is there to be asked"),
        (["--yes", "--package", "/etc/passwd"], "", "/etc/passwd is no package of fnm-hub"),
        (["--yes"], "mount --bind /dev/null /etc/debian_version", "this is neither Debian nor"),
        (
            ["--yes"],
            "mount --bind /bin/false /usr/bin/python3",
            "Debian's /usr/bin/python3 is missing, or",
        ),
    ],
)
def test_install_when_it_cannot_then_it_says_what_to_do(
    words: list[str], before: str, said: str
) -> None:
    """Every wrong turn ends with one line of what and one of what to do, and changes nothing."""
    done = installer(*words, before=before)

    assert done.returncode == 1
    assert f": {said}" in done.stderr
    assert "\n  what to do: " in done.stderr


def test_install_when_not_root_then_it_says_so() -> None:
    """Before anything is looked at."""
    nobody = "exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=+dac_read_search"
    done = installer(before=f'{nobody} --ambient-caps=+dac_read_search "$@"')

    assert done.returncode == 1
    assert "it must run as root" in done.stderr


def test_install_when_only_asked_then_it_says_what_it_would_do() -> None:
    """--dry-run names program, users, configuration and FastNetMon, and needs no answer."""
    old = "mkdir /run/fnm-old; printf '#!/bin/sh\\necho 5.10.0\\n' >/run/fnm-old/uname"
    old = f"mount -t tmpfs none /run\n{old}\nchmod 755 /run/fnm-old/uname\nPATH=/run/fnm-old:$PATH"
    done = installer("--dry-run", "--own-prefix", "192.0.2.0/24", "--interface", "lo", before=old)

    assert done.returncode == 0
    for line in (
        f"program: /opt/fnm-hub-VERSION from a package built from {ROOT}",
        "kernel 5.10.0 is older than 5.18",
        "configuration: /etc/fnm-hub/config.yaml, in dry-run, engine nftables on lo",
        "own prefixes: 192.0.2.0/24",
        f"FastNetMon: {NOTIFY} in /etc/fastnetmon.conf",
    ):
        assert line in done.stderr


def test_install_when_native_is_wanted_and_cannot_be_then_it_names_the_other_engine() -> None:
    """A kernel too old is no reason to install something else than what was asked for."""
    old = "mount -t tmpfs none /run; printf '#!/bin/sh\\necho 5.10.0\\n' >/run/uname"
    old = f"{old}; chmod 755 /run/uname; PATH=/run:$PATH"
    done = installer("--dry-run", "--engine", "native", "--interface", "lo", before=old)

    assert done.returncode == 1
    assert "the engine native cannot work here: kernel 5.10.0 is older than 5.18" in done.stderr
    assert "--engine nftables" in done.stderr


def parts(folder: Path, command: str) -> str:
    """Run functions of the installer on the files of `folder`; return what they say."""
    done = subprocess.run(
        ["bash", "-c", f"{PARTS}\n{command}"],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "ROOT": str(ROOT), "FOLDER": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "",
        "threshold_pps = 20000\n",
        "no newline at its end = on",
        "notify_script_path =\nban_time = 1900\n",
        "# notify_script_path = /x\n",
        "a = b\nnotify_script_path = /nowhere/script.sh\nban_time = 1900\n",
        "notify_script_path = /bin/true\n\tnotify_script_path=/nowhere/y & z \\1\nlast = 1\n",
    ],
)
def test_conf_when_wired_and_unwired_then_it_is_as_it_was(tmp_path: Path, text: str) -> None:
    """The last line with the key alone changes; twice is once; and all comes back."""
    conf = tmp_path / "fastnetmon.conf"
    conf.write_text(text)
    conf.chmod(0o640)
    for _ in range(2):
        parts(tmp_path, "wire_conf")
        lines = conf.read_text().splitlines()
        assert lines.count(NOTIFY) == 1
        others = [line for line in lines if line != NOTIFY]
        assert set(others) <= set(text.splitlines())
        assert len(text.splitlines()) - len(others) in (0, 1)
    assert "as it was found" in parts(tmp_path, "unwire_fastnetmon")
    assert conf.read_text() == text
    assert conf.stat().st_mode & 0o777 == 0o640


def test_conf_when_it_was_edited_meanwhile_then_only_our_line_goes_back(tmp_path: Path) -> None:
    """What a person has changed since then stays."""
    conf = tmp_path / "fastnetmon.conf"
    conf.write_text("a = 1\nnotify_script_path = /nowhere/script.sh\nban_time = 1900\n")
    parts(tmp_path, "wire_conf")
    conf.write_text(conf.read_text().replace("ban_time = 1900", "ban_time = 600"))
    assert "only notify_script_path" in parts(tmp_path, "unwire_fastnetmon")
    assert conf.read_text() == "a = 1\nnotify_script_path = /nowhere/script.sh\nban_time = 600\n"


def test_conf_when_another_script_is_called_then_it_stays(tmp_path: Path) -> None:
    """A script that exists is somebody's: it is named, with what to do, and nothing is written."""
    conf = tmp_path / "fastnetmon.conf"
    conf.write_text("notify_script_path = /bin/true\n")
    said = parts(tmp_path, "wire_conf")
    assert "FastNetMon calls /bin/true; that was left as it is" in said
    assert "What to do: set" in said
    parts(tmp_path, "unwire_fastnetmon")
    assert conf.read_text() == "notify_script_path = /bin/true\n"


def test_conf_when_there_is_no_fastnetmon_then_it_says_what_to_do(tmp_path: Path) -> None:
    """The hub is of use without it, with a detector on another host."""
    assert "Install FastNetMon and run this again" in parts(tmp_path, "wire_conf")
    assert not (tmp_path / "fastnetmon.conf").exists()


def test_place_when_a_file_was_edited_by_hand_then_it_stays(tmp_path: Path) -> None:
    """Ours is replaced, a person's is kept with ours beside it, and only ours is removed."""
    one, two, to = tmp_path / "one", tmp_path / "two", tmp_path / "there/it"
    one.write_text("1\n")
    two.write_text("2\n")
    assert parts(tmp_path, f"place {one} {to} 0755") == ""
    assert parts(tmp_path, f"place {two} {to} 0644") == ""
    assert to.read_text() == "2\n"
    assert to.stat().st_mode & 0o777 == 0o644
    to.write_text("mine\n")
    assert f"{to} was changed by hand and stays" in parts(tmp_path, f"place {one} {to} 0755")
    assert to.read_text() == "mine\n"
    assert (tmp_path / "there/it.new").read_text() == "1\n"
    assert "stays" in parts(tmp_path, "remove_placed")
    assert [path.name for path in to.parent.iterdir()] == ["it"]
    to.write_text("1\n")
    parts(tmp_path, "remove_placed")
    assert not to.exists()


def first_config(*words: str) -> subprocess.CompletedProcess[str]:
    """Print a first configuration."""
    script = ROOT / "scripts/installer/first_config.py"
    return subprocess.run(
        [sys.executable, script, ROOT / "config.example.yaml", *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("engine", ["native", "nftables"])
def test_first_config_when_loaded_then_it_says_what_was_asked(tmp_path: Path, engine: str) -> None:
    """Prefixes, own addresses and one engine; dry-run, and none of the example's addresses."""
    words = ["--own", "192.0.2.77/24", "--own", "2001:db8::/32", "--own", "192.0.2.0/24"]
    done = first_config("--engine", engine, "--never", "198.51.100.1/24", *words)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "config.yaml"
    path.write_text(done.stdout)
    config = load_config(path)

    assert config.dry_run
    assert [str(net) for net in config.guard.own_prefixes] == ["192.0.2.0/24", "2001:db8::/32"]
    assert [str(net) for net in config.guard.never_block] == ["198.51.100.1/32"]
    assert config.services == ()
    assert config.engines.native.enabled == (engine == "native")
    assert config.engines.nftables.enabled == (engine == "nftables")
    example = (ROOT / "config.example.yaml").read_text()
    assert len(done.stdout.splitlines()) == len(example.splitlines())


def test_first_config_when_a_prefix_is_none_then_it_says_which() -> None:
    """No half configuration comes out."""
    done = first_config("--engine", "native", "--own", "192.0.2.0/33")
    assert done.returncode == 1
    assert "192.0.2.0/33" in done.stderr
    assert done.stdout == ""
