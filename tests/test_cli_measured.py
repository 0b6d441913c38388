# SPDX-License-Identifier: Apache-2.0
"""What engines measure, on the terminal."""

from io import StringIO
from typing import Any

from hub.cli.lists import show_mitigations
from hub.cli.measured import shares, show_engine
from hub.cli.text import Screen
from hub.rates import Rates
from hub.views import rates_view

RATES = Rates(
    hostile_pps=1_200_000,
    dropped_pps=7000,
    passed_pps=80,
    syn_pps=1_200_000,
    cookie_good_pps=3,
    bps=823_000_000,
    packets={"cookie_sent": 970, "known_flow": 29, "cookie_bad": 1},
)
ROW: dict[str, Any] = {
    "id": "m-0123456789",
    "state": "active",
    "action": {"kind": "tcp"},
    "engine": "native",
    "target": "192.0.2.10/32",
    "deadline": 900.0,
    "rule": "tcp",
    "error": "",
    "rates": rates_view(RATES),
}


def shown(engine: dict[str, Any]) -> str:
    """Return what is printed of an engine."""
    out = StringIO()
    show_engine(Screen(out, color=False), engine)
    return out.getvalue()


def test_engine_when_it_measures_then_place_mode_totals_and_the_busiest() -> None:
    """Where it works, how, what it does now, and on whom."""
    text = shown(
        {
            "name": "native",
            "interfaces": [{"name": "outside", "mode": "generic"}],
            "rates": rates_view(RATES),
            "telemetry": {"cookie_sent": 970, "acl_drop": 30, "work.flows_inserted": 5},
            "busiest": [
                {
                    "id": "m-0123456789",
                    "kind": "tcp",
                    "target": "192.0.2.10/32",
                    "rates": rates_view(RATES),
                }
            ],
        }
    )
    assert "native on outside (generic mode)" in text
    assert "1.2M hostile packets/s" in text
    assert "1k packets: cookie_sent 97.0 %, acl_drop 3.0 %" in text
    assert "flows_inserted" not in text
    assert "m-0123456789" in text
    assert max(map(len, text.splitlines())) <= 80


def test_engine_when_it_measures_nothing_then_nothing_is_said() -> None:
    """The table of engines has said all."""
    assert shown({"name": "nftables", "interfaces": [], "telemetry": {"acl.dropped": 3}}) == ""


def test_mitigations_when_measured_then_rates_and_shares_by_reason() -> None:
    """Below the table; of those without a measurement nothing."""
    out = StringIO()
    rows = [ROW, {**ROW, "id": "m-other", "rates": None}]
    show_mitigations(Screen(out, color=False), {"now": 100.0, "items": rows})
    text = out.getvalue()
    assert "m-0123456789: 1.2M hostile packets/s, 7k dropped, 80 passed" in text
    assert "cookie_sent 97.0 %, known_flow 2.9 %, cookie_bad 0.1 %" in text
    assert text.count("m-other") == 1
    assert max(map(len, text.splitlines())) <= 80


def test_shares_when_tiny_or_none_then_said_so() -> None:
    """No share is rounded to nothing, and nothing is divided by nothing."""
    assert shares({"a": 100_000, "b": 1}) == "100k packets: a 100.0 %, b < 0.1 %"
    assert shares({}) == "no packets"
