# SPDX-License-Identifier: Apache-2.0
"""Metrics of single parts of the hub, in groups; `hub.metrics` gathers them.

Every label comes from the program or the configuration, so that no sender makes a series.
Series that an alert counts exist from the start, at 0: an increase from nothing is not seen.
"""

from collections.abc import Iterable
from itertools import product
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

WAYS_IN: Final = ("unix", "tcp", "webhook", "spool")
GUARDS: Final = (
    "own_prefixes",
    "never_block",
    "impossible_target",
    "width",
    "cap",
    "freeze",
    "hold_off",
    "ttl",
    "no_engine",
)
FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_FASTER: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)
_LONG: Final = (10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14400.0, 43200.0, 86400.0)
_LATE: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0)


class Totals(Collector):
    """A counter that somebody else keeps: its value is read, never incremented.

    Args:
        name: without `_total`.
        words: for people.
        labels: names of the labels.
    """

    def __init__(
        self, name: str, words: str, labels: tuple[str, ...], registry: CollectorRegistry
    ) -> None:
        self._name, self._words, self._labels = name, words, labels
        self._values: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def put(self, *labels: str, value: float) -> None:
        """Set what has been counted under these labels."""
        self._values[labels] = value

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Return the family, also while it is empty."""
        family = CounterMetricFamily(self._name, self._words, labels=self._labels)
        for labels, value in tuple(self._values.items()):
            family.add_metric(labels, value)
        yield family


class IntakeFigures:
    """What is known of events on their way into the journal."""

    def __init__(self, new: CollectorRegistry) -> None:
        self.durable_seconds = Histogram(
            "fnm_hub_event_durable_seconds",
            "From an event's arrival to its commit, by way in.",
            ["via"],
            buckets=FAST,
            registry=new,
        )
        self.delivery_seconds = Histogram(
            "fnm_hub_event_delivery_seconds",
            "From the stamp of the detector's hook to the commit, by way in.",
            ["via"],
            buckets=_LATE,
            registry=new,
        )
        self.newest = Gauge(
            "fnm_hub_event_newest_timestamp_seconds",
            "When the newest event was accepted; 0 when there never was one.",
            registry=new,
        )
        self.spool_bad = Totals(
            "fnm_hub_spool_bad_files", "Files of the spool that were set aside.", (), new
        )
        self.spool_usable = Gauge(
            "fnm_hub_spool_usable",
            "1 while the spool, and every file in it, can be read and emptied.",
            registry=new,
        )
        for via in WAYS_IN:
            self.durable_seconds.labels(via)
            self.delivery_seconds.labels(via)


class JournalFigures:
    """What is known of the journal, and of the file systems that it and the spool lie on."""

    def __init__(self, new: CollectorRegistry) -> None:
        self.commit_seconds = Histogram(
            "fnm_hub_journal_commit_seconds",
            "How long a transaction takes, its flush to the disk included.",
            buckets=FAST,
            registry=new,
        )
        self.writes = Counter(
            "fnm_hub_journal_writes",
            "Requests that were committed together or alone.",
            registry=new,
        )
        self.rows = Gauge(
            "fnm_hub_journal_rows",
            "Rows of the tables that grow, by table; those deleted in between count as well.",
            ["table"],
            registry=new,
        )
        self.bytes = Gauge(
            "fnm_hub_journal_size_bytes",
            "Size on disk: the database, and its write-ahead log.",
            ["file"],
            registry=new,
        )
        self.free = Gauge(
            "fnm_hub_filesystem_free_bytes",
            "Free for the hub's user where the journal, and the spool, lie.",
            ["place"],
            registry=new,
        )
        self.size = Gauge(
            "fnm_hub_filesystem_size_bytes",
            "Size of the file system where the journal, and the spool, lie.",
            ["place"],
            registry=new,
        )
        self.trouble = Gauge(
            "fnm_hub_journal_trouble", "1 while the journal takes no writes.", registry=new
        )
        self.lost_audit = Totals(
            "fnm_hub_journal_audit_lost",
            "Rows of the audit record given up while the journal took no writes.",
            (),
            new,
        )
        self.replaced = Gauge(
            "fnm_hub_journal_replaced",
            "1 when this run has begun a new journal for a damaged or deleted one.",
            registry=new,
        )

    def committed(self, seconds: float, requests: int) -> None:
        """Count one transaction; may be called from any thread."""
        self.commit_seconds.observe(seconds)
        self.writes.inc(requests)


class CoreFigures:
    """What is known of attacks, rules, guards, orders and caps."""

    def __init__(self, new: CollectorRegistry) -> None:
        self.attack_changes = Counter(
            "fnm_hub_attack_changes", "What became of attacks, by change.", ["change"], registry=new
        )
        self.attack_seconds = Histogram(
            "fnm_hub_attack_seconds",
            "How long attacks lasted that are over, their linger included.",
            buckets=_LONG,
            registry=new,
        )
        self.rules_seconds = Histogram(
            "fnm_hub_rules_evaluation_seconds",
            "How long all rules take for one attack and service.",
            buckets=_FASTER,
            registry=new,
        )
        self.decisions = Counter(
            "fnm_hub_rule_decisions",
            "New decisions, by rule that matched; none where no rule did.",
            ["rule"],
            registry=new,
        )
        self.orders = Gauge(
            "fnm_hub_orders_waiting",
            "Mitigations with an order for an engine that waits or is under way.",
            registry=new,
        )
        self.oldest = Gauge(
            "fnm_hub_mitigation_oldest_seconds",
            "Age of the oldest one: in force, or wanted and not yet in force.",
            ["state"],
            registry=new,
        )
        self.cap_used = Gauge(
            "fnm_hub_cap_used", "Live mitigations that count for a cap.", ["cap"], registry=new
        )
        self.cap_limit = Gauge("fnm_hub_cap_limit", "How many a cap allows.", ["cap"], registry=new)
        for change in ("began", "ended", "refused"):
            self.attack_changes.labels(change)


class EngineFigures:
    """What engines have counted, and how they stand."""

    def __init__(self, new: CollectorRegistry) -> None:
        self.packets = Totals(
            "fnm_hub_engine_packets",
            "Packets that an engine has judged, by verdict and the engine's own counter.",
            ("engine", "verdict", "counter"),
            new,
        )
        self.bytes = Totals(
            "fnm_hub_engine_bytes",
            "Bytes of such packets, where the engine counts them.",
            ("engine", "verdict", "counter"),
            new,
        )
        self.work = Totals(
            "fnm_hub_engine_work", "What an engine did besides.", ("engine", "counter"), new
        )
        self.notifications = Totals(
            "fnm_hub_notifications",
            "Messages by webhook: sent, failed, tried again.",
            ("engine", "outcome"),
            new,
        )
        self.commands = Totals(
            "fnm_hub_commands", "Programs run for countermeasures.", ("engine", "outcome"), new
        )
        self.lines = Totals(
            "fnm_hub_engine_log_lines",
            "Lines that the engine's own process has logged, by level.",
            ("engine", "level"),
            new,
        )
        self.rows = Gauge(
            "fnm_hub_engine_table_rows", "Live rows.", ["engine", "table"], registry=new
        )
        self.limits = Gauge(
            "fnm_hub_engine_table_limit_rows", "Room for rows.", ["engine", "table"], registry=new
        )
        self.memory = Gauge(
            "fnm_hub_engine_memory_bytes", "Memory of its tables.", ["engine"], registry=new
        )
        self.measured = Gauge(
            "fnm_hub_engine_measured",
            "1 while an engine that hides traffic from detectors says what it meets.",
            ["engine"],
            registry=new,
        )
        self.foreign = Gauge(
            "fnm_hub_reconcile_foreign",
            "Things of somebody else in an engine's place now.",
            ["engine"],
            registry=new,
        )
        self.compared = Gauge(
            "fnm_hub_reconcile_success_timestamp_seconds",
            "When ledger and engine were last compared completely.",
            ["engine"],
            registry=new,
        )


class HubFigures:
    """What is known of the process, its configuration and its event loop."""

    def __init__(self, new: CollectorRegistry) -> None:
        self.build = Gauge("fnm_hub_build_info", "1, with the version.", ["version"], registry=new)
        self.rules = Gauge(
            "fnm_hub_rules_info",
            "1, with the version of the rules in force.",
            ["rules"],
            registry=new,
        )
        self.loaded = Gauge(
            "fnm_hub_reload_success_timestamp_seconds",
            "When the configuration and rules in force were read.",
            registry=new,
        )
        self.files_changed = Gauge(
            "fnm_hub_config_files_timestamp_seconds",
            "When the newest of the files with configuration and rules was changed.",
            registry=new,
        )
        self.draining = Gauge(
            "fnm_hub_draining", "1 from a drain until nothing is in force.", registry=new
        )
        self.lag = Histogram(
            "fnm_hub_loop_lag_seconds",
            "How much later than asked for the event loop goes on.",
            buckets=FAST,
            registry=new,
        )


def begin_at_zero(counter: Counter, *labels: Iterable[str]) -> None:
    """Make every combination of these labels known, before anything is counted."""
    for values in product(*labels):
        counter.labels(*values)
