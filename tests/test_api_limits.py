# SPDX-License-Identifier: Apache-2.0
"""Log lines about refusals: few, however many there are."""

from structlog.testing import capture_logs

from hub.api.limits import RefusalLog
from tests.support.api_daemon import FixedClock


def test_refusals_when_the_same_within_a_minute_then_one_line_and_a_count_later() -> None:
    """A source that goes on is logged once a minute, with the number that was left out."""
    clock = FixedClock()
    refusals = RefusalLog(clock)
    with capture_logs() as lines:
        for _ in range(100):
            refusals.refused(source="192.0.2.1", reason="token", via="tcp", detail="d")
        refusals.refused(source="192.0.2.2", reason="token", via="tcp")
        clock.now += 60
        refusals.refused(source="192.0.2.1", reason="token", via="tcp")
    assert [(line["source"], line["left_out"]) for line in lines] == [
        ("192.0.2.1", 0),
        ("192.0.2.2", 0),
        ("192.0.2.1", 99),
    ]


def test_refusals_when_from_very_many_sources_then_memory_is_bounded() -> None:
    """A flood from made-up addresses does not fill the memory."""
    refusals = RefusalLog(FixedClock())
    with capture_logs():
        for number in range(5000):
            refusals.refused(source=f"2001:db8::{number:x}", reason="token", via="tcp")
    assert len(refusals._seldom._seen) == 1024
