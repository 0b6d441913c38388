# SPDX-License-Identifier: Apache-2.0
"""The model's hashes and cookies against published vectors and ones laid out by hand.

The hashes in the cookie vectors were taken with `openssl mac SIPHASH` over the bytes that stand
beside them, so that no code of this project is on both sides.
"""

import pytest

from tests.support.model_cookie import (
    MSS4,
    MSS6,
    cookie,
    cookie_hash,
    cookie_index,
    cookie_timestamp,
    mss_index,
    timestamp_offset,
    timestamp_offset_host,
)
from tests.support.model_siphash import siphash
from tests.support.packets import packed

SIPHASH_2_4 = """
    310e0edd47db6f72  fd67dc93c539f874  5a4fa9d909806c0d  2d7efbd796666785
    b7877127e09427cf  8da699cd64557618  cee3fe586e46c9cb  37d1018bf50002ab
    6224939a79f5f593  b0e4a90bdf82009e  f3b9dd94c5bb5d7a  a7ad6b22462fb3f4
    fbe50e86bc8f1e75  903d84c02756ea14  eef27a8e90ca23f7  e545be4961ca29a1
    db9bc2577fcc2a3f  9447be2cf5e99a69  9cd38d96f0b3c14b  bd6179a71dc96dbb
    98eea21af25cd6be  c7673b2eb0cbf2d0  883ea3e395675393  c8ce5ccd8c030ca8
    94af49f6c650adb8  eab8858ade92e1bc  f315bb5bb835d817  adcf6b0763612e2f
    a5c91da7acaa4dde  716595876650a2a6  28ef495c53a387ad  42c341d8fa92d832
    ce7cf2722f512771  e37859f94623f3a7  381205bb1ab0e012  ae97a10fd434e015
    b4a31508beff4d31  81396229f0907902  4d0cf49ee5d4dcca  5c73336a76d8bf9a
    d0a704536ba93e0e  925958fcd6420cad  a915c29bc8067318  952b79f3bc0aa6d4
    f21df2e41d4535f9  87577519048f53a9  10a56cf5dfcd9adb  eb75095ccd986cd0
    51a9cb9ecba312e6  96afadfc2ce666c7  72fe52975a4364ee  5a1645b276d592a1
    b274cb8ebf87870a  6f9bb4203de7b381  eaecb2a30b22a87f  9924a43cc1315724
    bd838d3aafbf8db7  0b1a2a3265d51aea  135079a3231ce660  932b2846e4d70666
    e1915f5cb1eca46c  f325965ca16d629f  575ff28e60381be5  724506eb4c328a95
""".split()  # noqa: SIM905 - a table of 64 strings reads worse
"""Of the reference implementation: key 00..0f, the message of length n is 00..n-1."""

K0 = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
K1 = (0x1716151413121110, 0x1F1E1D1C1B1A1918)
PORTS = bytes.fromhex("9c40 0050")
COUNT = 0x1179F
CLIENT4, SERVER4 = packed("198.51.100.7"), packed("192.0.2.10")
CLIENT6, SERVER6 = packed("2001:db8:1::7"), packed("2001:db8:2::10")


def low(digits: str) -> int:
    """Return the low 32 bits of a hash whose bytes are printed in the order of memory."""
    return int.from_bytes(bytes.fromhex(digits)[:4], "little")


@pytest.mark.parametrize("length", range(64))
def test_siphash_is_the_reference(length: int) -> None:
    """All 64 vectors of SipHash-2-4 with 64 bits of output."""
    made = siphash(K0, bytes(range(length)))
    assert made.to_bytes(8, "little").hex() == SIPHASH_2_4[length]


@pytest.mark.parametrize(
    ("key", "source", "destination", "count", "expected"),
    [
        # c6336407 c000020a 0050 9c40 00000000
        (K0, CLIENT4, SERVER4, 0, "e78e6a48c8b5c7aa"),
        # c6336407 c000020a 0050 9c40 9f170100
        (K1, CLIENT4, SERVER4, COUNT, "5d15cffba03f084f"),
        # 20010db8..07 20010db8..10 00000000 9c40 0050
        (K0, CLIENT6, SERVER6, 0, "fb0258fca12b06f6"),
        # 20010db8..07 20010db8..10 9f170100 9c40 0050
        (K1, CLIENT6, SERVER6, COUNT, "05772653042ee2c8"),
    ],
)
def test_cookie_hash_covers_the_bytes_that_linux_hashes(
    key: tuple[int, int], source: bytes, destination: bytes, count: int, expected: str
) -> None:
    """Order and place of addresses, ports and minute are those of the kernel's structures."""
    assert cookie_hash(key, source, destination, PORTS, count) == low(expected)


@pytest.mark.parametrize(
    ("source", "destination", "first", "second"),
    [
        (CLIENT4, SERVER4, "e78e6a48c8b5c7aa", "5d15cffba03f084f"),
        (CLIENT6, SERVER6, "fb0258fca12b06f6", "05772653042ee2c8"),
    ],
    ids=["v4", "v6"],
)
def test_cookie_is_put_together_as_in_linux(
    source: bytes, destination: bytes, first: str, second: str
) -> None:
    """First hash, client's number, minute in the high byte, MSS index hidden in the low bits."""
    seq, index = 0x11223344, 2
    hidden = low(second) + index & 0xFFFFFF
    expected = low(first) + seq + (COUNT << 24) + hidden & 0xFFFFFFFF
    made = cookie((K0, K1), source, destination, PORTS, client_seq=seq, count=COUNT, index=index)
    assert made == expected
    for now, found in ((COUNT, index), (COUNT + 1, index), (COUNT + 2, None), (COUNT - 1, None)):
        told = cookie_index(
            (K0, K1), source, destination, PORTS, seq=seq + 1, ack=made + 1, count=now
        )
        assert told == found, now


@pytest.mark.parametrize(
    ("source", "destination", "flow", "host"),
    [
        # c000020a c6336407 9c40 0050, and c000020a c6336407
        (CLIENT4, SERVER4, "d62e3bcc96900c38", "6edfd169a145e89e"),
        # 20010db8..10 20010db8..07 0050 9c40, and without the ports
        (CLIENT6, SERVER6, "bd0adaf51f44c32a", "9c890efc8bc1656e"),
    ],
    ids=["v4", "v6"],
)
def test_timestamp_offset_covers_the_bytes_that_linux_hashes(
    source: bytes, destination: bytes, flow: str, host: str
) -> None:
    """From the server's side: by flow its high half, by pair of hosts its low one."""
    high = int.from_bytes(bytes.fromhex(flow)[4:], "little")
    assert timestamp_offset(K0, source, destination, PORTS) == high
    assert timestamp_offset_host(K0, source, destination) == low(host)


@pytest.mark.parametrize(
    ("now", "scale", "sack", "ecn", "expected"),
    [
        (0x1000, 7, True, False, 0x1017 - 64),
        (0x1017, 7, True, False, 0x1017),
        (0x1016, 7, True, False, 0x1017 - 64),
        (0x103F, None, True, True, 0x103F),
        (0x103E, None, True, True, 0x103F - 64),
        (0x1000, 0, False, False, 0x1000),
    ],
)
def test_timestamp_carries_the_options_and_never_leads(
    now: int, scale: int | None, *, sack: bool, ecn: bool, expected: int
) -> None:
    """The low six bits are replaced, and a tick is taken away where that would be the future."""
    made = cookie_timestamp(now, scale=scale, sack=sack, ecn=ecn)
    assert made == expected
    assert made <= now


@pytest.mark.parametrize(
    ("table", "offered", "index"),
    [
        (MSS4, 0, 0), (MSS4, 535, 0), (MSS4, 536, 0), (MSS4, 1299, 0), (MSS4, 1300, 1),
        (MSS4, 1439, 1), (MSS4, 1440, 2), (MSS4, 1459, 2), (MSS4, 1460, 3), (MSS4, 65535, 3),
        (MSS6, 536, 0), (MSS6, 1219, 0), (MSS6, 1420, 1), (MSS6, 1439, 1), (MSS6, 1440, 2),
        (MSS6, 8939, 2), (MSS6, 8940, 3),
    ],
)  # fmt: skip
def test_mss_is_rounded_down(table: tuple[int, ...], offered: int, index: int) -> None:
    """Never more than the client takes, but for the smallest entry."""
    assert mss_index(table, offered) == index
