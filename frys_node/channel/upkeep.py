"""What keeps a node's certificates good while it runs: renewal, the watch over expiry, and what it trusts."""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import partial
from typing import Protocol

import trio

from frys_node.base.ports import Clock, Disk, Network
from frys_node.base.types import NodeId
from frys_node.channel.join import ask_home
from frys_node.channel.peers import Peers
from frys_node.kernel.services.rpc import Rpc
from frys_node.observe.metrics import Metrics
from frys_node.secure.gate import Peer
from frys_node.secure.identity import Identity
from frys_node.secure.trust import issuer_of
from frys_node.trust.authority import AuthorityHolder
from frys_node.trust.renewal import RENEW, ExpiryWatch, Renewal
from frys_node.trust.rotation import TRUST
from frys_node.trust.trust_keeper import TrustKeeper


class Contexts(Protocol):
    """What connections to come are made with."""

    def renew(self, identity: Identity) -> None:
        """Use the identity's present certificate and authorities."""
        ...


class Upkeep:
    """One for each channel."""

    def __init__(
        self,
        identity: Identity,
        disk: Disk,
        clock: Clock,
        network: Network,
        rpc: Rpc,
        *,
        profile: Contexts,
        peers: Peers,
        holder: AuthorityHolder,
        expelled: Container[NodeId],
        on_trust: Callable[[], None],
        metrics: Metrics,
    ) -> None:
        """`on_trust` is called when other authorities count: what the old one signed is to be signed anew."""
        self._identity = identity
        self._profile = profile
        self._peers = peers
        self._holder = holder
        self._on_trust = on_trust
        self.renewal = Renewal(
            identity,
            disk,
            clock,
            name_of=holder.name_of,
            ask=lambda request: rpc.call(holder.issuer, RENEW, request),
            on_renewed=lambda: profile.renew(identity),
            expelled=expelled,
        )
        self._expiry = ExpiryWatch(identity, clock, metrics)
        self._trust = TrustKeeper(
            identity,
            disk,
            holder=holder,
            renew=self.renewal.renew,
            ask=partial(ask_home, network, clock, identity),
            addresses=lambda: [*(address for _, address in peers.known()), *identity.seeds],
        )
        holder.on_trust.append(self._trust_changed)
        rpc.serve(RENEW, self.renewal.answer)
        rpc.serve(TRUST, self._trust.answer)

    async def run(self) -> None:
        """Run for as long as the channel does."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.renewal.run)
            nursery.start_soon(self._trust.run)

    def met(self, peer: Peer) -> None:
        """Take note of an accepted member."""
        self._expiry.met(peer)

    @property
    def trouble(self) -> str:
        """Why this node does not come home, and the fix; empty while it is at home: it hears the issuer, or is it."""
        if self._holder.is_issuer or self._peers.find(self._holder.issuer) is not None:
            return ""
        return self._trust.trouble

    def refused(self, reason: str) -> None:
        """Take note of why this node refused somebody whom it had dialled."""
        if reason == "chain":
            self._trust.doubt()

    def _trust_changed(self) -> None:
        """Shake hands under the present authorities from now on, and part with whoever showed another's certificate."""
        self._profile.renew(self._identity)
        for connection in self._peers.all():
            if issuer_of(connection.peer.certificate, self._identity.authorities) is None:
                connection.drain("authority")
        self._on_trust()
