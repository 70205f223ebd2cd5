"""Who is asking: whose a bearer token is. Provided by `frys_node.secure` through the composition root."""

from __future__ import annotations

from typing import Protocol

from frys_node.base.access import Principal
from frys_node.kernel.services import ServiceKey


class Access(Protocol):
    """Knows the hashes of the cluster's admin tokens and API tokens."""

    @property
    def is_told(self) -> bool:
        """False while this node has not heard from the issuer which API tokens there are."""
        ...

    def authenticate(self, bearer: str) -> Principal | None:
        """Return whose the bearer is, None for nobody's; takes the same time for every wrong one."""
        ...

    def is_valid(self, principal: Principal) -> bool:
        """True unless the principal's token was revoked or has expired since it was authenticated."""
        ...


ACCESS: ServiceKey[Access] = ServiceKey("access")
