# SPDX-License-Identifier: Apache-2.0
"""The layouts of native/bpf/abi.h for Python; a test holds them to the object's BTF."""

from ctypes import Structure, Union, c_uint8, c_uint16, c_uint32, c_uint64
from typing import Final

SLOTS: Final = 2048
CHAIN: Final = 4
ACL_RULES: Final = 128
ACL_LIMITS: Final = 64
PREFILTER: Final = 1024
RECENT: Final = 256
FILTER_WORDS: Final = 65536
REASON_SLOTS: Final = 64
SAMPLE_BYTES: Final = 128
WAYS: Final = 4

KINDS: Final = {"tcp": 1, "acl": 2, "sorb": 3, "watch": 4}
MODES: Final = {"isn-sync": 1, "reset": 2, "splice": 3}
ACTIONS: Final = {"drop": 0, "pass": 1, "limit": 2}

TCP_SACK: Final = 0x01
TCP_WSCALE: Final = 0x02
TCP_TIMESTAMPS: Final = 0x04
TCP_ECN: Final = 0x08
TCP_TS_PER_FLOW: Final = 0x10
TCP_TS_NO_OFFSET: Final = 0x20

MATCH: Final = {
    "source": 0x0001,
    "protocol": 0x0002,
    "source_ports": 0x0004,
    "destination_ports": 0x0008,
    "length": 0x0010,
    "flags": 0x0020,
    "icmp_type": 0x0040,
    "icmp_code": 0x0080,
    "fragment": 0x0100,
    "not_fragment": 0x0200,
    "ipv4": 0x0400,
    "ipv6": 0x0800,
    "destination": 0x1000,
}

CLOSING: Final = 0x80000000
LEARNED: Final = 0x80000000
PROBE: Final = 0x40000000


class Rate(Structure):
    """struct fnm_rate."""

    _fields_ = [("interval", c_uint64), ("burst", c_uint64), ("tat", c_uint64)]


class Tcp(Structure):
    """struct fnm_tcp."""

    _fields_ = [
        ("cookie_key", c_uint64 * 2 * 2),
        ("cookie6_key", c_uint64 * 2 * 2),
        ("ts_key", c_uint64 * 2),
        ("cookie_offset", c_uint64),
        ("ts_offset", c_uint64),
        ("mss4", c_uint16),
        ("mss6", c_uint16),
        ("window", c_uint16),
        ("wscale", c_uint8),
        ("ttl", c_uint8),
        ("grace_until", c_uint64),
        ("grace", Rate),
        ("unknown", Rate),
        ("learned", Rate),
        ("syn_ack_in", Rate),
        ("icmp", Rate),
        ("source_interval", c_uint64),
        ("source_burst", c_uint64),
        ("ceiling_interval", c_uint64),
        ("ceiling_burst", c_uint64),
    ]


class Sorb(Structure):
    """struct fnm_sorb."""

    _fields_ = [
        ("pps_interval", c_uint64),
        ("pps_burst", c_uint64),
        ("bps_interval", c_uint64),
        ("bps_burst", c_uint64),
        ("block_ms", c_uint64),
    ]


class Settings(Union):
    """The union at the end of struct fnm_slot."""

    _fields_ = [("tcp", Tcp), ("sorb", Sorb)]


class Slot(Structure):
    """struct fnm_slot."""

    _anonymous_ = ("settings",)
    _fields_ = [
        ("deadline", c_uint64),
        ("generation", c_uint32),
        ("kind", c_uint8),
        ("mode", c_uint8),
        ("flags", c_uint16),
        ("portset", c_uint16),
        ("acl", c_uint16),
        ("pad", c_uint32),
        ("settings", Settings),
    ]


class Policy(Structure):
    """struct fnm_policy."""

    _fields_ = [
        ("acl", c_uint16 * CHAIN),
        ("sorb", c_uint16 * CHAIN),
        ("tcp", c_uint16 * CHAIN),
        ("watch", c_uint16 * CHAIN),
    ]


class Address(Structure):
    """struct fnm_address."""

    _fields_ = [("word", c_uint32 * 4)]


class Prefix(Structure):
    """struct fnm_prefix."""

    _fields_ = [("bits", c_uint32), ("address", Address)]


class Portset(Structure):
    """struct fnm_portset."""

    _fields_ = [("bit", c_uint64 * 1024)]


class AclRule(Structure):
    """struct fnm_acl_rule."""

    _fields_ = [
        ("source", c_uint32 * 4),
        ("source_mask", c_uint32 * 4),
        ("match", c_uint32),
        ("sport", c_uint16 * 2),
        ("dport", c_uint16 * 2),
        ("length", c_uint16 * 2),
        ("protocol", c_uint8),
        ("action", c_uint8),
        ("flags_mask", c_uint8),
        ("flags_value", c_uint8),
        ("icmp_type", c_uint8 * 2),
        ("icmp_code", c_uint8 * 2),
        ("limit", c_uint8),
        ("pad", c_uint8 * 3),
    ]


class Acl(Structure):
    """struct fnm_acl."""

    _fields_ = [
        ("rules", c_uint32),
        ("pad", c_uint32),
        ("rule", AclRule * ACL_RULES),
        ("limit", Rate * ACL_LIMITS),
    ]


class Flow4(Structure):
    """struct fnm_flow4."""

    _fields_ = [
        ("source", c_uint32),
        ("destination", c_uint32),
        ("ports", c_uint32),
        ("seen", c_uint32),
    ]


class Flow4Set(Structure):
    """struct fnm_flow4_set."""

    _fields_ = [("way", Flow4 * WAYS)]


class Flow6(Structure):
    """struct fnm_flow6."""

    _fields_ = [
        ("source", c_uint32 * 4),
        ("destination", c_uint32 * 4),
        ("ports", c_uint32),
        ("seen", c_uint32),
    ]


class Flow6Set(Structure):
    """struct fnm_flow6_set."""

    _fields_ = [("way", Flow6 * WAYS)]


class Source(Structure):
    """struct fnm_source."""

    _fields_ = [("address", Address), ("tat", c_uint64), ("seen", c_uint32), ("pad", c_uint32)]


class SourceSet(Structure):
    """struct fnm_source_set."""

    _fields_ = [("way", Source * 2)]


class Sighting(Structure):
    """struct fnm_sighting."""

    _fields_ = [("tag", c_uint32), ("ack", c_uint32), ("seq", c_uint32), ("seen", c_uint32)]


class SightingSet(Structure):
    """struct fnm_sighting_set."""

    _fields_ = [("way", Sighting * WAYS)]


class Talker(Structure):
    """struct fnm_talker."""

    _fields_ = [
        ("address", Address),
        ("generation", c_uint32),
        ("wide", c_uint32),
        ("pps_tat", c_uint64),
        ("bps_tat", c_uint64),
        ("blocked_until", c_uint64),
        ("seen", c_uint64),
    ]


class TalkerSet(Structure):
    """struct fnm_talker_set."""

    _fields_ = [("way", Talker * WAYS)]


class Counters(Structure):
    """struct fnm_counters."""

    _fields_ = [
        ("packets", c_uint64 * REASON_SLOTS),
        ("bytes_passed", c_uint64),
        ("bytes_dropped", c_uint64),
        ("pad", c_uint64 * 6),
    ]


class Work(Structure):
    """struct fnm_work."""

    _fields_ = [
        ("flows_inserted", c_uint64),
        ("flows_evicted", c_uint64),
        ("flows_capped", c_uint64),
        ("sources_inserted", c_uint64),
        ("sources_evicted", c_uint64),
        ("talkers_inserted", c_uint64),
        ("talkers_untracked", c_uint64),
        ("samples", c_uint64),
        ("samples_lost", c_uint64),
        ("resize_failed", c_uint64),
        ("loop_failed", c_uint64),
        ("second", c_uint64),
        ("inserted_in_second", c_uint64),
        ("sample_turn", c_uint64),
    ]


class Control(Structure):
    """struct fnm_control."""

    _fields_ = [
        ("abi", c_uint32),
        ("wide", c_uint32),
        ("sample_every", c_uint32),
        ("inserts_per_second", c_uint32),
        ("flow_idle", c_uint32),
        ("flow_closing", c_uint32),
        ("source_idle", c_uint32),
        ("seed", c_uint32),
        ("epoch", c_uint32),
        ("filter_now", c_uint32 * 2),
        ("filter_mask", (c_uint32 * 2) * 2),
        ("splicing", c_uint32),
        ("clock_ms", c_uint64),
        ("prefilter", c_uint64 * PREFILTER),
    ]


class Filter(Structure):
    """struct fnm_filter."""

    _fields_ = [("word", c_uint64 * FILTER_WORDS)]


class Recent(Structure):
    """struct fnm_recent."""

    _fields_ = [("address", Address), ("policy", Policy), ("epoch", c_uint64)]


class Sample(Structure):
    """struct fnm_sample."""

    _fields_ = [
        ("time_ms", c_uint64),
        ("ifindex", c_uint32),
        ("reason", c_uint16),
        ("slot", c_uint16),
        ("length", c_uint16),
        ("captured", c_uint16),
        ("data", c_uint8 * SAMPLE_BYTES),
    ]


MAP_VALUES: Final[dict[str, type[Structure]]] = {
    "fnm_rate": Rate,
    "fnm_tcp": Tcp,
    "fnm_sorb": Sorb,
    "fnm_slot": Slot,
    "fnm_policy": Policy,
    "fnm_address": Address,
    "fnm_prefix": Prefix,
    "fnm_portset": Portset,
    "fnm_acl_rule": AclRule,
    "fnm_acl": Acl,
    "fnm_flow4": Flow4,
    "fnm_flow4_set": Flow4Set,
    "fnm_flow6": Flow6,
    "fnm_flow6_set": Flow6Set,
    "fnm_source": Source,
    "fnm_source_set": SourceSet,
    "fnm_sighting": Sighting,
    "fnm_sighting_set": SightingSet,
    "fnm_talker": Talker,
    "fnm_talker_set": TalkerSet,
    "fnm_counters": Counters,
    "fnm_work": Work,
    "fnm_control": Control,
    "fnm_filter": Filter,
    "fnm_recent": Recent,
    "fnm_sample": Sample,
}
"""Every structure by its name in C."""
