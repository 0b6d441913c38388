# SPDX-License-Identifier: Apache-2.0
"""The machine: kernel, BPF, nft, and the settings of the kernel that the hub depends on."""

import asyncio
import re
from pathlib import Path
from typing import Any, Final

from hub import __version__
from hub.cli.doctor import addresses
from hub.cli.doctor.finding import Report
from hub.cli.doctor.programs import LIMIT, call, find, is_there, text_of
from hub.cli.doctor.situation import Situation
from hub.config import Config, NativeEngine, NftablesEngine, traffic_engines
from hub.engines.nftables.nft import Nft
from hub.errors import EngineError
from hub.store import files

PROC_SYS: Final = Path("/proc/sys")
BTF: Final = Path("/sys/kernel/btf/vmlinux")
BPFFS: Final = Path("/sys/fs/bpf")
_NATIVE_KERNEL: Final = (5, 18)
_NFT_KERNEL: Final = (5, 7)
_NFT: Final = (1, 0, 2)
_FULL: Final = 0.8
_TRIAL: Final[list[dict[str, Any]]] = [
    {"add": {"table": {"family": "inet", "name": "fnm_hub_doctor"}}},
    {"add": {"chain": {"family": "inet", "table": "fnm_hub_doctor", "name": "trial"}}},
    {
        "add": {
            "rule": {
                "family": "inet",
                "table": "fnm_hub_doctor",
                "chain": "trial",
                "expr": [
                    {
                        "match": {
                            "op": "==",
                            "left": {"payload": {"protocol": "tcp", "field": "dport"}},
                            "right": 80,
                        }
                    },
                    {"synproxy": {"mss": 1460, "wscale": 7, "flags": ["timestamp", "sack-perm"]}},
                ],
            }
        }
    },
]


def look(situation: Situation, report: Report) -> None:
    """Look at the machine."""
    config = situation.config
    _versions(situation, report)
    if config is None:
        report.skip("kernel", "the configuration cannot be read, so what it needs is unknown")
        return
    _kernel(config, Path("/proc/sys/kernel/osrelease").read_text().strip(), report)
    if config.engines.native.enabled:
        _bpf(report)
        _xdp(situation, config.engines.native, report)
    else:
        report.skip("bpf", "engines.native is off")
    if config.engines.nftables.enabled:
        _nft(situation, config.engines.nftables, report)
    else:
        report.skip("nft", "engines.nftables is off")
    _forwarding(config, report)
    _conntrack(situation, config, report)
    _reverse_path(situation, report)


def _versions(situation: Situation, report: Report) -> None:
    status = situation.hub.status
    if status is None:
        report.skip("version", f"this is fnm-hub {__version__}; no running hub to compare it with")
    elif status["version"] == __version__:
        report.ok("version", f"fnm-hub {__version__}, and so is the running hub")
    else:
        report.warn(
            "version",
            f"this is fnm-hub {__version__}, the running hub is {status['version']}",
            "restart the hub: systemctl restart fnm-hub (protection stays in force)",
        )


def version_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with, `6.1.0-18-amd64` as (6, 1, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(one) for one in match[0].split(".")) if match else ()


def _kernel(config: Config, release: str, report: Report) -> None:
    needs = {"native": _NATIVE_KERNEL, "nftables": _NFT_KERNEL}
    for name in traffic_engines(config.engines):
        least = ".".join(str(one) for one in needs[name])
        if version_numbers(release) < needs[name]:
            report.fail(
                "kernel",
                f"Linux {release}; engine {name} needs {least} or newer",
                f"boot a newer kernel, or set engines.{name}.enabled: false",
            )
        else:
            report.ok("kernel", f"Linux {release}; engine {name} needs {least}")


def _bpf(report: Report) -> None:
    if BTF.exists():
        report.ok("bpf", "the kernel has BTF")
    else:
        todo = "boot a kernel with CONFIG_DEBUG_INFO_BTF, as Debian's are"
        report.fail("bpf", f"{BTF} is missing, so synproxyd cannot load its program", todo)
    jit = _setting("net/core/bpf_jit_enable")
    if jit is None:
        report.skip("jit", "net.core.bpf_jit_enable cannot be read by this user", "run as root")
    elif jit == "0":
        text = "BPF programs are interpreted, which costs most of the speed"
        report.fail("jit", text, "sysctl -w net.core.bpf_jit_enable=1")
    else:
        report.ok("jit", "BPF programs are compiled")
    mounts = files.MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    if files.filesystem_of(BPFFS, mounts) == "bpf":
        report.ok("bpffs", f"{BPFFS} is a bpf file system")
    else:
        text = f"{BPFFS} is not a bpf file system, where synproxyd pins what survives it"
        report.warn("bpffs", text, f"mount -t bpf bpf {BPFFS}, or start it with --pin-dir")


def _xdp(situation: Situation, native: NativeEngine, report: Report) -> None:
    if is_there(native.socket):
        report.skip("xdp", "synproxyd has been started, so it says itself: see engines")
        return
    program = find("synproxyd")
    if program is None:
        text = "synproxyd is not installed, and engines.native is on"
        report.fail("xdp", text, "make -C native install; see The engine in XDP, operations.md")
        return
    if not situation.is_root:
        report.skip("xdp", "loading a program for a trial needs root", "run as root")
        return
    report.look("synproxyd check")
    # Without an interface it attaches nothing, and its maps and programs go with it.
    done = call((program, "check"), 2 * LIMIT)
    bad = [line[5:] for line in text_of(done).splitlines() if line.startswith("no ")]
    if done.code is None:
        report.fail("xdp", f"{program} check did not end in time", "run it by hand")
    elif bad:
        report.fail("xdp", bad[0], f"see the whole of it: {program} check")
    else:
        report.ok("xdp", "the kernel loads synproxyd's program and makes its maps")


def _nft(situation: Situation, nft: NftablesEngine, report: Report) -> None:
    report.look(f"{nft.nft} -V")
    try:
        said = text_of(call((str(nft.nft), "-V")))
    except OSError as error:
        todo = "apt-get install nftables, or correct engines.nftables.nft"
        report.fail("nft", f"{nft.nft} cannot be run: {error.strerror}", todo)
        return
    match = re.search(r"v(\d[\d.]*)", said)
    version = version_numbers(match[1]) if match else ()
    shown = ".".join(str(one) for one in version) or "of unknown version"
    if version < _NFT or not re.search(r"json:\s*yes", said):
        todo = "install nftables 1.0.2 or newer, built with JSON"
        report.fail("nft", f"nft {shown}, too old or without JSON", todo)
    else:
        report.ok("nft", f"nft {shown}, with JSON")
    _synproxy(situation, nft, report)


def _synproxy(situation: Situation, nft: NftablesEngine, report: Report) -> None:
    if situation.hub.engine("nftables").get("ok"):
        report.ok("synproxy", "the running hub has its rules with SYNPROXY in the kernel")
        return
    if not situation.is_root:
        report.skip("synproxy", "asking the kernel needs root", "run as root")
        return
    report.look("nft --check with a SYNPROXY rule")
    try:
        asyncio.run(Nft(nft.nft, LIMIT).check(_TRIAL))
    except EngineError as error:
        todo = error.todo or "use a kernel of 5.7 or newer with CONFIG_NFT_SYNPROXY"
        report.fail("synproxy", f"the kernel refuses a SYNPROXY rule: {error.what}", todo)
    else:
        report.ok("synproxy", "the kernel takes a SYNPROXY rule (checked, not installed)")


def _forwarding(config: Config, report: Report) -> None:
    prefixes = [prefix for service in config.services for prefix in service.prefixes]
    local = addresses.local()
    for version, setting in ((4, "net/ipv4/ip_forward"), (6, "net/ipv6/conf/all/forwarding")):
        behind = [
            prefix
            for prefix in prefixes
            if prefix.version == version and not any(one in prefix for one in local)
        ]
        if not behind:
            continue
        name = setting.replace("/", ".")
        value = _setting(setting)
        if value == "0":
            text = f"{name} is 0, and {behind[0]} lies behind this machine"
            report.warn("forwarding", text, f"sysctl -w {name}=1, and in /etc/sysctl.d")
        elif value is None:
            report.skip("forwarding", f"{name} cannot be read")
        else:
            report.ok("forwarding", f"{name} is {value}")


def _conntrack(situation: Situation, config: Config, report: Report) -> None:
    nft = config.engines.nftables
    if not nft.enabled:
        return
    room = _numbers("net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max")
    loose = _setting("net/netfilter/nf_conntrack_tcp_loose")
    if room is None or loose is None:
        text = "the kernel tracks no connections in this network namespace yet"
        report.skip("conntrack", text, "the hub's own table switches it on")
        return
    used, most = room
    if used >= _FULL * most:
        text = f"{used} of {most} tracked connections: beyond that the kernel drops new ones"
        report.warn("conntrack", text, "raise net.netfilter.nf_conntrack_max")
    else:
        report.ok("conntrack", f"{used} of {most} tracked connections")
    _loose(situation, nft, loose, report)


def _loose(situation: Situation, nft: NftablesEngine, loose: str, report: Report) -> None:
    name = "net.netfilter.nf_conntrack_tcp_loose"
    if loose != "0" and not nft.manage_sysctls:
        text = f"{name} is {loose}, SYNPROXY works only with 0, and manage_sysctls is false"
        report.fail("tcp_loose", text, f"sysctl -w {name}=0, or set manage_sysctls: true")
    elif loose == "0" and nft.manage_sysctls and situation.hub.status is None:
        text = f"{name} is 0 and no hub is there: a hub that died may have left it so"
        report.warn("tcp_loose", text, "start the hub: it gives back what it has changed")
    else:
        report.ok("tcp_loose", f"{name} is {loose}")


def _reverse_path(situation: Situation, report: Report) -> None:
    interfaces = situation.hub.engine("native").get("interfaces", ())
    named = [str(one["name"]) for one in interfaces]
    strict = [name for name in named if _strict(name)]
    elsewhere = [name for name in strict if name not in addresses.default_interfaces()]
    if elsewhere:
        report.warn(
            "rp_filter",
            f"rp_filter is strict on {', '.join(elsewhere)}, and the default route leaves by "
            "another interface: the kernel drops clients whose way back is not that one",
            f"sysctl -w net.ipv4.conf.{elsewhere[0]}.rp_filter=2",
        )
    elif named:
        report.ok("rp_filter", f"takes what comes in by {', '.join(named)}")


def _strict(name: str) -> bool:
    values = (_setting(f"net/ipv4/conf/{where}/rp_filter") for where in ("all", name))
    return max((value or "0" for value in values), key=int) == "1"


def _setting(path: str) -> str | None:
    try:
        return (PROC_SYS / path).read_text().strip()
    except OSError:
        return None


def _numbers(*paths: str) -> tuple[int, ...] | None:
    values = [_setting(path) for path in paths]
    return tuple(int(one) for one in values if one) if all(values) else None
