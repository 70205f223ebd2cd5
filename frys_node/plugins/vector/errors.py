"""What can be wrong with a vector request."""

from __future__ import annotations

from frys_node.base.errors import AlreadyExists, NotFound, RoutingError, UsageError


class UnknownCollection(NotFound):
    """There is no collection of that name. State is unchanged."""

    code = "vector.unknown_collection"


class UnknownPoint(NotFound):
    """There is no point of that id. State is unchanged."""

    code = "vector.unknown_point"


class CollectionExists(AlreadyExists):
    """The collection's name is taken. State is unchanged."""

    code = "vector.collection_exists"


class InvalidVectorRequest(UsageError):
    """The request breaks a rule of the dialect. State is unchanged."""

    code = "vector.invalid"


class DimensionMismatch(UsageError):
    """A vector has not the collection's dimension. Nothing of the request was written."""

    code = "vector.dimension"


class NotFinite(UsageError):
    """A vector holds NaN or infinity (of 32-bit floats). Nothing of the request was written."""

    code = "vector.not_finite"


class InvalidPointId(UsageError):
    """A point id is neither an unsigned 64-bit integer nor a UUID. State is unchanged."""

    code = "vector.point_id"


class TooMany(UsageError):
    """A number in the request is over its limit. State is unchanged."""

    code = "vector.too_many"


class UnsupportedFeature(UsageError):
    """Qdrant has this and frys has not, yet. State is unchanged."""

    code = "vector.unsupported"


class MissingShards(RoutingError):
    """Some shards had too few replicas that answer; the message names them. A write may have reached some of them."""

    code = "vector.missing_shards"
    retryable = True
