"""Settings of ``[plugins.snapshots]``: how fast state moves and how much room it may take meanwhile."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class SnapshotsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of snapshots and moves on this node."""

    rate_bytes_s_max: Annotated[int, Meta(ge=0, extra={"reload": "live"})] = 0
    """Bytes per second that all incoming moves may take together; 0 for no bound."""

    send_rate_bytes_s_max: Annotated[int, Meta(ge=0, extra={"reload": "live"})] = 0
    """Bytes per second that this node gives to all outgoing moves together; 0 for no bound."""

    p99_ratio_max: Annotated[float, Meta(ge=0, le=1_000, extra={"reload": "live"})] = 2.0
    """How many times the p99 of this node's requests from before a move is borne while units move, in or out; above it
    they are slowed down and then paused. 0: they are never held back."""

    pulls_max: Annotated[int, Meta(ge=1, le=64, extra={"reload": "restart"})] = 4
    """Units that move to this node at once; more wait."""

    captures_max: Annotated[int, Meta(ge=1, le=64, extra={"reload": "restart"})] = 4
    """Units captured for others at once; more wait."""

    window_chunks: Annotated[int, Meta(ge=1, le=64, extra={"reload": "live"})] = 8
    """Chunks of 256 KiB that one move has asked for and not stored yet."""

    memory_bytes_max: Annotated[int, Meta(ge=1 << 20, extra={"reload": "restart"})] = 32 << 20
    """Chunks held in memory; further ones go to disk."""

    disk_bytes_max: Annotated[int, Meta(ge=1 << 20, extra={"reload": "restart"})] = 8 << 30
    """Chunks held on disk while moves are under way; chunks that nothing uses are pruned first."""

    pins_max: Annotated[int, Meta(ge=1, le=4_096, extra={"reload": "live"})] = 64
    """Captured states kept for receivers; the one that was unused longest goes first."""

    pin_ttl_s: Annotated[float, Meta(gt=0, le=86_400, extra={"reload": "live"})] = 120.0
    """How long a captured state is kept after it was last asked for."""

    leftover_ttl_s: Annotated[float, Meta(gt=0, le=604_800, extra={"reload": "live"})] = 3_600.0
    """How long chunks of a failed move are kept for its next try."""

    offer_timeout_s: Annotated[float, Meta(gt=0, le=3_600, extra={"reload": "live"})] = 120.0
    """How long the source may take to capture a unit."""

    chunk_timeout_s: Annotated[float, Meta(gt=0, le=600, extra={"reload": "live"})] = 15.0
    """How long one chunk may take before it is asked for again."""
