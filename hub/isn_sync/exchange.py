# SPDX-License-Identifier: Apache-2.0
"""One probe and what came back."""

from dataclasses import dataclass

from hub.isn_sync.segments import Reset, Syn, SynAckSegment


@dataclass(frozen=True, slots=True)
class Exchange:
    """A SYN and its answer.

    Attributes:
        syn: as it was sent, once or twice.
        sent: when for the first time, monotonic seconds.
        received: when the answer came in, or was waited for no longer; monotonic seconds.
        reply: None where nothing came.
    """

    syn: Syn
    sent: float
    received: float
    reply: SynAckSegment | Reset | None
