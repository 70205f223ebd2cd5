"""Settings of ``[plugins.vector]``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from frys_node.base.errors import ConfigError


class VectorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of requests and the shape of the index on this node."""

    dimension_max: Annotated[int, Meta(ge=1, le=65_536, extra={"reload": "live"})] = 16_384
    """Longest vectors of a new collection."""

    points_per_request_max: Annotated[int, Meta(ge=1, le=100_000, extra={"reload": "live"})] = 10_000
    """Most points or ids in one request."""

    queries_per_request_max: Annotated[int, Meta(ge=1, le=10_000, extra={"reload": "live"})] = 1_000
    """Most searches in one batch request."""

    limit_max: Annotated[int, Meta(ge=1, le=10_000, extra={"reload": "live"})] = 10_000
    """Largest `limit` plus `offset` of a search, and largest page of a scroll."""

    payload_bytes_max: Annotated[int, Meta(ge=2, le=262_144, extra={"reload": "live"})] = 65_536
    """Largest payload of one point, as JSON."""

    shard_number_default: Annotated[int, Meta(ge=1, le=64, extra={"reload": "live"})] = 4
    """Shards of a collection whose creation does not say."""

    replication_factor_default: Annotated[int, Meta(ge=1, le=5, extra={"reload": "live"})] = 3
    """Copies of a collection whose creation does not say."""

    index_rows_min: Annotated[int, Meta(ge=16, le=1_000_000, extra={"reload": "restart"})] = 4_096
    """Rows beyond which a shard builds a graph; fewer are scanned exactly, which is as quick and never misses."""

    dead_ratio_max: Annotated[float, Meta(gt=0, lt=1, extra={"reload": "restart"})] = 0.2
    """Share of deleted rows at which a shard is rewritten without them."""

    request_timeout_s: Annotated[float, Meta(gt=0, le=600, extra={"reload": "live"})] = 30.0
    """Longest time spent on one request, retries included."""

    node_timeout_s: Annotated[float, Meta(gt=0, le=600, extra={"reload": "live"})] = 5.0
    """How long one node is waited for before another replica is asked."""

    def __post_init__(self) -> None:
        """Hold the rules between fields."""
        if self.node_timeout_s > self.request_timeout_s:
            raise ConfigError("[plugins.vector] node_timeout_s is longer than request_timeout_s")
