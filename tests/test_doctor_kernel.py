# SPDX-License-Identifier: Apache-2.0
"""The doctor's look at the machine and the engines: real namespaces, nft and synproxyd."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from hub.cli.doctor import addresses, engine_native, engine_nftables, machine
from hub.cli.doctor.engine_native import Seen
from hub.cli.doctor.finding import Report, Status
from hub.cli.doctor.situation import Hub, Situation, read_config
from hub.config import NativeEngine, NftablesEngine
from hub.engines.native.client import Hello
from hub.mitigations.engine import Interface
from tests.support.doctor import found, only, worst
from tests.support.netns import inside, run
from tests.support.synproxyd import Ground, ground, put

CONFIG = """
guard: {own_prefixes: [192.0.2.0/24, '2001:db8::/32']}
services: [{name: web, prefixes: [192.0.2.10, '2001:db8::10']}]
engines: ENGINES
"""
RUNNING = Hub(
    status={
        "version": "0.0.1",
        "engines": [{"name": "native", "interfaces": [{"name": "wan", "mode": "native"}]}],
    }
)


@pytest.fixture
def namespace() -> Iterator[str]:
    """A machine with an interface `wan`, an address on it, and a default gateway."""
    name = f"fnd{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        for words in (
            "link set lo up",
            "link add wan type veth peer name far",
            "link set far up",
            "addr add 192.0.2.1/24 dev wan",
            "addr add 2001:db8::1/64 dev wan nodad",
            "link set wan up",
            "route add default via 192.0.2.254",
            "route add default via 2001:db8::fe",
        ):
            run("ip", "-n", name, *words.split())
        yield name
    finally:
        run("ip", "netns", "del", name)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Ground]:
    """A gateway with room for one synproxyd."""
    with ground() as made:
        yield made


def situation(folder: Path, engines: str = "{}", hub: Hub | None = None) -> Situation:
    """Return where the checks look, with these engines."""
    path = folder / "config.yaml"
    path.write_text(CONFIG.replace("ENGINES", engines))
    return Situation(path, read_config(path), Path("/nowhere"), hub or Hub(trouble="down"))


def looked(namespace: str, where: Situation) -> Report:
    """Return what the doctor says of the machine that `namespace` is."""
    report = Report("machine")
    inside(namespace, lambda: machine.look(where, report))
    return report


def setting(namespace: str, name: str, value: int) -> None:
    """Set one setting of the kernel there."""
    run("ip", "netns", "exec", namespace, "sysctl", "-qw", f"{name}={value}")


def test_addresses_when_read_then_those_of_the_machine(namespace: str) -> None:
    """Own addresses, next hops of default routes, and the interface these leave by."""
    ours = inside(namespace, addresses.local)
    assert ours == {ip_address("192.0.2.1"), ip_address("2001:db8::1")}
    hops = inside(namespace, addresses.gateways)
    assert hops == {ip_address("192.0.2.254"), ip_address("2001:db8::fe")}
    assert inside(namespace, addresses.default_interfaces) == {"wan"}


def test_machine_when_it_forwards_nothing_then_sysctl(namespace: str, tmp_path: Path) -> None:
    """Services lie behind this machine, so what goes to them has to pass."""
    where = situation(tmp_path)
    lines = found(looked(namespace, where), "forwarding")
    assert [one.status for one in lines] == [Status.WARN] * 2
    assert lines[0].todo.startswith("sysctl -w net.ipv4.ip_forward=1")
    setting(namespace, "net.ipv4.ip_forward", 1)
    setting(namespace, "net.ipv6.conf.all.forwarding", 1)
    assert worst(looked(namespace, where), "forwarding") == Status.OK


def test_machine_when_the_services_are_its_own_then_forwarding_is_nothing(
    namespace: str, tmp_path: Path
) -> None:
    """A host that protects itself forwards nothing."""
    run("ip", "-n", namespace, "addr", "add", "192.0.2.10/32", "dev", "wan")
    run("ip", "-n", namespace, "addr", "add", "2001:db8::10/128", "dev", "wan", "nodad")
    assert found(looked(namespace, situation(tmp_path)), "forwarding") == []


def test_machine_when_nft_works_then_synproxy_is_tried_and_left(
    namespace: str, tmp_path: Path
) -> None:
    """The kernel checks a rule with SYNPROXY, and nothing of it stays."""
    report = looked(namespace, situation(tmp_path))
    assert (only(report, "nft").status, only(report, "synproxy").status) == (Status.OK,) * 2
    assert run("ip", "netns", "exec", namespace, "nft", "list", "ruleset") == ""


def test_machine_when_nft_is_missing_then_failed(namespace: str, tmp_path: Path) -> None:
    """Without it the engine does nothing."""
    one = only(looked(namespace, situation(tmp_path, "{nftables: {nft: /nowhere/nft}}")), "nft")
    assert (one.status, "apt-get install nftables" in one.todo) == (Status.FAIL, True)


def test_machine_when_conntrack_is_as_wanted_or_not_then_said(
    namespace: str, tmp_path: Path
) -> None:
    """SYNPROXY needs tcp_loose 0; a hub that died may have left it so."""
    run("ip", "netns", "exec", namespace, "nft", "add table inet t")
    chain = "{ type filter hook forward priority 0; ct state new; }"
    run("ip", "netns", "exec", namespace, "nft", f"table inet t {{ chain c {chain}; }}")
    strict = situation(tmp_path, "{nftables: {manage_sysctls: false}}")
    one = only(looked(namespace, strict), "tcp_loose")
    assert (one.status, "nf_conntrack_tcp_loose=0" in one.todo) == (Status.FAIL, True)
    setting(namespace, "net.netfilter.nf_conntrack_tcp_loose", 0)
    assert only(looked(namespace, strict), "tcp_loose").status == Status.OK
    one = only(looked(namespace, situation(tmp_path)), "tcp_loose")
    assert (one.status, one.todo.startswith("start the hub")) == (Status.WARN, True)


def test_machine_when_the_way_back_is_another_then_rp_filter(
    namespace: str, tmp_path: Path
) -> None:
    """Strict filtering is right where the default route leaves, and nowhere else."""
    where = situation(tmp_path, "{nftables: {enabled: false}}", RUNNING)
    setting(namespace, "net.ipv4.conf.wan.rp_filter", 1)
    assert only(looked(namespace, where), "rp_filter").status == Status.OK
    run("ip", "-n", namespace, "route", "del", "default")
    one = only(looked(namespace, where), "rp_filter")
    assert (one.status, one.todo) == (Status.WARN, "sysctl -w net.ipv4.conf.wan.rp_filter=2")


def test_version_when_the_hub_is_another_then_restart(namespace: str, tmp_path: Path) -> None:
    """An upgrade that nobody has restarted the hub for."""
    one = only(looked(namespace, situation(tmp_path, hub=RUNNING)), "version")
    assert (one.status, "systemctl restart fnm-hub" in one.todo) == (Status.WARN, True)


def nftables(namespace: str, folder: Path, hub: Hub | None = None) -> Report:
    """Return what the doctor says of the engine nftables there."""
    report = Report("engines")
    where = situation(folder, hub=hub)
    inside(namespace, lambda: engine_nftables.look(where, NftablesEngine(), report))
    return report


def test_table_when_it_is_gone_and_the_hub_runs_then_failed(namespace: str, tmp_path: Path) -> None:
    """Without a hub there need be none; beside one somebody has taken it away."""
    assert only(nftables(namespace, tmp_path), "table").status == Status.SKIP
    one = only(nftables(namespace, tmp_path, RUNNING), "table")
    assert (one.status, "is gone" in one.text, bool(one.todo)) == (Status.FAIL, True, True)
    run("ip", "netns", "exec", namespace, "nft", "add table inet fnm_hub")
    assert only(nftables(namespace, tmp_path, RUNNING), "table").status == Status.OK


def native(gateway: Ground, folder: Path, hub: Hub | None = None) -> Report:
    """Return what the doctor says of synproxyd."""
    report = Report("engines")
    where = situation(folder, hub=hub)
    engine_native.look(where, NativeEngine(enabled=True, socket=gateway.socket), report)
    return report


def test_synproxyd_when_it_works_then_all_is_said_and_packets_are_seen(
    gateway: Ground, tmp_path: Path
) -> None:
    """Mode, room, deadlines, and that what comes in is really judged."""
    daemon = gateway.run()
    try:
        with daemon.client() as client, sending(gateway):
            client.good(put("m-1"))
            report = native(gateway, tmp_path)
    finally:
        daemon.end()
    assert worst(report, "synproxyd") == worst(report, "interface") == Status.OK
    assert "in the driver (native)" in only(report, "interface").text
    assert worst(report, "tables") == only(report, "counters").status == Status.OK
    one = next(one for one in found(report, "deadlines") if one.status == Status.WARN)
    assert "1 countermeasures are in force without a hub" in one.text


@contextmanager
def sending(gateway: Ground) -> Iterator[None]:
    """Send SYNs to the gateway meanwhile."""
    over = threading.Event()

    def send() -> None:
        with gateway.wire() as wire:
            while not over.wait(0.01):
                wire.syn()

    thread = threading.Thread(target=lambda: inside(gateway.far, send))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_synproxyd_when_it_hangs_or_is_gone_then_failed(gateway: Ground, tmp_path: Path) -> None:
    """Either ends within seconds, with what to do."""
    daemon = gateway.run()
    try:
        os.kill(daemon.pid, signal.SIGSTOP)
        hung = only(native(gateway, tmp_path), "synproxyd")
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
        daemon.end()
    assert (hung.status, "did not answer" in hung.text) == (Status.FAIL, True)
    assert "see its log" in hung.todo
    gone = only(native(gateway, tmp_path), "synproxyd")
    assert (gone.status, "cannot be reached" in gone.text) == (Status.FAIL, True)
    assert "is it running" in gone.todo


def seen(change: Callable[[dict[str, Any]], None] = lambda _: None) -> Seen:
    """Return what a healthy synproxyd says, changed."""
    fields: dict[str, Any] = {
        "mode": "native",
        "received": {"wan": 100},
        "before": stats(0),
        "after": stats(100),
    }
    change(fields)
    hello = Hello("1", (1, 1), (Interface("wan", fields["mode"]),))
    return Seen(hello, fields["before"], fields["after"], (), fields["received"])


def stats(packets: int) -> dict[str, Any]:
    """Return an answer to `stats`."""
    return {
        "packets": {"unprotected": packets},
        "work": {"flows_evicted": 0},
        "flows": 50,
        "flows6": 10,
        "sources": 5,
        "limits": {"flows4": 100, "flows6": 100, "sources": 100, "mitigations": 2047},
        "mitigations": 1,
        "splices": {"asked": 0, "open": 1, "closing": 0, "rows": 100},
        "programs": [{"interface": "wan"}],
    }


@pytest.mark.parametrize(
    ("change", "check", "status", "words"),
    [
        (lambda _: None, "counters", "ok", "100 packets judged"),
        (lambda f: f.update(mode="generic"), "interface", "warn", "order of magnitude"),
        (lambda f: f["after"].update(programs=[]), "interface", "fail", "has not our program"),
        (lambda f: f.update(after=stats(0)), "counters", "fail", "none was judged"),
        (
            lambda f: f.update(after=stats(0), received={"wan": 0}),
            "counters",
            "skip",
            "no packet came in",
        ),
        (lambda f: f["after"].update(mitigations=1700), "tables", "warn", "1700 of 2047"),
        (lambda f: f["after"].update(flows=95), "tables", "warn", "IPv4 flows: 85 of 100"),
        (lambda f: f["after"].update(flows6=90, flows=91), "tables", "warn", "IPv6 flows: 90"),
        (lambda f: f["after"].update(sources=80), "tables", "warn", "sources: 80 of 100"),
        (lambda f: f["after"]["splices"].update(open=90), "tables", "warn", "90 of 100"),
        (lambda f: f["after"]["work"].update(flows_evicted=7), "tables", "warn", "grew by 7"),
    ],
)
def test_synproxyd_when_something_is_wrong_then_said(
    change: Callable[[dict[str, Any]], None], check: str, status: str, words: str
) -> None:
    """Slow mode, no program, blind counters, tables near their end."""
    report = Report("engines")
    engine_native.judge(seen(change), report)
    assert worst(report, check) == status
    assert any(words in one.text for one in found(report, check)), found(report, check)
    others = {"counters", "interface", "tables"} - {check}
    assert all(worst(report, one) == Status.OK for one in others)
