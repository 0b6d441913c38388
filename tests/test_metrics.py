# SPDX-License-Identifier: Apache-2.0
"""Metrics of a running hub: what Prometheus takes, bounded labels, every stage of an event."""

import ipaddress
import subprocess
from collections.abc import Iterator, Mapping

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from hub.clock import SystemClock
from hub.engine_metrics import show_telemetry
from hub.engines.native.reasons import Reason
from hub.engines.nftables.telemetry import NAMES, STATISTICS
from hub.engines.verdicts import verdict_of
from hub.figures import GUARDS
from hub.lag import watch_lag
from hub.metrics import Metrics
from tests.support.hub_process import HubProcess, until

COMPARED = "fnm_hub_reconcile_success_timestamp_seconds"

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub in dry-run that has met one attack."""
    with HubProcess(tmp_path_factory.mktemp("hub"), dry=True) as made:
        made.send("ban")
        until("it is decided", lambda: value(made, "fnm_hub_mitigations", state="dry_run"))
        yield made


def exposition(hub: HubProcess) -> str:
    """Return what Prometheus gets."""
    status, text = hub.request("GET", "/metrics")
    assert status == 200
    return str(text)


def families(hub: HubProcess) -> list[Metric]:
    """Return what Prometheus understands of it."""
    return list(text_string_to_metric_families(exposition(hub)))


def series(hub: HubProcess) -> Series:
    """Return every series with its value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(hub)
        for sample in family.samples
    }


def value(hub: HubProcess, name: str, **labels: str) -> float:
    """Return the value of one series; fail where there is none."""
    return series(hub)[name, frozenset(labels.items())]


def is_address(text: str) -> bool:
    """Tell whether a label holds an address or a prefix, also with a port or in brackets."""
    bare = text.strip("[]")
    for one in (bare, bare.rpartition(":")[0].strip("[]")):
        try:
            ipaddress.ip_network(one, strict=False)
        except ValueError:
            continue
        return not one.isdigit()
    return False


def test_is_address_when_asked_then_knows_them() -> None:
    """The check itself notices addresses in their usual forms, and takes no code for one."""
    assert all(map(is_address, ("192.0.2.1", "2001:db8::1", "192.0.2.0/24", "[2001:db8::1]:80")))
    assert not any(
        map(is_address, ("200", "0.1", "tcp", "guard.caps.total", "+Inf", "40f874a938f3"))
    )


def test_exposition_when_checked_by_promtool_then_names_are_as_prometheus_wants(
    hub: HubProcess,
) -> None:
    """No counter without `_total`, no unit that is not a base unit, no family without help."""
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=exposition(hub),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def attacked(hub: HubProcess, numbers: range) -> Series:
    """Return every series after bans of ours and of others, of both families, and some unbans."""
    open_before = value(hub, "fnm_hub_attacks", state="active")
    hub.send("no such action", f"192.0.2.{numbers[0]}")
    for number in numbers:
        hub.send("ban", f"192.0.2.{100 + number}", detector=f"fnm{number}")
        hub.send("ban", f"2001:db8::{number:x}", udp=True)
        hub.send("ban", f"203.0.113.{number}")
    more = open_before + len(numbers)
    until("seen", lambda: value(hub, "fnm_hub_attacks", state="active") > more)
    for number in numbers:
        hub.send("unban", f"192.0.2.{100 + number}", detector=f"fnm{number}")
    until("taken in", lambda: not value(hub, "fnm_hub_events_pending"))
    until("decided", lambda: not value(hub, "fnm_hub_orders_waiting"))
    now = SystemClock().time()
    until("compared", lambda: value(hub, COMPARED, engine="nftables") > now)
    return series(hub)


def test_labels_when_many_addresses_are_attacked_then_no_series_is_added(hub: HubProcess) -> None:
    """Series depend on the configuration alone, and no label holds an address."""
    before = attacked(hub, range(1, 6)).keys()
    after = attacked(hub, range(6, 31))
    added = after.keys() - before
    # These name what happened by words of the program, and some of it happens late.
    assert {name for name, _ in added} <= {
        "fnm_hub_attack_changes_total",
        "fnm_hub_events_processed_total",
    }
    assert len(added) < 10
    words = {word for _, labels in after for _, word in labels}
    assert {word for word in words if is_address(word)} == set()


def test_event_when_on_its_way_then_each_stage_shows_it(hub: HubProcess) -> None:
    """Intake, journal, rules, attack and plan are all to be seen for one event."""
    names = {
        "fnm_hub_event_durable_seconds_count": {"via": "unix"},
        "fnm_hub_event_delivery_seconds_count": {"via": "unix"},
        "fnm_hub_journal_commit_seconds_count": {},
        "fnm_hub_rules_evaluation_seconds_count": {},
        "fnm_hub_rule_decisions_total": {"rule": "rest"},
        "fnm_hub_attack_changes_total": {"change": "began"},
        "fnm_hub_engine_seconds_count": {"engine": "nftables", "verb": "plan"},
    }
    before = series(hub)
    keys = [(name, frozenset(labels.items())) for name, labels in names.items()]
    sent_at = SystemClock().time()
    hub.send("ban", "192.0.2.77", udp=True)

    def all_moved() -> bool:
        now = series(hub)
        return all(now.get(key, 0) > before.get(key, 0) for key in keys)

    until("every stage has counted it", all_moved)
    assert value(hub, "fnm_hub_event_newest_timestamp_seconds") >= sent_at
    assert value(hub, "fnm_hub_cap_used", cap="guard.caps.total") >= 1
    assert value(hub, "fnm_hub_cap_limit", cap="guard.caps.total") == 1000


def test_attack_when_over_then_its_length_is_counted(hub: HubProcess) -> None:
    """An attack that has ended is in the histogram once."""
    ended = value(hub, "fnm_hub_attack_seconds_count")
    hub.send("ban", "192.0.2.78")
    hub.send("unban", "192.0.2.78")
    until("it ended", lambda: value(hub, "fnm_hub_attack_seconds_count") > ended)
    changes = value(hub, "fnm_hub_attack_changes_total", change="ended")
    assert value(hub, "fnm_hub_attack_seconds_count") == changes


def test_disk_when_looked_at_then_sizes_are_those_of_the_files(hub: HubProcess) -> None:
    """Bytes and rows of the journal, and room of both file systems."""
    until("looked", lambda: value(hub, "fnm_hub_journal_size_bytes", file="database") > 0)
    size = hub.store.stat().st_size
    assert value(hub, "fnm_hub_journal_size_bytes", file="database") <= size
    for place in ("journal", "spool"):
        free = value(hub, "fnm_hub_filesystem_free_bytes", place=place)
        assert 0 < free <= value(hub, "fnm_hub_filesystem_size_bytes", place=place)
    assert value(hub, "fnm_hub_journal_trouble") == 0


def test_spool_when_a_file_is_no_event_then_counted(hub: HubProcess) -> None:
    """A file that was set aside shows."""
    (hub.folder / "spool" / "1-x.json").write_text("no envelope")
    until("it is bad", lambda: value(hub, "fnm_hub_spool_bad_files_total") == 1)
    assert value(hub, "fnm_hub_spool_usable") == 1


def test_reload_when_it_succeeds_then_the_time_moves_and_when_not_then_stays(
    hub: HubProcess,
) -> None:
    """The time of what is in force is that of the last reload that succeeded."""
    loaded = value(hub, "fnm_hub_reload_success_timestamp_seconds")
    hub.post("/v1/reload")
    moved = value(hub, "fnm_hub_reload_success_timestamp_seconds")
    rules = (hub.folder / "rules.yaml").read_text()
    (hub.folder / "rules.yaml").write_text("rules: nonsense")
    try:
        hub.post("/v1/reload")
    finally:
        (hub.folder / "rules.yaml").write_text(rules)
    assert loaded < moved == value(hub, "fnm_hub_reload_success_timestamp_seconds")
    assert value(hub, "fnm_hub_reload_successful") == 0
    hub.post("/v1/reload")
    assert value(hub, "fnm_hub_reload_successful") == 1


def test_drain_when_on_then_frozen_until_it_is_over(hub: HubProcess) -> None:
    """A drain freezes; it is over when nothing is in force any more, the freeze is not."""
    hub.post("/v1/drain", reason="test")
    assert value(hub, "fnm_hub_frozen") == 1
    until("drained", lambda: not value(hub, "fnm_hub_draining"))
    assert value(hub, "fnm_hub_frozen") == 1
    hub.post("/v1/unfreeze")
    assert value(hub, "fnm_hub_frozen") == 0


def test_engine_when_compared_then_says_when(hub: HubProcess) -> None:
    """The comparison of ledger and kernel goes on."""
    name = COMPARED
    until("a first one", lambda: (name, frozenset({("engine", "nftables")})) in series(hub))
    first = value(hub, name, engine="nftables")
    until("another one", lambda: value(hub, name, engine="nftables") > first)
    assert value(hub, "fnm_hub_reconcile_foreign", engine="nftables") == 0


def text_of(metrics: Metrics) -> list[str]:
    """Return the lines of an exposition."""
    return metrics.render().decode().splitlines()


def test_telemetry_when_native_then_sorted_by_verdict_and_table() -> None:
    """Each prefix has a family of its own, and every reason is there before it is met."""
    metrics = Metrics()
    counters = {
        "cookie_bad": 7,
        "work.flows_evicted": 2,
        "held.flows": 5,
        "held.flows6": 2,
        "held.splices_rows": 64,
        "held.splices_open": 3,
        "held.splices_closing": 1,
        "held.memory_bytes": 4096,
        "limit.flows4": 100,
        "logged.error": 1,
    }
    show_telemetry(metrics.engines, "native", frozenset({"tcp", "acl", "sorb"}), counters)
    lines = text_of(metrics)
    packets = 'fnm_hub_engine_packets_total{counter="%s",engine="native",verdict="%s"} %s.0'
    assert packets % ("cookie_bad", "drop", 7) in lines
    for reason in Reason:
        if reason is not Reason.COOKIE_BAD:
            assert packets % (reason.word, verdict_of(reason.word), 0) in lines
    assert {
        'fnm_hub_engine_work_total{counter="flows_evicted",engine="native"} 2.0',
        'fnm_hub_engine_table_rows{engine="native",table="flows4"} 3.0',
        'fnm_hub_engine_table_rows{engine="native",table="splices"} 4.0',
        'fnm_hub_engine_table_limit_rows{engine="native",table="splices"} 64.0',
        'fnm_hub_engine_table_limit_rows{engine="native",table="flows4"} 100.0',
        'fnm_hub_engine_memory_bytes{engine="native"} 4096.0',
        'fnm_hub_engine_log_lines_total{engine="native",level="error"} 1.0',
    } <= set(lines)


def test_telemetry_when_nftables_then_each_counter_has_a_verdict() -> None:
    """What the kernel judges is pass, answer or drop; bytes go beside the packets."""
    metrics = Metrics()
    counters = dict.fromkeys((*NAMES.values(), *STATISTICS.values()), 1) | {"acl.dropped_bytes": 60}
    show_telemetry(metrics.engines, "nftables", frozenset({"tcp", "acl", "sorb"}), counters)
    lines = text_of(metrics)
    labels = 'counter="acl.dropped",engine="nftables",verdict="drop"'
    assert f"fnm_hub_engine_packets_total{{{labels}}} 1.0" in lines
    assert f"fnm_hub_engine_bytes_total{{{labels}}} 60.0" in lines
    for twice in ("sorb.blocked", "tcp.ack_packets", "tcp.cookie_retransmits", "tcp.reopened"):
        labels = f'counter="{twice}",engine="nftables",verdict="none"'
        assert f"fnm_hub_engine_packets_total{{{labels}}} 1.0" in lines


@pytest.mark.parametrize(
    ("kind", "counters", "line"),
    [
        (
            "notify",
            {"sent": 2, "failed": 1},
            'fnm_hub_notifications_total{engine="x",outcome="sent"} 2.0',
        ),
        (
            "command",
            {"run": 2, "failed": 1},
            'fnm_hub_commands_total{engine="x",outcome="failed"} 1.0',
        ),
    ],
)
def test_telemetry_when_no_traffic_then_messages_and_programs(
    kind: str, counters: dict[str, int], line: str
) -> None:
    """Webhooks and commands count what they sent and ran."""
    metrics = Metrics()
    show_telemetry(metrics.engines, "x", frozenset({kind}), counters)
    assert line in text_of(metrics)


def test_guards_when_nothing_was_refused_then_each_is_there_at_zero() -> None:
    """An alert sees the first refusal as an increase."""
    lines = text_of(Metrics())
    for guard in GUARDS:
        assert f'fnm_hub_mitigations_refused_total{{guard="{guard}"}} 0.0' in lines


class LateClock(SystemClock):
    """Sleeps for ever at the third time, and late before."""

    def __init__(self) -> None:
        self.now, self.sleeps = 0.0, 0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Be late by two seconds."""
        self.sleeps += 1
        if self.sleeps > 2:
            raise InterruptedError
        self.now += seconds + 2.0


async def test_lag_when_the_loop_is_late_then_told() -> None:
    """What is observed is the delay, without the pause itself."""
    seen: list[float] = []
    with pytest.raises(InterruptedError):
        await watch_lag(LateClock(), seen.append)
    assert seen == [2.0, 2.0]
