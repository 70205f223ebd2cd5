"""What the channel shows of itself to who scrapes it."""

from __future__ import annotations

from frys_node.channel.peers import Peers
from frys_node.observe.metrics import Metrics
from frys_node.trust.credentials import MemberSecrets
from frys_node.trust.keys import KeyDesk


def declare_gauges(metrics: Metrics, peers: Peers, keys: KeyDesk, secrets: MemberSecrets) -> None:
    """Declare the gauges; each is read when it is asked for."""
    metrics.gauge("frys_channel_connections", "Authenticated connections kept.", source=lambda: float(len(peers.all())))
    metrics.gauge(
        "frys_channel_post_quantum_connections",
        "Authenticated connections kept whose key exchange has a post-quantum part: all of them.",
        source=lambda: float(sum(held.session.is_post_quantum for held in peers.all())),
    )
    metrics.gauge(
        "frys_channel_key_epoch",
        "Epoch of the gossip key that this node seals with; 0 while it has none.",
        source=lambda: float(keys.held().primary),
    )
    metrics.gauge(
        "frys_channel_expelled_nodes",
        "Expelled nodes that this node refuses.",
        source=lambda: float(len(secrets.revoked)),
    )
    metrics.counter(
        "frys_channel_notes_dropped_total",
        "Notes dropped since the start because a queue was full or nobody was there.",
        source=lambda: float(peers.notes_dropped),
    )
