"""Expelling a node, on the issuer: who may have it done, to whom, how often, and what the node was entrusted with.

Any member passes on what its operator asks, and says who that is. The issuer cannot see the operator, only the member,
so that a member in wrong hands can ask too: it is bounded in rate, and to nodes that exist.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf

import trio

from frys_node.base.access import Level, Principal
from frys_node.base.errors import NotFound, Overloaded, SecurityError, UsageError
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.secure.errors import HoldsAuthority
from frys_node.secure.statements import check_node_id
from frys_node.trust.keys import KeyDesk
from frys_node.wire.codec import Message

EXPEL_EVERY_S = 10.0
"""Pause between two expulsions that one member asks for; the issuer's own operator is not bound by it."""

log = logging.getLogger(__name__)


class Expel(Message, frozen=True):
    """Ask the issuer to expel a node."""

    node: str
    asked_by: Principal | None = None
    """Who asked the node that sends this; nobody is refused."""
    accepts_authority: bool = False
    """Also if the node was given the authority's key, which an expulsion does not take from it."""


class NodeExpelled(Message, frozen=True):
    """It is expelled, durably, and the keys are rotated."""

    epoch: int
    expelled: int
    is_new: bool
    """False: it was expelled before."""
    digest: bytes = b""
    """Of all who are expelled; see `MemberSecrets.digest`."""
    held_authority: bool = False
    """It was given a key of an authority that is trusted now."""


EXPEL: Method[Expel, NodeExpelled] = Method("channel.expel", Expel, NodeExpelled)


class ExpulsionDesk:
    """Answers `EXPEL`."""

    def __init__(
        self,
        rpc: Rpc,
        keys: KeyDesk,
        *,
        is_known: Callable[[NodeId], bool],
        was_entrusted: Callable[[NodeId], bool],
    ) -> None:
        """`is_known` says whether the issuer ever admitted a node, or is connected to it now.

        One that nobody admitted made its certificate with a stolen key. `was_entrusted` asks who had the authority's.
        """
        self._rpc = rpc
        self._keys = keys
        self._is_known = is_known
        self._was_entrusted = was_entrusted
        self._asked_s: dict[NodeId, float] = {}
        self.is_member: Callable[[NodeId], bool] = lambda _node: False
        """Says whether gossip or the ring knows a node that has no name any more."""
        rpc.serve(EXPEL, self._expel)

    async def _expel(self, caller: NodeId, request: Expel) -> NodeExpelled:
        await trio.lowlevel.checkpoint()
        self._keys.check_issuer()
        asked_by = checked(request.asked_by, "expel nodes")
        check_node_id(request.node)
        node = NodeId(request.node)
        self._check_target(caller, node)
        held_authority = self._was_entrusted(node)
        is_known = self._keys.is_expelled(node)
        if not is_known:
            # The issuer's own operator may name anybody: who is met at another member only is known to nobody here.
            if not (caller == self._rpc.self_id or self._is_known(node) or self.is_member(node)):
                raise NotFound(
                    f"no node {node} was ever admitted, or is a member",
                    hint="frys-node members lists them; run it on the issuer to expel an id that nobody admitted",
                )
            if held_authority and not request.accepts_authority:
                raise HoldsAuthority(
                    f"node {node} was given the key of the cluster's authority: with it, it can make itself a new node",
                    hint=HoldsAuthority.FIX,
                )
            self._check_pace(caller)
        is_new = self._keys.expel(node)
        if is_new:
            self._asked_s[caller] = trio.current_time()
            log.warning("channel.node_expelled", extra={"peer": node, "asked_by": asked_by, "through": caller})
        held = self._keys.held()
        return NodeExpelled(max(held.epochs, default=0), held.expelled, is_new, held.digest, held_authority)

    def _check_target(self, caller: NodeId, node: NodeId) -> None:
        if node == self._rpc.self_id:
            raise UsageError(
                "the issuer cannot be expelled: nobody could sign it",
                hint="hand its role over first: frys-node issuer handover NAME",
            )
        if node == caller:
            raise UsageError("a node cannot expel itself", hint="run it on another node, or let it leave")

    def _check_pace(self, caller: NodeId) -> None:
        left_s = self._asked_s.get(caller, -inf) + EXPEL_EVERY_S - trio.current_time()
        if caller != self._rpc.self_id and left_s > 0:
            raise Overloaded(
                "this member has just had another node expelled",
                hint=f"retry in {left_s:.0f} s, or run it on the issuer: frys-node issuer show says who it is",
            )


def checked(asked_by: Principal | None, what: str) -> str:
    """Return who asked, for the log; the member that was asked has authorised it.

    Raises:
        SecurityError: It is nobody who may, or nobody is named.
    """
    if asked_by is None or not asked_by.has(Level.ADMIN):
        name = "nobody" if asked_by is None else asked_by.name
        raise SecurityError(f"{name} may not {what}", hint="use the frys-node command on a machine")
    return asked_by.name
