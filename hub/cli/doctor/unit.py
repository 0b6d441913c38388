# SPDX-License-Identifier: Apache-2.0
"""The hub's unit, where systemd is: installed, enabled, running, hardened."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hub.cli.doctor.finding import Report
from hub.cli.doctor.programs import call, text_of
from hub.cli.doctor.situation import UNIT, Situation

_SYSTEMD: Final = Path("/run/systemd/system")
"""There while systemd is PID 1, sd_booted(3)."""
_WANTED: Final = {
    "NoNewPrivileges": ("yes",),
    "ProtectSystem": ("strict", "full"),
    "ProtectHome": ("yes", "read-only", "tmpfs"),
    "PrivateTmp": ("yes",),
    "RestrictSUIDSGID": ("yes",),
    "MemoryDenyWriteExecute": ("yes",),
}
_SHOWN: Final = ("LoadState", "UnitFileState", "ActiveState", "Restart", "User", *_WANTED)


def look(_situation: Situation, report: Report) -> None:
    """Look at the unit."""
    if not _SYSTEMD.is_dir():
        report.skip("unit", "systemd does not run here; something else has to start the hub")
        return
    report.look(f"systemctl show {UNIT}")
    argv = ("/usr/bin/systemctl", "show", UNIT, "--no-pager", f"--property={','.join(_SHOWN)}")
    try:
        done = call(argv)
    except OSError as error:
        report.skip("unit", f"systemctl cannot be run: {error.strerror}")
        return
    if done.code != 0:
        report.skip("unit", f"systemctl does not say: {text_of(done) or 'no answer in time'}")
        return
    judge(properties(text_of(done)), report)


def properties(text: str) -> dict[str, str]:
    """Return what `systemctl show` has printed, by name."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name: value for name, equals, value in pairs if equals}


def judge(unit: Mapping[str, str], report: Report) -> None:
    """Report what the properties of the unit say."""
    if unit.get("LoadState") != "loaded":
        text = f"{UNIT} is {unit.get('LoadState') or 'not known'}"
        report.warn("unit", text, "install it: see Service, docs/operations.md")
        return
    enabled = unit.get("UnitFileState", "")
    if enabled not in {"enabled", "enabled-runtime", "static", "generated"}:
        text = f"{UNIT} is {enabled or 'not enabled'}: the machine's next start leaves it out"
        report.fail("unit", text, f"systemctl enable {UNIT}")
    else:
        report.ok("unit", f"{UNIT} is {enabled}, {unit.get('ActiveState') or 'state unknown'}")
    if unit.get("Restart", "no") == "no":
        text = f"{UNIT} is not started again when it dies"
        report.warn("restart", text, "Restart=on-failure in its [Service]")
    else:
        report.ok("restart", f"started again: Restart={unit['Restart']}")
    missing = [name for name, good in _WANTED.items() if unit.get(name, "") not in good]
    if unit.get("User", "") in {"", "root"}:
        missing.insert(0, "User")
    if missing:
        text = f"{UNIT} leaves open what it need not: {', '.join(missing)}"
        report.warn("hardening", text, "take these lines over from Service, docs/operations.md")
    else:
        report.ok("hardening", f"user {unit['User']}, and {', '.join(_WANTED)}")
