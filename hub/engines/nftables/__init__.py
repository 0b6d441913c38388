# SPDX-License-Identifier: Apache-2.0
"""Kernel SYNPROXY, filters and per-source limits, carried out by nftables."""
