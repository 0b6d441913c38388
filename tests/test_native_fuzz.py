# SPDX-License-Identifier: Apache-2.0
"""Program and model on generated packets; scripts/fuzz-dataplane runs the same for longer."""

import random
import subprocess
import sys
from collections import Counter

import pytest

from tests.support.bpf_bench import V4, V6, Bench, engine
from tests.support.bpf_engine import reasons
from tests.support.bpf_fuzz import BATCH, batch
from tests.support.model_scene import Slot, Tcp, per_second
from tests.support.native_build import NATIVE

SCRIPT = NATIVE.parent / "scripts" / "fuzz-dataplane"
PACKETS = 20_000
NEVER = {"no_room", "no_state"}
"""These need a helper that fails."""


def kernel_complaints() -> Counter[str]:
    """Return what the kernel has said of itself and of its BPF programs."""
    done = subprocess.run(
        ["dmesg", "--notime", "--level=emerg,alert,crit,err,warn"],
        capture_output=True,
        text=True,
        check=True,
    )
    words = ("WARNING", "BUG", "Oops", "bpf", "xdp", "Call Trace")
    lines = done.stdout.splitlines()
    return Counter(line for line in lines if any(word in line for word in words))


def compare(seed: int) -> Counter[str]:
    """Compare half of the packets under one seed."""
    total: Counter[str] = Counter()
    for number in range(PACKETS // 2 // BATCH):
        total += batch(f"{seed}/{number}")
    return total


def test_program_and_model_agree(capsys: pytest.CaptureFixture[str]) -> None:
    """Under a seed that is always the same and one that never is; every reason comes up."""
    before = kernel_complaints()
    seed = random.SystemRandom().randrange(2**32)
    with capsys.disabled():
        print(f"\n  fuzz of the data plane: seeds 1 and {seed}")  # noqa: T201
    total = compare(1) + compare(seed)
    assert total.total() == PACKETS
    seen = {name.split()[1] for name in total}
    # Spliced flows have a fuzz of their own.
    named = {name for name in reasons(NATIVE / "bpf" / "reasons.h") if "splice_" not in name}
    assert seen == named - NEVER
    assert not kernel_complaints() - before


@pytest.mark.parametrize("seed", [7, None])
def test_random_bytes_get_only_designed_verdicts(seed: int | None) -> None:
    """PASS, DROP or TX with a counted reason, whatever comes."""
    before = kernel_complaints()
    used = random.SystemRandom().randrange(2**32) if seed is None else seed
    rng = random.Random(used)
    bench = Bench(Slot(settings=Tcp(unknown=per_second(5))))
    heads = [b"\x08\0" + b"\x45", b"\x86\xdd" + b"\x60", b"\x81\0", b"\x88\xa8", b""]
    for _ in range(3000):
        body = rng.randbytes(rng.randrange(120))
        frame = rng.randbytes(12) + rng.choice(heads) + body
        if rng.random() < 0.5:
            server = rng.choice((V4.server, V6.server))
            at = 30 if server == V4.server else 38
            frame = frame[:at].ljust(at, b"\5") + server + body
        frame = frame.ljust(14, b"\0")
        outcome = bench.run(frame)
        assert outcome.verdict in {"PASS", "DROP", "TX"}, f"seed {used}: {frame.hex()}"
    assert not kernel_complaints() - before


def test_script_runs_and_prints_what_it_did() -> None:
    """`--packets` and `--seed`; the same seed gives the same packets."""
    engine()
    told = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), "--packets", "2000", "--seed", "5"],
            capture_output=True,
            text=True,
            check=True,
            cwd=SCRIPT.parents[1],
        )
        told.append(done.stdout)
        assert "2,000 packets" in done.stdout
        assert done.stdout.startswith("seed 5\n")
    tables = [[line for line in one.splitlines() if " packets in " not in line] for one in told]
    assert tables[0] == tables[1]
