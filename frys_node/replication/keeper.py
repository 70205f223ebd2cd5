"""What replication needs of the balancer.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from balancer.placement import Placement
from frys_node.base.types import Epoch, NodeId, UnitId


class RecordKeeper(Protocol):
    """What this component needs of the balancer."""

    def attach(self, adopt: Callable[[Placement], None], settled: Callable[[Epoch], None]) -> None:
        """Call `adopt` at every adoption (at once if a record is held) and `settled` when that is known."""
        ...

    def finished(self, what: str, unit: UnitId, epoch: Epoch) -> None:
        """A piece of this node's work is done."""
        ...

    def share(self, node: NodeId) -> None:
        """Send the record to a node that works under an older one."""
        ...

    def want(self, node: NodeId) -> None:
        """Ask a node that works under a newer record for it."""
        ...

    async def renew(self, epoch: Epoch) -> None:
        """Have the issuer write a record after that one, with the same content if need be."""
        ...
