"""Settings of ``[plugins.balancer]``: how patient the issuer is with the dead, and who else keeps the authority."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class BalancerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the node that writes the topology record goes by; the same on every node, since any may be that node."""

    auto_remove_after_s: Annotated[float, Meta(ge=0, extra={"reload": "restart"})] = 900.0
    """A node that has been dead for so long is replaced, unless that would lose something, or the issuer has no key of
    the cluster's authority. It may come back, as an empty member; its workflow partitions wait for its disk. 0:
    never."""

    standby: Annotated[tuple[str, ...], Meta(max_length=16, extra={"reload": "restart"})] = ()
    """Names of members that keep a copy of the authority's key, tokens and names, so that they can admit nodes when
    they become the issuer. Whoever holds the key can make members: choose machines as safe as the issuer's."""
