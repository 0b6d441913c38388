# SPDX-License-Identifier: Apache-2.0
"""What every check starts from: the configuration, and what a running hub says of itself."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hub.cli.client import Client, UnreachableError
from hub.cli.doctor import people
from hub.cli.doctor.people import Person
from hub.clock import Clock, SystemClock
from hub.config import Config, load_config
from hub.errors import ConfigError, HubError

Json = dict[str, Any]

PATIENCE: Final = 2.5
"""Seconds that the hub may take for one answer."""
UNIT: Final = "fnm-hub.service"


@dataclass(frozen=True, slots=True)
class Hub:
    """What the running hub has said.

    Attributes:
        status: of the whole, None when it did not say.
        attacks: the open ones.
        agents: those of isn_sync.
        trouble: why there is no status.
        todo: what to do about that.
        skew: seconds by which the wall clock was ahead of the hub's own when it answered.
        denied: the hub may be well: it is only this user who may not ask.
    """

    status: Json | None = None
    attacks: tuple[Json, ...] = ()
    agents: tuple[Json, ...] = ()
    trouble: str = ""
    todo: str = ""
    skew: float = 0.0
    denied: bool = False

    def engine(self, name: str) -> Json:
        """Return what it says of one engine, nothing where it does not say."""
        engines = [] if self.status is None else self.status["engines"]
        return next((one for one in engines if one["name"] == name), {})


@dataclass(frozen=True, slots=True)
class Situation:
    """Where the checks look.

    Attributes:
        config_path: the hub's configuration.
        config: read from it, None when it has mistakes.
        fastnetmon_conf: FastNetMon's configuration.
        hub: what the running hub says.
        clock: the machine's.
    """

    config_path: Path
    config: Config | None
    fastnetmon_conf: Path
    hub: Hub
    clock: Clock = field(default_factory=SystemClock)

    @property
    def is_root(self) -> bool:
        """Tell whether everything may be looked at."""
        return os.geteuid() == 0

    def hub_user(self) -> Person | None:
        """Return the user of the running hub, else the owner of the journal or its directory."""
        if self.hub.status is not None:
            try:
                return people.of_process(people.process_status(int(self.hub.status["pid"])))
            except (OSError, KeyError, ValueError):
                return None
        if self.config is None:
            return None
        for path in (self.config.store.path, self.config.store.path.parent):
            try:
                return people.of_uid(path.stat().st_uid)
            except OSError:
                continue
        return None


def read_config(path: Path) -> Config | None:
    """Return the configuration, None when it has mistakes: the check of it says which."""
    try:
        return load_config(path)
    except (ConfigError, OSError):
        return None


def ask_hub(socket: Path, start: str, clock: Clock) -> Hub:
    """Return what the hub at `socket` says; one that hangs is asked once only."""
    client = Client(socket, start=start, timeout=PATIENCE)
    try:
        status = client.get("/v1/status")
        return Hub(
            status=status,
            skew=clock.time() - float(status["now"]),
            attacks=_items(client.get("/v1/attacks?limit=10000")),
            agents=_items(client.get("/v1/agents")),
        )
    except UnreachableError as error:
        denied = isinstance(error.__cause__, PermissionError) or "may not use" in error.what
        return Hub(trouble=_words(error), todo=error.todo, denied=denied)
    except HubError as error:
        return Hub(trouble=_words(error), todo=error.todo)


def _items(answer: Mapping[str, Any]) -> tuple[Json, ...]:
    return tuple(answer["items"])


def _words(error: HubError) -> str:
    return f"{error.where}: {error.what}" if error.where else error.what
