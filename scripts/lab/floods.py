# SPDX-License-Identifier: Apache-2.0
"""The attacks of the lab: paced, bounded in packets, against the server only."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.lab.commands import Process, started
from scripts.lab.network import ATTACKERS, SERVER, Network


@dataclass(frozen=True, slots=True)
class Flood:
    """One attack.

    Attributes:
        key: `syn`, `icmp` or `udp`; also the name of its packet counter.
        title: for people.
        story: what the attacker does, for people.
        countermeasure: the kind of action that the shipped rules answer it with.
        options: hping3's, without rate, count and target.
        pps: packets per second of each sender.
        senders: source addresses, one hping3 each; None sends from invented addresses.
    """

    key: str
    title: str
    story: str
    countermeasure: str
    options: tuple[str, ...]
    pps: int
    senders: tuple[str, ...] | None = None

    def commands(self, seconds: float) -> list[tuple[str, ...]]:
        """Return the hping3 commands; each ends by itself after about `seconds`."""
        paced = ("hping3", "-q", "-n", "-i", f"u{1_000_000 // self.pps}")
        bounded = (*paced, "-c", str(round(self.pps * seconds)), *self.options)
        if self.senders is None:
            return [(*bounded, "--rand-source", SERVER)]
        return [(*bounded, "--spoof", sender, SERVER) for sender in self.senders]


FLOODS: Final = (
    Flood(
        key="syn",
        title="SYN flood",
        story="opens connections to port 80 from invented addresses and never completes one",
        countermeasure="tcp",
        options=("-S", "-p", "80"),
        pps=2000,
    ),
    Flood(
        key="icmp",
        title="ICMP flood",
        story="pings from invented addresses",
        countermeasure="acl",
        options=("--icmp",),
        pps=2000,
    ),
    Flood(
        key="udp",
        title="UDP flood",
        story="sends datagrams from three addresses of its own",
        countermeasure="sorb",
        options=("--udp", "-p", "53", "-d", "200"),
        pps=700,
        senders=ATTACKERS[1:],
    ),
)


@contextmanager
def raging(network: Network, flood: Flood, logs: Path, seconds: float) -> Iterator[list[Process]]:
    """Start `flood`; whatever still runs of it at exit is ended."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                started(
                    f"{flood.key}-{number}",
                    network.command("attacker", *command),
                    log=logs / f"flood-{flood.key}-{number}.log",
                )
            )
            for number, command in enumerate(flood.commands(seconds))
        ]
