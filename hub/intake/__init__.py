# SPDX-License-Identifier: Apache-2.0
"""What detectors send: formats, spool, signing."""
