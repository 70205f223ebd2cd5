"""Settings of ``[plugins.cache]``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of the cache on this node."""

    memory_bytes_max: Annotated[int, Meta(ge=65_536, extra={"reload": "live"})] = 64 * 1024 * 1024
    """Keys, values and their bookkeeping on this node; the least recently used entries go first."""

    key_bytes_max: Annotated[int, Meta(ge=1, le=4_096, extra={"reload": "live"})] = 512
    """Longest key, in UTF-8 bytes."""

    value_bytes_max: Annotated[int, Meta(ge=1, le=720_896, extra={"reload": "live"})] = 512 * 1024
    """Largest value; one value travels in one frame of 1 MiB at most."""

    batch_items_max: Annotated[int, Meta(ge=1, le=10_000, extra={"reload": "live"})] = 1_000
    """Most keys in one batch request."""

    sweep_interval_s: Annotated[float, Meta(gt=0, le=3_600, extra={"reload": "restart"})] = 1.0
    """How often expired values give their memory back; reads never see them, swept or not."""
