# SPDX-License-Identifier: Apache-2.0
"""The status page: what the operator API knows, for a browser, to look at only."""
