# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each measures one thing in one run on one machine."""
