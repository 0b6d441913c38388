# SPDX-License-Identifier: Apache-2.0
"""Who may do what: the hub's user and limits, modes of secrets, spool and sockets."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hub.cli.doctor import people, programs
from hub.cli.doctor.finding import Report
from hub.cli.doctor.people import Person
from hub.cli.doctor.situation import UNIT, Situation
from hub.config import Config
from hub.credentials import SCHEME, is_credential

CREDENTIALS: Final = Path("/run/credentials")
"""Where systemd shows each service its own, systemd.exec(5)."""
_CONNECTIONS: Final = 512
"""At once on each listener; docs/operations.md."""
_BESIDE: Final = 256
"""Descriptors for the journal, programs, sockets of engines and the rest."""
_OTHERS: Final = stat.S_IRWXO
_GROUP_AND_OTHERS: Final = stat.S_IRWXO | stat.S_IRWXG


@dataclass(frozen=True, slots=True)
class _Secret:
    path: Path
    key: str
    forbidden: int = _GROUP_AND_OTHERS


def look(situation: Situation, report: Report) -> None:
    """Look at users, groups, modes and limits."""
    config = situation.config
    if config is None:
        report.skip("user", "the configuration cannot be read, so the places are unknown")
        return
    user = situation.hub_user()
    _user(situation, user, report)
    _limits(situation, config, report)
    _config_file(situation, config, report)
    for secret in _secrets(config):
        _secret(secret, user, report)
    _spool(config, user, report)
    _sockets(situation, config, report)


def _user(situation: Situation, user: Person | None, report: Report) -> None:
    running = situation.hub.status is not None
    if user is None:
        report.skip("user", "no hub runs and there is no journal yet: its user is unknown")
    elif user.uid == 0:
        how = "runs as root" if running else "has a journal that belongs to root"
        text = f"the hub {how}, and needs no such right"
        report.warn("user", text, "make a user for it: see User, group and directories, operations")
    else:
        report.ok("user", f"the hub {'runs as' if running else 'is of'} {user.name}")


def _limits(situation: Situation, config: Config, report: Report) -> None:
    status = situation.hub.status
    if status is None:
        report.skip("descriptors", "no running hub whose limits could be read")
        return
    needs = _CONNECTIONS + _BESIDE + len(config.isn_sync.inventory().agents)
    needs += _CONNECTIONS * sum(one is not None for one in (config.intake.tcp, config.api.page))
    try:
        soft = open_files((people.PROC / f"{status['pid']}/limits").read_text())
    except OSError as error:
        report.skip("descriptors", f"the hub's limits: {error.strerror}", "run as root")
        return
    text = f"the hub may open {soft} files; it can need {needs}"
    if soft < needs:
        report.warn("descriptors", text, "LimitNOFILE=65536 in its unit, then restart it")
    else:
        report.ok("descriptors", text)


def open_files(limits: str) -> int:
    """Return the soft limit of open files from the text of /proc/PID/limits."""
    line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    word = line.split()[3]
    return 2**31 if word == "unlimited" else int(word)


def _config_file(situation: Situation, config: Config, report: Report) -> None:
    path = situation.config_path
    try:
        mode, folder = path.stat().st_mode, path.parent.stat().st_mode
    except OSError as error:
        report.skip("config", f"{path}: {error.strerror}")
        return
    loose = [one for one, bits in ((path, mode), (path.parent, folder)) if bits & (stat.S_IWOTH)]
    if loose:
        text = f"{loose[0]} can be written by everybody, who could so command the hub"
        report.fail("config", text, f"chmod o-w {loose[0]}")
    elif _holds_urls(config) and mode & _OTHERS:
        text = f"{path} holds URLs of webhooks, which are secrets, and everybody may read it"
        report.warn("config", text, f"chown fnm-hub {path}; chmod 0400 {path}")
    else:
        report.ok("config", f"{path} has mode {stat.S_IMODE(mode):04o}")


def _holds_urls(config: Config) -> bool:
    urls = (one.url.get_secret_value() for one in config.engines.webhook.values())
    return any(not is_credential(url) for url in urls)


def _secrets(config: Config) -> Iterator[_Secret]:
    tcp, page = config.intake.tcp, config.api.page
    for key in tcp.hmac_keys if tcp is not None else ():
        yield _Secret(key.secret_file, "intake.tcp.hmac_keys")
    for webhook in config.intake.webhooks:
        yield _Secret(webhook.token_file, "intake.webhooks")
    for user in page.users if page is not None else ():
        yield _Secret(user.token_file, "api.page.users")
    for name, listener in (("intake.tcp", tcp), ("api.page", page)):
        if listener is not None and listener.tls is not None:
            # Debian keeps TLS keys readable for the group ssl-cert.
            yield _Secret(listener.tls.key, f"{name}.tls.key", _OTHERS | stat.S_IWGRP)
    for engine in config.engines.webhook.values():
        if engine.token_file is not None:
            yield _Secret(engine.token_file, "engines.webhook")
    if programs.is_there(config.isn_sync.key):
        yield _Secret(config.isn_sync.key, "isn_sync.key")


def _secret(secret: _Secret, user: Person | None, report: Report) -> None:
    path = secret.path
    if is_credential(str(path)):
        _credential(secret, report)
        return
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except PermissionError:
        report.skip("secrets", f"{path} ({secret.key}) is out of this user's sight", "run as root")
        return
    except OSError as error:
        text = f"{path} ({secret.key}): {error.strerror}"
        report.fail("secrets", text, "create it, or correct the path")
        return
    if mode & secret.forbidden:
        text = f"{path} ({secret.key}) has mode {mode:04o}: the hub refuses an open secret"
        report.fail("secrets", text, f"chmod 0600 {path}")
    elif user is not None and programs.can_become(user) and not programs.may(user, "r", path):
        text = f"{path} ({secret.key}) cannot be read by the hub's user {user.name}"
        report.fail("secrets", text, f"chown {user.name} {path}")
    else:
        report.ok("secrets", f"{path} ({secret.key}) has mode {mode:04o}")


def _credential(secret: _Secret, report: Report) -> None:
    name = str(secret.path).removeprefix(SCHEME)
    folder = CREDENTIALS / UNIT
    if not programs.is_there(folder):
        text = f"{secret.path} ({secret.key}): systemd shows it to the running service alone"
        report.skip("secrets", text, "as root, with the hub running under its unit")
    elif programs.is_there(folder / name):
        report.ok("secrets", f"{secret.path} ({secret.key}) was handed over by systemd")
    else:
        text = f"{secret.path} ({secret.key}) was not handed over by systemd"
        todo = f"in the unit: LoadCredential={name}:/etc/fnm-hub/credentials/{name}"
        report.fail("secrets", text, todo)


def _spool(config: Config, user: Person | None, report: Report) -> None:
    path = config.intake.spool
    try:
        found = path.stat()
    except OSError as error:
        report.skip("spool_mode", f"{path}: {error.strerror}")
        return
    mode, group = stat.S_IMODE(found.st_mode), people.group_name(found.st_gid)
    text = f"{path} has mode {mode:04o} and group {group}"
    if mode & stat.S_IWOTH:
        text += ": everybody may write there, so the hub takes nothing from it"
        report.fail("spool_mode", text, f"chmod 2770 {path}")
    elif mode & stat.S_ISVTX:
        text += ": with the sticky bit the hub cannot delete what others wrote"
        report.fail("spool_mode", text, f"chmod 2770 {path}")
    elif user is not None and user.uid and found.st_gid not in user.groups:
        text += f", which the hub's user {user.name} is not in: it cannot read what waits there"
        report.fail("spool_mode", text, f"chgrp fnm-hub {path}; chmod 2770 {path}")
    elif user is not None and user.uid and not mode & stat.S_ISGID:
        text += ": without the set-group-id bit, the hub cannot read what others write there"
        report.warn("spool_mode", text, f"chmod 2770 {path}")
    else:
        report.ok("spool_mode", text)


def _sockets(situation: Situation, config: Config, report: Report) -> None:
    if situation.hub.status is None and not situation.hub.denied:
        report.skip("sockets", "no hub listens")
        return
    for name, path in (("intake", config.intake.unix.path), ("api", config.api.path)):
        try:
            found = path.stat()
        except OSError as error:
            todo = "restart the hub: somebody has removed it, or the path was changed"
            report.fail("sockets", f"{name}: {path}: {error.strerror}", todo)
            continue
        group = people.group_name(found.st_gid)
        mode = stat.S_IMODE(found.st_mode)
        report.ok("sockets", f"{name}: {path} has mode {mode:04o} and group {group}")
