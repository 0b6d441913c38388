# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the translating proxy: that it measures translated packets, not how many."""

from collections.abc import Iterator

import pytest

from scripts.benchmarks.dataplane_lab import build
from scripts.benchmarks.splice import compared, one_rate
from scripts.benchmarks.splice_lab import FORWARD, NFT, SPLICE, Route
from tests.support.native_build import built

FLOWS = 200
SECONDS = 0.02
WAYS = {"to-server": "at_server", "to-client": "at_client"}

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    build()
    built()


@pytest.fixture
def translating() -> Iterator[Route]:
    """Return a gateway whose flows nftables translates."""
    with Route(NFT) as route:
        yield route


@pytest.mark.parametrize("proxy", [FORWARD, NFT, SPLICE])
def test_gateway_when_measured_then_every_segment_arrives_in_its_receivers_numbers(
    proxy: str,
) -> None:
    """Both proxies show clients other numbers than the server's, and plain forwarding does not."""
    with Route(proxy) as route:
        opened = route.do("open", 0, FLOWS)
        assert 0 < opened["done"] <= opened["opened"] == FLOWS
        # synproxyd lets the first through as it is, to learn of the server.
        assert opened["proxied"] == {FORWARD: 0, NFT: FLOWS, SPLICE: FLOWS - 1}[proxy]
        done = {}
        for way, counter in WAYS.items():
            seen = route.do(way, 0, FLOWS, SECONDS)
            assert 0 < seen["done"] <= seen[counter] <= seen["sent"]
            assert (seen["wrong"], seen["other"]) == (0, 0)
            done[way] = seen["done"]
        counted = route.counts()
    if proxy == SPLICE:
        assert counted["splice_open"] == counted["splice_answered"] == FLOWS - 1
        # So one segment in FLOWS is passed on as it is.
        translated = {way: number - number // FLOWS - 1 for way, number in done.items()}
        assert counted["splice_client"] >= translated["to-server"]
        assert counted["splice_server"] >= translated["to-client"]


@pytest.mark.parametrize("way", sorted(WAYS))
def test_rate_when_nothing_is_translated_any_more_then_there_is_none(
    translating: Route, way: str
) -> None:
    """Segments that are merely forwarded arrive in numbers that their receiver does not know."""
    assert one_rate(translating, "open", 0, FLOWS, 0) > 0
    assert one_rate(translating, way, 0, FLOWS, SECONDS) > 0
    translating.forget_rules()
    with pytest.raises(RuntimeError, match="not what should come through"):
        one_rate(translating, way, 0, FLOWS, SECONDS)


def test_keys_when_quick_then_each_has_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short run goes the whole way, one turn of each gateway."""
    monkeypatch.setenv("FNM_BENCH_QUICK", "1")
    found = compared()
    assert found.keys() == {"splice_pps_vs_nft", "splice_pps_vs_forward", "splice_cps_vs_nft"}
    for figure in found.values():
        assert figure.value > 0
        assert figure.runs == 1
