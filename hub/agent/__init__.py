# SPDX-License-Identifier: Apache-2.0
"""What runs on a protected server: gives hubs the keys of its SYN cookies."""
