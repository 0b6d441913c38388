# SPDX-License-Identifier: Apache-2.0
"""The data plane benchmarks: that they measure what they say, not how fast this machine is."""

import json
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from scripts.benchmarks.dataplane_lab import BUILT, PORT, REPOSITORY, SERVER, Veth, build
from tests.support.netns import inside

OPTIONS: Final = {2: "mss", 3: "wscale", 4: "sack", 8: "timestamps"}
KEYS: Final = {
    "syn_vs_helper",
    "bad_ack_vs_helper",
    "known_flow_vs_helper",
    "unprotected_vs_helper",
    "veth_syn_vs_nft",
    "served_under_flood_pct",
    "connect_p99_vs_idle",
}

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    build()


def run_bench(*arguments: str) -> list[dict[str, Any]]:
    """Return what bench-program prints."""
    argv = [str(BUILT / "bench-program"), str(BUILT), "0", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ones_sum(data: bytes) -> int:
    """Return the one's complement sum; ffff where data holds its own checksum."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def read_options(options: bytes) -> dict[str, bytes]:
    """Return TCP options by name."""
    found: dict[str, bytes] = {}
    while options and options[0]:
        if options[0] == 1:
            options = options[1:]
            continue
        found[OPTIONS.get(options[0], "other")] = options[2 : options[1]]
        options = options[options[1] :]
    return found


def tcp_of(frame: bytes, *, v6: bool) -> tuple[bytes, bytes]:
    """Return the addresses and the TCP header of a frame; both checksums are right."""
    if v6:
        addresses, segment = frame[22:54], frame[54 : 54 + int.from_bytes(frame[18:20], "big")]
    else:
        assert ones_sum(frame[14:34]) == 0xFFFF
        addresses, segment = frame[26:34], frame[34 : 14 + int.from_bytes(frame[16:18], "big")]
    assert ones_sum(addresses + struct.pack("!II", len(segment), 6) + segment) == 0xFFFF
    return addresses, segment


def test_programs_when_a_syn_comes_then_both_answer_it_rightly() -> None:
    """Every layout of both families; the baseline's cookie is tried on the kernel below."""
    answers = run_bench("1", "1", "answers")
    assert len(answers) == 2 * 2 * 7
    for found in answers:
        syn, answer = bytes.fromhex(found["syn"]), bytes.fromhex(found["answer"])
        there, asked = tcp_of(syn, v6=found["v6"])
        back, said = tcp_of(answer, v6=found["v6"])
        half = len(there) // 2
        assert answer[:12] == syn[6:12] + syn[:6]
        assert back == there[half:] + there[:half]
        assert said[:4] == asked[2:4] + asked[:2]
        assert int.from_bytes(said[8:12], "big") == int.from_bytes(asked[4:8], "big") + 1 & (
            (1 << 32) - 1
        )
        assert said[13] == 0x12
        offered, granted = read_options(asked[20:]), read_options(said[20 : (said[12] >> 4) * 4])
        assert granted["mss"] == (1440 if found["v6"] else 1460).to_bytes(2, "big")
        stamped = "timestamps" in offered
        # A cookie carries the rest in the timestamp, so without one there is none.
        assert granted.keys() - {"mss"} == (offered.keys() - {"mss", "other"} if stamped else set())
        if stamped:
            assert granted["timestamps"][4:] == offered["timestamps"][:4]


def test_program_when_repeated_then_every_packet_meets_the_same_fate() -> None:
    """The packet is restored before each run: counters say that all were judged alike."""
    cases = run_bench(
        "3", "700", "syn linux", "syn none", "ack valid IPv4", "ack bad", "known flow "
    )
    names = {case["case"]: set(case) & {"engine", "baseline"} for case in cases}
    assert names["syn linux IPv4"] == names["ack valid IPv4"] == {"engine", "baseline"}
    for case in cases:
        for side in names[case["case"]]:
            assert case[side]["judged"] == 3 * 700, case


def test_program_when_a_case_is_unknown_then_nothing_is_measured() -> None:
    """A name that no case begins with measures none of them."""
    assert run_bench("1", "100", "no such case") == []


def test_baseline_when_in_front_of_this_kernel_then_the_kernel_takes_its_cookie() -> None:
    """The yardstick is a SYN proxy that works: its cookie opens a connection of the listener."""
    with Veth() as veth:
        veth.sysctl("net/ipv4/tcp_syncookies", "2")

        def listen() -> socket.socket:
            made = socket.create_server((SERVER, PORT))
            made.settimeout(5)
            return made

        def connect() -> socket.socket:
            return socket.create_connection((SERVER, PORT), timeout=5)

        with inside(veth.dut, listen) as listener:
            # The listener has sent a cookie of its own, so it takes others from now on.
            inside(veth.outside, connect).close()
            listener.accept()[0].close()
            with (
                veth.program("baseline") as program,
                inside(veth.outside, connect) as client,
                listener.accept()[0] as server,
            ):
                server.sendall(b"hello")
                assert client.recv(5) == b"hello"
                counted = program.result()
    assert (counted["answered"], counted["good_cookie"]) == (1, 1)


def test_bench_when_quick_then_every_key_of_the_data_plane_has_a_figure(tmp_path: Path) -> None:
    """`--quick` goes the whole way in short runs."""
    file = tmp_path / "figures.json"
    argv = [sys.executable, "-m", "scripts.benchmarks.main", "--quick", "--json", str(file)]
    done = subprocess.run(
        [*argv, *sorted(KEYS)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(file.read_text())
    assert written.keys() == KEYS | {"machine"}
    for key in KEYS - {"unprotected_vs_helper"}:
        assert written[key]["value"] > 0, key
        assert written[key]["runs"] >= 1
    assert "SYN flood on veth" in done.stdout
