# SPDX-License-Identifier: Apache-2.0
"""From a frame to a judged packet: tags, IP headers, lengths, fragments, extension headers."""

import struct
from dataclasses import replace

import pytest

from tests.support.bpf_bench import FAMILIES, V4, V6, Bench, Ends
from tests.support.model_packet import SCTP
from tests.support.model_scene import Slot, Tcp
from tests.support.packets import (
    ACK,
    AUTHENTICATION,
    DESTINATION_OPTIONS,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMP6,
    MF,
    QINQ,
    ROUTING,
    SYN,
    TCP,
    UDP,
    VLAN,
    Link,
    Segment,
    linux,
    mss,
    udp,
)

TAGS = {
    "untagged": (),
    "802.1Q": ((VLAN, 100),),
    "802.1ad": ((QINQ, 0x6064),),
    "QinQ": ((QINQ, 7), (VLAN, 0xE064)),
    "two 802.1Q": ((VLAN, 7), (VLAN, 8)),
}
EMPTY_OPTIONS = bytes([0, 0, 1, 4, 0, 0, 0, 0])
"""An extension header of 8 bytes; for a fragment header: offset 0, no more fragments."""


def proxy(**fields: object) -> Bench:
    """Return a bench with one tcp countermeasure on both servers."""
    return Bench(Slot(settings=Tcp(**fields)))  # type: ignore[arg-type]


@FAMILIES
@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_reply_goes_back_with_the_same_tags(ends: Ends, tags: tuple[tuple[int, int], ...]) -> None:
    """A SYN under up to two VLAN tags is answered under the same, MAC addresses turned round."""
    link = Link(tags=tags)
    syn = ends.syn(options=linux(), link=link)
    sent = proxy().run(syn)
    assert sent.reason == "cookie_sent"
    frame, came = sent.frame, syn.frame()
    start = 14 + 4 * len(tags)
    assert (frame[:6], frame[6:12]) == (came[6:12], came[:6])
    assert frame[12:start] == came[12:start]
    assert len(frame) == len(came)


@FAMILIES
def test_third_tag_is_no_ip(ends: Ends) -> None:
    """What is below a third tag is not looked at: it passes as no IP."""
    link = Link(tags=((QINQ, 1), (VLAN, 2), (VLAN, 3)))
    assert proxy().reason(ends.syn(link=link)) == "not_ip"


@pytest.mark.parametrize("ethertype", [0x0806, 0x8847, 0x88CC, 0x05DC, 0x0000])
def test_other_protocols_pass(ethertype: int) -> None:
    """ARP, MPLS, LLDP and 802.3 frames are none of its business."""
    syn = V4.syn().with_ip(ethertype=ethertype)
    assert proxy().reason(syn) == "not_ip"


@FAMILIES
@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_frame_that_ends_before_the_ip_header_does_passes(
    ends: Ends, tags: tuple[tuple[int, int], ...]
) -> None:
    """Too short for an IP header, at every length: no IP, and nothing is read beyond the end."""
    bench = proxy()
    frame = ends.syn(link=Link(tags=tags)).frame()
    whole = 14 + 4 * len(tags) + (20 if ends.family == 4 else 40)
    for length in range(14, whole):
        assert bench.reason(frame[:length]) == "not_ip", length


@FAMILIES
def test_every_truncation_is_dropped_and_counted(ends: Ends) -> None:
    """An IP packet that goes on behind the frame's end is malformed, wherever it ends."""
    bench = proxy()
    frame = ends.syn(options=linux(), data=b"x" * 9).frame()
    start = 14 + (20 if ends.family == 4 else 40)
    for length in range(start, len(frame)):
        assert bench.reason(frame[:length]) == "bad_ip", length


@FAMILIES
def test_other_destinations_pass_uncounted_by_any_slot(ends: Ends) -> None:
    """A neighbour of the target passes as unprotected, well formed or not."""
    bench = proxy()
    for packet in (
        ends.syn(destination=ends.neighbour),
        ends.syn(destination=ends.neighbour, flags=0, offset=2),
        ends.syn(destination=ends.neighbour).with_ip(length=9),
    ):
        assert bench.run(packet).slot == 0
        assert bench.reason(packet) == "unprotected"


@pytest.mark.parametrize("version", [0, 3, 5, 6, 15])
def test_ipv4_version_is_checked(version: int) -> None:
    """A header that is not version 4 under the type of IPv4 is malformed."""
    assert proxy().reason(V4.syn().with_ip(version=version)) == "bad_ip"


@pytest.mark.parametrize("version", [0, 4, 5, 7, 15])
def test_ipv6_version_is_checked(version: int) -> None:
    """A header that is not version 6 under the type of IPv6 is malformed."""
    assert proxy().reason(V6.syn().with_ip(version=version)) == "bad_ip"


@pytest.mark.parametrize("words", [0, 1, 4])
def test_ipv4_header_has_at_least_five_words(words: int) -> None:
    """A shorter header length is malformed."""
    assert proxy().reason(V4.syn().with_ip(header_words=words)) == "bad_ip"


def test_ipv4_header_lies_within_the_packet() -> None:
    """A header length beyond the total length is malformed."""
    packet = V4.ip(UDP, b"").frame()
    assert proxy().reason(packet[:14] + b"\x46" + packet[15:]) == "bad_ip"


@pytest.mark.parametrize("length", [0, 19, 41, 65535])
def test_ipv4_total_length_lies_between_header_and_frame(length: int) -> None:
    """Less than the header or more than the frame holds is malformed."""
    assert proxy().reason(V4.syn().with_ip(length=length)) == "bad_ip"


@pytest.mark.parametrize("length", [21, 65535])
def test_ipv6_payload_lies_within_the_frame(length: int) -> None:
    """A payload length beyond the frame is malformed."""
    assert proxy().reason(V6.syn().with_ip(length=length)) == "bad_ip"


@pytest.mark.parametrize("flags", [SYN, ACK])
def test_mapped_destination_is_judged_by_no_policy_of_ipv4(flags: int) -> None:
    """It would be with keys for IPv6, and those an IPv4 target need not have."""
    mapped = bytes(10) + b"\xff\xff" + V4.server
    assert proxy().reason(V6.syn(destination=mapped, flags=flags)) == "bad_ip"


@FAMILIES
@pytest.mark.parametrize("options", [b"", mss(1460), linux()], ids=["none", "mss", "linux"])
def test_length_of_the_packet_bounds_tcp_not_that_of_the_frame(ends: Ends, options: bytes) -> None:
    """Padding behind the packet is neither options nor data; a minimal frame keeps its length."""
    syn = ends.syn(options=options, link=Link(pad_to=60))
    sent = proxy().run(syn)
    assert sent.reason == "cookie_sent"
    assert len(sent.frame) == max(60, len(syn.frame()), 14 + ip_header(ends) + 24)


def ip_header(ends: Ends) -> int:
    """Return the length of a plain IP header."""
    return 20 if ends.family == 4 else 40


@FAMILIES
def test_header_that_only_the_padding_holds_is_cut_off(ends: Ends) -> None:
    """TCP options that the padding would have to supply are malformed."""
    syn = ends.syn(offset=8, link=Link(pad_to=100))
    assert proxy().reason(syn) == "bad_transport"


@pytest.mark.parametrize("words", range(1, 11))
def test_ip_options_are_not_sent_back(words: int) -> None:
    """The reply has a plain IPv4 header, and no more of the frame than it needs."""
    syn = V4.syn(options=linux()).with_ip(options=b"\1" * 4 * words)
    sent = proxy().run(syn)
    assert sent.reason == "cookie_sent"
    assert sent.frame[14] == 0x45
    assert len(sent.frame) == 14 + 20 + 40


@pytest.mark.parametrize("df", [0, 0x4000, 0x8000, 0xC000], ids=["clear", "DF", "evil", "both"])
def test_dont_fragment_is_not_required(df: int) -> None:
    """Hosts that clear DF are served like others."""
    assert proxy().reason(V4.syn().with_ip(fragment=df)) == "cookie_sent"


@pytest.mark.parametrize("fragment", [MF, MF | 1, 1, 0x1FFF, 0x4000 | MF])
@pytest.mark.parametrize("flags", [SYN, ACK])
def test_ipv4_fragments_of_tcp_are_dropped(fragment: int, flags: int) -> None:
    """First, middle and last ones, whatever flags they show."""
    assert proxy().reason(V4.syn(flags=flags).with_ip(fragment=fragment)) == "fragment"


@pytest.mark.parametrize("fragment", [MF, 1])
@pytest.mark.parametrize("protocol", [UDP, ICMP, 47])
def test_fragments_of_other_protocols_pass_a_proxy(fragment: int, protocol: int) -> None:
    """A SYN proxy judges TCP only."""
    packet = V4.ip(protocol, bytes(16), fragment=fragment)
    assert proxy().reason(packet) == "not_concerned"


@pytest.mark.parametrize("field", [0x0001, 0x0008, 0x0009, 0xFFF8])
def test_ipv6_fragments_of_tcp_are_dropped(field: int) -> None:
    """By their fragment header: more to come, or an offset."""
    body = struct.pack("!BBHI", 0, 0, field, 77)
    syn = V6.syn().with_ip(extensions=((FRAGMENT, body),))
    assert proxy().reason(syn) == "fragment"


def test_atomic_fragment_is_a_whole_packet() -> None:
    """A fragment header without offset and without more to come (RFC 6946) hides nothing."""
    body = struct.pack("!BBHI", 0, 0, 0, 77)
    syn = V6.syn(options=linux()).with_ip(extensions=((FRAGMENT, body),))
    sent = proxy().run(syn)
    assert sent.reason == "cookie_sent"
    assert sent.frame[20] == TCP


def test_what_follows_a_later_fragment_is_no_header() -> None:
    """In a later fragment the type of the next header is that of the first one's."""
    body = struct.pack("!BBHI", 0, 0, 0x0008, 77)
    one = V6.syn().with_ip(extensions=((FRAGMENT, body), (DESTINATION_OPTIONS, EMPTY_OPTIONS)))
    assert proxy().reason(one) == "not_concerned"


@pytest.mark.parametrize("kind", [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, FRAGMENT])
@pytest.mark.parametrize("number", range(1, 7))
def test_up_to_six_extension_headers_are_walked(kind: int, number: int) -> None:
    """The SYN behind them is answered, without them."""
    body = bytes(8) if kind == FRAGMENT else EMPTY_OPTIONS
    syn = V6.syn(options=linux()).with_ip(extensions=((kind, body),) * number)
    sent = proxy().run(syn)
    assert sent.reason == "cookie_sent"
    assert len(sent.frame) == 14 + 40 + 40


def test_length_of_extension_headers_is_counted_in_its_own_units() -> None:
    """Options in 8 bytes beyond the first 8, authentication in 4 beyond the first 8."""
    options = bytes([0, 3]) + bytes(30)
    authentication = bytes([0, 4]) + bytes(22)
    chain = ((HOP_BY_HOP, options), (AUTHENTICATION, authentication), (ROUTING, options))
    assert proxy().reason(V6.syn().with_ip(extensions=chain)) == "cookie_sent"


def test_seventh_extension_header_is_too_many() -> None:
    """A longer chain is dropped, not passed around the proxy."""
    syn = V6.syn().with_ip(extensions=((DESTINATION_OPTIONS, EMPTY_OPTIONS),) * 7)
    assert proxy().reason(syn) == "ext_headers"


@pytest.mark.parametrize("length", [1, 2, 40, 255])
@pytest.mark.parametrize("kind", [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, AUTHENTICATION])
def test_extension_header_beyond_the_packet_is_dropped(kind: int, length: int) -> None:
    """One that says it is longer than the packet."""
    body = bytes([0, length]) + bytes(6)
    packet = V6.ip(UDP, b"", extensions=((kind, body),))
    assert proxy().reason(packet) == "ext_headers"


@pytest.mark.parametrize("room", range(8))
def test_extension_header_that_is_cut_off_is_dropped(room: int) -> None:
    """The chain ends with the packet, also when the frame has padding behind it."""
    packet = V6.ip(HOP_BY_HOP, b"")
    cut = replace(packet, payload=EMPTY_OPTIONS[:room], link=Link(pad_to=90))
    assert proxy().reason(cut) == "ext_headers"


@FAMILIES
@pytest.mark.parametrize("words", range(5))
def test_short_data_offset_is_dropped(ends: Ends, words: int) -> None:
    """Less than five words is no TCP header."""
    assert proxy().reason(ends.syn(offset=words, options=linux())) == "bad_transport"


@FAMILIES
@pytest.mark.parametrize("words", range(6, 16))
def test_data_offset_beyond_the_packet_is_dropped(ends: Ends, words: int) -> None:
    """Also the reproducer of an old kernel crash: a SYN with a wrong data offset."""
    assert proxy().reason(ends.syn(offset=words)) == "bad_transport"


@FAMILIES
@pytest.mark.parametrize("room", range(20))
def test_tcp_header_that_is_cut_off_is_dropped(ends: Ends, room: int) -> None:
    """With and without padding behind the packet."""
    bench = proxy()
    packet = ends.ip(TCP, ends.syn().tcp()[:room])
    assert bench.reason(packet) == "bad_transport"
    assert bench.reason(replace(packet, link=Link(pad_to=90))) == "bad_transport"


@FAMILIES
def test_udp_and_icmp_headers_that_are_cut_off_are_dropped(ends: Ends) -> None:
    """UDP and SCTP: 8 bytes, ICMP: 4, padding aside; whole ones are not the proxy's matter."""
    bench = proxy()
    message = ICMP if ends.family == 4 else ICMP6
    for protocol, size in ((UDP, 8), (SCTP, 8), (message, 4)):
        for room in range(size):
            for link in (Link(), Link(pad_to=90)):
                packet = ends.ip(protocol, bytes(room), link=link)
                assert bench.reason(packet) == "bad_transport"
        assert bench.reason(ends.ip(protocol, bytes(size))) == "not_concerned"


@FAMILIES
@pytest.mark.parametrize("protocol", [2, 41, 47, 50, 89, 255])
def test_other_protocols_to_a_protected_host_pass_a_proxy(ends: Ends, protocol: int) -> None:
    """Whatever is in them."""
    assert proxy().reason(ends.ip(protocol, bytes(24))) == "not_concerned"


@FAMILIES
def test_ports_that_are_not_protected_are_not_judged(ends: Ends) -> None:
    """A list of ports, its edges included; UDP to such a port passes too."""
    bench = Bench(Slot(settings=Tcp(), ports=((80, 80), (8000, 8099))))
    for port in (80, 8000, 8050, 8099):
        assert bench.reason(ends.syn(dport=port)) == "cookie_sent"
    for port in (1, 79, 81, 7999, 8100, 65535):
        assert bench.reason(ends.syn(dport=port)) == "not_concerned"
    packet = ends.ip(UDP, udp(ends.client, ends.server, 5, 80))
    assert bench.reason(packet) == "not_concerned"


@FAMILIES
def test_first_of_several_proxies_whose_ports_fit_judges(ends: Ends) -> None:
    """Each with its own profile, counted by itself."""
    bench = Bench(
        Slot(settings=Tcp(window=1000), ports=((80, 80),)),
        Slot(settings=Tcp(window=2000), ports=((80, 90),)),
        Slot(settings=Tcp(window=3000)),
    )
    for port, slot in ((80, 1), (85, 2), (91, 3)):
        sent = bench.run(ends.syn(dport=port))
        at = 14 + ip_header(ends) + 14
        assert sent.slot == slot
        assert int.from_bytes(sent.frame[at : at + 2], "big") == slot * 1000


@FAMILIES
def test_jumbo_syn_in_several_buffers_is_answered_short(ends: Ends) -> None:
    """A SYN with more data than one buffer holds is answered like any other."""
    syn = ends.syn(options=linux(), data=b"q" * 8000)
    sent = proxy().run(syn)
    assert sent.reason == "cookie_sent"
    assert len(sent.frame) == 14 + ip_header(ends) + 40


def test_segment_is_judged_by_the_packet_not_by_the_padding() -> None:
    """The last byte of the packet counts, the trailer behind it does not."""
    bench = proxy()
    syn: Segment = V4.syn(options=mss(1200))
    plain = bench.run(syn)
    padded = bench.run(replace(syn, link=Link(trailer=b"\xff" * 30)))
    assert padded.frame[:58] == plain.frame[:58]
