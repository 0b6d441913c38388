# SPDX-License-Identifier: Apache-2.0
"""The way of one event: report, attack, decision, guard, ledger. Pure, no I/O."""
