# SPDX-License-Identifier: Apache-2.0
"""What the kernel of this server keeps to itself, and where it can be read."""
