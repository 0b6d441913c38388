# SPDX-License-Identifier: Apache-2.0
"""Names of IP protocols as detectors write them (IANA Assigned Internet Protocol Numbers).

FastNetMon writes the registry's names in lower case with `_` for every other character, and
`unknown` where it cannot tell; `other` is what the hub says when the counters exclude tcp, udp
and icmp and the packets say nothing.
"""

import re
from typing import Final

_IANA: Final = """
hopopt icmp igmp ggp ipv4 st tcp cbt egp igp bbn_rcc_mon nvp_ii pup argus emcon xnet chaos udp mux
dcn_meas hmp prm xns_idp trunk_1 trunk_2 leaf_1 leaf_2 rdp irtp iso_tp4 netblt mfe_nsp merit_inp
dccp 3pc idpr xtp ddp idpr_cmtp tp ipv6 sdrp ipv6_route ipv6_frag idrp rsvp gre dsr bna esp ah
i_nlsp swipe narp mobile tlsp skip ipv6_icmp ipv6_nonxt ipv6_opts cftp sat_expak kryptolan rvd ippc
sat_mon visa ipcv cpnx cphb wsn pvp br_sat_mon sun_nd wb_mon wb_expak iso_ip vmtp secure_vmtp vines
ttp iptm nsfnet_igp dgp tcf eigrp ospf ospfigp ospf_igp sprite_rpc larp mtp ax_25 ipip micp scc_sp
etherip encap gmtp ifmp pnni pim aris scps qnx a_n ipcomp snp compaq_peer ipx_in_ip vrrp pgm l2tp
ddx iatp stp srp uti smp sm ptp isis fire crtp crudp sscopmce iplt sps pipe sctp fc
rsvp_e2e_ignore mobility_header udplite mpls_in_ip manet shim6 wesp rohc ethernet aggfrag nsh
homa bit_emu
"""
_COMMON: Final = ("tcp", "udp", "icmp", "ipv6_icmp", "gre", "esp", "sctp", "unknown", "other")
_SEPARATORS: Final = re.compile(r"[^a-z0-9]+")

PROTOCOLS: Final = (*_COMMON, *(name for name in _IANA.split() if name not in _COMMON))
"""Every name that a rule may use, the common ones first."""


def canonical_protocol(name: str) -> str:
    """Return `name` in the spelling of `PROTOCOLS`: `IPv6-ICMP` becomes `ipv6_icmp`."""
    return _SEPARATORS.sub("_", name.lower()).strip("_")
