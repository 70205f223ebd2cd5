"""Errors of replicated data that a client may meet.

Sans-I/O.
"""

from __future__ import annotations

from frys_node.base.errors import FrysError, NoReplica, RoutingError


class ClockDrift(RoutingError):
    """This node's clock is too far ahead of the replicas' clocks. The write was not acknowledged; it may appear."""

    code = "replication.clock_drift"


class TooOld(FrysError):
    """The version is below what may still be written. Replicas say so to coordinators, who stamp the write anew."""

    code = "replication.too_old"
    retryable = True
    status = 409


class NotRepaired(NoReplica):
    """A read that waits for repair found what too few replicas hold and others may not take. Nothing was changed."""

    code = "replication.not_repaired"


class UnitDamaged(NoReplica):
    """This replica of the unit lost acknowledged records. What is left of it is kept, and not given away."""

    code = "replication.unit_damaged"
