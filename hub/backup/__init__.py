# SPDX-License-Identifier: Apache-2.0
"""Backups of one hub in one file: written while it runs, checked, and put back."""
