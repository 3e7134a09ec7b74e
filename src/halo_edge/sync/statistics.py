"""Counters of what one end of the protocol sent, received and refused.

They are only ever added to and decide nothing. For the difference over a time, keep a copy
(`dataclasses.replace(statistics)`) and subtract.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Statistics:
    """Datagrams unless said otherwise. Bytes are whole datagrams, without the headers below."""

    rounds: int = 0

    datagrams_sent: int = 0  # one datagram to three devices counts three times
    bytes_sent: int = 0
    chunks_resent: int = 0  # of the datagrams sent, those with a chunk sent to that device before
    wants_sent: int = 0

    datagrams_received: int = 0  # everything that came, the refused included
    bytes_received: int = 0
    wants_received: int = 0

    chunks_supplied: int = 0  # chunks that the root put in the place of missing ones
    chunks_recovered: int = 0  # chunks that came because they had been asked for
    duplicates: int = 0  # properly sealed, but the chunk had arrived already
    stale: int = 0  # properly sealed, of a round that is over
    malformed: int = 0  # properly sealed, but makes no sense in this session

    # Refused unopened:
    wrong_length: int = 0
    wrong_version: int = 0
    wrong_epoch: int = 0
    unknown_sender: int = 0
    replayed: int = 0  # or too old for the replay window to tell
    forged: int = 0  # the seal does not fit: another key, a flipped bit, garbage

    @property
    def retransmissions(self) -> int:
        """Chunks that were not there the first time: sent again, or asked for and received."""
        return self.chunks_resent + self.chunks_recovered
