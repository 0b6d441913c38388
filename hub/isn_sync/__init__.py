# SPDX-License-Identifier: Apache-2.0
"""Keeps the keys, clocks and SYN-ACKs of protected servers, proven on the wire before use."""
