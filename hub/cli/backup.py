# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub backup` and `fnm-hub restore`: beside the daemon, on the files themselves."""

import os
import platform
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hub import __version__
from hub.backup import bundle, snapshot
from hub.backup.parts import parts_of
from hub.backup.restore import restore
from hub.cli.text import Screen, clean
from hub.clock import SystemClock
from hub.config import load_config
from hub.errors import HubError


def make_backup(config_path: Path, target: Path, *, with_secrets: bool) -> dict[str, Any]:
    """Write a backup of the hub that `config_path` describes; return what is in it.

    Raises:
        HubError: something of it cannot be read, written, or proven to be whole.
    """
    config = load_config(config_path)
    target = target.absolute()
    bundle.refuse_present(target)
    parts = parts_of(config_path, config, with_secrets=with_secrets)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            copy = Path(folder) / bundle.JOURNAL
            snapshot.take(config.store.path, copy)
            found = snapshot.prove(copy)
            manifest = bundle.Manifest(
                made_at=SystemClock().time(),
                version=__version__,
                schema=found.pop("schema"),
                host=platform.node(),
                counts=found,
            )
            bundle.write(target, manifest, copy, parts)
    except OSError as error:
        raise HubError(
            f"cannot be written: {error.strerror}",
            where=str(target),
            todo="choose a place with space that this user may write to",
        ) from error
    return {"file": str(target), "bytes": target.stat().st_size, **asdict(manifest)}


def put_back(config_path: Path, backup: Path, folder: Path | None) -> dict[str, Any]:
    """Put the journal of a backup back, or only unpack the other files of it into `folder`.

    Raises:
        HubError: a hub runs, or the backup cannot be used; nothing was changed.
    """
    if folder is not None:
        manifest = bundle.check(backup)
        wanted = bundle.places(manifest, folder)
        if there := [path for path in wanted.values() if path.exists()]:
            todo = "name a folder that is empty, or not there yet"
            raise HubError("is there already", where=str(there[0]), todo=todo)
        bundle.unpack(backup, wanted)
        return {"unpacked": sorted(map(str, wanted.values())), **asdict(manifest)}
    journal = load_config(config_path).store.path
    done = restore(backup, journal, SystemClock(), f"uid {os.geteuid()}")
    return {
        "journal": str(done.path),
        "moved_to": None if done.moved_to is None else str(done.moved_to),
        "too_old": done.too_old,
        **asdict(done.manifest),
    }


def show_backup(screen: Screen, done: dict[str, Any]) -> None:
    """Print what a backup holds."""
    del screen
    print(f"written and read back: {clean(done['file'])}, {done['bytes']} bytes")
    _show_contents(done)


def show_restored(screen: Screen, done: dict[str, Any]) -> None:
    """Print what was put back, and what comes next."""
    del screen
    if "unpacked" in done:
        for path in done["unpacked"]:
            print(clean(path))
        _show_left_out(done)
        return
    print(f"put back: {clean(done['journal'])}")
    _show_contents(done)
    if done["moved_to"]:
        print(f"the former journal is {clean(done['moved_to'])}")
    if done["too_old"]:
        print(f"{done['too_old']} event(s) waited in it and are too old to be acted on")
    print("next: systemctl start fnm-hub; what is in force stays so")


def _show_contents(done: dict[str, Any]) -> None:
    counts = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in done["counts"].items())
    made = datetime.fromtimestamp(done["made_at"], UTC)
    print(
        f"of {clean(done['host'])}, {made:%Y-%m-%d %H:%M:%S} UTC, fnm-hub {clean(done['version'])}"
    )
    print(clean(counts))
    _show_left_out(done)


def _show_left_out(done: dict[str, Any]) -> None:
    for path, why in sorted(done["left_out"].items()):
        print(f"not in it: {clean(path)}: {clean(why)}")
