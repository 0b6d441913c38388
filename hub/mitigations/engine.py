# SPDX-License-Identifier: Apache-2.0
"""The small Protocol behind which every engine stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hub.mitigations.model import Mitigation
from hub.rates import Rates
from hub.rules.able import needs
from hub.rules.actions import Action


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do.

    Attributes:
        kinds: countermeasures it carries out (`tcp`, `acl`, `sorb`, `notify`, `command`).
        leases: what it installs ends by itself at the deadline, with the hub dead.
        hides_traffic: while it works, the detector on the same host no longer sees the attack;
            it must measure `rates`, by which the hub sees the end.
        lasting: it does something to traffic, so that every guard is asked; False for a message.
        readable: `inventory` shows all that is in force, so that what is missing can be seen.
        features: what not every engine of a kind can do, as `hub.rules.able` names it.
    """

    kinds: frozenset[str]
    leases: bool
    hides_traffic: bool
    lasting: bool = True
    readable: bool = True
    features: frozenset[str] = frozenset()

    def can(self, action: Action) -> bool:
        """Tell whether such an engine can carry out `action` as it is asked for."""
        return action.kind in self.kinds and needs(action) <= self.features

    def why_not(self, action: Action) -> str:
        """Return why such an engine cannot carry out `action`, empty when it can."""
        if action.kind not in self.kinds:
            return f"does not carry out {action.kind}"
        missing = needs(action) - self.features
        return f"has no {', '.join(sorted(missing))}" if missing else ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What `apply` would do, in words for the operator: one step a line."""

    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Carried:
    """How an engine carries out what it can do in several ways.

    Attributes:
        mode: the way that was taken.
        down: why each better one was not, the best one first.
    """

    mode: str
    down: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Installed:
    """One thing that is really there.

    Attributes:
        mitigation_id: our tag; empty when it is foreign.
        what: for the operator.
        expires_in: seconds until it ends by itself, None where it does not.
        packets: how many packets it has judged; may begin anew at a renewal. None where the
            engine cannot tell.
    """

    mitigation_id: str
    what: str
    expires_in: float | None = None
    packets: int | None = None


@dataclass(frozen=True, slots=True)
class Interface:
    """Where an engine works, and how: `native` in the driver, `generic` behind it."""

    name: str
    mode: str


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the engine can work, what stands in its way, and where it works."""

    ok: bool
    detail: str = ""
    interfaces: tuple[Interface, ...] = ()


class Engine(Protocol):
    """One way of carrying countermeasures out; every call is idempotent and has a time limit.

    Every method raises `EngineTemporaryError` when the same call may work later and
    `EnginePermanentError` when it never will.
    """

    @property
    def name(self) -> str:
        """Name in the configuration and the ledger."""
        ...

    def capabilities(self) -> Capabilities:
        """Say what this engine can do."""
        ...

    async def start(self) -> None:
        """Make ready; adopt what an earlier run left in place, release nothing."""
        ...

    async def close(self) -> None:
        """Let go of connections and processes; leave what is installed in force."""
        ...

    async def plan(self, mitigation: Mitigation) -> Plan:
        """Check completely whether `mitigation` can be applied; change nothing."""
        ...

    async def apply(self, mitigation: Mitigation) -> Carried | None:
        """Put `mitigation` in force until its deadline; again with a new deadline renews it.

        Returns:
            How, where it can be done in several ways.
        """
        ...

    async def release(self, mitigation: Mitigation) -> None:
        """Take `mitigation` back; nothing there is success."""
        ...

    async def inventory(self) -> Sequence[Installed]:
        """Read back what is really there, ours by tag and foreign."""
        ...

    async def withdraw(self, installed: Installed) -> None:
        """Take back something of ours that the ledger does not know."""
        ...

    async def health(self) -> Health:
        """Say whether the engine can work now."""
        ...

    async def telemetry(self) -> Mapping[str, int]:
        """Return counters by a stable name: packets dropped, cookies sent, and so on."""
        ...

    async def rates(self) -> Mapping[str, Rates]:
        """Return what is measured now by mitigation id; asked every second where it hides traffic.

        Empty where the engine does not measure.
        """
        ...
