"""Who may ask: the check of a bearer token. Provided by `frys_node.secure` through the composition root."""

from __future__ import annotations

from typing import Protocol

from frys_node.kernel.services import ServiceKey


class BearerCheck(Protocol):
    """Knows the cluster's admin token, or its hash."""

    def check(self, bearer: str) -> bool:
        """True if the bearer is the admin token; takes the same time for every wrong one."""
        ...


ACCESS: ServiceKey[BearerCheck] = ServiceKey("access")
