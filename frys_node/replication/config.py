"""Settings of ``[plugins.replication]``: clocks, and how tombstones are freed."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class ReplicationConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Replicated data on this node; give every node the same."""

    max_clock_drift_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    """A coordinator whose clock is further ahead of this node's has its writes refused
    (``replication.clock_drift``)."""

    gc_min_age_s: Annotated[float, Meta(gt=0, le=31_536_000)] = 3_600.0
    """Tombstones younger than this are kept. Older ones go only when all members of a unit's set agree; a writer whose
    clock is so far behind has its writes stamped anew, which costs them one round trip."""

    memory_gc_min_age_s: Annotated[float, Meta(gt=0, le=31_536_000)] = 60.0
    """The same for units in memory, those of the cache, which cannot afford to keep tombstones for long. Below
    ``max_clock_drift_s`` a clock that is behind, but not refused, costs its writers that round trip."""

    gc_interval_s: Annotated[float, Meta(gt=0, le=86_400)] = 10.0
    """Pause between looks for tombstones to free, 16 units each."""
