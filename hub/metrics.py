# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of the hub: own registry, bounded labels, never an address."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from hub.figures import (
    FAST,
    GUARDS,
    WAYS_IN,
    CoreFigures,
    EngineFigures,
    HubFigures,
    IntakeFigures,
    JournalFigures,
    begin_at_zero,
)

# When a series began says nothing here: all of them begin with the process.
disable_created_metrics()  # type: ignore[no-untyped-call]  # as the package has it

PROBE_VERDICTS = ("match", "mismatch", "no_cookie", "closed", "silent", "no_keys")


class Metrics:
    """Everything that `/metrics` shows; names begin with `fnm_hub_`, the process's own apart.

    Attributes:
        intake: ways in, besides the counters here.
        journal: the journal and its disk.
        core: attacks, rules, guards, orders, caps.
        engines: what engines have counted.
        hub: the process and its configuration.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        new = self.registry
        ProcessCollector(registry=new)
        self.intake, self.journal = IntakeFigures(new), JournalFigures(new)
        self.core, self.engines, self.hub = CoreFigures(new), EngineFigures(new), HubFigures(new)
        self.accepted = Counter(
            "fnm_hub_events_accepted",
            "Events made durable, by way in.",
            ["via"],
            registry=new,
        )
        self.duplicates = Counter(
            "fnm_hub_events_duplicate", "Events handed in a second time.", registry=new
        )
        self.turned_away = Counter(
            "fnm_hub_events_turned_away",
            "Events that the sender was told to keep, by reason.",
            ["reason"],
            registry=new,
        )
        self.processed = Counter(
            "fnm_hub_events_processed",
            "Events taken in, by action and outcome.",
            ["action", "outcome"],
            registry=new,
        )
        self.refused = Counter(
            "fnm_hub_mitigations_refused", "Refusals, by guard.", ["guard"], registry=new
        )
        self.changes = Counter(
            "fnm_hub_mitigation_changes",
            "State changes of mitigations, by engine and new state.",
            ["engine", "state"],
            registry=new,
        )
        self.engine_seconds = Histogram(
            "fnm_hub_engine_seconds",
            "How long engines take, by engine and verb.",
            ["engine", "verb"],
            buckets=FAST,
            registry=new,
        )
        self.event_to_active = Histogram(
            "fnm_hub_event_to_active_seconds",
            "From an event's acceptance to its countermeasure in force.",
            buckets=FAST,
            registry=new,
        )
        self.engine_errors = Counter(
            "fnm_hub_engine_errors",
            "Failed calls to engines, by engine, verb and whether they are retried.",
            ["engine", "verb", "retried"],
            registry=new,
        )
        self.store_errors = Counter(
            "fnm_hub_store_errors", "Writes that the journal did not take.", registry=new
        )
        self.reconciled = Counter(
            "fnm_hub_reconcile_findings",
            "Differences between ledger and engine, by engine and finding.",
            ["engine", "finding"],
            registry=new,
        )
        self.attacks = Gauge("fnm_hub_attacks", "Open attacks, by state.", ["state"], registry=new)
        self.mitigations = Gauge(
            "fnm_hub_mitigations", "Open mitigations, by state.", ["state"], registry=new
        )
        self.pending = Gauge(
            "fnm_hub_events_pending", "Events accepted and not yet taken in.", registry=new
        )
        self.spool_waiting = Gauge(
            "fnm_hub_spool_files", "Files waiting in the spool.", registry=new
        )
        self.engine_up = Gauge(
            "fnm_hub_engine_up", "Whether an engine can work.", ["engine"], registry=new
        )
        self.engine_rate = Gauge(
            "fnm_hub_engine_rate",
            "Packets a second that an engine judges now, by service and kind of rate.",
            ["engine", "service", "rate"],
            registry=new,
        )
        self.engine_interface = Gauge(
            "fnm_hub_engine_interface",
            "1 for each interface an engine works on, by mode: native or generic.",
            ["engine", "interface", "mode"],
            registry=new,
        )
        self.attacks_held = Gauge(
            "fnm_hub_attacks_held",
            "Attacks that no detector reports any more and that do not end yet.",
            registry=new,
        )
        self.attacks_quiet = Counter(
            "fnm_hub_attacks_quiet",
            "Attacks that were seen to be over by the engine's rates.",
            registry=new,
        )
        self.agents = Gauge(
            "fnm_hub_agents", "Agents on protected servers, by state.", ["state"], registry=new
        )
        self.agent_polls = Counter(
            "fnm_hub_agent_polls",
            "Questions to agents, by the agent's state after each.",
            ["state"],
            registry=new,
        )
        self.probes = Counter(
            "fnm_hub_probes",
            "Probes of protected ports, by what the SYN-ACK showed.",
            ["verdict"],
            registry=new,
        )
        self.isn_addresses = Gauge(
            "fnm_hub_isn_addresses",
            "Protected addresses behind agents, by how their cookies stand.",
            ["standing"],
            registry=new,
        )
        self.isn_left = Counter(
            "fnm_hub_isn_left", "How often ISN sync was left for the fallback.", registry=new
        )
        self.dry_run = Gauge("fnm_hub_dry_run", "1 while nothing is applied.", registry=new)
        self.drills = Counter(
            "fnm_hub_drills", "Drills that have ended, by result.", ["result"], registry=new
        )
        self.drill_passed = Gauge(
            "fnm_hub_drill_passed_seconds",
            "When the newest drill passed, Unix seconds; 0 while none has.",
            registry=new,
        )
        self.drill_running = Gauge(
            "fnm_hub_drill_running", "1 while a drill is under way.", registry=new
        )
        self.frozen = Gauge("fnm_hub_frozen", "1 while nothing new may begin.", registry=new)
        self.clock_skew = Gauge(
            "fnm_hub_clock_skew_seconds",
            "How far the wall clock has been set away from the hub's steady one.",
            registry=new,
        )
        self.reload_ok = Gauge(
            "fnm_hub_reload_successful", "1 when the newest reload succeeded.", registry=new
        )
        self.reload_ok.set(1)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        begin_at_zero(self.accepted, WAYS_IN)
        begin_at_zero(self.turned_away, ("overload", "store"))
        begin_at_zero(self.refused, GUARDS)
        begin_at_zero(self.processed, ("none",), ("not_understood",))
        begin_at_zero(self.probes, PROBE_VERDICTS)

    def render(self) -> bytes:
        """Return the text exposition format."""
        return generate_latest(self.registry)
