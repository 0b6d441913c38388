# SPDX-License-Identifier: Apache-2.0
"""Synthetic attacks that prove the whole chain: what one is, and how it is judged; pure."""
