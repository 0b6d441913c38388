# SPDX-License-Identifier: Apache-2.0
"""The core under any order of events, faults and restarts: P2, P3, P4, P5, P7 as invariants."""

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hub.attacks.model import AttackState
from hub.config import Attacks, Config
from hub.documents import (
    attack_row,
    mitigation_row,
    read_attack,
    read_memory,
    read_mitigation,
)
from hub.effects import Effects
from hub.errors import RefusedError
from hub.intake.envelope import Envelope
from hub.mitigations.engine import Capabilities, Installed
from hub.mitigations.executor import Order, Verb
from hub.mitigations.model import MitigationState
from hub.mitigations.reconciler import compare
from hub.net import overlap
from hub.pipeline import answers, operating
from hub.pipeline.drilling import Wish, begin_drill, end_drill
from hub.pipeline.events import resume, take_event, take_sighting, tick
from hub.pipeline.guarding import forbidden
from hub.pipeline.holding import measure
from hub.pipeline.releasing import release
from hub.rates import Rates
from hub.store.records import Row
from tests.support.core import ENGINES, HIDING, RULES, config, rule_set, sighting, state

TARGETS = ("192.0.2.10", "192.0.2.11", "192.0.2.12", "2001:db8::10", "198.51.100.1", "192.0.2.66")
NEVER = "192.0.2.66/32"
CAP = 3
TICK = 1.0
RELEASING = MitigationState.RELEASING


class HubMachine(RuleBasedStateMachine):
    """A hub with two detectors, an engine that may fail or forget, and kills at any point.

    The engine's leases run by themselves: what is in `kernel` ends at its deadline.
    """

    engines: Mapping[str, Capabilities] = ENGINES

    @initialize()
    def start(self) -> None:
        """Begin with nothing."""
        with TemporaryDirectory() as folder:
            limits = {"attacks": Attacks(max_hold="60s")}
            self.config: Config = config(never=[NEVER], total=CAP).model_copy(update=limits)
            self.rule_set = rule_set(Path(folder), RULES.replace("ttl: 10m", "ttl: 40s"))
        self.core = state(self.rule_set, self.config, engines=self.engines)
        self.now = 1_000_000.0
        self.number = 0
        self.kernel: dict[str, tuple[str, float]] = {}
        self.orders: list[Order] = []
        self.disk_attacks = dict[str, Row]()
        self.disk_rows = dict[str, Row]()
        self.disk_memory: str | None = None
        self.held: dict[str, set[str]] = {target: set() for target in TARGETS}
        self.quiet_since: dict[str, float] = dict.fromkeys(TARGETS, 0.0)
        self.token = ""

    def carry_out(self, effects: Effects) -> None:
        """Do as the runner does: durable first, orders next."""
        self.disk_attacks |= {one.id: attack_row(one) for one in effects.attacks.values()}
        rows = {one.id: mitigation_row(one, self.now) for one in effects.mitigations.values()}
        self.disk_rows |= rows
        self.disk_memory = effects.settings.get("memory", self.disk_memory)
        self.orders += effects.orders

    @rule(
        victim=st.sampled_from(TARGETS),
        detector=st.sampled_from(["a", "b"]),
        kind=st.sampled_from([("syn_flood", "tcp"), ("udp_flood", "udp")]),
    )
    def ban(self, victim: str, detector: str, kind: tuple[str, str]) -> None:
        """A detector reports an attack."""
        self.number += 1
        self.held[victim].add(detector)
        one = sighting(
            target=victim,
            detector=detector,
            number=self.number,
            at=self.now,
            attack_type=kind[0],
            protocol=kind[1],
        )
        effects = take_sighting(self.core, one, self.now)
        self.carry_out(effects)
        self.no_drill_took_its_place(victim, effects)

    def no_drill_took_its_place(self, victim: str, effects: Effects) -> None:
        """A cap refuses a real attack on account of real ones alone, and none meets a drill's."""
        real = [row for row in self.core.ledger if not row.drill]
        for line in effects.lines:
            if line.event == "mitigation.refused" and line.fields["guard"] == "cap":
                assert len(real) == CAP
        for attack in effects.attacks.values():
            assert not attack.drill or attack.state is AttackState.ENDED
        assert any(one.subject == f"host:{victim}" and one.holders for one in self.core.tracker)

    @rule(victim=st.sampled_from(TARGETS), enforce=st.booleans(), sent=st.booleans())
    def drill_begins(self, victim: str, *, enforce: bool, sent: bool) -> None:
        """An operator begins a drill, to be enforced or not, on any address."""
        prefix = f"{victim}/128" if ":" in victim else f"{victim}/32"
        wish = Wish(target=victim, enforce=prefix if enforce else None, seconds=30.0)
        try:
            self.token, effects = begin_drill(self.core, wish, "op", "", self.now)
        except RefusedError:
            return
        self.carry_out(effects)
        if sent:
            self.marked_event(victim, "ban", "a", forged=False)

    @rule(
        victim=st.sampled_from(TARGETS),
        action=st.sampled_from(["ban", "unban"]),
        detector=st.sampled_from(["a", "b"]),
        forged=st.booleans(),
    )
    def marked_event(self, victim: str, action: str, detector: str, *, forged: bool) -> None:
        """An event with a mark comes, the right one or not, from a detector of real ones."""
        drill = self.core.memory.drill
        target = str(drill.target) if drill is not None and not forged else victim
        self.number += 1
        envelope = Envelope(
            id=f"delivery-{self.number}",
            detector=detector,
            stamp=self.now,
            args=(target, "incoming", "1000", action),
            stdin=b"",
            drill="forged" if forged else self.token or "none",
        )
        real = {attack.id: attack for attack in self.core.tracker if not attack.drill}
        self.carry_out(take_event(self.core, self.number, envelope, self.now))
        after = {attack.id: attack for attack in self.core.tracker if not attack.drill}
        assert after == real, "a mark has hidden, ended or made a real attack"

    @rule()
    def drill_is_ended(self) -> None:
        """The drill's command comes to its end."""
        effects = Effects()
        end_drill(self.core, "", self.now, effects, actor="op")
        self.carry_out(effects)

    @rule(victim=st.sampled_from(TARGETS), detector=st.sampled_from(["a", "b"]))
    def unban(self, victim: str, detector: str) -> None:
        """A detector lets go."""
        self.number += 1
        self.held[victim].discard(detector)
        if not self.held[victim]:
            self.quiet_since[victim] = self.now
        one = sighting("unban", victim, detector=detector, number=self.number, at=self.now)
        self.carry_out(take_sighting(self.core, one, self.now))

    @rule(victim=st.sampled_from(TARGETS), detector=st.sampled_from(["a", "b"]))
    def overtaken_ban(self, victim: str, detector: str) -> None:
        """An unban arrives before its ban."""
        self.unban(victim, detector)
        self.number += 1
        late = sighting(target=victim, detector=detector, number=self.number, at=self.now - 0.5)
        self.carry_out(take_sighting(self.core, late, self.now))

    @rule(seconds=st.sampled_from([1, 1, 1, 5, 31, 200]))
    def pass_time(self, seconds: int) -> None:
        """Time passes second by second; kernel leases run out, the core ticks."""
        for _ in range(seconds):
            self.now += TICK
            self.expire()
            self.tick()
            self.engine_works()
            self.the_ledger_lets_go_at_the_deadline()
            self.nothing_outlives_its_deadline()

    def tick(self) -> None:
        """Let the core see that a second has passed."""
        self.carry_out(tick(self.core, self.now))

    def longest_after(self, target: str) -> float:
        """Return until when protection may stay after the last detector let go."""
        return self.quiet_since[target] + self.config.attacks.max_hold * 1.1 + 2 * TICK

    @rule()
    def engine_works(self) -> None:
        """The engine does what it was told, if the hub still wants it."""
        waiting, self.orders = self.orders, []
        for order in waiting:
            self.obey(order)

    @precondition(lambda self: self.orders)
    @rule(permanent=st.booleans())
    def engine_fails(self, permanent: bool) -> None:  # noqa: FBT001
        """The engine refuses an order, for now or for good."""
        order = self.orders.pop(0)
        row = self.core.ledger.get(order.mitigation.id)
        if row is None or row.revision != order.mitigation.revision:
            return
        if permanent and order.verb is Verb.APPLY:
            self.carry_out(answers.failed(self.core, order, "never", self.now))
        else:
            self.carry_out(answers.trouble(self.core, order, "busy", self.now))
            self.orders.append(order)

    @rule()
    def engine_forgets(self) -> None:
        """Somebody flushes what the engine had installed; the reconciler mends it."""
        self.kernel.clear()
        there = [Installed(key, "") for key in self.kernel]
        for row in compare(list(self.core.ledger), there, ()).missing:
            self.carry_out(answers.missing(self.core, row, self.now))

    @rule()
    def kill(self) -> None:
        """The hub dies at this very point and starts again from what is durable."""
        self.orders = []
        attacks = [read_attack(row) for row in self.disk_attacks.values() if row.open]
        rows = [read_mitigation(row) for row in self.disk_rows.values() if row.open]
        self.core = state(
            self.rule_set,
            self.config,
            attacks=attacks,
            rows=rows,
            memory=read_memory(self.disk_memory),
            engines=self.engines,
        )
        self.carry_out(resume(self.core, self.now))
        there = [Installed(key, "") for key in self.kernel]
        for item in compare(list(self.core.ledger), there, ()).unknown:
            del self.kernel[item.mitigation_id]

    @rule(brake=st.sampled_from(["freeze", "unfreeze", "drain"]))
    def operator(self, brake: str) -> None:
        """An operator pulls or loosens a brake."""
        self.carry_out(getattr(operating, brake)(self.core, "op", "test", self.now))

    def obey(self, order: Order) -> None:
        """Carry out one order as executor and engine do."""
        row = self.core.ledger.get(order.mitigation.id)
        if row is None or row.revision != order.mitigation.revision:
            return
        if order.verb is Verb.RELEASE:
            self.kernel.pop(row.id, None)
            self.carry_out(answers.released(self.core, order, self.now))
            return
        if order.verb is Verb.PLAN:
            self.carry_out(answers.planned(self.core, order, ("a step",), self.now))
            return
        if row.deadline <= self.now:
            return
        refusal = forbidden(self.core, row)
        if refusal is not None:
            effects = Effects()
            release(self.core, row, refusal.why, self.now, effects)
            self.carry_out(effects)
            return
        self.kernel[row.id] = (str(row.target), row.deadline)
        self.carry_out(answers.applied(self.core, order, self.now))

    def expire(self) -> None:
        """Let the kernel's own timeouts run out."""
        over = [key for key, (_, deadline) in self.kernel.items() if deadline <= self.now]
        for key in over:
            del self.kernel[key]

    @invariant()
    def nothing_outlives_its_deadline(self) -> None:
        """P2."""
        for _, deadline in getattr(self, "kernel", {}).values():
            assert deadline + 5 > self.now

    @invariant()
    def the_ledger_lets_go_at_the_deadline(self) -> None:
        """P2 for engines without leases: past the deadline only a release is wanted."""
        for row in self.core.ledger if hasattr(self, "core") else ():
            late = row.deadline + 5 < self.now
            assert not late or row.state is RELEASING

    @invariant()
    def nothing_touches_what_is_not_allowed(self) -> None:
        """P3."""
        for target, _ in getattr(self, "kernel", {}).values():
            assert not overlap(ip_network(target), ip_network(NEVER))
            assert target.startswith(("192.0.2.", "2001:db8::"))

    @invariant()
    def caps_hold(self) -> None:
        """P4: neither ledger nor kernel ever has more than the cap."""
        if hasattr(self, "core"):
            drills = {row.id: row.state for row in self.core.ledger if row.drill}
            assert len([row for row in self.core.ledger if not row.drill]) <= CAP
            # One at a time; of those before, an engine that was never asked may hold some.
            assert len([one for one in drills.values() if one is not RELEASING]) <= 2
            assert len(self.kernel.keys() - drills.keys()) <= CAP

    @invariant()
    def one_target_has_each_countermeasure_once(self) -> None:
        """P5."""
        if hasattr(self, "core"):
            keys = [(row.target, row.action, row.engine, row.drill) for row in self.core.ledger]
            assert len(keys) == len(set(keys))

    @invariant()
    def an_ended_attack_does_not_stay_protected(self) -> None:
        """P7: after the last unban, the longest hold and a tick, nothing is in force."""
        if not hasattr(self, "core"):
            return
        busy = {order.mitigation.id for order in self.orders}
        for row in self.core.ledger:
            target = str(row.target.network_address)
            over = not self.held[target] and self.now > self.longest_after(target)
            if over and row.id not in busy and not row.drill:
                assert row.state is RELEASING

    @invariant()
    def nothing_of_a_drill_outlives_it(self) -> None:
        """A drill that is over leaves releases alone, and no attack; there is one at a time."""
        if not hasattr(self, "core"):
            return
        drill = self.core.memory.drill
        running = drill.id if drill is not None else ""
        assert {attack.drill for attack in self.core.tracker if attack.drill} <= {running}
        for row in self.core.ledger:
            if row.drill and row.drill != running:
                assert row.state is RELEASING
            assert not row.drill or row.deadline <= row.created_at + 30.0


class BlindMachine(HubMachine):
    """The same with an engine that hides what it meets, and that measures it, or cannot be asked.

    An attack goes on for as long as it is loud, whatever detectors say.
    """

    engines = HIDING

    @initialize()
    def begin_quietly(self) -> None:
        """Nothing is attacked."""
        self.loud: set[str] = set()
        self.silent = False
        self.over_since: dict[str, float] = dict.fromkeys(TARGETS, 0.0)

    @rule(victim=st.sampled_from(TARGETS), loud=st.booleans())
    def flood(self, victim: str, loud: bool) -> None:  # noqa: FBT001
        """A flood begins or ends."""
        if loud:
            self.loud.add(victim)
        else:
            self.loud.discard(victim)

    @rule(silent=st.booleans())
    def engine_is_silent(self, silent: bool) -> None:  # noqa: FBT001
        """The engine can be asked, or not."""
        self.silent = silent

    def tick(self) -> None:
        """Measure once a second, as the hub does."""
        rates = {
            key: Rates(hostile_pps=5000 if target.partition("/")[0] in self.loud else 0)
            for key, (target, _) in self.kernel.items()
        }
        effects = measure(self.core, "native", None if self.silent else rates, self.now)
        self.carry_out(effects)
        standing = {row.id for row in self.core.ledger if row.state is MitigationState.ACTIVE}
        super().tick()
        self.nothing_loud_was_let_go(standing & rates.keys())
        for target in TARGETS:
            if self.held[target] or (target in self.loud and not self.silent):
                self.over_since[target] = self.now

    def nothing_loud_was_let_go(self, measured: set[str]) -> None:
        """No blind unban ends what the engine has just met."""
        for row in self.core.ledger if not self.silent else ():
            if row.id in measured and str(row.target.network_address) in self.loud:
                assert not row.reason.startswith("attack ended"), row

    def longest_after(self, target: str) -> float:
        """Return how long protection may stay: it is quiet, or was not measured for so long."""
        hold = self.config.attacks.hold
        last = max(self.quiet_since[target], self.over_since[target])
        blind = max(hold.unmeasured, 0) * 1.1 + self.config.attacks.max_hold * 1.1
        return last + hold.quiet + blind + self.config.attacks.max_hold * 1.1 + 5 * TICK


TestHubMachine = HubMachine.TestCase
TestHubMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestBlindMachine = BlindMachine.TestCase
TestBlindMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
