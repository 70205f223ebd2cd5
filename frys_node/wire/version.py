"""The range of cluster protocol versions that this build speaks, and the rule that picks one. Sans-I/O."""

from __future__ import annotations

from frys_node.base.errors import UnsupportedVersion

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
"""Stays 1 until something is released, though builds of before signed claims (ADR 0026) say 1 as well."""


def negotiate(peer_min: int, peer_max: int, *, me: str = "this node", peer: str = "the other") -> int:
    """Return the highest version that both sides speak; `me` and `peer` name them in the error.

    Raises:
        UnsupportedVersion: The ranges do not meet; the message names both. Nothing was exchanged.
    """
    chosen = min(PROTOCOL_MAX, peer_max)
    if chosen < max(PROTOCOL_MIN, peer_min):
        raise UnsupportedVersion(
            f"{me} speaks protocol {PROTOCOL_MIN}-{PROTOCOL_MAX}, {peer} {peer_min}-{peer_max}",
            hint=f"upgrade {peer if peer_max < PROTOCOL_MIN else me} first, to a release that speaks both",
        )
    return chosen
