# SPDX-License-Identifier: Apache-2.0
"""What carries countermeasures out in the lab, as the story sees it."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from scripts.lab import gateway, parts, synproxyd
from scripts.lab.commands import Process
from scripts.lab.parts import Lab


class LabEngine(Protocol):
    """One engine of the hub, on the lab's gateway.

    Attributes:
        blinds: the detector on the gateway does not see what this engine meets.
        shows: what an operator looks at to see it at work.
    """

    blinds: bool
    shows: str

    def settings(self, lab: Lab) -> dict[str, Any]:
        """Return the section `engines` of the hub's configuration."""
        ...

    def more_settings(self, lab: Lab) -> dict[str, Any]:
        """Return other sections of the hub's configuration."""
        ...

    def serve(self, lab: Lab, stack: ExitStack) -> tuple[Process, ...]:
        """Start the protected web server, owned by `stack`."""
        ...

    def start(self, lab: Lab, stack: ExitStack) -> tuple[Process, ...]:
        """Start what the engine needs before the hub, owned by `stack`."""
        ...

    def held(self, lab: Lab) -> dict[str, str]:
        """Return what is in force, read without the hub: name and text."""
        ...

    def verdicts(self, lab: Lab, mitigation_id: str) -> dict[str, int]:
        """Return packets by verdict of one countermeasure; empty where nobody counts."""
        ...


class Nftables:
    """The kernel's own SYN proxy and filters."""

    blinds = False
    shows = "nft"

    def settings(self, lab: Lab) -> dict[str, Any]:
        """Return the section `engines` of the hub's configuration."""
        del lab
        return {"nftables": {"enabled": True}}

    def more_settings(self, lab: Lab) -> dict[str, Any]:
        """Return nothing."""
        del lab
        return {}

    def serve(self, lab: Lab, stack: ExitStack) -> tuple[Process, ...]:
        """Start nginx in the server's namespace."""
        return (stack.enter_context(parts.web_server(lab)),)

    def start(self, lab: Lab, stack: ExitStack) -> tuple[Process, ...]:
        """Start nothing: it is in the kernel."""
        del lab, stack
        return ()

    def held(self, lab: Lab) -> dict[str, str]:
        """Return the open gates."""
        return gateway.gates(lab.network)

    def verdicts(self, lab: Lab, mitigation_id: str) -> dict[str, int]:
        """Return nothing: its counters are over all targets."""
        del lab, mitigation_id
        return {}


class Native:
    """synproxyd in XDP on the gateway's outside."""

    blinds = True
    shows = "synproxyd"

    def settings(self, lab: Lab) -> dict[str, Any]:
        """Return the section `engines` of the hub's configuration."""
        native = {"enabled": True, "socket": str(self.control(lab))}
        return {"native": native, "nftables": {"enabled": False}}

    def more_settings(self, lab: Lab) -> dict[str, Any]:
        """Return nothing."""
        del lab
        return {}

    def serve(self, lab: Lab, stack: ExitStack) -> tuple[Process, ...]:
        """Start nginx in the server's namespace."""
        return (stack.enter_context(parts.web_server(lab)),)

    def start(self, lab: Lab, stack: ExitStack) -> tuple[Process, ...]:
        """Attach synproxyd to the gateway's outside."""
        synproxyd.prepare(lab.network, lab.place)
        pin_dir = stack.enter_context(synproxyd.pins(lab.place / synproxyd.PINS))
        argv = synproxyd.arguments(pin_dir, self.control(lab))
        process = stack.enter_context(lab.started("synproxyd", "gateway", *argv))
        synproxyd.wait_for(process, self.control(lab))
        return (process,)

    def held(self, lab: Lab) -> dict[str, str]:
        """Return what synproxyd enforces."""
        found = synproxyd.in_force(self.control(lab))
        return {key: json.dumps(one) for key, one in found.items()}

    def verdicts(self, lab: Lab, mitigation_id: str) -> dict[str, int]:
        """Return the packets that synproxyd has judged, by reason."""
        found = synproxyd.in_force(self.control(lab)).get(mitigation_id, {})
        packets: dict[str, int] = found.get("packets", {})
        return packets

    @staticmethod
    def control(lab: Lab) -> Path:
        """Return synproxyd's socket."""
        return lab.place / "synproxyd.sock"


ENGINES: dict[str, type[Nftables] | type[Native]] = {"nftables": Nftables, "native": Native}
