"""Knobs of the machines of this package.

Sans-I/O.
"""

from __future__ import annotations

import math

import msgspec

from frys_node.replication.config import ReplicationConfig

BREATH_S = 0.05
"""Of the product: about as long as what crosses a record takes."""


class ReplicaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Knobs of a replica; none of them is needed for safety."""

    sync_interval_s: float = 5.0
    """Pause between rounds of anti-entropy; `math.inf` turns it off."""
    sync_units: int = 8
    """Units compared in a round."""
    refill_patience_s: float = 3.0
    """A restarted unit in memory looks so long for complete members before it starts empty."""
    catches_up: bool = True
    """Take what was missed from the other members right after a restart, instead of waiting for anti-entropy."""
    breath_s: float = 0.0
    """After the adoption of a record of a change, before units are copied and compared under it. All members adopt at
    once, and what had waited for the record goes first."""
    bulk_by_messages: bool = False
    """Copy the bulk by pulls too (simulator) instead of asking the host for a snapshot."""
    clock_drift_max_s: float = 60.0
    gc_min_age_s: float = 3_600.0
    memory_gc_min_age_s: float | None = None
    """The same for units in memory; None: as for the others."""
    gc_interval_s: float = math.inf
    """Pause between looks for tombstones to free; `math.inf` turns it off."""

    @property
    def memory_min_age_s(self) -> float:
        """The least age of tombstones of units in memory that are freed."""
        return self.gc_min_age_s if self.memory_gc_min_age_s is None else self.memory_gc_min_age_s


def knobs_of(settings: ReplicationConfig, *, bulk_by_messages: bool) -> ReplicaConfig:
    """Return the knobs that a node's settings ask for."""
    return ReplicaConfig(
        breath_s=BREATH_S,
        bulk_by_messages=bulk_by_messages,
        clock_drift_max_s=settings.max_clock_drift_s,
        gc_min_age_s=settings.gc_min_age_s,
        memory_gc_min_age_s=settings.memory_gc_min_age_s,
        gc_interval_s=settings.gc_interval_s,
    )
