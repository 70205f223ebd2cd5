"""This node's place on the ring: asks the issuer for it, gives it up, and serves such requests at the issuer."""

from __future__ import annotations

import logging
from typing import Protocol

import trio

from balancer.errors import NodeRemoved
from balancer.issuer_driver import IssuerVerbs
from balancer.methods import JOIN_RING, LEAVE_RING, STEP, Accepted, JoinRing, LeaveRing, Nothing, StepView
from balancer.record import STABLE, TopologyRecord
from balancer.spread import RingMember
from balancer.topology import TopologyMachine
from frys_node.base.errors import FrysError, IssuerNeeded, NotReady, Overloaded, SecurityError
from frys_node.base.types import Epoch, NodeId
from frys_node.kernel.services.rpc import Method, Rep, Req, Rpc

JOIN_RETRY_S = 1.0
"""Pause between asking the issuer to be put on the ring, or off it."""

REJOIN_HINT = "move its data directory away, then join as a new node: frys-node join --seed host:port"

FIRST_RECORD_RETRY_S = 0.2
"""Pause between asking peers for the record while this node has none."""

_log = logging.getLogger(__name__)


class SeatKeeper(Protocol):
    """What the seat needs of the balancer."""

    @property
    def machine(self) -> TopologyMachine:
        """The topology."""
        ...

    def peers(self) -> list[NodeId]:
        """Members that look usable."""
        ...

    def want(self, node: NodeId) -> None:
        """Compare records with a node."""
        ...

    def wake(self) -> None:
        """A change was queued."""
        ...

    async def ask_issuer(self, method: Method[Req, Rep], request: Req) -> Rep:
        """Call the node that changes the record; `IssuerUnreachable` when it does not answer."""
        ...

    async def changed(self) -> None:
        """Wait for the next adoption or settlement."""
        ...


class Seat:
    """One node's membership of the ring."""

    def __init__(self, rpc: Rpc, keeper: SeatKeeper, verbs: IssuerVerbs, member: RingMember) -> None:
        self._rpc = rpc
        self._verbs = verbs
        self._keeper = keeper
        self._member = member
        self._is_leaving = False
        self.stage = ""
        """What a leave under way is doing, in words."""

    def serve(self) -> None:
        """Answer other nodes."""
        self._rpc.serve(JOIN_RING, self._serve_join)
        self._rpc.serve(LEAVE_RING, self._serve_leave)
        self._rpc.serve(STEP, self._serve_step)

    async def run(self) -> None:
        """Get the record from peers, then onto the ring."""
        while True:
            record = self._keeper.machine.record
            if record is None:
                for peer in self._keeper.peers():
                    self._keeper.want(peer)
                await trio.sleep(FIRST_RECORD_RETRY_S)
                continue
            # Another weight or zone than the ring's is asked for as a place is.
            wants = not self._is_leaving and self._member not in record.next_ring
            wants = wants and self._member.node not in record.removed
            if wants:
                await self._ask_issuer(record, joins=True)
            with trio.move_on_after(JOIN_RETRY_S if wants else 10 * JOIN_RETRY_S):
                await self._keeper.changed()

    async def _ask_issuer(self, record: TopologyRecord, *, joins: bool) -> Epoch | None:
        """Return the key of the newest record of the issuer when it took the wish, None if it did not."""
        try:
            with trio.move_on_after(JOIN_RETRY_S * 5):
                if joins:
                    return (await self._keeper.ask_issuer(JOIN_RING, JoinRing(self._member))).epoch
                taken = await self._keeper.ask_issuer(LEAVE_RING, LeaveRing(self._member.node))
                self.stage = "waiting for its turn"
                return taken.epoch
        except FrysError as error:
            issuer = record.epoch.term.node
            _log.info("balancer.issuer_did_not_answer", extra={"issuer": issuer, "code": error.code})
            self.stage = f"waiting: {error.message}"
            await trio.sleep(JOIN_RETRY_S)
        return None

    async def leave(self) -> None:
        """Leave the ring: returns when every unit has moved away and that is settled. The caller's scope bounds it.

        Raises:
            IssuerNeeded: This node is the issuer, others remain, and none of them takes over. Nothing was changed.
        """
        record = self._keeper.machine.record
        if record is None or record.members() == (self._member.node,):
            return
        self._is_leaving = True
        if self._keeper.machine.is_issuer:
            await self._hand_over()
        self.stage = "asking the issuer"
        # A wish to join that waits at the issuer would put this node on the ring when it is no longer there: the issuer
        # has to know first, and what it was writing then has to be seen here.
        since: Epoch | None = None
        try:
            while True:
                record = self._keeper.machine.record
                assert record is not None
                is_gone = self._member.node not in record.members()
                if is_gone and since is None:
                    since = await self._ask_issuer(record, joins=False)
                    continue
                is_gone = is_gone and since is not None and record.epoch >= since
                if is_gone and record.phase == STABLE and self._keeper.machine.settled == record.epoch:
                    return
                if record.phase != STABLE:
                    is_mine = all(member.node != self._member.node for member in record.next_ring)
                    self.stage = "moving units to other nodes" if is_mine else "waiting for its turn"
                elif not is_gone:
                    since = await self._ask_issuer(record, joins=False) or since
                with trio.move_on_after(JOIN_RETRY_S):
                    await self._keeper.changed()
        except BaseException:
            self._is_leaving = False
            raise

    async def _hand_over(self) -> None:
        """Have another member write the records, before this node asks it to be let go."""
        self.stage = "handing over the issuer's role"
        try:
            successor = self._verbs.successor()
            if successor is None:
                raise IssuerNeeded(
                    "this node writes the topology record, and no other admitted member is alive to take over",
                    hint="start another member, or remove the dead ones: frys-node node remove NAME"
                    " (strangers of frys-node status --security do not count: node admit, or node revoke)",
                )
            await self._verbs.hand_over(successor)
        except BaseException:
            self._is_leaving = False
            raise

    async def _serve_join(self, caller: NodeId, request: JoinRing) -> Accepted:
        if request.member.node != caller:
            raise SecurityError("a node can only put itself on the ring")
        self._require_issuer()
        record = self._keeper.machine.record
        if record is not None and caller in record.removed:
            raise NodeRemoved("this node was removed from the cluster", hint=REJOIN_HINT)
        if not self._keeper.machine.steps.request_join(request.member):
            raise Overloaded("too many joins and leaves wait at the issuer")
        self._keeper.wake()
        return Accepted(self._keeper.machine.newest)

    async def _serve_leave(self, caller: NodeId, request: LeaveRing) -> Accepted:
        if request.node != caller:
            raise SecurityError("a node can only take itself off the ring")
        self._require_issuer()
        if not self._keeper.machine.steps.request_leave(request.node):
            raise Overloaded("too many joins and leaves wait at the issuer")
        self._keeper.wake()
        return Accepted(self._keeper.machine.newest)

    async def _serve_step(self, caller: NodeId, request: Nothing) -> StepView:
        del caller, request
        self._require_issuer()
        steps = self._keeper.machine.steps
        return StepView(steps.waits_for(), list(steps.waiting), steps.is_settled)

    def _require_issuer(self) -> None:
        if not self._keeper.machine.is_issuer:
            raise NotReady("this node is not the issuer of the topology record", hint="ask again")
