# SPDX-License-Identifier: Apache-2.0
"""Listeners and open connections, from real sockets in a namespace and from recorded answers."""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.agent import sockets
from hub.agent.sockets import (
    LISTENING,
    OPEN,
    Name,
    SocketsError,
    flows,
    listeners,
    read_messages,
    read_table,
    words,
)
from tests.support.netns import inside, run

Inside = Callable[[Callable[[], None]], None]
ANY4, ANY6 = IPv4Address("0.0.0.0"), IPv6Address("::")


@pytest.fixture
def namespace() -> Iterator[Inside]:
    """Return what runs a function in a namespace with nothing but a loopback."""
    name = f"fnmsock{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield lambda work: inside(name, work)
    finally:
        run("ip", "netns", "delete", name)


def listening(address: str, port: int, *, only6: bool | None = None) -> socket.socket:
    """Return a listening socket."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    if only6 is not None:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only6)
    made.bind((address, port))
    made.listen(64)
    return made


class Pair:
    """An open connection, both ends."""

    def __init__(self, listener: socket.socket, address: str) -> None:
        port = listener.getsockname()[1]
        self.client = socket.create_connection((address, port), 5)
        self.server, _ = listener.accept()
        self.flow = (*self.client.getsockname()[:2], address, port)

    def close(self) -> None:
        """Close both ends."""
        self.client.close()
        self.server.close()


def table(states: int, port: int) -> set[sockets.Row]:
    """Return what /proc/net/tcp and tcp6 tell of a port."""
    families = (socket.AF_INET, socket.AF_INET6)
    return {row for family in families for row in read_table(family, states, (port,))}


def test_listeners_when_of_every_kind_then_each_where_it_answers(namespace: Inside) -> None:
    """A socket for both families is two; one that refuses IPv4 is one."""

    def work() -> None:
        made = [
            listening("127.0.0.1", 1001),
            listening("::", 1002, only6=True),
            listening("::", 1003, only6=False),
            listening("::1", 1004),
            listening("::ffff:127.0.0.1", 1005, only6=False),
            listening("0.0.0.0", 1006),
        ]
        local4, local6 = IPv4Address("127.0.0.1"), IPv6Address("::1")
        assert listeners() == [
            *((ANY4, 1003), (ANY4, 1006), (local4, 1001), (local4, 1005)),
            *((ANY6, 1002), (ANY6, 1003), (local6, 1004)),
        ]
        for one in made:
            one.close()
        assert listeners() == []

    namespace(work)


def test_flows_when_open_then_listed_by_port_and_address(namespace: Inside) -> None:
    """IPv4 on a socket for both families is IPv4; another port or address is not told."""

    def work() -> None:
        web, other = listening("::", 80, only6=False), listening("127.0.0.1", 81)
        four, six = Pair(web, "127.0.0.1"), Pair(web, "::1")
        second, aside = Pair(web, "127.0.0.2"), Pair(other, "127.0.0.1")
        every = {four.flow, six.flow, second.flow}

        def told(*names: Name) -> set[sockets.Flow]:
            found, more = flows(names)
            assert not more
            assert len(set(found)) == len(found)
            return set(found)

        assert told(Name(80)) == every
        assert told(Name(80, ip_address("127.0.0.1"))) == {four.flow}
        assert told(Name(80, ip_address("::ffff:127.0.0.1"))) == {four.flow}
        assert told(Name(80, ip_address("::1"))) == {six.flow}
        assert told(Name(80), Name(81, ip_address("127.0.0.1"))) == {*every, aside.flow}
        assert told(Name(80, ip_address("127.0.0.2")), Name(82)) == {second.flow}
        assert told(Name(82)) == set()
        for one in (four, six, second, aside):
            one.close()
        web.close()
        other.close()

    namespace(work)


def test_flows_when_half_closed_then_still_open(namespace: Inside) -> None:
    """Whoever has sent its FIN still acknowledges what comes; after both it is over."""

    def work() -> None:
        with listening("127.0.0.1", 80) as web:
            by_client, by_server = Pair(web, "127.0.0.1"), Pair(web, "127.0.0.1")
            by_client.client.shutdown(socket.SHUT_WR)
            by_server.server.shutdown(socket.SHUT_WR)
            assert set(flows([Name(80)])[0]) == {by_client.flow, by_server.flow}
            for one in (by_client, by_server):
                one.close()
            assert flows([Name(80)]) == ([], False)

    namespace(work)


def test_flows_when_more_than_are_shown_then_cut_and_said(
    namespace: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer ends at its limit, not the agent."""
    monkeypatch.setattr(sockets, "MOST_FLOWS", 3)

    def work() -> None:
        with listening("127.0.0.1", 80) as web:
            pairs = [Pair(web, "127.0.0.1") for _ in range(3)]
            assert len(flows([Name(80)])[0]) == 3
            assert not flows([Name(80)])[1]
            pairs.append(Pair(web, "127.0.0.1"))
            found, more = flows([Name(80)])
            assert (len(found), more) == (3, True)
            for one in pairs:
                one.close()

    namespace(work)


def test_table_when_read_instead_then_the_same_sockets(namespace: Inside) -> None:
    """What a kernel without sock_diag tells is the same, but for who refuses IPv4."""

    def work() -> None:
        with listening("::", 80, only6=False) as web:
            pairs = [Pair(web, "127.0.0.1"), Pair(web, "::1")]
            for states in (OPEN, LISTENING):
                asked = {
                    row
                    for family in (socket.AF_INET, socket.AF_INET6)
                    for row in sockets._ask(family, states, (80,))
                }
                assert table(states, 80) == asked
                assert len(asked) == (2 if states == OPEN else 1)
            for one in pairs:
                one.close()

    namespace(work)


def test_table_when_the_family_is_missing_or_hidden_then_none_or_an_error(tmp_path: Path) -> None:
    """A machine without IPv6 has no tcp6; what cannot be read is not taken for empty."""
    assert list(read_table(socket.AF_INET6, OPEN, net=tmp_path)) == []
    (tmp_path / "tcp").mkdir()
    with pytest.raises(SocketsError, match="Is a directory"):
        list(read_table(socket.AF_INET, OPEN, net=tmp_path))


@given(noise=st.binary(max_size=200))
def test_table_when_garbage_is_in_between_then_skipped(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes
) -> None:
    """Only whole rows count."""
    folder = tmp_path_factory.getbasetemp()
    row = b"   0: 0100007F:0050 0200007F:1F90 01 00000000:00000000\n"
    (folder / "tcp").write_bytes(b"  sl  local_address\n" + noise.replace(b":", b"") + b"\n" + row)
    found = list(read_table(socket.AF_INET, OPEN, net=folder))
    assert found == [(b"\x7f\0\0\1", 80, b"\x7f\0\0\2", 8080, False)]


def test_words_when_of_either_byte_order_then_the_same_address() -> None:
    """The kernel prints words as its numbers, whatever they mean on the wire."""
    assert words(b"0100007F", "little") == words(b"7F000001", "big") == b"\x7f\0\0\1"
    six = ip_address("2001:db8::1").packed
    assert words(b"B80D0120000000000000000001000000", "little") == six
    assert words(b"20010DB8000000000000000000000001", "big") == six
    assert words(b"0000000000000000FFFF00000100007F", "little") == b"\x7f\0\0\1"


# answers of sock_diag


def message(kind: int, body: bytes, flags: int = 2) -> bytes:
    """Return one netlink message, padded."""
    made = struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body
    return made.ljust(-(-len(made) // 4) * 4, b"\0")


def row(port: int, attributes: bytes = b"", family: int = socket.AF_INET6) -> bytes:
    """Return the message of one socket."""
    here, there = ip_address("::1").packed, ip_address("::2").packed
    ident = struct.pack("!HH16s16s12x", port, 4000, here, there)
    return message(20, bytes((family, 1, 0, 0)) + ident + bytes(20) + attributes)


DONE = message(3, struct.pack("=i", 0))
ONLY6 = struct.pack("=HHB3x", 5, 11, 1)
OTHER = struct.pack("=HHB3x", 5, 8, 1)


def ports(data: bytes) -> tuple[list[int], bool, bool]:
    """Return what a datagram tells, with ports for sockets."""
    told = read_messages(data)
    return [one[1] for one in told.rows], told.done, told.missing


def test_messages_when_several_in_one_datagram_then_all() -> None:
    """A datagram holds many, the end may come with them, and others mean nothing."""
    assert ports(row(1) + row(2)) == ([1, 2], False, False)
    assert ports(row(1) + message(99, b"abc") + row(2) + DONE + row(3)) == ([1, 2], True, False)
    assert ports(DONE) == ([], True, False)
    assert ports(message(3, b"")) == ([], True, False)
    assert ports(message(2, struct.pack("=i", 0)) + row(1)) == ([1], False, False)


def test_messages_when_an_attribute_says_so_then_it_refuses_ipv4() -> None:
    """Attributes in any order; one of length 0 does not hold the reader."""
    told = read_messages(row(1, OTHER + ONLY6) + row(2, OTHER) + row(3, bytes(8) + ONLY6))
    assert [one[4] for one in told.rows] == [True, False, False]


def test_messages_when_the_table_changed_then_said_so() -> None:
    """NLM_F_DUMP_INTR on any of them, the end among them."""
    interrupted = message(3, struct.pack("=i", 0), flags=0x12)
    assert ports(row(1) + interrupted) == ([1], True, True)
    assert ports(row(1).replace(b"\x14\0\x02\0", b"\x14\0\x12\0", 1)) == ([1], False, True)


@pytest.mark.parametrize("kind", [2, 3], ids=["error", "end"])
@pytest.mark.parametrize("number", [errno.ENOENT, errno.EPERM])
def test_messages_when_the_kernel_says_no_then_raised(kind: int, number: int) -> None:
    """Where the module for TCP is missing, the end of an empty answer carries the error."""
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        read_messages(message(kind, struct.pack("=i", -number)))
    assert caught.value.errno == number
    assert (number in sockets._NO_DIAG) == (number == errno.ENOENT)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("=IHHII", 15, 20, 0, 1, 0),
        struct.pack("=IHHII", 17, 20, 0, 1, 0),
        row(1)[:-4],
        message(2, struct.pack("=i", -(2**31))),
    ],
    ids=["short", "long", "cut", "no such error"],
)
def test_messages_when_of_another_shape_then_refused(data: bytes) -> None:
    """What does not add up is no answer."""
    with pytest.raises(SocketsError, match="something else"):
        read_messages(data)


@given(data=st.binary(max_size=300), at=st.integers(0, 100))
def test_messages_when_garbage_then_never_another_exception(data: bytes, at: int) -> None:
    """Rows, or one of the two errors."""
    whole = row(1, ONLY6) + DONE
    for one in (data, whole[:at] + data + whole[at:]):
        try:
            told = read_messages(one)
        except (OSError, SocketsError):
            continue
        assert all(len(address) in {4, 16} for found in told.rows for address in found[:3:2])


def test_listeners_when_a_datagram_does_not_fit_then_an_error(
    namespace: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Part of an answer is not taken for all of it."""
    monkeypatch.setattr(sockets, "_BUFFER", 256)

    def work() -> None:
        made = [listening("127.0.0.1", 1000 + number) for number in range(20)]
        with pytest.raises(SocketsError, match="bytes at once"):
            listeners()
        for one in made:
            one.close()

    namespace(work)
