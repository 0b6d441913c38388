# SPDX-License-Identifier: Apache-2.0
"""The ledger of what is done to whom, and the reconciler that keeps it true."""
